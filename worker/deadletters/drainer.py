"""Drains the dead-letter queue into the table as dead letters come, through outages of either server.

Nothing is taken from the queue before the database takes writes, and messages taken are held until they are
kept: a message given back counts as a delivery, and a queue with a delivery limit drops it after too many.
"""

import logging
import random
from collections.abc import Callable
from time import monotonic

from worker.broker import Link
from worker.deadletters.service import DeadLetters, Drain
from worker.errors import BillingError, LedgerUnavailableError, NotKeptError, TransientError
from worker.runtime.backoff import Backoff, Outage
from worker.runtime.stop import Stop

log = logging.getLogger(__name__)

_LISTEN_S = 0.5
#: Number of looks between two that end the dead letters of replays without a runner.
_TIDY_EVERY = 20
_RETRY_FIRST_S, _RETRY_MOST_S = 0.5, 30.0


class Drainer:
    """Drains the queue that the links of ``connect`` consume. Several may run.

    In an outage of the database dead letters are held for ``hold_most_s`` at most: then the broker would take
    them back, and nothing is taken until the database is there again.
    """

    def __init__(
        self,
        connect: Callable[[], Link],
        service: DeadLetters,
        rng: random.Random,
        *,
        hold_most_s: float = 1440.0,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._connect, self._service = connect, service
        self._hold_most_s, self._seconds = hold_most_s, seconds
        self._backoff = Backoff(_RETRY_FIRST_S, _RETRY_MOST_S, rng)
        self._broker, self._database = (
            Outage(server, "dead letters wait in their queue until it is back", logger=log)
            for server in ("broker", "database")
        )
        self._drain: Drain | None = None
        self._held_since: float | None = None
        self._looks = self._drained = 0

    def run(self, stop: Stop) -> None:
        """Drain until ``stop``; an obstacle is logged once and waited out."""
        try:
            while not stop.requested:
                try:
                    self._take()
                except NotKeptError as error:
                    # Held as long as the link lives: given back it would come again at once.
                    log.error("%s", error)  # noqa: TRY400 - whose fault it is has been logged
                except BillingError as error:
                    self._wait_after(error, stop)
                else:
                    self._is_well()
        finally:
            self._tell_drained()
            self._close()

    def _take(self) -> None:
        if self._drain is None:
            self._service.probe()
            self._drain = self._service.drain(self._connect())
        # A batch and no more: an endless stream of dead letters must not keep it from seeing the stop.
        drained = self._drain.take(_LISTEN_S)
        self._drained += drained
        self._looks += 1
        if (self._drained and not drained) or self._looks % _TIDY_EVERY == 0:
            self._service.tidy()
            self._tell_drained()

    def _is_well(self) -> None:
        self._broker.ended()
        self._database.ended()
        self._backoff.reset()
        self._held_since = None

    def _tell_drained(self) -> None:
        """Log once for many, as soon as no more come."""
        if self._drained:
            log.info("drained %d dead letters: see `billing-worker dead-letters groups`", self._drained)
        self._drained = 0

    def _wait_after(self, error: BillingError, stop: Stop) -> None:
        is_database = isinstance(error, LedgerUnavailableError)
        (self._database if is_database else self._broker).began(error)
        if not is_database or self._is_held_too_long():
            self._close()
        self._rest(self._backoff.next(), stop)

    def _is_held_too_long(self) -> bool:
        now = self._seconds()
        if self._held_since is None:
            self._held_since = now
        return now - self._held_since > self._hold_most_s

    def _rest(self, seconds: float, stop: Stop) -> None:
        """Wait so long, or until the stop, and keep the link alive."""
        left = seconds
        while left > 0 and not stop.requested:
            if self._drain is None:
                stop.wait(min(left, _LISTEN_S))
            else:
                try:
                    self._drain.link.keep_alive(min(left, _LISTEN_S))
                except TransientError:
                    self._close()
            left -= _LISTEN_S

    def _close(self) -> None:
        if self._drain is not None:
            self._drain.close()
        self._drain = None
