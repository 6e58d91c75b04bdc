"""Parts that all pages share: the application, its readers and the guard."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TypeVar, cast

from flask import current_app, g

from worker.bootstrap import Application, utc_now
from worker.broker import BILLING
from worker.checks import health_of
from worker.console.guard import AccessGuard
from worker.console.people import Person
from worker.console.queues import QueueProbe, QueueStatus
from worker.console.replaying import ReplayThreads
from worker.console.watching import TimedValue, Unknown, Watched
from worker.errors import TransientError
from worker.ledger.queries import Reader, Statement, Stats
from worker.runtime.health import Health

T = TypeVar("T")

_CHECK_DEADLINE_S = 3.0

#: Function that writes a statement as lines for a spreadsheet.
AsCsv = Callable[[Statement], Iterator[str]]


class Parts:
    """The application, the guard, and the cached answers of broker and ledger. Shared by threads."""

    def __init__(
        self,
        application: Application,
        guard: AccessGuard,
        as_csv: AsCsv,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.application, self.guard, self.as_csv, self.clock = application, guard, as_csv, clock
        self.reader = Reader(application.engine)
        self.service = application.service()
        self.catalog = application.catalog
        self.replays = ReplayThreads(application)
        self.probe = QueueProbe(application.link, BILLING)
        self._queues = Watched(self.probe.ask, what="asking the broker", keep_s=1.5, wait_s=2.0, clock=clock)
        self._health = Watched[Sequence[Health]](
            lambda: list(health_of(application, deadline_s=_CHECK_DEADLINE_S)),
            what="checking",
            keep_s=10,
            wait_s=2.0,
            clock=clock,
            rest=1,  # slow while a server hangs: the page must soon see that it is back
        )
        self._totals = Watched(
            self.reader.stats,
            what="adding up the ledger",
            keep_s=60,
            wait_s=0.5,
            clock=clock,
            is_old_fine=True,
        )

    def health(self) -> TimedValue[Sequence[Health]] | Unknown:
        """Return the health of each part, as `billing-worker check` has it, not older than some seconds."""
        return self._health.get()

    def queues(self) -> TimedValue[QueueStatus] | Unknown:
        """Return the depths of the queues, or Unknown."""
        return self._queues.get()

    def totals(self) -> TimedValue[Stats] | Unknown:
        """Return the totals of the ledger, cached: adding up a large one takes a while."""
        return self._totals.get()


def parts() -> Parts:
    """The parts of the console that answers the present request."""
    return cast(Parts, current_app.extensions["billing"])


def person() -> Person:
    """Return the person of the present request; the guard has let them in."""
    return cast(Person, g.person)


def in_ledger(ask: Callable[[], T]) -> T | Unknown:
    """Return the ledger's answer; after a failure in this request it isn't asked again."""
    down: Unknown | None = g.get("ledger_down")
    if down is not None:
        return down
    try:
        return ask()
    except TransientError as error:
        g.ledger_down = Unknown(str(error))
        return cast(Unknown, g.ledger_down)
