"""Worlds by chance, of which every charge is reversed: nothing is used then, and the audit finds nothing."""

import pytest
from sqlalchemy import Engine, func, select

from tests.reversing.parts import ReverseWorld, states
from tests.support.apply_commands import applied
from tests.support.forms import settle_awaited
from tests.support.in_world import in_world
from tests.support.strategies import CATALOGS
from tests.support.worlds import day_of, named_world
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.ledger.queries import snapshot
from worker.ledger.store import Ledger
from worker.ledger.tables import entries, operations, usage_refunds

_IMPORTS = ("account.import", "payment.import")


def used_net(engine: Engine) -> int:
    """Return the tokens that usage took here, and not in the system before, and no refund gave back."""
    took = (
        select(func.coalesce(func.sum(-entries.c.amount), 0))
        .join(operations, operations.c.operation_id == entries.c.operation_id)
        .where(entries.c.counter == "usage", operations.c.type.not_in(_IMPORTS))
    )
    back = select(func.coalesce(func.sum(usage_refunds.c.tokens), 0))
    with snapshot(engine) as connection:
        return int(connection.execute(took).scalar_one() - connection.execute(back).scalar_one())


def assert_everything_is_reversed(engine: Engine, seed: int) -> None:
    catalogs = list(CATALOGS.values())
    world = ReverseWorld(engine, catalog=catalogs[seed % len(catalogs)])
    for now, batch in day_of(seed):
        applied(engine, world.catalog, *(in_world(seed, command) for command in batch), now=now)
        world.now = now
    before, prefix = used_net(engine), f"{seed}-"
    assert world.survey(reference_prefix=prefix).sums.tokens == before
    if world.survey(reference_prefix=prefix).keys:
        ended = world.reverse(reference_prefix=prefix)
        assert set(states(ended)) <= {"reversed", "rest_reversed"}
        assert ended.tokens == before
    assert used_net(engine) == 0
    assert world.survey(reference_prefix=prefix).keys == []
    settle_awaited(Ledger(engine), engine, world.catalog, prefix)


@pytest.mark.parametrize("seed", range(4))
def test_reversed_world_has_used_nothing(sqlite_url: str, seed: int) -> None:
    engine = ledger_engine(sqlite_url)
    try:
        with named_world(seed):
            assert_everything_is_reversed(engine, seed)
        assert audit(engine).findings == ()
    finally:
        engine.dispose()


@pytest.mark.slow
def test_many_reversed_worlds_have_used_nothing(postgres_engine: Engine) -> None:
    for seed in range(100, 140):
        with named_world(seed):
            assert_everything_is_reversed(postgres_engine, seed)
    assert audit(postgres_engine).findings == ()
