"""A ledger with charges, a broker in memory, and a worker that works whenever the run waits."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Engine, select

from schemas import Command, Limits, Malformed, RefundCredit, commands_of, decode
from tests.support.apply_commands import applied
from tests.support.fake_stop import FakeStop
from tests.support.fakes import FakeLink
from tests.support.forms import transacted
from worker.catalog import Catalog, load_catalog
from worker.ledger.form import LedgerForm
from worker.ledger.queries import snapshot
from worker.ledger.queries.operation_filter import OperationFilter
from worker.ledger.senders import UNNAMED, Sender
from worker.ledger.store import Ledger
from worker.ledger.tables import usage_refunds
from worker.messages.policy import Policy
from worker.messages.receiving import message_in
from worker.reversing import store
from worker.reversing.models import ReverseRequest, ReverseRun
from worker.reversing.run import ReverseControls, ReverseResources, Reversing
from worker.reversing.survey import Survey, SurveyRules, survey

START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


@dataclass
class ReverseWorld:
    """A ledger whose worker applies what was published whenever a run waits, unless it is ``away``.

    ``before_work`` is called before the worker applies anything.
    """

    engine: Engine
    form: LedgerForm = LedgerForm.WHOLE
    catalog: Catalog = field(default_factory=load_catalog)
    policy: Policy = field(default_factory=Policy)
    now: datetime = START
    passed_s: float = 0.0
    is_away: bool = False
    link: FakeLink = field(default_factory=FakeLink)
    stop: FakeStop = field(default_factory=FakeStop)
    before_work: Callable[[], None] = lambda: None
    troubles: list[str] = field(default_factory=list)
    _done: int = 0

    def apply(self, *commands: Command, sender: Sender = UNNAMED) -> list[str]:
        """Apply commands beside the runs; return the codes of their outcomes."""
        if self.form is LedgerForm.WHOLE:
            answers = applied(self.engine, self.catalog, *commands, now=self.now, sender=sender)
        else:
            answers = transacted(Ledger(self.engine, self.form), commands, self.now, self.catalog)
        return [str(answer.outcome.code) for answer in answers if hasattr(answer, "outcome")]

    def survey(self, **wanted: object) -> Survey:
        """Return what matches the filter."""
        rules = SurveyRules(lambda delivery, now: message_in(delivery, self.policy, now), self.catalog, "ops")
        return survey(self.engine, self.now, OperationFilter(**wanted), rules)  # type: ignore[arg-type]

    def create(self, rate: float | None = None, **wanted: object) -> ReverseRun:
        """Freeze the charges that match and can be reversed."""
        request = ReverseRequest("wrong price", "ann", str(wanted), rate)
        return store.create(self.engine, self.now, self.survey(**wanted).keys, request)

    def go_on(self, run: ReverseRun, patience_s: float = 60.0) -> ReverseRun:
        """Execute the run until it ends or rests."""
        self.stop = FakeStop(on_wait=self._pass)
        resources = ReverseResources(
            self.engine, lambda: self.link, lambda: self.now, lambda: self.passed_s, random.Random(0), "ops"
        )
        controls = ReverseControls(self.stop, on_trouble=self.troubles.append)
        return Reversing(resources, run, controls, patience_s).to_its_end()

    def reverse(self, rate: float | None = None, **wanted: object) -> ReverseRun:
        """Reverse what matches."""
        return self.go_on(self.create(rate, **wanted))

    def _pass(self) -> None:
        self.passed_s += self.stop.waited_s[-1]
        self.work()

    def work(self) -> None:
        """Apply what was published since, as a worker does."""
        if self.is_away:
            return
        self.before_work()
        fresh, self._done = self.link.published[self._done :], len(self.link.published)
        for message in fresh:
            decoded = decode(message.body, now=self.now, limits=Limits())
            assert not isinstance(decoded, Malformed)
            self.apply(*commands_of(decoded))

    @property
    def refunds(self) -> list[RefundCredit]:
        """The refunds that were published, in order."""
        found = [decode(message.body, now=self.now, limits=Limits()) for message in self.link.published]
        return [one for one in found if isinstance(one, RefundCredit)]

    @property
    def tokens_back(self) -> list[int]:
        """The tokens of each refund in the ledger, in order."""
        statement = select(usage_refunds.c.tokens).order_by(usage_refunds.c.operation_id)
        with snapshot(self.engine) as connection:
            return list(connection.execute(statement).scalars())


def states(run: ReverseRun) -> dict[str, int]:
    """Return the charges of a run by state, without those of none."""
    return {state: count for state, count in run.counts.items() if count}
