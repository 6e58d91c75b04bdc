"""Round trip: what a batch writes is what the next one loads, field by field, on both databases."""

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields, replace
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Engine

from schemas import Command, FreezeAccount
from tests.support.commands import (
    adjust,
    bonus,
    cancel,
    change,
    deduct,
    opening,
    payment,
    record,
    refund,
    release,
    reserve,
    went_back,
)
from tests.support.strategies import NOW, SMALL_CATALOG
from worker.core import Decided, Known, Outcome, Plan, QuotaKey, QuotaState, Taken, decide
from worker.core.known import Happened, PaymentName
from worker.ledger.store import Ledger

WRITTEN: Sequence[Command] = [
    opening(tier="pro", metadata={"plan": "x"}),
    payment(reference_id="p", provider="stripe", occurred_at=NOW - timedelta(hours=1)),
    bonus(30, "later", effective_at=NOW + timedelta(days=9), expires_at=NOW + timedelta(days=19)),
    record("page", 7, reference_id="n", description="seven pages"),
    deduct(30, "d", feature="chat"),
    refund(4, "d", reference_id="back"),
    refund(6, reference_id="gift"),
    adjust(8, reference_id="a"),
    bonus(20, "b", expires_at=NOW + timedelta(days=2), priority=5),
    reserve(25, "hold"),
    reserve(3, "ended"),
    release("ended", reference_id="end"),
    went_back(300, reference_id="w", occurred_at=NOW - timedelta(minutes=1)),
    deduct(9_999, "too-much"),
    opening("o2", "v"),
    adjust(-150, reference_id="a2", user_id="v", allow_negative=True),
    adjust(20, reference_id="a3", user_id="v"),
    opening("o3", "w"),
    FreezeAccount(reference_id="f", user_id="w", reason="a fraud warning"),
    cancel("now", reference_id="c", user_id="w"),
    opening("o4", "x"),
    change(
        "pro",
        reference_id="g",
        user_id="x",
        period_start=NOW + timedelta(days=1),
        period_end=NOW + timedelta(days=31),
    ),
]
#: Commands that name all that was written.
ASKING: Sequence[Command] = [
    *WRITTEN,
    release("hold", reference_id="x1"),
    refund(1, "d", reference_id="x2"),
    went_back(1, reference_id="x3"),
]


class Trip(NamedTuple):
    """The plan of a batch, and what is loaded after it for commands that name all it wrote."""

    plan: Plan
    known: Known

    def outcome(self, reference_id: str) -> Outcome:
        """The outcome that was decided under the reference."""
        return next(o for o in self.plan.outcomes if o.reference_id == reference_id)

    @property
    def account_id(self) -> int:
        """Account of the user who has most."""
        return self.known.accounts["u"].account_id


@pytest.fixture
def trip(engine: Engine) -> Trip:
    """A batch that has been written, and loaded again."""
    ledger = Ledger(engine)
    with ledger.begin(WRITTEN, NOW) as transaction:
        known = transaction.known
        plan = decide(WRITTEN, known, NOW, SMALL_CATALOG)
        plan.name_senders(range(7, 7 + len(WRITTEN)))
        plan.name_catalog(5)
        transaction.write(plan)
    assert all(isinstance(answer, Decided) for answer in plan.answers)
    with ledger.begin(ASKING, NOW) as transaction:
        return Trip(plan, transaction.known)


def assert_all_fields_are_used(values: Iterable[Any], but: set[str]) -> None:
    """Fail for a field that is nowhere other than its default: nobody would see it get lost."""
    values = list(values)
    for field in fields(values[0]):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        is_used = any(getattr(value, field.name) != default for value in values)
        assert is_used or field.name in but, f"{field.name} is never used here"


def test_account_is_loaded_as_it_was_left(trip: Trip) -> None:
    left = {move.state.user_id: move.state for move in trip.plan.accounts}
    assert trip.known.accounts == left
    assert_all_fields_are_used(left.values(), but={"unfrozen_at"})


def test_lot_is_loaded_as_it_was_left(trip: Trip) -> None:
    assert trip.outcome("o").transaction_id is not None
    left = [
        replace(lot, operation_id=lot.outcome.transaction_id, outcome=None)
        for lot in trip.plan.new_lots
        if lot.outcome is not None and lot.account_id == trip.account_id
    ]
    assert trip.known.lots[trip.account_id] == left
    assert_all_fields_are_used(left, but={"outcome", "ended_at"})


def test_hold_is_loaded_as_it_was_left(trip: Trip) -> None:
    left = [
        replace(hold, operation_id=hold.outcome.transaction_id, outcome=None, closed_by=None)
        for hold in trip.plan.new_holds
        if hold.outcome is not None
    ]
    by_reference = {hold.reference_id: hold for hold in trip.known.holds[trip.account_id]}
    assert by_reference == {hold.reference_id: hold for hold in left}
    assert len(by_reference["hold"].parts) == 2
    assert_all_fields_are_used(left, but={"outcome", "closed_by", "captured", "is_dispute"})


def test_outcome_is_loaded_as_it_was_decided(trip: Trip) -> None:
    decided = {outcome.reference_id: outcome for outcome in trip.plan.outcomes}
    assert trip.known.outcomes == decided
    assert_all_fields_are_used(decided.values(), but=set())


def test_payment_and_its_event_are_loaded_as_they_were_left(trip: Trip) -> None:
    (paid,), (event,) = trip.plan.payments, trip.plan.payment_events
    assert event.happened is Happened.REFUNDED
    paid_by = trip.outcome("p")
    assert trip.known.payments == {"p": replace(paid, operation_id=paid_by.transaction_id, outcome=None)}
    assert sum(paid.taken.values()) == event.collected
    assert trip.known.payment_events == {"p": [replace(event, outcome=None, user_id=None)]}
    assert trip.known.payment_names == {"p": PaymentName("p", "p", "u", version=1)}
    assert_all_fields_are_used(trip.known.payments.values(), but={"outcome", "lapsed", "tier"})
    assert_all_fields_are_used([event], but={"dispute_id", "refund_reference", "uncollected"})


def test_quota_and_usage_are_loaded_as_they_were_left(trip: Trip) -> None:
    (counted,) = trip.plan.quota_entries
    assert counted.key == QuotaKey(trip.account_id, "page", NOW.date())
    assert trip.known.quotas == {counted.key: QuotaState(counted.used_after, counted.sequence)}
    taken = tuple((e.lot, -e.amount) for e in trip.plan.entries if e.outcome.reference_id == "d")
    assert trip.known.usages["d"] == Taken(tuple((lot, n) for lot, n in taken if lot is not None), 4)
