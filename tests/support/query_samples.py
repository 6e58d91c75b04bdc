"""Catalog, commands and rows for the tests of queries."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas import AdjustCredit, BonusCredit, Command, DeductUsage, OpenAccount, PaymentSucceeded
from tests.support.strategies import Day
from worker.catalog import Catalog, RefundPolicy, Tier, load_catalog

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)

Apply = Callable[..., Any]

#: For behaviour that is the same on both databases.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def asked_catalog() -> Catalog:
    """Return the packaged catalog with an empty tier, and with refunds that name no original."""
    packaged = load_catalog()
    none = Tier(monthly_tokens=0, auto_renew=True, free_upload_bytes=1_000, free_units={"ocr": 5})
    return packaged.model_copy(
        update={"tiers": {**packaged.tiers, "none": none}, "refunds": RefundPolicy(unbound="allow")}
    )


def opened(user: str, tier: str = "free") -> OpenAccount:
    return OpenAccount(reference_id=f"open-{user}", user_id=user, tier=tier)


def given(user: str, tokens: int, reference: str = "give", **fields: Any) -> BonusCredit:
    return BonusCredit(reference_id=f"{reference}-{user}", user_id=user, tokens=tokens, **fields)


def paid(user: str) -> PaymentSucceeded:
    return PaymentSucceeded(
        reference_id=f"pay-{user}", user_id=user, package_id="standard", amount_minor=1_999, currency="USD"
    )


def adjusted(user: str, tokens: int, *, allow_negative: bool = False) -> AdjustCredit:
    return AdjustCredit(
        reference_id="adjust",
        user_id=user,
        tokens=tokens,
        reason="a slip",
        actor="ann",
        allow_negative=allow_negative,
    )


def used(reference: str, tokens: int, at: str | None = None, feature: str | None = None) -> DeductUsage:
    """Return a deduction from ada; ``at`` is an ISO 8601 time with its offset."""
    occurred_at = None if at is None else datetime.fromisoformat(at)
    return DeductUsage(
        reference_id=reference, user_id="ada", tokens=tokens, feature=feature, occurred_at=occurred_at
    )


def dead_letter(reference: str) -> dict[str, Any]:
    """Return the row of a dead letter with this reference."""
    return {
        "letter_id": reference,
        "status": "parked",
        "reason": "unknown_type",
        "message": "usage.deduce is no type",
        "queue": "billing.usage",
        "exchange": "billing",
        "routing_key": "usage.deduce",
        "attempts": 2,
        "first_failed_at": NOW,
        "last_failed_at": NOW,
        "reference_id": reference,
        "worker_version": "1",
        "schema_version": 2,
        "body": b"{}",
        "properties": {},
        "fingerprint": "f" * 32,
    }


# -- many ledgers in one database -------------------------------------------------------------------------


def one_by_one(day: Day) -> Iterator[tuple[datetime, Command]]:
    """Yield each command of a day at a time of its own, in order."""
    latest = datetime.min.replace(tzinfo=UTC)
    for now, commands in day:
        for command in commands:
            latest = max(now, latest + TICK)
            yield latest, command
