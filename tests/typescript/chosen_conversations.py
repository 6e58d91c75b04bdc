"""Conversations chosen for rules that random ones seldom meet, each with the terms of its catalog."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from tests.contracts.samples import Step
from tests.typescript.random_conversations import START, text_of_time
from worker.catalog import Catalog, Notices, NoticeThreshold, PaymentPolicy, load_catalog

Fields = dict[str, Any]

_ADA: Fields = {"userId": "ada"}
_OPENED: Fields = {"type": "account.open", "referenceId": "open", **_ADA, "tier": "free"}
_MONEY: Fields = {"amountMinor": 499, "currency": "USD"}
_PAID: Fields = {"type": "payment.succeeded", "referenceId": "p1", **_ADA, "packageId": "starter", **_MONEY}
_REFUNDED: Fields = {"type": "payment.refunded", "referenceId": "f1", "originalReferenceId": "p1", **_MONEY}
_UNDONE: Fields = {"type": "payment.refund_failed", "originalReferenceId": "p1", "refundReferenceId": "f1"}
_DISPUTE: Fields = {"originalReferenceId": "p1", "disputeId": "d1", **_MONEY}
_IMPORTED: Fields = {
    "type": "account.import",
    "referenceId": "import",
    **_ADA,
    "tier": "basic",
    "openedAt": "2025-01-01T00:00:00Z",
    "anchor": "2026-01-20T00:00:00Z",
    "asOf": "2026-01-31T00:00:00Z",
}


def _deduct(tokens: int) -> Fields:
    return {"type": "usage.deduct", **_ADA, "tokens": tokens}


def _bonus(tokens: int, **more: Any) -> Fields:
    return {"type": "credit.bonus", **_ADA, "tokens": tokens, **more}


def _back(tokens: int) -> Fields:
    return {"type": "credit.refund", **_ADA, "tokens": tokens, "originalReferenceId": "usage"}


def _reserve(tokens: int, seconds: int) -> Fields:
    hold = {"type": "usage.reserve", "referenceId": "hold", **_ADA}
    return {**hold, "tokens": tokens, "ttlSeconds": seconds}


def _capture(tokens: int) -> Fields:
    return {"type": "usage.settle", **_ADA, "originalReferenceId": "hold", "tokens": tokens}


def _freezing(name: str, minutes: int) -> Fields:
    at = text_of_time(START - timedelta(minutes=minutes))
    return {"type": f"account.{name}", **_ADA, "reason": "case", "occurredAt": at}


#: Numbers are hours that pass.
_STEPS: Mapping[str, Sequence[Fields | int]] = {
    "write_off": (_OPENED, _PAID, _deduct(55_000), _REFUNDED, _bonus(100), _UNDONE),
    "debt": (_OPENED, _PAID, _deduct(60_000), _REFUNDED, _bonus(20_000), _UNDONE, _deduct(100)),
    "dispute_hold": (
        *(_OPENED, _PAID, _deduct(1_000)),
        *({"type": "payment.disputed", **_DISPUTE}, _deduct(55_000), 24 * 6, _deduct(40_000)),
        {"type": "payment.dispute_closed", "result": "lost", **_DISPUTE},
    ),
    "refund_of_two_lots": (
        *(_OPENED, _bonus(500, priority=5)),
        {**_deduct(2_000), "referenceId": "usage"},
        *(_back(300), _back(1_500), _back(500)),
    ),
    "marks": (
        *(_OPENED, _deduct(8_500), _bonus(1_000), _deduct(800), _bonus(2_000)),
        *(_deduct(1_800), _deduct(100), _deduct(1_800)),
    ),
    "import_of_a_debt": ({**_IMPORTED, "debt": 700}, _bonus(5_000), _deduct(10)),
    "import_of_a_period": (
        {
            **_IMPORTED,
            "lots": [
                {
                    "source": "allocation",
                    "tokens": 900,
                    "granted": 100_000,
                    "expiresAt": "2026-02-20T00:00:00Z",
                }
            ],
        },
        _deduct(100),
        {"type": "subscription.change", **_ADA, "tier": "pro"},
    ),
    "hold_before_a_debt": (_OPENED, _PAID, _reserve(58_000, 3_600), _REFUNDED, 2, _deduct(1), _bonus(50)),
    "hold_of_two_lots": (
        *(_OPENED, _bonus(500, priority=5, expiresAt=text_of_time(START + timedelta(days=1)))),
        *(_reserve(2_000, 500_000), 48, _capture(400), _deduct(10)),
    ),
    "capture_of_two_lots": (_OPENED, _bonus(500, priority=5), _reserve(2_000, 3_600), _capture(700)),
    "empty_key": (_OPENED, {**_deduct(10), "metadata": {"project": ""}}, _deduct(5)),
    "freeze": (
        *(_OPENED, _freezing("unfreeze", 10), _freezing("freeze", 20), _deduct(1)),
        *(_freezing("freeze", 10), _deduct(1), _freezing("freeze", 30), _freezing("unfreeze", 5), _deduct(1)),
    ),
}
_MARK = NoticeThreshold(at=2_000, again_from=3_000)
_TERMS: Mapping[str, Mapping[str, Any]] = {
    "write_off": {"payments": PaymentPolicy(when_spent="write_off")},
    "dispute_hold": {"payments": PaymentPolicy(on_dispute="hold", dispute_hold_days=5)},
    "marks": {"notices": Notices(low=_MARK)},
}


def chosen() -> Mapping[str, tuple[Catalog, list[Step]]]:
    """Return the conversations by name, each with its catalog, without replies and answers."""
    packaged = load_catalog()
    return {
        name: (packaged.model_copy(update=dict(_TERMS.get(name, {}))), _steps_of(steps))
        for name, steps in _STEPS.items()
    }


def _steps_of(given: Sequence[Fields | int]) -> list[Step]:
    now, steps = START, []
    for number, one in enumerate(given):
        if isinstance(one, int):
            now += timedelta(hours=one)
        else:
            steps.append({"at": text_of_time(now), "message": {"referenceId": f"r{number}", **one}})
    used = {"type": "query.usage", **_ADA, "groupBy": "metadata.project"}
    asked = [{"type": f"query.{name}", **_ADA} for name in ("balance", "history")]
    queries = [*asked, used, {"type": "query.stats"}]
    return steps + [{"at": text_of_time(now), "query": query} for query in queries]
