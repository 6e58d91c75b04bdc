"""Parking all the time: the dead-letter queue is drained as letters come, through outages of either."""

import logging
import random
from collections.abc import Callable
from contextlib import suppress

from worker.broker import Link
from worker.deadletters.office import DeadLetterOffice, NotKeptError
from worker.deadletters.waiting import Stop
from worker.errors import BillingError, BrokerUnavailableError

log = logging.getLogger(__name__)

_LISTEN_S = 0.5
#: Between so many looks the letters of replays that nobody runs are left alone.
_TIDY_EVERY = 20
_RETRY_FIRST_S, _RETRY_MOST_S = 0.5, 30.0


class Parker:
    """Drains the queue that the links of ``connect`` consume, as long as it runs. Several may."""

    def __init__(self, connect: Callable[[], Link], office: DeadLetterOffice, rng: random.Random) -> None:
        self._connect, self._office, self._rng = connect, office, rng
        self._link: Link | None = None
        self._failures = self._looks = self._parked = 0

    def run(self, stop: Stop) -> None:
        """Park until ``stop``; whatever is in the way is told once and waited out.

        Letters wait safely in their queue meanwhile: nothing here is worth stopping anything else for.
        """
        try:
            while not stop.requested:
                try:
                    self._park()
                except NotKeptError as error:
                    # Held as long as the link lives: given back it would come again at once, and each time
                    # counts a delivery, of which the queue allows a thousand.
                    log.error("%s", error)  # noqa: TRY400 - whose fault it is has been logged
                except BillingError as error:
                    self._close()
                    stop.wait(self._wait_after(error))
        finally:
            self._tell_parked()
            self._close()

    def _park(self) -> None:
        if self._link is None:
            self._link = self._connect()
        # A batch and no more: letters that never cease to come must not keep it from hearing the stop.
        parked = self._office.park_some(self._link, _LISTEN_S)
        self._parked += parked
        self._looks += 1
        if self._failures:
            log.info("dead letters are parked again")
        self._failures = 0
        if (self._parked and not parked) or self._looks % _TIDY_EVERY == 0:
            self._office.tidy()
            self._tell_parked()

    def _tell_parked(self) -> None:
        """Once for many, and as soon as no more come."""
        if self._parked:
            log.info("parked %d dead letters: see `billing-worker dead-letters groups`", self._parked)
        self._parked = 0

    def _wait_after(self, error: BillingError) -> float:
        if not self._failures:
            log.warning("%s: dead letters wait in their queue until it is back", error)
        self._failures = min(self._failures + 1, 16)
        return min(_RETRY_FIRST_S * 2.0**self._failures, _RETRY_MOST_S) * self._rng.uniform(0.5, 1.5)

    def _close(self) -> None:
        if self._link is not None:
            with suppress(BrokerUnavailableError):
                self._link.close()
        self._link = None
