"""Imports out of a few choices: true in themselves, of every kind of past.

Whoever draws makes the choices, by Hypothesis or by chance. Times lie around the ``now`` that is given.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from schemas import ImportAccount
from tests.support.model_account import period

_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
#: The end of a lot that ends with the period.
PERIOD_END: Final = "end of the period"

#: How long before now the state was written down, and how long before that other things were.
AGES = [timedelta(0), timedelta(0), timedelta(0), _HOUR, 2 * _DAY, 35 * _DAY]
EARLIER = [timedelta(0), 5 * _DAY, 29 * _DAY, 31 * _DAY, 70 * _DAY]
ENDS: list[timedelta | None] = [None, None, _HOUR, 2 * _DAY, 5 * _DAY, 31 * _DAY]
LOT_ENDS: list[timedelta | str | None] = [*ENDS, PERIOD_END, PERIOD_END]
SOURCES = ["allocation", "allocation", "purchase", "bonus", "refund", "adjustment", "carried_over"]
#: What is left of a lot, and what is spent; a lot that was granted nothing is none.
LEFT = [(0, 15), (0, 90), (5, 0), (5, 15), (20, 0), (20, 90), (70, 0), (70, 15)]
PRIORITIES = [None, None, 0, 10]
MONEY = [(999, "EUR"), (499, "USD")]
#: Tokens and bonus of a payment, and what is left of each.
BOUGHT = [(60, 0), (90, 10), (50, 35)]
LEFT_OF_BOUGHT = [0, 10, 60, 90]
DEBTS = [0, 0, 0, 40, 130]
METERS = ["page", "upload", "search", "free_upload"]
USED = [0, 2, 30]
#: What came in or went out beside the lots; a sum of both signs.
MORE, EITHER = [0, 0, 25, 110], [0, 0, 15, -15, -120]
CAME_OR_WENT = ("allocated", "purchased", "bonus", "refunded", "expired")
OF_BOTH_SIGNS = ("adjusted", "reversed")


@dataclass(frozen=True)
class LotChoice:
    source: str
    left: tuple[int, int]
    ends: timedelta | str | None
    priority: int | None


@dataclass(frozen=True)
class PaymentChoice:
    reference_id: str
    money: tuple[int, str]
    bought: tuple[int, int]
    left: tuple[int, int]
    ends: timedelta | None


@dataclass(frozen=True)
class ImportChoice:
    """Choices of one import; ``past`` None leaves the totals out."""

    tier: str
    #: The state's age now; ages of the anchor, the opening and the payments at that time.
    ages: tuple[timedelta, timedelta, timedelta, timedelta]
    lots: list[LotChoice]
    payments: list[PaymentChoice]
    debt: int
    quotas: list[tuple[str, int]]
    past: dict[str, int] | None


def within_period(lot: LotChoice) -> LotChoice:
    """Return the choice of a lot that the ledger takes: an allocation ends with its period."""
    return replace(lot, ends=PERIOD_END) if lot.source == "allocation" else lot


def import_of(choice: ImportChoice, now: datetime, **common: Any) -> ImportAccount:
    """Return the import; ``common`` are the fields of every command."""
    age, *others = choice.ages
    as_of = now - age
    anchor, opened_at, paid_at = (as_of - earlier for earlier in others)
    end = period(anchor, as_of)[1]
    lots = [_lot(lot, as_of, end) for lot in choice.lots]
    lots += [lot for paid in choice.payments for lot in _left_of(paid, as_of)]
    message: dict[str, Any] = {
        "tier": choice.tier,
        "anchor": anchor.isoformat(),
        "openedAt": opened_at.isoformat(),
        "asOf": as_of.isoformat(),
        "lots": [_used_up(lot) for lot in lots] if choice.debt else lots,
        "payments": [_payment(paid, paid_at) for paid in choice.payments],
        "debt": choice.debt,
        "quotas": [{"meter": meter, "used": used} for meter, used in choice.quotas],
    }
    if choice.past is not None:
        message["totals"] = _totals(message, choice.past)
    return ImportAccount.model_validate({**message, **common})


def _lot(lot: LotChoice, as_of: datetime, end: datetime) -> dict[str, Any]:
    tokens, spent = lot.left
    granted = {"granted": tokens + spent} if spent else {}
    priority = {} if lot.priority is None else {"priority": lot.priority}
    ends = as_of + lot.ends if isinstance(lot.ends, timedelta) else end if lot.ends else None
    return {"source": lot.source, "tokens": tokens, **granted, **priority, **_until(ends)}


def _payment(paid: PaymentChoice, paid_at: datetime) -> dict[str, Any]:
    return {
        "referenceId": paid.reference_id,
        "amountMinor": paid.money[0],
        "currency": paid.money[1],
        "packageId": "gone",
        "tokens": paid.bought[0],
        "bonusTokens": paid.bought[1],
        "paidAt": paid_at.isoformat(),
    }


def _left_of(paid: PaymentChoice, as_of: datetime) -> list[dict[str, Any]]:
    """Return the lots of a payment: what is left of its tokens, and of its bonus; none for a 0."""
    ends = None if paid.ends is None else as_of + paid.ends
    parts = zip(("purchase", "purchase_bonus"), paid.left, paid.bought, strict=True)
    return [
        {
            "source": source,
            "tokens": min(left, bought),
            "paymentReferenceId": paid.reference_id,
            **_until(ends),
        }
        for source, left, bought in parts
        if min(left, bought)
    ]


def _used_up(lot: dict[str, Any]) -> dict[str, Any]:
    """Return the lot with nothing left, as it is where there is a debt."""
    granted = {} if "paymentReferenceId" in lot else {"granted": lot.get("granted", lot["tokens"])}
    return {**lot, **granted, "tokens": 0}


def _totals(message: dict[str, Any], past: dict[str, int]) -> dict[str, int]:
    """Return totals that count what lots and payments were granted, and more; the rest was used."""
    totals = dict(past)
    names = {"allocation": "allocated", "purchase": "purchased", "bonus": "bonus", "adjustment": "adjusted"}
    for lot in message["lots"]:
        if "paymentReferenceId" not in lot:
            totals[names.get(lot["source"], "refunded")] += lot.get("granted", lot["tokens"])
    for paid in message["payments"]:
        totals["purchased"] += paid["tokens"]
        totals["bonus"] += paid["bonusTokens"]
    balance = sum(lot["tokens"] for lot in message["lots"]) - message["debt"]
    came = sum(totals[name] for name in ("allocated", "purchased", "bonus", "refunded", "adjusted"))
    used = came - totals["expired"] - totals["reversed"] - balance
    totals["refunded"] += max(-used, 0)
    return {**totals, "used": max(used, 0)}


def _until(ends: datetime | None) -> dict[str, str]:
    return {} if ends is None else {"expiresAt": ends.isoformat()}


# -- to another time --------------------------------------------------------------------------------------


def moved_import(command: ImportAccount, by: timedelta) -> ImportAccount:
    """Return the import with all its times moved; an end of its period becomes that of the new one."""
    anchor, as_of = command.anchor + by, command.as_of + by
    old_end, end = period(command.anchor, command.as_of)[1], period(anchor, as_of)[1]

    def moved_lot(lot: Any) -> Any:
        if lot.expires_at is None:
            return lot
        return lot.model_copy(
            update={"expires_at": end if lot.expires_at == old_end else lot.expires_at + by}
        )

    return command.model_copy(
        update={
            "anchor": anchor,
            "as_of": as_of,
            "opened_at": command.opened_at + by,
            "lots": tuple(map(moved_lot, command.lots)),
            "payments": tuple(
                paid.model_copy(update={"paid_at": paid.paid_at + by}) for paid in command.payments
            ),
        }
    )
