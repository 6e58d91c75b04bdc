"""Waits between tries, and outages of servers: logged once at the begin and once at the end, waited out."""

import logging
import random
from collections.abc import Callable
from time import monotonic

from worker.errors import TransientError
from worker.runtime import log_fields
from worker.runtime.log_fields import LogEvent
from worker.runtime.stop import Stop

log = logging.getLogger(__name__)


class Backoff:
    """Seconds to wait before the next try: doubling from ``first_s`` to ``most_s``, with jitter."""

    def __init__(self, first_s: float, most_s: float, rng: random.Random) -> None:
        self._first_s, self._most_s, self._rng = first_s, most_s, rng
        self._next_s = first_s

    def next(self) -> float:
        """Return the wait after one more failure."""
        wait_s = self._next_s * self._rng.uniform(0.5, 1.5)
        self._next_s = min(self._next_s * 2, self._most_s)
        return wait_s

    def reset(self) -> None:
        """Return to the first wait, after a success."""
        self._next_s = self._first_s


class Outage:
    """Absence of one server as one loop sees it; logs one line at its begin and one at its end.

    ``while_away`` says what happens meanwhile. ``on_begin`` is called once an outage, ``on_end`` at its end
    and with the first success of all.
    """

    def __init__(
        self,
        server: str,
        while_away: str,
        *,
        on_begin: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
        seconds: Callable[[], float] = monotonic,
        logger: logging.Logger = log,
    ) -> None:
        self.server, self._while_away = server, while_away
        self._on_begin, self._on_end = on_begin, on_end
        self._seconds, self._log = seconds, logger
        self._has_been_reached = False
        self._since: float | None = None
        self._tries = 0

    @property
    def lasts(self) -> bool:
        """True from the first failed try until a success."""
        return self._since is not None

    def began(self, error: Exception) -> None:
        """Record a failed try; only the first one of an outage is logged."""
        self._tries += 1
        if self._since is None:
            self._since = self._seconds()
            self._on_begin()
            extra = log_fields.fields(LogEvent.OUTAGE_BEGAN, server=self.server)
            self._log.error("%s: %s", error, self._while_away, extra=extra)

    def ended(self) -> None:
        """Record a success; logged where it ends an outage."""
        if self._since is None and self._has_been_reached:
            return
        self._has_been_reached = True
        self._on_end()
        if self._since is not None:
            lasted_s = self._seconds() - self._since
            self._log.info(
                "the %s is back after %.1f s and %d tries",
                self.server,
                lasted_s,
                self._tries,
                extra=log_fields.fields(LogEvent.OUTAGE_ENDED, server=self.server),
            )
            self._since, self._tries = None, 0


def await_server(probe: Callable[[], object], outage: Outage, backoff: Backoff, stop: Stop) -> None:
    """Call ``probe`` until it raises no TransientError, or until ``stop``."""
    while not stop.requested:
        try:
            probe()
        except TransientError as error:
            outage.began(error)
            stop.wait(backoff.next())
        else:
            outage.ended()
            return
