"""Frozen accounts: no usage and no holds, while credit is posted and open work may end."""

from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from schemas import Command
from tests.support.commands import (
    adjust,
    bonus,
    cancel,
    change,
    deduct,
    extend,
    freezing,
    opening,
    payment,
    record,
    refund,
    release,
    renew,
    reserve,
    settle,
    settling,
    unfreezing,
    upload,
    went_back,
)
from tests.support.fake_ledger import FakeLedger, after, reply_to
from tests.support.strategies import NOW, OPENING_CATALOG

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
HELD = reserve(40, "hold", ttl_seconds=7 * 86_400)
USAGE: list[Command] = [
    deduct(5),
    deduct(0),
    upload(5),
    record("page", 1),
    record("page", 0),
    reserve(5),
    extend(reference_id="r"),
]


def shown(reply: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(reply.get(name) for name in names)


@pytest.mark.parametrize("command", USAGE, ids=[f"{one.type}-{number}" for number, one in enumerate(USAGE)])
def test_frozen_account_takes_no_usage(command: Command) -> None:
    ledger = after(opening(), HELD, freezing())
    before = ledger.rows()
    reply = reply_to(ledger, command)
    assert shown(reply, "status", "code", "amount") == ("rejected", "account_frozen", None)
    assert reply["message"] == "The account of user u is frozen"
    assert ledger.rows() == before
    assert reply_to(ledger, command) == {**reply, "duplicate": True}


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (payment(), "tokens_purchased"),
        (bonus(5), "bonus_granted"),
        (adjust(-5), "adjustment_debited"),
        (refund(5, "d"), "tokens_refunded"),
        (went_back(reference_id="r"), "payment_refunded"),
        (change("pro"), "subscription_changed"),
        (renew(NOW + 30 * DAY), "period_out_of_range"),
        (cancel(), "subscription_canceled"),
        (settling(), "account_settled"),
        (settle(30), "hold_settled"),
        (release(), "hold_released"),
    ],
)
def test_frozen_account_takes_all_but_usage(command: Command, code: str) -> None:
    ledger = after(opening(), deduct(10, "d"), payment(reference_id="p"), HELD, freezing())
    assert reply_to(ledger, command)["code"] == code


def test_due_items_are_posted_while_frozen() -> None:
    ledger = after(opening(tier="steady"), bonus(40, "b", expires_at=NOW + DAY), HELD, freezing())
    ledger.apply([settling()], NOW + 40 * DAY)
    account = ledger.accounts["u"]
    assert (account.balance, account.held, account.expired) == (120, 0, 160)
    assert ledger.holds["hold"].state == "expired"


def test_unfrozen_account_is_used_again() -> None:
    ledger = after(opening(), freezing(), deduct(5, "d"))
    ledger.apply([unfreezing()], NOW + HOUR)
    assert reply_to(ledger, deduct(5))["code"] == "tokens_deducted"
    rejected = reply_to(ledger, deduct(5, "d"))
    assert shown(rejected, "code", "duplicate") == ("account_frozen", True)
    assert reply_to(ledger, deduct(5, "d", attempt=2))["code"] == "tokens_deducted"


def test_freezing_twice_is_as_good_as_once() -> None:
    ledger = after(opening(), freezing(), freezing("z2"))
    assert shown(reply_to(ledger, freezing("z3")), "code", "amount") == ("freeze_began", 0)
    assert reply_to(ledger, unfreezing(), NOW + HOUR)["code"] == "freeze_ended"
    assert reply_to(ledger, unfreezing("y2"), NOW + HOUR)["code"] == "freeze_ended"


def test_usage_of_the_same_batch_sees_the_freeze() -> None:
    ledger = after(opening())
    replies = ledger.apply([deduct(5, "d1"), freezing(), deduct(5, "d2"), unfreezing(), deduct(5, "d3")])
    assert [reply["code"] for reply in replies] == [
        "tokens_deducted",
        "freeze_began",
        "account_frozen",
        "freeze_began",  # at the same time: the account stays frozen
        "account_frozen",
    ]


def test_freeze_of_an_unknown_user_is_rejected() -> None:
    ledger = FakeLedger(OPENING_CATALOG)
    assert shown(reply_to(ledger, freezing()), "status", "code") == ("rejected", "account_not_found")


# -- by a payment -----------------------------------------------------------------------------------------


def test_payment_freezes_the_account_of_its_user() -> None:
    ledger = after(opening(), payment(reference_id="p"))
    reply = reply_to(ledger, freezing(payment_reference_id="p"))
    assert shown(reply, "code", "userId", "paymentReferenceId") == ("freeze_began", "u", "p")
    assert reply_to(ledger, deduct(5))["code"] == "account_frozen"


def test_other_name_of_a_payment_freezes_as_well() -> None:
    ledger = after(opening(), payment(reference_id="p", also_known_as=["charge"]))
    assert reply_to(ledger, freezing(payment_reference_id="charge"))["code"] == "freeze_began"


def test_freeze_waits_for_its_payment() -> None:
    ledger = after(opening())
    reply = reply_to(ledger, freezing(payment_reference_id="p"))
    assert shown(reply, "code", "userId", "balanceBefore") == ("payment_awaited", None, None)
    assert reply_to(ledger, deduct(5, "d"))["code"] == "tokens_deducted"
    assert reply_to(ledger, payment(reference_id="p"))["code"] == "tokens_purchased"
    assert reply_to(ledger, deduct(5))["code"] == "account_frozen"


EVENTS: list[Command] = [
    payment(reference_id="p"),
    freezing("z1", payment_reference_id="p", occurred_at=NOW - 3 * HOUR),
    unfreezing("y1", payment_reference_id="p", occurred_at=NOW - 2 * HOUR),
    freezing("z2", payment_reference_id="p", occurred_at=NOW - HOUR),
]


@pytest.mark.parametrize(
    ("events", "frozen_at"), [(EVENTS[:3], None), (EVENTS, NOW - HOUR)], ids=["let go", "frozen again"]
)
def test_latest_word_counts_in_any_order_of_arrival(events: list[Command], frozen_at: object) -> None:
    for order in permutations(events):
        ledger = FakeLedger()
        ledger.apply([opening()])
        for minutes, event in enumerate(order):
            ledger.apply([event, event], NOW + timedelta(minutes=minutes))
        account = ledger.accounts["u"]
        assert (account.frozen_at, account.unfrozen_at) == (frozen_at, NOW - 2 * HOUR), order


def test_late_freeze_says_that_the_account_may_be_used() -> None:
    ledger = after(opening(), unfreezing(occurred_at=NOW - HOUR))
    assert reply_to(ledger, freezing(occurred_at=NOW - 2 * HOUR))["code"] == "freeze_ended"


def test_freeze_of_the_same_time_as_the_unfreeze_counts() -> None:
    said: list[Command] = [freezing(occurred_at=NOW - HOUR), unfreezing(occurred_at=NOW - HOUR)]
    for words in permutations(said):
        assert after(opening(), *words).accounts["u"].frozen_at == NOW - HOUR
