"""Payments in every form of a ledger: whole, one slot a transaction, distributed.

The names of payments and what waits for them stand beside the slots. Worlds come to what the model says in
every form; where the ledger is distributed, a crash between two of its steps leaves what the next message
mends.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, select

from schemas import Command
from tests.support.commands import opening, payment, settling, went_back
from tests.support.forms import settle_awaited, transacted
from tests.support.in_world import in_world
from tests.support.model import Model, predicted
from tests.support.stored_comparison import assert_stored_like_the_model
from tests.support.strategies import CATALOGS, NOW, SMALL_CATALOG
from tests.support.worlds import day_of, named_world
from worker.catalog import Catalog
from worker.core import reply_for
from worker.ledger.audit import audit
from worker.ledger.due import awaited_payments
from worker.ledger.engine import ledger_engine
from worker.ledger.form import LedgerForm
from worker.ledger.store import Ledger, WrittenNames
from worker.ledger.tables import accounts, waiting_events


def assert_worlds_are_like_the_model(ledger: Ledger, engine: Engine, seeds: range) -> None:
    catalogs = list(CATALOGS.values())
    for seed in seeds:
        with named_world(seed):
            assert_world_is_like_the_model(ledger, engine, seed, catalogs[seed % len(catalogs)])


def assert_world_is_like_the_model(ledger: Ledger, engine: Engine, seed: int, catalog: Catalog) -> None:
    """Apply a world's commands one by one, which is the order that the slots keep; compare with the model."""
    model = Model(catalog)
    for now, batch in day_of(seed):
        for command in (in_world(seed, one) for one in batch):
            (answer,) = transacted(ledger, [command], now, catalog)
            reply = predicted(json.loads(reply_for(command, answer).to_json()))
            assert reply == model.apply(command, now)
    assert_stored_like_the_model(engine, model, f"{seed}-")


def test_worlds_in_transactions_of_one_slot_are_stored_as_the_model_says(sqlite_url: str) -> None:
    engine = ledger_engine(sqlite_url)
    ledger = Ledger(engine, LedgerForm.ONE_SLOT)
    assert_worlds_are_like_the_model(ledger, engine, range(400, 407))
    settle_awaited(ledger, engine, SMALL_CATALOG)
    assert audit(engine).findings == ()
    engine.dispose()


def test_worlds_in_a_distributed_ledger_are_stored_as_the_model_says(stand_in: Engine) -> None:
    ledger = Ledger(stand_in, LedgerForm.DISTRIBUTED)
    assert_worlds_are_like_the_model(ledger, stand_in, range(410, 417))
    settle_awaited(ledger, stand_in, SMALL_CATALOG)


# -- crashes between the steps of a distributed ledger ----------------------------------------------------


LATER = NOW + timedelta(days=1_000)


class StoppedWritingError(Exception):
    """End of a worker between two steps."""


def crash_once(monkeypatch: pytest.MonkeyPatch, name: str, *, after: bool) -> None:
    """Crash once before or after this step of writing names."""
    original = getattr(WrittenNames, name)

    def crash(*arguments: Any) -> None:
        if after:
            original(*arguments)
        monkeypatch.setattr(WrittenNames, name, original)
        raise StoppedWritingError

    monkeypatch.setattr(WrittenNames, name, crash)


