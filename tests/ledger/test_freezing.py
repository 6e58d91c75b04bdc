"""Freezing and refunds of free units in the database: what is stored is loaded, shown and audited."""

from datetime import timedelta
from typing import Any

from sqlalchemy import Engine

from schemas import Command
from tests.ledger.test_store import NOW, replies_to
from tests.support.commands import (
    deduct,
    freezing,
    opening,
    payment,
    record,
    refund,
    unfreezing,
    upload,
)
from tests.support.strategies import SMALL_CATALOG
from worker.ledger.audit import audit
from worker.ledger.queries import Reader
from worker.ledger.store import Ledger

HOUR = timedelta(hours=1)


def reply_to(engine: Engine, command: Command, hours: int = 0) -> dict[str, Any]:
    """Apply one command, so many hours after the opening."""
    (reply,) = replies_to(Ledger(engine), [command], NOW + hours * HOUR)
    return reply


def test_balance_shows_since_when_an_account_is_frozen(engine: Engine) -> None:
    reply_to(engine, opening())
    reply_to(engine, freezing(), 1)
    assert reply_to(engine, deduct(5, "d"), 2)["code"] == "account_frozen"
    reply_to(engine, unfreezing(), 3)
    assert reply_to(engine, deduct(5, "e"), 4)["code"] == "tokens_deducted"
    reader = Reader(engine)
    assert reader.balance("u", NOW + 4 * HOUR, SMALL_CATALOG).frozen_at is None
    past = [reader.balance_at("u", NOW + hours * HOUR, SMALL_CATALOG).frozen_at for hours in range(4)]
    assert past == [None, NOW + HOUR, NOW + HOUR, None]
    assert audit(engine, catalog=SMALL_CATALOG).is_clean


def test_waiting_freeze_counts_with_its_payment(engine: Engine) -> None:
    reply_to(engine, opening())
    reply_to(engine, freezing(payment_reference_id="p", occurred_at=NOW - HOUR), 1)
    assert reply_to(engine, deduct(5, "d"), 2)["code"] == "tokens_deducted"
    reply_to(engine, payment(reference_id="p"), 3)
    assert reply_to(engine, deduct(5, "e"), 4)["code"] == "account_frozen"
    reader = Reader(engine)
    assert reader.balance_at("u", NOW + 2 * HOUR, SMALL_CATALOG).frozen_at is None
    assert reader.balance_at("u", NOW + 3 * HOUR, SMALL_CATALOG).frozen_at == NOW - HOUR
    afford = reader.can_afford("u", 5, NOW + 4 * HOUR, SMALL_CATALOG)
    assert (afford.can_afford, afford.shortfall, afford.code) == (False, 0, "account_frozen")
    assert audit(engine, catalog=SMALL_CATALOG).is_clean


def test_free_units_go_back_to_the_quota_that_counted_them(engine: Engine) -> None:
    reply_to(engine, opening(tier="pro"))
    reply_to(engine, record("page", 5, reference_id="d"))
    reply_to(engine, upload(30, "f"))
    reply_to(engine, record("search", 4, reference_id="s"))
    assert reply_to(engine, refund(4, "d", reference_id="r1"))["freeQuantity"] == 0
    assert reply_to(engine, refund(20, "d", reference_id="r2"))["freeQuantity"] == 3
    assert reply_to(engine, refund(0, "f", free_quantity=10, reference_id="r3"))["freeQuantity"] == 10
    assert reply_to(engine, refund(0, "f", free_quantity=21, reference_id="r4"))["available"] == 20
    assert reply_to(engine, refund(9, "d", reference_id="r5"))["code"] == "refund_exceeds_original"
    quotas = Reader(engine).balance("u", NOW, SMALL_CATALOG).quotas
    assert {quota.name: quota.used for quota in quotas} == {"free_upload": 20, "page": 0, "search": 4}
    assert audit(engine, catalog=SMALL_CATALOG).is_clean


def test_free_units_of_a_period_that_is_over_stay_used(engine: Engine) -> None:
    reply_to(engine, opening(tier="pro"))
    reply_to(engine, record("page", 5, reference_id="d"))
    later = reply_to(engine, refund(24, "d"), 24 * 40)
    assert (later["amount"], later["freeQuantity"]) == (24, 0)
    assert audit(engine, catalog=SMALL_CATALOG).is_clean
