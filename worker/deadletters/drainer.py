"""Drainer: the loop that drains dead letters as they come, through outages of either server.

It also ends the items of replays that nobody runs, and finds dead letters that were applied meanwhile.
Nothing is taken from the queue before the database takes writes.
"""

import logging
import random
from collections.abc import Callable
from time import monotonic

from worker.broker import Consumes
from worker.deadletters.link_drainer import LinkDrainer
from worker.deadletters.service import DeadLetters
from worker.errors import BillingError, LedgerUnavailableError, NotKeptError, TransientError
from worker.runtime.backoff import Backoff, Outage
from worker.runtime.stop import Stop

log = logging.getLogger(__name__)

_RESOLVE = "confirm them with `billing-worker dead-letters resolve --applied`"
_LISTEN_S = 0.5
#: Number of batches, empty ones included, after which replays without a runner are looked at.
_TIDY_EVERY = 20
_RETRY_FIRST_S, _RETRY_MOST_S = 0.5, 30.0


class Drainer:
    """Drains the queue that the links of ``connect`` consume. Several may run.

    In an outage of the database dead letters are held for ``hold_most_s`` at most: then the broker would take
    them back, and nothing is taken until the database is there again.
    """

    def __init__(
        self,
        connect: Callable[[], Consumes],
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
        self._link_drainer: LinkDrainer | None = None
        self._held_since: float | None = None
        self._batches = self._drained = 0
        self._looked_to = 0

    def run(self, stop: Stop) -> None:
        """Drain until ``stop``; an obstacle is logged once and waited out."""
        try:
            while not stop.requested:
                try:
                    self._drain()
                except NotKeptError as error:
                    # Held as long as the link lives: given back it would come again at once.
                    log.error("%s", error)  # noqa: TRY400 - whose fault it is has been logged
                except BillingError as error:
                    self._wait_after(error, stop)
                else:
                    self._note_success()
        finally:
            self._log_drained()
            self._close()

    def _drain(self) -> None:
        if self._link_drainer is None:
            self._service.probe()
            self._link_drainer = self._service.link_drainer(self._connect())
        # A batch and no more: an endless stream of dead letters must not keep it from seeing the stop.
        drained = self._link_drainer.drain_batch(_LISTEN_S)
        self._drained += drained
        self._batches += 1
        if (self._drained and not drained) or self._batches % _TIDY_EVERY == 0:
            self._service.tidy()
            self._mark_applied()
            self._log_drained()

    def _mark_applied(self) -> None:
        """Look at some dead letters more: in turn each is looked at, however many there are."""
        look = self._service.mark_applied(self._looked_to)
        self._looked_to = look.after
        if look.found:
            log.info("%d dead letters were applied meanwhile: %s", look.found, _RESOLVE)

    def _note_success(self) -> None:
        self._broker.ended()
        self._database.ended()
        self._backoff.reset()
        self._held_since = None

    def _log_drained(self) -> None:
        """Log once for many, as soon as no more come."""
        if self._drained:
            log.info("drained %d dead letters: see `billing-worker dead-letters groups`", self._drained)
        self._drained = 0

    def _wait_after(self, error: BillingError, stop: Stop) -> None:
        is_database = isinstance(error, LedgerUnavailableError)
        (self._database if is_database else self._broker).began(error)
        if not is_database or self._is_held_too_long():
            self._close()
        self._wait(self._backoff.next(), stop)

    def _is_held_too_long(self) -> bool:
        now = self._seconds()
        if self._held_since is None:
            self._held_since = now
        return now - self._held_since > self._hold_most_s

    def _wait(self, seconds: float, stop: Stop) -> None:
        """Wait so long, or until the stop, and keep the link alive."""
        left = seconds
        while left > 0 and not stop.requested:
            if self._link_drainer is None:
                stop.wait(min(left, _LISTEN_S))
            else:
                try:
                    self._link_drainer.link.keep_alive(min(left, _LISTEN_S))
                except TransientError:
                    self._close()
            left -= _LISTEN_S

    def _close(self) -> None:
        if self._link_drainer is not None:
            self._link_drainer.close()
        self._link_drainer = None
