"""What the pages work with, in one place."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TypeVar, cast

from flask import current_app, g

from worker.bootstrap import Application, utc_now
from worker.broker import BILLING
from worker.catalog import Catalog
from worker.console.guard import Guard
from worker.console.people import Person
from worker.console.queues import QueueProbe, Queues
from worker.console.replaying import ReplayThreads
from worker.console.watching import Known, Unknown, Watched
from worker.deadletters.office import DeadLetterOffice
from worker.errors import LedgerUnavailableError
from worker.ledger.queries import Reader, Statement, Stats

T = TypeVar("T")

#: The lines of a statement as a spreadsheet reads them.
AsCsv = Callable[[Statement], Iterator[str]]


@dataclass(frozen=True)
class Parts:
    """The application, who stands guard, and what is asked for beside the pages."""

    application: Application
    guard: Guard
    as_csv: AsCsv
    clock: Callable[[], datetime] = utc_now

    @cached_property
    def reader(self) -> Reader:
        """The read side of the ledger."""
        return Reader(self.application.engine)

    @cached_property
    def office(self) -> DeadLetterOffice:
        """The dead-letter office."""
        return self.application.office()

    @cached_property
    def catalog(self) -> Catalog:
        """What is for sale."""
        return self.application.catalog

    @cached_property
    def replays(self) -> ReplayThreads:
        """The replays that this process runs."""
        return ReplayThreads(self.application)

    @cached_property
    def probe(self) -> QueueProbe:
        """What asks the broker."""
        return QueueProbe(self.application.link, BILLING)

    @cached_property
    def _queues(self) -> Watched[Queues]:
        return Watched(self.probe.ask, what="asking the broker", keep_s=1.5, wait_s=2.0, clock=self.clock)

    @cached_property
    def _totals(self) -> Watched[Stats]:
        return Watched(
            self.reader.stats, what="adding up the ledger", keep_s=60, wait_s=0.7, clock=self.clock
        )

    def queues(self) -> Known[Queues] | Unknown:
        """What waits at the broker."""
        return self._queues.get()

    def totals(self) -> Known[Stats] | Unknown:
        """The ledger in a few numbers: it takes a while to add a large one up."""
        return self._totals.get()


def parts() -> Parts:
    """The parts of the console that answers the present request."""
    return cast(Parts, current_app.extensions["billing"])


def person() -> Person:
    """Who makes the present request; the guard has let them in."""
    return cast(Person, g.person)


def in_ledger(ask: Callable[[], T]) -> T | Unknown:
    """What the ledger answers; where it has not answered once in this request it isn't asked again."""
    down: Unknown | None = g.get("ledger_down")
    if down is not None:
        return down
    try:
        return ask()
    except LedgerUnavailableError as error:
        g.ledger_down = Unknown(str(error))
        return cast(Unknown, g.ledger_down)
