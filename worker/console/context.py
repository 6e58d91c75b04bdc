"""Context that all pages share: the application, its readers, the guard and cached values."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TypeVar, cast

from flask import current_app, g

from worker.bootstrap import Application, utc_now
from worker.checks import health_of
from worker.console.guard import AccessGuard
from worker.console.heavy_work import HeavyWork
from worker.console.queues import QueueProbe, QueueStatus
from worker.console.replay_threads import ReplayThreads
from worker.console.users import User
from worker.errors import TransientError
from worker.ledger.queries import Reader, Statement, Stats, snapshot
from worker.ledger.queries.incidents import counts, overdue_before
from worker.runtime.cached_value import CachedValue, KnownValue, Unknown
from worker.runtime.health import Health

T = TypeVar("T")

_CHECK_DEADLINE_S = 3.0

#: Function that returns a statement as lines for a spreadsheet.
AsCsv = Callable[[Statement], Iterator[str]]


class ConsoleContext:
    """Application, guard, and cached values of broker and ledger. Shared by threads."""

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
        self.heavy = HeavyWork()
        self.probe = QueueProbe(application.link, application.topology)
        self._queues = CachedValue(
            self.probe.read, name="reading the queues", max_age_s=1.5, timeout_s=2.0, clock=clock
        )
        self._health = CachedValue[Sequence[Health]](
            lambda: list(health_of(application, deadline_s=_CHECK_DEADLINE_S)),
            name="checking",
            max_age_s=10,
            timeout_s=2.0,
            clock=clock,
            pause_factor=1,  # slow while a server hangs: the page must soon see that it is back
        )
        self._incidents = CachedValue(
            self._count_incidents,
            name="counting the payments that need somebody",
            max_age_s=15,
            timeout_s=0.3,
            clock=clock,
            serve_stale=True,
        )
        self._totals = CachedValue(
            self.reader.stats,
            name="the sum of the ledger",
            max_age_s=60,
            timeout_s=0.5,
            clock=clock,
            serve_stale=True,
        )

    def overdue_before(self, now: datetime) -> datetime:
        """Return the time before which an event was recorded that is overdue at ``now``."""
        return overdue_before(now, self.catalog.payments.waiting_days)

    def incidents(self) -> KnownValue[int] | Unknown:
        """Return the number of payments that need somebody, cached: every page shows it."""
        return self._incidents.get()

    def _count_incidents(self) -> int:
        with snapshot(self.application.engine) as connection:
            return counts(connection, self.overdue_before(self.clock())).needing_somebody

    def health(self) -> KnownValue[Sequence[Health]] | Unknown:
        """Return the health of each part, as `billing-worker check` has it, not older than some seconds."""
        return self._health.get()

    def queues(self) -> KnownValue[QueueStatus] | Unknown:
        """Return the depths of the queues, or Unknown."""
        return self._queues.get()

    def totals(self) -> KnownValue[Stats] | Unknown:
        """Return the totals of the ledger, cached: the sums of a large one take a while."""
        return self._totals.get()


def context() -> ConsoleContext:
    """Return the context of the console that answers the present request."""
    return cast(ConsoleContext, current_app.extensions["billing"])


def current_user() -> User:
    """Return the user of the present request, whom the guard has let in."""
    return cast(User, g.current_user)


def or_unknown(read: Callable[[], T]) -> T | Unknown:
    """Return what ``read`` gets from the ledger, or Unknown; an outage is met once a request."""
    down: Unknown | None = g.get("ledger_down")
    if down is not None:
        return down
    try:
        return read()
    except TransientError as error:
        g.ledger_down = Unknown(str(error))
        return cast(Unknown, g.ledger_down)
