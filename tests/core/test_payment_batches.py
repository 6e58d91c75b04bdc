"""Payments and their events in batches: the same as one by one, and replies that name the right user."""

from datetime import timedelta
from typing import Any

import pytest

from schemas import Command
from tests.support.commands import (
    adjust,
    closed,
    deduct,
    disputed,
    failed,
    opening,
    payment,
    settling,
    went_back,
)
from tests.support.fake_ledger import FakeLedger, after, picked, reply_to
from tests.support.model import Model, predicted
from tests.support.model_comparison import as_lot, assert_same_ledger
from tests.support.strategies import NOW, SMALL_CATALOG, TAKING_CATALOG


def early(reference: str, **more: Any) -> Command:
    """A payment of a user who has no account yet."""
    return payment(reference_id=reference, **more)


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one by one"])
def test_payments_before_their_account_are_credited_in_the_order_of_their_references(together: bool) -> None:
    """The order in which a batch was cut must not number the lots."""
    ledger = FakeLedger()
    sent = [early("p-2", package_id="brief"), early("p-1"), early("p-3")]
    for batch in [sent] if together else [[one] for one in sent]:
        ledger.apply(batch)
    ledger.apply([opening()])
    assert [(lot.number, lot.granted) for lot in ledger.lots_of("u") if lot.source == "purchase"] == [
        (2, 90),
        (4, 50),
        (6, 90),
    ]


def test_conflict_about_an_event_without_a_user_names_none() -> None:
    ledger = after(opening(), payment(reference_id="p"), went_back(user_id=None))
    reply = reply_to(ledger, went_back(user_id=None, original_reference_id="q"))
    assert picked(reply, "code", "field", "userId") == ("reference_conflict", "originalReferenceId", None)


def test_new_attempt_of_an_event_waits_for_a_payment_of_another_user_and_is_taken_in() -> None:
    """Its operation stays where it was; the payment is in another slot, perhaps on another machine."""
    ledger, model = FakeLedger(), Model(SMALL_CATALOG)
    stray = failed(reference_id="f", user_id=None, original_reference_id="o")
    commands: list[Command] = [
        opening("o"),
        payment(reference_id="p"),
        stray,
        stray.model_copy(update={"attempt": 2, "original_reference_id": "p"}),
        settling(reference_id="s"),
    ]
    replies = [reply_to(ledger, command) for command in commands]
    assert [reply["code"] for reply in replies[2:]] == [
        "original_not_found",
        "payment_awaited",
        "account_settled",
    ]
    assert [predicted(reply) for reply in replies] == [model.apply(command, NOW) for command in commands]
    assert_same_ledger(ledger, model)
    assert (ledger.accounts["u"].balance, ledger.waiting) == (100, {})


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_closing_of_more_money_counts_of_two_at_one_time(
    order: tuple[int, int],
) -> None:
    """Money in another currency is all of the payment, however small its number."""
    closings = [
        closed("lost", 5, "USD", reference_id="in-dollars"),
        closed("lost", 500, reference_id="in-euros"),
    ]
    ledger = after(opening(), payment(reference_id="p"), *(closings[place] for place in order))
    assert ledger.accounts["u"].reversed == 100


def test_refund_in_another_currency_that_waits_under_a_learnt_name_is_looked_at_once() -> None:
    ledger = after(opening(), went_back(5, "USD", original_reference_id="q"), payment(reference_id="p"))
    ledger.apply([payment(reference_id="p", also_known_as=("q",))])
    ledger.apply([settling(reference_id="s")], NOW + timedelta(hours=1))
    assert (list(ledger.waiting), ledger.accounts["u"].balance) == (["r"], 200)


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one by one"])
def test_event_and_payment_come_to_the_same_in_any_batch(together: bool) -> None:
    sent: list[Command] = [went_back(333, user_id=None), opening(), payment(reference_id="p")]
    ledger, model = FakeLedger(), Model(SMALL_CATALOG)
    for batch in [sent] if together else [[one] for one in sent]:
        ledger.apply(batch)
    for command in sent:
        model.apply(command, NOW)
    assert_same_ledger(ledger, model)
    assert [as_lot(lot)["remaining"] for lot in ledger.lots_of("u")] == [100, 60, 7]


def test_event_that_asks_for_nothing_moves_nothing_after_a_debt_went_to_expired_lots() -> None:
    """A lot that was given what had been taken as debt owes nothing for it."""
    ledger = FakeLedger(TAKING_CATALOG)
    ledger.apply([opening(), payment(600, reference_id="p", package_id="many"), deduct(150, "d")])
    ledger.apply([disputed(reference_id="x")])
    assert ledger.accounts["u"].debt == 50
    ledger.apply([adjust(90, reference_id="a"), closed("won", reference_id="w")])
    later = NOW + timedelta(days=25)
    ledger.apply([settling(reference_id="s")], later)
    balance = ledger.accounts["u"].balance
    reply = reply_to(ledger, disputed(stage="inquiry", dispute_id="y"), later)
    assert picked(reply, "amount", "balanceBefore", "balanceAfter") == (0, balance, balance)
    assert "sequence" not in reply
