"""The store, whatever happens to it: batches, months that pass, crashes before and after the commit.

Hypothesis makes up what happens. Replies and rows must be those of the model after every step, and the
audit must find nothing in the end.
"""

import json
from collections.abc import Sequence
from datetime import timedelta
from itertools import count
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine

from schemas import Command, OpenAccount
from tests.support.forms import settle_awaited
from tests.support.in_world import in_world
from tests.support.model import Model, predicted
from tests.support.stored_comparison import assert_stored_like_the_model
from tests.support.strategies import CATALOGS, STARTS, crowded_commands, crowded_payments, examples, moved
from tests.support.strategies import NOW as AROUND
from worker.catalog import Catalog
from worker.core import decide, reply_for
from worker.ledger.audit import audit
from worker.ledger.store import Ledger

_worlds = count()

_batches = st.lists(st.one_of(crowded_commands(), crowded_payments()), min_size=1, max_size=6)


@st.composite
def crowded_batches(draw: st.DrawFn) -> list[Command]:
    """Draw a batch: written out, the strategy is longer than Hypothesis likes to show."""
    return draw(_batches)


batches = crowded_batches()
steps = st.sampled_from([timedelta(0, 1), timedelta(0, 3600), *(timedelta(days) for days in (1, 5, 28, 31))])


class Unplugged(Exception):  # noqa: N818 - nothing of the worker's
    """The worker's end, in the middle of a transaction."""


class LedgerMachine(RuleBasedStateMachine):
    """One world in a database that many worlds share, and the model of it."""

    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self._ledger = Ledger(self.engine)
        self._world = next(_worlds)
        self._catalog: Catalog = next(iter(CATALOGS.values()))
        self._model = Model(self._catalog)
        self._now = AROUND

    @initialize(
        start=st.sampled_from(STARTS),
        tier=st.sampled_from(["free", "pro", "steady", "keeper"]),
        catalog=st.sampled_from(list(CATALOGS.values())),
    )
    def open(self, start: Any, tier: str, catalog: Catalog) -> None:
        """Open an account, as most worlds do."""
        self._now, self._catalog, self._model = start, catalog, Model(catalog)
        self._deliver([self._own(OpenAccount(reference_id="open", user_id="u0", tier=tier))])

    @rule(step=steps)
    def time_passes(self, step: timedelta) -> None:
        """Time passes without a query or a command."""
        self._now += step

    @rule(batch=batches)
    def a_batch_comes(self, batch: list[Command]) -> None:
        """The batch is answered as the model says."""
        self._deliver([self._own(command) for command in batch])

    @rule(batch=batches, later=st.sampled_from([timedelta(0), timedelta(days=2)]))
    def the_worker_dies_before_the_commit(self, batch: list[Command], later: timedelta) -> None:
        """Nothing is left, and the redelivery is judged, at its own time."""
        commands = [self._own(command) for command in batch]
        try:
            self._replies_to(commands, unplugged=True)
        except Unplugged:
            self._now += later
        self._deliver(commands)

    @rule(batch=batches, later=st.sampled_from([timedelta(0), timedelta(days=40)]))
    def the_worker_dies_before_its_replies(self, batch: list[Command], later: timedelta) -> None:
        """The redelivery moves nothing and gets the replies that nobody saw."""
        commands = [self._own(command) for command in batch]
        self._deliver(commands)
        self._now += later
        self._deliver(commands)

    @invariant()
    def what_is_kept_is_what_the_model_keeps(self) -> None:
        """Balances, lots, holds, and what happened to payments."""
        assert_stored_like_the_model(self.engine, self._model, f"{self._world}-")

    # -- the way there ------------------------------------------------------------------------------------

    def _own(self, command: Command) -> Command:
        """The command with identities of this world, about times around its now."""
        return moved(in_world(self._world, command), self._now - AROUND)

    def _deliver(self, commands: Sequence[Command]) -> None:
        replies = self._replies_to(commands)
        expected = [self._model.apply(command, self._now) for command in commands]
        assert [predicted(reply) for reply in replies] == expected

    def _replies_to(self, commands: Sequence[Command], *, unplugged: bool = False) -> list[dict[str, Any]]:
        auto_open = self._catalog.auto_open
        with self._ledger.begin(commands, self._now, auto_open=auto_open) as transaction:
            known = transaction.known
            plan = decide(commands, known, self._now, self._catalog)
            transaction.write(plan)
            if unplugged:
                raise Unplugged
        answered = zip(commands, plan.answers, strict=True)
        return [json.loads(reply_for(command, answer).to_json()) for command, answer in answered]


def test_store_keeps_what_the_model_says(engine: Engine) -> None:
    machine = type("LedgerMachine", (LedgerMachine,), {"engine": engine})
    run_state_machine_as_test(machine, settings=settings(examples(20), stateful_step_count=10))
    settle_awaited(Ledger(engine), engine, next(iter(CATALOGS.values())))
    assert audit(engine).is_clean
