"""Holds and time: the result is the same whoever posts the end of a hold, and whenever."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import combinations, permutations
from typing import Any

import pytest

from schemas import Command
from tests.support.commands import (
    adjust,
    bonus,
    deduct,
    extend,
    opening,
    refund,
    release,
    reserve,
    settle,
    settling,
)
from tests.support.fake_ledger import FakeLedger, after, picked, reply_to
from tests.support.model_comparison import as_lot
from tests.support.strategies import NOW, SMALL_CATALOG

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
Timed = tuple[datetime, Command]


def state_of(ledger: FakeLedger) -> dict[str, Any]:
    """All that a user has: what moved, the lots, and the holds with their ends."""
    return {
        "moved": [(entry.counter, entry.amount, entry.lot) for entry in ledger.history("u")],
        "lots": [as_lot(lot) for lot in ledger.lots_of("u")],
        "holds": [
            (hold.reference_id, hold.state, hold.captured, hold.expires_at, hold.closed_at)
            for hold in ledger.holds_of("u")
        ],
        "account": picked(vars_of(ledger), "balance", "held", "debt", "used", "expired"),
    }


def vars_of(ledger: FakeLedger) -> dict[str, Any]:
    state = ledger.accounts["u"]
    return {name: getattr(state, name) for name in ("balance", "held", "debt", "used", "expired")}


def applied(commands: Sequence[Timed]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Apply the commands one by one; return the replies to all but extra settles, and the state."""
    ledger = after(opening(), bonus(30, "b", expires_at=NOW + 3 * HOUR), reserve(60, "hold", 2 * 3_600))
    replies = {}
    for now, command in commands:
        reply = reply_to(ledger, command, now)
        if command.type != "account.settle":
            replies[command.reference_id] = picked(
                reply, "code", "amount", "balanceAfter", "required", "available", "shortfall", "state"
            )
    reply_to(ledger, settling(reference_id="end"), NOW + 8 * HOUR)
    return replies, state_of(ledger)


def looked_at(commands: Sequence[Timed]) -> Iterator[list[Timed]]:
    """Yield the commands with every choice of extra settles between them."""
    looks = [
        (NOW + minutes * timedelta(minutes=1), settling(reference_id=f"look-{minutes}"))
        for minutes in (60, 120, 180, 240, 300)
    ]
    for count in range(len(looks) + 1):
        for chosen in combinations(looks, count):
            yield sorted([*commands, *chosen], key=lambda timed: timed[0])


LIVES: dict[str, list[Timed]] = {
    "settled late": [(NOW + 4 * HOUR + timedelta(minutes=1), settle(50, reference_id="s"))],
    "settled late, the second time in vain": [
        (NOW + 2 * HOUR, settle(50, reference_id="s")),
        (NOW + 5 * HOUR + timedelta(minutes=1), settle(50, reference_id="again")),
    ],
    "spent otherwise, then settled late": [
        (NOW + 2 * HOUR + timedelta(minutes=1), deduct(120, "d")),
        (NOW + 3 * HOUR + timedelta(minutes=1), settle(60, reference_id="s")),
    ],
    "refused": [(NOW + 3 * HOUR, settle(50, reference_id="s", on_expired="refuse"))],
    "renewed, and settled in time": [
        (NOW + HOUR + timedelta(minutes=1), extend(3 * 3_600)),
        (NOW + 4 * HOUR, settle(50, reference_id="s")),
    ],
    "renewed, and settled late": [
        (NOW + HOUR + timedelta(minutes=1), extend(2 * 3_600)),
        (NOW + 5 * HOUR, settle(50, reference_id="s")),
    ],
    "renewed too late": [
        (NOW + 2 * HOUR, extend(3 * 3_600)),
        (NOW + 4 * HOUR, settle(50, reference_id="s")),
    ],
}


@pytest.mark.parametrize("life", LIVES)
def test_any_number_of_looks_ends_in_the_same_replies_lots_and_holds(life: str) -> None:
    without, *others = [applied(commands) for commands in looked_at(LIVES[life])]
    assert len(others) == 31
    for other in others:
        assert other == without


def test_hold_is_captured_once_in_every_order_of_its_ends() -> None:
    ends: list[Command] = [
        settle(50, reference_id="s1"),
        settle(60, reference_id="s2"),
        release(reference_id="l"),
        settling(reference_id="t"),
    ]
    for order in permutations(ends):
        for sizes in ([4], [1, 3], [2, 2], [1, 1, 1, 1]):
            ledger = after(opening(), reserve(60, "hold", 3_600))
            left = list(order)
            replies = [
                reply
                for size in sizes
                for reply in ledger.apply([left.pop(0) for _ in range(size)], NOW + HOUR)
            ]
            late = [reply for reply in replies if reply["code"] == "hold_settled_late"]
            (first,) = late
            assert first["referenceId"] == next(
                one.reference_id for one in order if one.type == "usage.settle"
            )
            assert ledger.balances() == {"u": 100 - first["amount"]}
            (hold,) = ledger.holds_of("u")
            assert (hold.state, hold.captured, hold.closed_at) == ("settled", first["amount"], NOW + HOUR)