@dataclass
class PaidWorld:
    """A user with an account in a distributed ledger, and what is said about one payment of theirs."""

    ledger: Ledger
    engine: Engine
    name: str = field(default_factory=lambda: uuid4().hex[:8])

    def __post_init__(self) -> None:
        self.send(opening(f"{self.name}-o", f"{self.name}-u"))

    @property
    def paid(self) -> Command:
        return payment(
            reference_id=f"{self.name}-p", user_id=f"{self.name}-u", also_known_as=(f"{self.name}-q",)
        )

    def back(self, number: int, name: str = "p", amount_minor: int = 333) -> Command:
        own = {"reference_id": f"{self.name}-e{number}", "original_reference_id": f"{self.name}-{name}"}
        return went_back(amount_minor, **own, user_id=None)

    def send(self, command: Command, now: datetime = NOW) -> str:
        """Return the code of the reply to one command."""
        (answer,) = transacted(self.ledger, [command], now, SMALL_CATALOG)
        return str(reply_for(command, answer).code)

    def send_and_crash(self, command: Command) -> None:
        with pytest.raises(StoppedWritingError):
            self.send(command)

    def look(self) -> int:
        """Settle the accounts of the payments that events wait for, as the scheduler does; count them."""
        users = [awaited.user_id for awaited in awaited_payments(self.engine, LATER, 1_000)]
        own = [user for user in users if user.startswith(self.name)]
        for user in own:
            self.send(settling(reference_id=f"{self.name}-look-{uuid4().hex[:6]}", user_id=user))
        return len(own)

    def reversed(self) -> int:
        """Return the tokens of the user that payments took back."""
        with self.engine.connect() as connection:
            account = select(accounts.c.reversed).where(accounts.c.user_id == f"{self.name}-u")
            return int(connection.execute(account).scalar_one())

    def waiting(self) -> list[str]:
        with self.engine.connect() as connection:
            names = select(waiting_events.c.reference_id).where(waiting_events.c.name.startswith(self.name))
            return list(connection.execute(names).scalars())


@pytest.fixture
def world(stand_in: Engine) -> PaidWorld:
    return PaidWorld(Ledger(stand_in, LedgerForm.DISTRIBUTED), stand_in)


def test_event_that_crashed_while_it_began_to_wait_counts_once_when_it_comes_again(
    world: PaidWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_once(monkeypatch, "begin", after=True)
    world.send_and_crash(world.back(1))
    assert world.send(world.back(1)) == "payment_awaited"
    assert world.send(world.paid) == "tokens_purchased"
    assert (world.reversed(), world.waiting()) == (33, [])


def test_event_that_crashed_while_it_began_to_wait_counts_once_after_its_payment(
    world: PaidWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_once(monkeypatch, "begin", after=True)
    world.send_and_crash(world.back(1))
    assert world.send(world.paid) == "tokens_purchased"
    world.send(world.back(1))
    world.send(world.back(1))
    assert world.send(world.back(2)) == "payment_refunded"
    world.look()
    assert (world.reversed(), world.waiting()) == (66, [])


def test_event_of_a_named_user_that_crashed_counts_once_when_its_payment_comes_first(
    world: PaidWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = world.back(1).model_copy(update={"user_id": f"{world.name}-u"})
    crash_once(monkeypatch, "begin", after=True)
    world.send_and_crash(back)
    assert world.send(world.paid) == "tokens_purchased"
    assert world.send(back) == "payment_awaited"
    assert world.send(back) == "payment_awaited"
    assert (world.reversed(), world.waiting()) == (33, [])


def test_event_that_waits_under_a_learnt_name_in_another_currency_is_looked_at_once(
    world: PaidWorld,
) -> None:
    world.send(world.back(1, "later").model_copy(update={"currency": "USD"}))
    world.send(world.paid)
    world.send(world.paid.model_copy(update={"also_known_as": (f"{world.name}-later",)}))
    assert world.look() == 1
    assert world.look() == 0
    assert (world.reversed(), len(world.waiting())) == (0, 1)


@pytest.mark.parametrize("order", ["copy first", "events first"])
def test_payment_that_crashed_before_its_names_were_bound_counts_all_events_once(
    world: PaidWorld, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    world.send(world.back(1, "q"))
    crash_once(monkeypatch, "finish", after=False)
    world.send_and_crash(world.paid)
    if order == "events first":
        world.send(world.back(2, "q"))
    assert world.send(world.paid) == "tokens_purchased"
    world.look()
    if order == "copy first":
        assert world.send(world.back(2, "q")) == "payment_refunded"
    assert world.send(world.back(3, "p")) == "payment_refunded"
    assert (world.reversed(), world.waiting()) == (100, [])
    assert world.send(world.back(4, "q")) == "payment_refunded"
    assert world.reversed() == 100
