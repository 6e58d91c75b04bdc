"""Parking all the time: the dead-letter queue is drained as letters come, through outages of either."""

import logging
import random
from collections.abc import Callable
from contextlib import suppress

from worker.broker import Link
from worker.deadletters.office import DeadLetterOffice
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
        self._failures = self._looks = 0

    def run(self, stop: Stop) -> None:
        """Park until ``stop``; whatever is in the way is told once and waited out.

        Letters wait safely in their queue meanwhile: nothing here is worth stopping anything else for.
        """
        try:
            while not stop.requested:
                try:
                    self._park()
                except BillingError as error:
                    self._close()
                    stop.wait(self._wait_after(error))
        finally:
            self._close()

    def _park(self) -> None:
        if self._link is None:
            self._link = self._connect()
        parked = self._office.park(self._link, wait_s=_LISTEN_S)
        self._looks += 1
        if parked or self._looks % _TIDY_EVERY == 0:
            self._office.tidy()
        if self._failures:
            log.info("dead letters are parked again")
        self._failures = 0
        if parked:
            log.info("parked %d dead letters: see `billing-worker dead-letters groups`", parked)

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
