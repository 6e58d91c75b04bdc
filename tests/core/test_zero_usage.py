"""Usage of zero: an applied operation that moves nothing, not even what is due."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Command
from tests.support.commands import adjust, bonus, deduct, opening, record, refund, settling, upload
from tests.support.fake_ledger import FakeLedger, after, reply_to
from tests.support.strategies import CATALOGS, NOW, Day, examples, passing_days
from worker.catalog import Catalog

DAY = timedelta(days=1)
NOTHING = [
    (deduct(0, "z"), "tokens_deducted"),
    (record("page", 0, reference_id="z"), "usage_recorded"),
    (upload(0, "z"), "free_upload_counted"),
]
each_usage = pytest.mark.parametrize(("command", "code"), NOTHING, ids=[code for _, code in NOTHING])


def shown(reply: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(reply.get(name) for name in names)


@each_usage
def test_zero_usage_is_applied_and_moves_nothing(command: Command, code: str) -> None:
    ledger = after(opening())
    before = ledger.rows()
    reply = reply_to(ledger, command)
    assert shown(reply, "status", "code", "amount") == ("applied", code, 0)
    assert shown(reply, "balanceBefore", "balanceAfter") == (100, 100)
    assert ledger.rows() == before
    assert reply_to(ledger, command) == {**reply, "duplicate": True}


@each_usage
def test_zero_usage_leaves_what_is_due_to_the_next_command(command: Command, code: str) -> None:
    later = NOW + 2 * DAY
    ledger = after(opening(tier="steady"), bonus(40, "b", expires_at=NOW + DAY))
    before = ledger.rows()
    reply = reply_to(ledger, command, later)
    assert shown(reply, "code", "balanceBefore", "balanceAfter", "expired") == (code, 120, 120, None)
    assert ledger.rows() == before
    assert ledger.outcomes["z"].first_entry is None
    assert shown(reply_to(ledger, settling(), later), "balanceAfter", "expired") == (120, 40)


@each_usage
def test_zero_usage_counts_a_renewal_that_is_due(command: Command, code: str) -> None:
    ledger = after(opening(tier="steady"), deduct(100, "d"))
    reply = reply_to(ledger, command, NOW + 31 * DAY)
    assert shown(reply, "code", "balanceBefore", "balanceAfter") == (code, 120, 120)
    assert ledger.balances() == {"u": 20}


@each_usage
def test_zero_usage_is_applied_while_in_debt(command: Command, code: str) -> None:
    ledger = after(opening(tier="free"), adjust(-150, reference_id="a", allow_negative=True))
    before = ledger.rows()
    reply = reply_to(ledger, command)
    assert shown(reply, "code", "balanceBefore", "balanceAfter", "debt") == (code, -50, -50, 50)
    assert ledger.rows() == before


def test_zero_usage_is_applied_where_the_quota_is_exhausted() -> None:
    ledger = after(opening(), upload(50, "f"), deduct(100, "d"))
    assert shown(reply_to(ledger, upload(0, "z")), "code", "used", "limit") == (
        "free_upload_counted",
        50,
        50,
    )
    reply = reply_to(ledger, record("upload", 0, reference_id="y"))
    assert shown(reply, "code", "amount", "freeQuantity", "chargedQuantity") == ("usage_recorded", 0, 0, 0)


def test_zero_usage_brings_about_no_notice() -> None:
    ledger = after(opening(tier="empty"), bonus(50, "b", expires_at=NOW + 5 * DAY))
    ledger.apply([deduct(0, "z")], NOW + 3 * DAY)
    assert ledger.outcomes["z"].notices == ()
    ledger.apply([settling()], NOW + 3 * DAY)
    assert [notice["type"] for notice in ledger.outcomes["r"].notices] == ["credit.expiring"]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (deduct(0, user_id="nobody"), "account_not_found"),
        (record("page", 0, user_id="nobody"), "account_not_found"),
        (upload(0, user_id="nobody"), "account_not_found"),
        (record("fax", 0), "unknown_meter"),
    ],
)
def test_zero_usage_of_the_unknown_is_rejected(command: Command, code: str) -> None:
    assert shown(reply_to(after(opening()), command), "status", "code") == ("rejected", code)


def test_usage_that_is_rounded_to_nothing_posts_nothing() -> None:
    ledger = after(opening(), bonus(40, "b", expires_at=NOW + DAY))
    before = ledger.rows()
    reply = reply_to(ledger, record("chat", 1), NOW + 2 * DAY)
    assert shown(reply, "code", "amount", "chargedQuantity") == ("usage_recorded", 0, 1)
    assert ledger.rows() == before


def test_free_usage_is_applied_while_in_debt() -> None:
    ledger = after(opening(tier="pro"), adjust(-300, reference_id="a", allow_negative=True))
    reply = reply_to(ledger, record("page", 3))
    assert shown(reply, "code", "amount", "freeQuantity", "balanceAfter") == ("usage_recorded", 0, 3, -50)
    assert shown(reply_to(ledger, record("page", 1, reference_id="s")), "code", "required") == (
        "insufficient_balance",
        20,
    )


def test_refund_of_zero_usage_exceeds_it() -> None:
    ledger = after(opening(), deduct(0, "d"))
    assert shown(reply_to(ledger, refund(1, "d")), "code", "available") == ("refund_exceeds_original", 0)


@examples(150)
@given(passing_days(max_batch=3), st.sampled_from(list(CATALOGS.values())))
def test_usage_without_tokens_and_quota_leaves_the_ledger_as_it_was(day: Day, catalog: Catalog) -> None:
    ledger = FakeLedger(catalog)
    for now, batch in day:
        for command in batch:
            before = ledger.rows()
            reply = reply_to(ledger, command, now)
            counted = command.type in ("usage.deduct", "usage.record", "usage.free_upload")
            is_nothing = counted and not reply.get("amount") and not reply.get("freeQuantity")
            if is_nothing and "openedTier" not in reply:
                assert ledger.rows() == before
                assert reply.get("balanceBefore") == reply.get("balanceAfter")
