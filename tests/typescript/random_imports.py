"""Random accounts of another system, true in themselves, for random conversations."""

from datetime import datetime, timedelta
from random import Random
from typing import Any

Fields = dict[str, Any]


def import_of(chance: Random, as_of: datetime) -> Fields:
    """Return the fields of an ``account.import`` as of a time, without reference and user."""
    anchor = as_of - timedelta(days=chance.choice((1, 12)))
    paid = chance.random() < 0.6
    lots = [lot for lot in _lots(chance, as_of) if chance.random() < 0.6]
    payments = [_payment(chance, as_of)] if paid else []
    if payments:
        lots += _lots_of(chance, payments[0])
    debt = {"debt": 700} if not lots and chance.random() < 0.8 else {}
    quotas = chance.choice(((), ({"meter": "free_upload", "used": 2_048},), ({"meter": "ocr", "used": 3},)))
    fields: Fields = {
        "tier": chance.choice(("free", "basic", "pro")),
        "openedAt": _text(as_of - timedelta(days=500)),
        "anchor": _text(anchor),
        "asOf": _text(as_of),
        "lots": lots,
        "payments": payments,
        "quotas": list(quotas),
        **debt,
    }
    return fields | _totals(chance, fields)


def _lots(chance: Random, as_of: datetime) -> list[Fields]:
    ends = {"expiresAt": _text(as_of + timedelta(days=chance.choice((5, 60))))}
    return [
        {
            "source": "allocation",
            "tokens": 900,
            "granted": 10_000,
            "expiresAt": _text(as_of + timedelta(days=9)),
        },
        {"source": "bonus", "tokens": 2_000, "granted": 2_500, **ends},
        {"source": "purchase", "tokens": 3_000},
        {"source": "adjustment", "tokens": 40, "priority": 1},
        {"source": "carried_over", "tokens": 600},
    ]


def _payment(chance: Random, as_of: datetime) -> Fields:
    bonus = chance.choice(({}, {"bonusTokens": 500}))
    paid = {"referenceId": chance.choice(("p1", "p2")), "amountMinor": 1_000, "currency": "USD", **bonus}
    return {**paid, "packageId": "old", "tokens": 20_000, "paidAt": _text(as_of - timedelta(days=3))}


def _lots_of(chance: Random, payment: Fields) -> list[Fields]:
    of = {"paymentReferenceId": payment["referenceId"]}
    bonus = {"source": "purchase_bonus", "tokens": 100, **of}
    left = [{"source": "purchase", "tokens": chance.choice((1_000, 20_000)), **of}]
    return left + ([bonus] if payment.get("bonusTokens") else [])


def _totals(chance: Random, fields: Fields) -> Fields:
    """Return lifetime sums that come to the balance, or none."""
    if chance.random() < 0.4:
        return {}
    sums = {"allocated": 0, "purchased": 0, "bonus": 0, "adjusted": 0}
    names = {"allocation": "allocated", "purchase": "purchased", "bonus": "bonus", "adjustment": "adjusted"}
    for lot in fields["lots"]:
        if "paymentReferenceId" not in lot:
            name = names.get(lot["source"], "allocated")
            sums[name] += lot.get("granted", lot["tokens"])
    for payment in fields["payments"]:
        sums["purchased"] += payment["tokens"]
        sums["bonus"] += payment.get("bonusTokens", 0)
    sums["allocated"] += chance.choice((0, 5_000, 5_000))
    expired, reversed_ = chance.choice((0, 30)), chance.choice((0, 20, -20))
    balance = sum(lot["tokens"] for lot in fields["lots"]) - fields.get("debt", 0)
    used = sum(sums.values()) - expired - reversed_ - balance
    if used < 0:
        return {}
    return {"totals": {**sums, "used": used, "expired": expired, "reversed": reversed_}}


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
