"""Runs on a distributed ledger: a transaction has one slot, and ids repeat from slot to slot."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from schemas import slot_of
from tests.reversing.parts import ReverseWorld, states
from tests.support.commands import bonus, deduct, opening
from tests.support.partitioned_ledger import partition_ledger
from tests.support.provision import PostgresServer
from worker.ledger.engine import ledger_engine
from worker.ledger.form import LedgerForm
from worker.ledger.slots import slot_by_slot
from worker.reversing import store

USERS = ("ada", "bob", "eve", "kim")


@pytest.fixture
def world(postgres: PostgresServer, postgres_template: str) -> Iterator[ReverseWorld]:
    """A world on a distributed ledger."""
    name = f"reversed_{uuid4().hex[:12]}"
    postgres.databases.create_database(name, template=postgres_template)
    engine = ledger_engine(postgres.address.url(name))
    partition_ledger(engine)
    yield ReverseWorld(slot_by_slot(engine), LedgerForm.DISTRIBUTED)
    engine.dispose()
    postgres.databases.drop_database(name)


def test_charges_in_many_slots_are_reversed_once(world: ReverseWorld) -> None:
    assert len({slot_of(user) for user in USERS}) == len(USERS)
    for user in USERS:
        world.apply(opening(f"open-{user}", user), bonus(1_000, f"more-{user}", user))
        world.apply(deduct(30, f"c-{user}", user, feature="chat"), deduct(20, f"d-{user}", user))
    found = world.survey(feature="chat")
    assert (found.charges, found.sums) == (4, (4, 120, 0))
    ended = world.reverse(feature="chat")
    assert (states(ended), ended.tokens) == ({"reversed": 4}, 120)
    assert states(world.reverse(user_id="ada")) == {"reversed": 1}
    first = store.items(world.engine, ended.number, (), 3, None)
    rest = store.items(world.engine, ended.number, (), 3, first.next)
    shown = sorted(item.reference_id for item in (*first.items, *rest.items))
    assert shown == sorted(f"c-{user}" for user in USERS)
