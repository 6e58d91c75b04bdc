"""Refunds of usage: tokens to their lots, and free units to the period they came from while it runs."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Command
from tests.support.commands import (
    adjust,
    cancel,
    change,
    deduct,
    opening,
    record,
    refund,
    reserve,
    settle,
    upload,
)
from tests.support.fake_ledger import FakeLedger, after, reply_to
from tests.support.model import Model
from tests.support.model_comparison import assert_like_the_model
from tests.support.strategies import CATALOGS, NOW, STRICT_CATALOG, Day, examples, passing_days
from worker.catalog import Catalog

DAY = timedelta(days=1)
#: Three pages are free on this tier; one page costs 20 tokens, two cost 24.
PRO = opening(tier="pro")


def used(ledger: FakeLedger, meter: str = "page") -> int:
    """Return the units of a quota that the only account has used in its latest period."""
    return next(quota.used for key, quota in reversed(ledger.quotas.items()) if key.meter == meter)


def shown(reply: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(reply.get(name) for name in names)


def job(quantity: int, reference_id: str = "d", **more: Any) -> Command:
    return record("page", quantity, reference_id=reference_id, **more)


@pytest.mark.parametrize("tokens", [0, 1, 480], ids=["none", "one", "the price of a job that isn't free"])
def test_refund_of_a_free_job_frees_its_units_again(tokens: int) -> None:
    ledger = after(PRO, job(2))
    reply = reply_to(ledger, refund(tokens, "d"))
    assert shown(reply, "status", "amount", "freeQuantity") == ("applied", 0, 2)
    assert used(ledger) == 0
    assert shown(reply, "balanceBefore", "balanceAfter") == (250, 250)
    assert reply_to(ledger, refund(tokens, "d")) == {**reply, "duplicate": True}


def test_refund_of_an_upload_frees_its_bytes_again() -> None:
    ledger = after(opening(), upload(30, "d"))
    assert shown(reply_to(ledger, refund(0, "d")), "code", "freeQuantity") == ("tokens_refunded", 30)
    assert reply_to(ledger, upload(50, "e"))["code"] == "free_upload_counted"


def test_freed_units_are_free_for_the_next_usage() -> None:
    ledger = after(PRO, job(3), refund(0, "d"))
    assert shown(reply_to(ledger, job(3, "e")), "amount", "freeQuantity", "used") == (0, 3, 3)


def test_refund_of_the_last_tokens_frees_the_units() -> None:
    ledger = after(PRO, job(5))  # three free, two for 24
    assert shown(reply_to(ledger, refund(23, "d", reference_id="r1")), "amount", "freeQuantity") == (23, 0)
    assert used(ledger) == 3
    assert shown(reply_to(ledger, refund(1, "d", reference_id="r2")), "amount", "freeQuantity") == (1, 3)
    assert used(ledger) == 0


def test_refund_in_full_gives_back_tokens_and_units() -> None:
    ledger = after(PRO, job(5))
    assert shown(reply_to(ledger, refund(24, "d")), "amount", "freeQuantity") == (24, 3)


def test_refund_of_more_than_a_partly_free_job_took_gives_back_all_of_it() -> None:
    ledger = after(PRO, job(5))
    reply = reply_to(ledger, refund(84, "d"))
    assert shown(reply, "code", "amount", "freeQuantity", "balanceAfter") == ("tokens_refunded", 24, 3, 250)


def test_named_units_go_back_without_tokens() -> None:
    ledger = after(PRO, job(5))
    reply = reply_to(ledger, refund(0, "d", free_quantity=2))
    assert shown(reply, "amount", "freeQuantity") == (0, 2)
    assert used(ledger) == 1
    rest = reply_to(ledger, refund(24, "d", reference_id="r2"))
    assert shown(rest, "amount", "freeQuantity") == (24, 1)


def test_no_units_go_back_where_none_are_asked_for() -> None:
    ledger = after(PRO, job(5))
    assert shown(reply_to(ledger, refund(24, "d", free_quantity=0)), "amount", "freeQuantity") == (24, 0)
    assert used(ledger) == 3


def test_refunds_together_never_free_more_than_was_used() -> None:
    ledger = after(PRO, job(2), refund(0, "d", free_quantity=1, reference_id="r1"))
    reply = reply_to(ledger, refund(0, "d", free_quantity=2))
    assert shown(reply, "code", "field", "required", "available") == (
        "refund_exceeds_original",
        "freeQuantity",
        2,
        1,
    )
    assert used(ledger) == 1


def test_refunds_of_one_batch_know_each_other() -> None:
    ledger = after(PRO)
    replies = ledger.apply(
        [job(5), refund(24, "d", reference_id="r1"), refund(0, "d", free_quantity=1, reference_id="r2")]
    )
    assert [reply["code"] for reply in replies] == [
        "usage_recorded",
        "tokens_refunded",
        "refund_exceeds_original",
    ]
    assert used(ledger) == 0


@pytest.mark.parametrize(
    ("before", "command", "code"),
    [
        ([job(5)], refund(0, "d"), "original_not_refundable"),
        ([job(5)], refund(0, "d", free_quantity=0), "original_not_refundable"),
        ([job(2), refund(0, "d", reference_id="r1")], refund(0, "d"), "original_not_refundable"),
        ([job(2), refund(0, "d", reference_id="r1")], refund(480, "d"), "refund_exceeds_original"),
        ([deduct(5, "d")], refund(0, "d"), "original_not_refundable"),
        ([deduct(5, "d")], refund(6, "d"), "refund_exceeds_original"),
        ([deduct(5, "d")], refund(5, "d", free_quantity=1), "refund_exceeds_original"),
        ([job(5)], refund(25, "d", free_quantity=3), "refund_exceeds_original"),
        ([deduct(0, "d")], refund(0, "d"), "original_not_refundable"),
        ([upload(0, "d")], refund(0, "d"), "original_not_refundable"),
        ([], refund(0), "original_required"),
        ([], refund(5, free_quantity=5), "original_required"),
    ],
)
def test_refund_of_nothing_or_of_too_much_is_rejected(
    before: list[Command], command: Command, code: str
) -> None:
    ledger = after(PRO, *before)
    rows = ledger.rows()
    assert shown(reply_to(ledger, command), "status", "code") == ("rejected", code)
    assert ledger.rows() == rows


def test_unbound_refund_of_nothing_is_rejected_by_any_policy() -> None:
    ledger = after(PRO, catalog=STRICT_CATALOG)
    assert reply_to(ledger, refund(0))["code"] == "original_required"


def test_units_of_a_period_that_is_over_stay_used() -> None:
    later = NOW + 40 * DAY
    ledger = after(PRO, job(5))
    reply = reply_to(ledger, refund(24, "d"), later)
    assert shown(reply, "code", "amount", "freeQuantity") == ("tokens_refunded", 24, 0)
    assert used(ledger) == 3


def test_named_units_of_a_period_that_is_over_stay_used() -> None:
    ledger = after(PRO, job(5))
    reply = reply_to(ledger, refund(10, "d", free_quantity=3), NOW + 40 * DAY)
    assert shown(reply, "code", "amount", "freeQuantity") == ("tokens_refunded", 10, 0)


@pytest.mark.parametrize(("tokens", "code"), [(0, "original_not_refundable"), (9, "refund_exceeds_original")])
def test_free_job_of_a_period_that_is_over_has_nothing_to_give_back(tokens: int, code: str) -> None:
    ledger = after(PRO, job(2))
    assert reply_to(ledger, refund(tokens, "d"), NOW + 40 * DAY)["code"] == code


def test_usage_of_the_next_period_is_not_freed_by_a_refund_of_the_last() -> None:
    later = NOW + 40 * DAY
    ledger = after(PRO, job(5))
    ledger.apply([job(3, "e")], later)
    assert reply_to(ledger, refund(24, "d"), later)["freeQuantity"] == 0
    assert used(ledger) == 3


def test_units_go_back_after_a_change_of_tier_and_a_cancellation() -> None:
    ledger = after(PRO, job(5), change("free", reference_id="c"), cancel(reference_id="k"))
    assert shown(reply_to(ledger, refund(24, "d")), "amount", "freeQuantity") == (24, 3)


def test_refund_while_in_debt_frees_units() -> None:
    ledger = after(PRO, job(5), adjust(-300, reference_id="a", allow_negative=True))
    reply = reply_to(ledger, refund(24, "d"))
    assert shown(reply, "amount", "freeQuantity", "balanceAfter", "debt") == (24, 3, -50, 50)


def test_refund_of_a_captured_hold_has_no_units() -> None:
    ledger = after(PRO, reserve(50, "hold"), settle(30, reference_id="d"))
    assert shown(reply_to(ledger, refund(30, "d")), "amount", "freeQuantity") == (30, None)


def test_meters_of_one_quota_free_what_they_counted() -> None:
    ledger = after(opening(), upload(20, "a"), record("upload", 37, reference_id="d"))
    assert used(ledger, "free_upload") == 50
    assert shown(reply_to(ledger, refund(3, "d")), "amount", "freeQuantity") == (3, 30)
    assert used(ledger, "free_upload") == 20


@examples(150)
@given(passing_days(), st.sampled_from(list(CATALOGS.values())))
def test_refunds_among_usage_come_to_what_the_model_says(day: Day, catalog: Catalog) -> None:
    kinds = ("usage.", "credit.", "account.")
    used = [(now, [command for command in batch if command.type.startswith(kinds)]) for now, batch in day]
    assert_like_the_model(FakeLedger(catalog), Model(catalog), used)
