"""Squatted references: usage that moved nothing gives its reference up to the command that it belongs to."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from schemas import Command
from tests.support.commands import (
    bonus,
    cancel,
    deduct,
    opening,
    payment,
    record,
    refund,
    release,
    renew,
    reserve,
    settle,
    settling,
    upload,
    went_back,
)
from tests.support.fake_ledger import FakeLedger, after, reply_to
from tests.support.model import Model, predicted
from tests.support.model_comparison import assert_same_ledger
from tests.support.strategies import NOW, SMALL_CATALOG
from worker.core import Outcome

SQUATTERS = [
    deduct(5, user_id="nobody"),
    deduct(5_000),
    deduct(0),
    deduct(0, user_id="v"),
    upload(0),
    upload(5_000),
    record("page", 0),
    record("chat", 1),
    record("fax", 1),
    reserve(5_000),
    settle(0),
    release(),
]
OWNERS = [payment(), bonus(5), refund(5), renew(), cancel(), settling(), opening("r", "w"), went_back()]


def shown(reply: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(reply.get(name) for name in names)


def started() -> FakeLedger:
    return after(opening(), opening("o-v", "v"))


def named(command: Command) -> str:
    return f"{command.type} {command.user_id}"


@pytest.mark.parametrize("owner", OWNERS, ids=named)
@pytest.mark.parametrize("squatter", SQUATTERS, ids=named)
def test_owner_takes_its_reference_from_usage_that_moved_nothing(squatter: Command, owner: Command) -> None:
    ledger, model = started(), Model(SMALL_CATALOG)
    for opened in (opening(), opening("o-v", "v")):
        model.apply(opened, NOW)
    first = reply_to(ledger, squatter)
    reply = reply_to(ledger, owner)
    assert reply["code"] != "reference_conflict"
    assert (reply["duplicate"], reply["type"]) == (False, owner.type)
    assert ledger.outcomes["r"].type == owner.type
    assert [(one.type, one.code) for one in ledger.taken.values()] == [(squatter.type, first["code"])]
    assert reply_to(ledger, squatter) == {**first, "duplicate": True}
    assert reply_to(ledger, owner) == {**reply, "duplicate": True}
    for command, answer in ((squatter, first), (owner, reply)):
        assert model.apply(command, NOW) == predicted(answer)
    assert_same_ledger(ledger, model)


@pytest.mark.parametrize("stored", [deduct(5), upload(5), record("page", 1), reserve(5)], ids=named)
@pytest.mark.parametrize("user", ["u", "v"])
def test_usage_that_moved_something_keeps_its_reference(stored: Command, user: str) -> None:
    ledger = after(opening(), opening("o-v", "v"), stored)
    reply = reply_to(ledger, payment(user_id=user))
    assert shown(reply, "code", "field", "expected") == ("reference_conflict", "type", stored.type)


@pytest.mark.parametrize("end", [settle(0), release()], ids=named)
def test_usage_that_ended_a_hold_keeps_its_reference(end: Command) -> None:
    ledger = after(opening(), reserve(5, "hold"), end)
    assert shown(reply_to(ledger, payment()), "code", "field") == ("reference_conflict", "type")


def test_free_units_keep_the_reference() -> None:
    ledger = after(opening(tier="pro"), record("page", 2))
    assert ledger.outcomes["r"].amount == 0
    assert shown(reply_to(ledger, payment()), "code", "field") == ("reference_conflict", "type")


@pytest.mark.parametrize(
    "later", [deduct(5, user_id="v"), upload(5), record("page", 1), deduct(0, user_id="v")], ids=named
)
def test_usage_supersedes_nothing_of_others(later: Command) -> None:
    ledger = after(opening(), opening("o-v", "v"), deduct(5_000))
    assert reply_to(ledger, later)["code"] == "reference_conflict"
    assert (ledger.superseded, ledger.taken) == ([], {})


@pytest.mark.parametrize("later", [bonus(5), settling(), payment(user_id="v"), deduct(5)], ids=named)
def test_rejected_payment_keeps_its_reference(later: Command) -> None:
    ledger = after(opening(), opening("o-v", "v"), payment(1))
    assert reply_to(ledger, later)["code"] == "reference_conflict"
    assert shown(reply_to(ledger, payment(attempt=2)), "code", "attempt") == ("tokens_purchased", 2)


def test_rejected_owner_is_judged_anew_by_its_own_attempts() -> None:
    ledger = after(opening(), deduct(0))
    first = reply_to(ledger, payment(1))
    assert first["code"] == "amount_mismatch"
    second = reply_to(ledger, payment(attempt=2))
    assert second["code"] == "tokens_purchased"
    assert reply_to(ledger, payment(1)) == {**first, "duplicate": True}
    assert reply_to(ledger, deduct(0))["duplicate"] is True
    assert [(one.type, one.attempt) for one in ledger.taken.values()] == [("usage.deduct", 1)]
    assert [(one.type, one.attempt) for one in ledger.superseded] == [("payment.succeeded", 1)]


def test_redelivered_usage_gets_the_outcome_of_each_of_its_attempts() -> None:
    ledger = started()
    first = reply_to(ledger, deduct(5_000))
    third = reply_to(ledger, deduct(4_000, attempt=3))
    assert reply_to(ledger, payment())["code"] == "tokens_purchased"
    assert reply_to(ledger, deduct(5_000)) == {**first, "duplicate": True}
    assert reply_to(ledger, deduct(4_000, attempt=3)) == {**third, "duplicate": True}
    assert reply_to(ledger, deduct(4_000, attempt=2)) == {**third, "duplicate": True}


@pytest.mark.parametrize(
    "again", [deduct(6, user_id="nobody"), deduct(5, user_id="nobody", attempt=2), deduct(5)], ids=named
)
def test_other_usage_of_a_taken_reference_is_a_conflict_with_its_owner(again: Command) -> None:
    ledger = after(opening(), deduct(5, user_id="nobody"), payment())
    reply = reply_to(ledger, again)
    assert shown(reply, "code", "field", "expected") == ("reference_conflict", "type", "payment.succeeded")
    assert ledger.outcomes["r"].type == "payment.succeeded"


def without_ids(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes; the ledger numbers those of a batch by their references."""
    return [replace(outcome, transaction_id=None) for outcome in outcomes]