def test_late_capture_that_came_before_its_end_was_posted_is_written_with_it() -> None:
    ledger = after(opening(), reserve(60, "hold", 3_600))
    known = ledger.load([settle(50)], NOW + HOUR)
    assert [hold.state for holds in known.holds.values() for hold in holds] == ["open"]
    reply_to(ledger, settle(50), NOW + HOUR)
    (hold,) = ledger.holds_of("u")
    assert hold.closed_by is not None
    assert (hold.closed_by.reference_id, hold.state) == ("r", "settled")


def test_late_capture_leaves_the_end_of_its_hold_as_it_was_posted() -> None:
    ledger = after(opening(), reserve(60, "hold", 3_600))
    reply_to(ledger, settling(reference_id="due"), NOW + 2 * HOUR)
    reply_to(ledger, settle(50), NOW + 3 * HOUR)
    (hold,) = ledger.holds_of("u")
    assert hold.closed_by is not None
    assert (hold.closed_by.reference_id, hold.closed_at, hold.captured) == ("due", NOW + HOUR, 50)


def test_refund_of_a_late_capture_goes_back_to_where_it_came_from() -> None:
    ledger = after(opening(), reserve(60, "hold", 3_600))
    reply_to(ledger, settle(50, reference_id="s"), NOW + HOUR)
    reply = reply_to(ledger, refund(50, "s"), NOW + HOUR)
    assert picked(reply, "code", "balanceAfter") == ("tokens_refunded", 100)


def test_scheduler_finds_nothing_at_the_old_end_of_a_hold() -> None:
    ledger = after(opening(tier="empty"), bonus(60, "b"), reserve(60, "hold", 3_600))
    assert ledger.accounts["u"].due_at == NOW + HOUR
    reply_to(ledger, extend(7_200), NOW)
    assert ledger.accounts["u"].due_at == NOW + 2 * HOUR
    reply = reply_to(ledger, settling(reference_id="due"), NOW + HOUR)
    assert picked(reply, "code", "held", "balanceAfter") == ("account_settled", 60, 60)
    reply = reply_to(ledger, settling(reference_id="due-2"), NOW + 2 * HOUR)
    assert picked(reply, "held") == (None,)


def test_hold_is_renewed_again_and_again_each_time_from_now_on() -> None:
    ledger = after(opening(), reserve(60, "hold", 3_600))
    for number in range(1, 6):
        now = NOW + number * timedelta(minutes=59)
        reply = reply_to(ledger, extend(3_600, reference_id=f"x{number}"), now)
        assert reply["code"] == "hold_extended"
        assert datetime.fromisoformat(reply["expiresAt"]) == now + HOUR
    assert reply_to(ledger, extend(1, reference_id="late"), NOW + DAY)["code"] == "hold_closed"


def test_hold_that_is_opened_extended_and_settled_in_one_batch_is_one_row() -> None:
    for commands in permutations([extend(7_200), extend(9_000, reference_id="x2")]):
        ledger = after(opening(), reserve(60, "hold", 3_600), *commands)
        (hold,) = ledger.holds_of("u")
        assert (hold.state, hold.expires_at) == ("open", NOW + timedelta(seconds=9_000))
        ledger.apply([extend(20_000, reference_id="x3"), settle(10)], NOW + HOUR)
        (hold,) = ledger.holds_of("u")
        assert (hold.state, hold.captured) == ("settled", 10)
        assert hold.expires_at == NOW + HOUR + timedelta(seconds=20_000)


def test_redelivered_renewal_gets_its_first_reply_and_renews_nothing() -> None:
    ledger = after(opening(), reserve(60, "hold", 3_600))
    first = reply_to(ledger, extend(7_200), NOW)
    before = ledger.rows()
    assert reply_to(ledger, extend(7_200), NOW + HOUR) == {**first, "duplicate": True}
    assert ledger.rows() == before
    other = reply_to(ledger, extend(7_201), NOW)
    assert picked(other, "code", "field") == ("reference_conflict", "ttlSeconds")


def test_settlement_stored_before_the_upgrade_gets_its_stored_reply() -> None:
    """It was refused then, and its content says nothing of a hold that ran out."""
    ledger = after(opening(), reserve(60, "hold", 3_600))
    reply_to(ledger, settle(50, on_expired="refuse"), NOW + HOUR)
    stored = ledger.outcomes["r"]
    stored.content = stored.content.replace('"onExpired":"refuse",', "")
    again = reply_to(ledger, settle(50), NOW + HOUR)
    assert picked(again, "code", "duplicate") == ("hold_closed", True)
    anew = reply_to(ledger, settle(50, attempt=2), NOW + HOUR)
    assert picked(anew, "code", "amount") == ("hold_settled_late", 50)


def test_notices_follow_a_late_capture_as_any_usage() -> None:
    ledger = after(opening(), reserve(60, "hold", 3_600), catalog=SMALL_CATALOG)
    ledger.apply([adjust(-60, reference_id="a")], NOW + HOUR)
    reply_to(ledger, settle(40), NOW + 2 * HOUR)
    assert [notice["type"] for notice in ledger.outcomes["r"].notices] == ["balance.low", "balance.depleted"]
