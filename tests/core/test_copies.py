"""Copies: every field reaches the copy, and no change of the copy reaches what it was made from."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from datetime import timedelta
from typing import Any, Protocol

import pytest

from tests.support.distinct import distinct
from tests.support.strategies import NOW, SMALL_CATALOG
from worker.core import (
    Account,
    AccountState,
    Counter,
    Hold,
    HoldState,
    Lot,
    Outcome,
    Payment,
    PaymentEvent,
    Plan,
    QuotaKey,
    QuotaState,
    Source,
    UsageRefund,
)
from worker.core.credits import credit
from worker.core.holds import close_hold, open_hold
from worker.core.lots import Credit
from worker.core.written import AccountRows


class Clonable(Protocol):
    """A value of the core that ``decide`` changes on a copy."""

    def clone(self) -> "Clonable": ...


@pytest.mark.parametrize("kind", [AccountState, Lot, Hold, QuotaState])
def test_clone_has_every_field(kind: type[Clonable]) -> None:
    original = distinct(kind)
    clone = original.clone()
    assert clone is not original
    for field in fields(kind):  # type: ignore[arg-type]
        assert getattr(clone, field.name) == getattr(original, field.name), field.name
        assert getattr(original, field.name) != field.default, f"{field.name} has its default"


QUOTA = QuotaKey(1, "page", NOW.date())


def full_account() -> Account:
    """An account with rows of every kind."""
    state = AccountState(1, "u", "pro", NOW, NOW + timedelta(days=30), lot_count=2, balance=90, held=20)
    lots = [
        Lot(1, 1, Source.PURCHASE, 60, 50, NOW, remaining=40, held=20, operation_id=7),
        Lot(1, 2, Source.BONUS, 50, 20, NOW, remaining=50, operation_id=8),
    ]
    hold = Hold(1, "old", 20, ((1, 20),), NOW, NOW + timedelta(days=1), operation_id=9)
    ran_out = [
        Hold(1, f"late-{n}", 5, ((1, 5),), NOW, NOW, state=HoldState.EXPIRED, operation_id=10 + n)
        for n in range(2)
    ]
    account = Account(state, lots, [hold, *ran_out], SMALL_CATALOG, NOW)
    act(account, "first")
    return account


def act(account: Account, reference_id: str) -> None:
    """Change everything that an account has."""
    outcome = distinct(Outcome, reference_id=reference_id, first_entry=None, last_entry=None)
    account.take(outcome, 5, Counter.USAGE)
    credit(account, outcome, Credit(7, Source.ADJUSTMENT))
    open_hold(account, outcome, 3, NOW + timedelta(days=2))
    others = [hold for hold in account.holds.values() if hold.reference_id != reference_id]
    for hold in [hold for hold in others if hold.state is HoldState.OPEN][:1]:
        close_hold(account, outcome, hold, HoldState.RELEASED)
    for hold in [hold for hold in others if hold.state is HoldState.EXPIRED][:1]:
        account.capture_late(hold, 2)
    account.quota(QUOTA, None)
    account.count(outcome, QUOTA, 2)
    account.add_payment(distinct(Payment))
    account.add_payment_event(distinct(Payment), distinct(PaymentEvent))
    account.take_in(distinct(PaymentEvent))
    account.leave_waiting(distinct(PaymentEvent))
    account.add_usage_refund(distinct(UsageRefund))


def parts_of(account: Account) -> Mapping[str, Any]:
    """All that an account keeps, but for the catalog, which nothing changes."""
    return {name: value for name, value in vars(account).items() if name != "catalog"}


def test_branch_begins_as_its_account_is() -> None:
    account = full_account()
    account.take(distinct(Outcome), 0, Counter.USAGE)
    branch = account.branch()
    had, has = parts_of(account), parts_of(branch)
    assert had.keys() == has.keys()
    for name in had.keys() - {"_burn_order"}:  # which is made anew
        assert has[name] == had[name], name
    for field in fields(AccountRows):
        rows, same = getattr(account.written, field.name), getattr(branch.written, field.name)
        assert rows, f"{field.name} has no rows"
        assert same == rows
        assert same is not rows


def test_change_of_a_branch_does_not_reach_the_account() -> None:
    account = full_account()
    before = deepcopy(parts_of(account))
    branch = account.branch()
    act(branch, "second")
    after = parts_of(account)
    for name, value in before.items():
        assert after[name] == value, name
        if not isinstance(value, bool | int) and name not in ("now", "_burn_order"):
            assert vars(branch)[name] != value, f"{name} was not changed"


def test_branch_writes_its_own_lots_and_holds() -> None:
    branch = full_account().branch()
    for lot in (*branch.written.new_lots, *branch.written.changed_lots.values()):
        assert lot is branch.lots[lot.number]
    written = branch.written
    for hold in (*written.new_holds, *written.changed_holds.values(), *written.late_holds):
        assert hold is branch.holds[hold.reference_id]


def test_plan_gets_rows_of_every_kind() -> None:
    plan, account = Plan(), full_account()
    account.add_to(plan)
    for field in fields(AccountRows):
        rows = getattr(account.written, field.name)
        assert getattr(plan, field.name) == (list(rows.values()) if isinstance(rows, dict) else rows), (
            field.name
        )