def test_every_order_in_one_batch_comes_to_the_same_as_one_by_one() -> None:
    messages: list[Command] = [
        deduct(5, user_id="nobody"),
        deduct(5, user_id="nobody", attempt=2),
        payment(1),
        payment(attempt=2),
        deduct(5, user_id="nobody"),
    ]
    for order in permutations(messages):
        batched, single = started(), started()
        replies = batched.apply(order)
        assert replies == [reply_to(single, command) for command in order]
        assert without_ids(batched.outcomes.values()) == without_ids(single.outcomes.values())
        assert without_ids(batched.taken.values()) == without_ids(single.taken.values())
        assert without_ids(batched.superseded) == without_ids(single.superseded)
        assert batched.rows() == single.rows()


def test_event_waits_for_a_payment_whose_reference_is_squatted() -> None:
    ledger = after(opening(), deduct(0, "p"))
    assert reply_to(ledger, went_back())["code"] == "payment_awaited"
    assert shown(reply_to(ledger, payment(reference_id="p")), "code", "balanceAfter") == (
        "tokens_purchased",
        100,
    )


# -- attempts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [[], [deduct(5_000)], [deduct(5)]], ids=["none", "rejected", "applied"])
def test_attempt_is_at_most_a_thousand_above_the_stored_one(before: list[Command]) -> None:
    ledger = after(opening(), *before)
    most = 1_000 + len(before)
    stored = ledger.outcomes.get("r")
    reply = reply_to(ledger, deduct(5, attempt=most + 1))
    assert shown(reply, "status", "code", "field") == ("rejected", "reference_conflict", "attempt")
    assert shown(reply, "expected", "received") == (f"at most {most}", str(most + 1))
    assert reply["message"] == (
        f"The reference 'r' takes at most {most} as its next attempt, not {most + 1}. Nothing moved."
    )
    assert ledger.outcomes.get("r") == stored
    assert reply_to(ledger, deduct(5, attempt=most))["code"] == "tokens_deducted"


def test_attempt_of_an_owner_is_at_most_a_thousand_above_the_squatter() -> None:
    ledger = after(opening(), deduct(5_000))
    assert shown(reply_to(ledger, payment(attempt=1_002)), "code", "field") == (
        "reference_conflict",
        "attempt",
    )
    assert reply_to(ledger, payment(attempt=1_001))["code"] == "tokens_purchased"


def test_squatter_cannot_raise_attempts_out_of_reach_of_the_owner() -> None:
    ledger = started()
    for attempt in (1_000, 2_000, 3_000):
        reply_to(ledger, deduct(5_000, attempt=attempt))
    assert reply_to(ledger, payment())["code"] == "tokens_purchased"
    last = reply_to(ledger, deduct(5_000, attempt=3_000))
    assert shown(last, "code", "duplicate", "attempt") == ("insufficient_balance", True, 3_000)
