"""The rules of every command, as tables of the commands before, the command, and its result.

Every reply is written out as it stands on the wire, but for the fields that all replies have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from schemas import COMMAND_TYPES, Code, Command
from tests.support.commands import (
    adjust,
    bonus,
    cancel,
    change,
    closed,
    deduct,
    disputed,
    extend,
    failed,
    freezing,
    importing,
    named,
    opening,
    payment,
    record,
    refund,
    refund_failed,
    release,
    renew,
    reserve,
    settle,
    settling,
    unfreezing,
    upload,
    went_back,
    went_back_in_all,
)
from tests.support.fake_ledger import FakeLedger, after, picked, reply_to
from tests.support.strategies import (
    FORGIVING_CATALOG,
    HOLDING_CATALOG,
    NOW,
    SMALL_CATALOG,
    STRICT_CATALOG,
    TAKING_CATALOG,
)
from worker.catalog import Catalog
from worker.core import Entry, Outcome

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
#: An account that was opened at ``NOW`` is granted its allocation until here, and the next until there.
PERIOD_END = datetime(2026, 12, 22, 10, 15, tzinfo=NOW.tzinfo)
SHORTLY = datetime(2026, 12, 22, 9, 15, tzinfo=NOW.tzinfo) - NOW
NEXT_END = datetime(2027, 1, 22, 10, 15, tzinfo=NOW.tzinfo)


def wire(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class Case:
    """One command, with the reply to it and the entries it writes.

    ``before`` is applied at ``NOW``, ``at_the_end`` an hour before the period's end, ``command`` so much
    ``later``.

    The reply is without what is common to all. An entry is a counter, an amount and a lot, or None: the debt.
    """

    name: str
    before: Sequence[Command]
    command: Command
    reply: Mapping[str, Any]
    entries: Sequence[tuple[str, int, int | None]] = ()
    later: timedelta = timedelta(0)
    catalog: Catalog = field(default=SMALL_CATALOG, repr=False)
    at_the_end: Sequence[Command] = ()
    user: str = "u"

    def __str__(self) -> str:
        return self.name

    def ledger(self) -> FakeLedger:
        """Ledger as it is before the command."""
        ledger = after(*self.before, catalog=self.catalog)
        if self.at_the_end:
            ledger.apply(self.at_the_end, NOW + SHORTLY)
        return ledger


OPEN = (opening(),)
PAID = (opening(), payment(reference_id="p"))
HELD = (opening(), reserve(60, "hold"))
POOR = (opening("o", tier="empty"),)
#: Both packages' prices are spent: of "rich", 90 and a bonus of 10, nothing is left, nor of the allocation.
SPENT = (opening(), payment(reference_id="p"), deduct(200, "d"))
OWING = (opening(), adjust(-130, reference_id="a", allow_negative=True))


def yes(code: str, amount: int, before: int, after: int, **detail: Any) -> dict[str, Any]:
    return {"code": code, "amount": amount, "balanceBefore": before, "balanceAfter": after, **detail}


def awaited(**detail: Any) -> dict[str, Any]:
    """The reply to an event that is of no account yet: it has no balances."""
    return {"code": "payment_awaited", "amount": 0, **detail}


def no(code: str, balance: int, **detail: Any) -> dict[str, Any]:
    return {"code": code, "balanceBefore": balance, "balanceAfter": balance, **detail}


def short(required: int, available: int) -> dict[str, int]:
    return {"required": required, "available": available, "shortfall": required - available}


def counted(quantity: int, *, free: int, used: int, limit: int) -> dict[str, int]:
    charged = quantity - free
    return {
        "quantity": quantity,
        "freeQuantity": free,
        "chargedQuantity": charged,
        "used": used,
        "limit": limit,
    }


# -- every operation, applied -----------------------------------------------------------------------------

OF_HOLD = {"originalReferenceId": "hold"}
OF_USE = {"originalReferenceId": "d"}
OF_PAYMENT = {"originalReferenceId": "p", "amountMinor": 999}
RICH = {"packageId": "rich", "baseTokens": 90, "bonusTokens": 10}
BY_HAND = {"reason": "a slip", "actor": "ann"}
TWO_LOTS = (*OPEN, bonus(20, "b"), deduct(110, "d"))
LONG = 31 * 86_400

IMPORTED = {"tier": "pro", "periodStart": "2026-11-03T00:00:00Z", "periodEnd": "2026-12-03T00:00:00Z"}
OLD_PAYMENT = {
    "referenceId": "p",
    "amountMinor": 999,
    "currency": "EUR",
    "packageId": "gone",
    "tokens": 90,
    "bonusTokens": 10,
    "paidAt": "2026-11-10T00:00:00Z",
}
LEFT_OF_IT = {"source": "purchase", "tokens": 30, "paymentReferenceId": "p"}
GIFT = {"source": "bonus", "tokens": 50, "priority": 0}
SPENT_ALLOCATION = {
    "source": "allocation",
    "tokens": 0,
    "granted": 100,
    "expiresAt": "2026-12-03T00:00:00Z",
}

ACCOUNTS = [
    Case(
        "an account is opened with the period's allocation",
        (),
        opening(),
        yes("account_opened", 100, 0, 100, tier="free"),
        [("allocation", 100, 1)],
    ),
    Case(
        "a tier without tokens opens an account without an entry",
        (),
        opening(tier="empty"),
        yes("account_opened", 0, 0, 0, tier="empty"),
    ),
    Case(
        "an account is imported with a lot for what is left, and one for what came and went",
        (),
        importing(
            lots=[{"source": "bonus", "tokens": 70}], totals={"allocated": 900, "bonus": 90, "used": 920}
        ),
        yes("account_imported", 70, 0, 70, **IMPORTED),
        [
            ("bonus", 70, 1),
            ("allocation", 900, 2),
            ("usage", -900, 2),
            ("bonus", 20, 3),
            ("usage", -20, 3),
        ],
    ),
    Case(
        "an imported debt of usage is lent by a lot of its own",
        (),
        importing(debt=70),
        yes("account_imported", 0, 0, -70, debt=70, **IMPORTED),
        [("transfers", -70, None), ("transfers", 70, 1), ("usage", -70, 1)],
    ),
    Case(
        "an imported debt that a reversal made has no lot",
        (),
        importing(debt=70, totals={"purchased": 100, "used": 100, "reversed": 70}),
        yes("account_imported", 0, 0, -70, debt=70, **IMPORTED),
        [("purchases", 100, 1), ("usage", -100, 1), ("reversals", -70, None)],
    ),
    Case(
        "tokens of unknown origin came in by what no other lot names",
        (),
        importing(
            lots=[{"source": "carried_over", "tokens": 50, "priority": 3}, {"source": "bonus", "tokens": 20}],
            totals={"allocated": 30, "purchased": 40, "bonus": 20, "used": 20},
        ),
        yes("account_imported", 70, 0, 70, **IMPORTED),
        [
            ("bonus", 20, 1),
            ("allocation", 30, 2),
            ("purchases", 20, 2),
            ("purchases", 20, 3),
            ("usage", -20, 3),
        ],
    ),
    Case(
        "more may have been adjusted in than the sum of both signs says",
        (),
        importing(lots=[{"source": "adjustment", "tokens": 50}], totals={"allocated": 30, "adjusted": 20}),
        yes("account_imported", 50, 0, 50, **IMPORTED),
        [("adjustments", 50, 1), ("allocation", 30, 2), ("adjustments", -30, 2)],
    ),
    Case(
        "more may have been given back than was reversed",
        (),
        importing(lots=[{"source": "carried_over", "tokens": 50}], totals={"allocated": 30, "reversed": -20}),
        yes("account_imported", 50, 0, 50, **IMPORTED),
        [("allocation", 30, 1), ("reversals", 20, 1)],
    ),
    Case(
        "what has fallen due since the moment of an import is posted with it",
        (),
        importing(
            tier="keeper",
            asOf="2026-11-02T10:00:00Z",
            anchor="2026-10-03T00:00:00Z",
            lots=[{"source": "allocation", "tokens": 70, "granted": 80, "expiresAt": "2026-11-03T00:00:00Z"}],
        ),
        yes(
            "account_imported",
            70,
            0,
            130,
            tier="keeper",
            expired=20,
            periodStart="2026-10-03T00:00:00Z",
            periodEnd="2026-11-03T00:00:00Z",
        ),
        [
            ("allocation", 80, 1),
            ("usage", -10, 1),
            ("transfers", -50, 1),
            ("transfers", 50, 2),
            ("expiry", -20, 1),
            ("allocation", 80, 3),
        ],
    ),
    Case(
        "an empty account that is imported gets what fell due since",
        (),
        importing(tier="steady", asOf="2026-11-02T10:00:00Z", anchor="2026-10-03T00:00:00Z"),
        yes(
            "account_imported",
            0,
            120,
            120,
            tier="steady",
            periodStart="2026-10-03T00:00:00Z",
            periodEnd="2026-11-03T00:00:00Z",
        ),
        [("allocation", 120, 1)],
    ),
    Case(
        "a refund takes what is left of an imported payment first",
        [importing(payments=[OLD_PAYMENT], lots=[LEFT_OF_IT, GIFT])],
        went_back(999),
        yes("payment_refunded", 100, 80, -20, debt=20, **OF_PAYMENT),
        [("reversals", -30, 1), ("reversals", -50, 3), ("reversals", -20, None)],
    ),
    Case(
        "an upgrade grants what the new tier has more than the imported period had",
        [importing(tier="free", lots=[SPENT_ALLOCATION])],
        change("pro"),
        yes(
            "subscription_changed",
            150,
            0,
            150,
            tier="pro",
            previousTier="free",
            periodEnd="2026-12-03T00:00:00Z",
        ),
        [("allocation", 150, 2)],
    ),
    Case("an account is settled where nothing is due", OPEN, settling(), yes("account_settled", 0, 100, 100)),
    Case(
        "an allocation ends with its period",
        OPEN,
        settling(),
        yes("account_settled", 0, 0, 0, expired=100),
        [("expiry", -100, 1)],
        later=PERIOD_END - NOW,
    ),
    Case(
        "a free tier renews itself, and what may be kept of the last period is kept one more",
        [opening(tier="keeper")],
        settling(),
        yes("account_settled", 0, 130, 130, expired=30),
        [("transfers", -50, 1), ("transfers", 50, 2), ("expiry", -30, 1), ("allocation", 80, 3)],
        later=PERIOD_END - NOW,
    ),
    Case(
        "what may be kept of a period is one sum for all of its lots",
        [opening(tier="keeper"), change("saver", reference_id="h")],
        settling(),
        yes("account_settled", 0, 40, 40, expired=50),
        [("transfers", -40, 1), ("transfers", 40, 3), ("expiry", -40, 1), ("expiry", -10, 2)],
        later=PERIOD_END - NOW,
    ),
    Case(
        "what a hold frees at the very end of a period may be kept as well",
        [opening(tier="saver"), reserve(60, "hold", 30 * 86_400)],
        settling(),
        yes("account_settled", 0, 40, 40, expired=50),
        [("transfers", -40, 1), ("transfers", 40, 2), ("expiry", -50, 1)],
        later=PERIOD_END - NOW,
    ),
    Case(
        "what is kept of a period repays a debt first",
        [
            opening(tier="saver"),
            reserve(60, "hold", 30 * 86_400),
            adjust(-55, reference_id="a", allow_negative=True),
        ],
        settling(),
        yes("account_settled", 0, 15, 15, expired=20),
        [
            ("transfers", -40, 1),
            ("transfers", 40, 2),
            ("transfers", -25, 2),
            ("transfers", 25, None),
            ("expiry", -20, 1),
        ],
        later=PERIOD_END - NOW,
    ),
    Case(
        "what was kept of a period is not kept again",
        [opening(tier="saver")],
        settling(),
        yes("account_settled", 0, 40, 40, expired=140),
        [
            ("transfers", -40, 1),
            ("transfers", 40, 3),
            ("expiry", -50, 1),
            ("allocation", 90, 2),
            ("transfers", -40, 2),
            ("transfers", 40, 4),
            ("expiry", -50, 2),
            ("expiry", -40, 3),
        ],
        later=NEXT_END - NOW,
        at_the_end=[renew(reference_id="n")],
    ),
    Case(
        "what runs out while it is held expires when it is freed",
        [*POOR, bonus(20, "b", expires_at=NOW + HOUR), reserve(15, "hold")],
        settling(),
        yes("account_settled", 0, 0, 0, expired=20),
        [("expiry", -5, 1), ("expiry", -15, 1)],
        later=DAY,
    ),
    Case(
        "credit that was announced takes effect",
        [*OPEN, bonus(20, "b", effective_at=NOW + HOUR)],
        settling(),
        yes("account_settled", 0, 120, 120),
        [("bonus", 20, 2)],
        later=HOUR,
    ),
    Case(
        "a hold that runs out frees its tokens",
        HELD,
        settling(),
        yes("account_settled", 0, 100, 100),
        later=DAY,
    ),
    Case(
        "what a hold frees repays a debt",
        [*HELD, adjust(-90, reference_id="a", allow_negative=True)],
        settling(),
        yes("account_settled", 0, 10, 10),
        [("transfers", -50, 1), ("transfers", 50, None)],
        later=DAY,
    ),
]

USAGE = [
    Case(
        "usage takes tokens",
        OPEN,
        deduct(30),
        yes("tokens_deducted", 30, 100, 70),
        [("usage", -30, 1)],
    ),
    Case(
        "usage takes the last token",
        OPEN,
        deduct(100),
        yes("tokens_deducted", 100, 100, 0),
        [("usage", -100, 1)],
    ),
    Case(
        "one usage takes from two lots, an entry each",
        [*OPEN, bonus(20, "b")],
        deduct(110),
        yes("tokens_deducted", 110, 120, 10),
        [("usage", -100, 1), ("usage", -10, 2)],
    ),
    Case(
        "what expires sooner is spent first",
        [*POOR, bonus(10, "b1"), bonus(10, "b2", expires_at=NOW + 5 * DAY)],
        deduct(15),
        yes("tokens_deducted", 15, 20, 5),
        [("usage", -10, 2), ("usage", -5, 1)],
    ),
    Case(
        "a lower priority is spent before everything else",
        [*OPEN, bonus(10, "b", priority=0)],
        deduct(15),
        yes("tokens_deducted", 15, 110, 95),
        [("usage", -10, 2), ("usage", -5, 1)],
    ),
    Case(
        "what has run out is posted before anything is spent",
        [*OPEN, bonus(50, "b")],
        deduct(10),
        yes("tokens_deducted", 10, 50, 40, expired=100),
        [("expiry", -100, 1), ("usage", -10, 2)],
        later=PERIOD_END - NOW,
    ),
    Case(
        "a free upload goes up to the limit and moves no token",
        OPEN,
        upload(50),
        yes("free_upload_counted", 50, 100, 100, used=50, limit=50),
    ),
    Case(
        "a free upload adds to those of the period",
        [*OPEN, upload(30, "f")],
        upload(20),
        yes("free_upload_counted", 20, 100, 100, used=50, limit=50),
    ),
    Case(
        "metered usage costs what its rule says",
        OPEN,
        record("page", 2),
        yes("usage_recorded", 24, 100, 76, meter="page", **counted(2, free=0, used=0, limit=0)),
        [("usage", -24, 1)],
    ),
    Case(
        "metered usage costs the minimum at least",
        OPEN,
        record("page", 1),
        yes("usage_recorded", 20, 100, 80, meter="page", **counted(1, free=0, used=0, limit=0)),
        [("usage", -20, 1)],
    ),
    Case(
        "free units come first, the rest is charged",
        [opening(tier="pro")],
        record("page", 5),
        yes("usage_recorded", 24, 250, 226, meter="page", **counted(5, free=3, used=3, limit=3)),
        [("usage", -24, 1)],
    ),
    Case(
        "free units are free altogether, the minimum too",
        [opening(tier="pro")],
        record("page", 3),
        yes("usage_recorded", 0, 250, 250, meter="page", **counted(3, free=3, used=3, limit=3)),
    ),
    Case(
        "a meter may share another's quota, and a part of a token is a token",
        [*OPEN, upload(10, "f")],
        record("upload", 50),
        yes("usage_recorded", 5, 100, 95, meter="upload", **counted(50, free=40, used=50, limit=50)),
        [("usage", -5, 1)],
    ),
    Case(
        "an exact half is rounded to the even neighbour, up",
        OPEN,
        record("search", 1),
        yes("usage_recorded", 2, 100, 98, meter="search", **counted(1, free=0, used=0, limit=0)),
        [("usage", -2, 1)],
    ),
    Case(
        "an exact half is rounded to the even neighbour, down",
        OPEN,
        record("search", 3),
        yes("usage_recorded", 4, 100, 96, meter="search", **counted(3, free=0, used=0, limit=0)),
        [("usage", -4, 1)],
    ),
    Case(
        "rounded down to nothing, usage is counted and costs nothing",
        OPEN,
        record("chat", 1),
        yes("usage_recorded", 0, 100, 100, meter="chat", **counted(1, free=0, used=0, limit=0)),
    ),
]

HOLDS = [
    Case(
        "tokens are held and stay in the balance",
        OPEN,
        reserve(60),
        yes("tokens_reserved", 60, 100, 100, held=60, expiresAt=wire(NOW + DAY)),
    ),
    Case(
        "a hold is settled with all of it",
        HELD,
        settle(60),
        yes("hold_settled", 60, 100, 40, released=0, **OF_HOLD),
        [("usage", -60, 1)],
    ),
    Case(
        "a hold is settled with less, the rest is released",
        HELD,
        settle(25),
        yes("hold_settled", 25, 100, 75, released=35, **OF_HOLD),
        [("usage", -25, 1)],
    ),
    Case(
        "a hold is settled with nothing",
        HELD,
        settle(0),
        yes("hold_settled", 0, 100, 100, released=60, **OF_HOLD),
    ),
    Case(
        "a hold is settled with more, where that may be taken",
        HELD,
        settle(80, on_excess="take"),
        yes("hold_settled", 80, 100, 20, released=0, **OF_HOLD),
        [("usage", -60, 1), ("usage", -20, 1)],
    ),
    Case(
        "a hold is settled with all that is there",
        HELD,
        settle(100, on_excess="take"),
        yes("hold_settled", 100, 100, 0, released=0, **OF_HOLD),
        [("usage", -60, 1), ("usage", -40, 1)],
    ),
    Case(
        "what was held may be spent after it expired; what is left of it then is gone",
        [opening(), reserve(60, "hold", LONG)],
        settle(50),
        yes("hold_settled", 50, 60, 0, released=10, expired=50, **OF_HOLD),
        [("expiry", -40, 1), ("usage", -50, 1), ("expiry", -10, 1)],
        later=PERIOD_END - NOW + HOUR,
    ),
    Case(
        "what a settled hold leaves repays a debt",
        [*HELD, adjust(-50, reference_id="a", allow_negative=True)],
        settle(35),
        yes("hold_settled", 35, 50, 15, released=25, **OF_HOLD),
        [("usage", -35, 1), ("transfers", -10, 1), ("transfers", 10, None)],
    ),
    Case("a hold is given up", HELD, release(), yes("hold_released", 60, 100, 100, **OF_HOLD)),
    Case(
        "a hold is renewed from now on",
        HELD,
        extend(),
        yes("hold_extended", 60, 100, 100, held=60, expiresAt=wire(NOW + HOUR + DAY), **OF_HOLD),
        later=HOUR,
    ),
    Case(
        "a hold that is renewed never ends earlier than it would have",
        HELD,
        extend(3_600),
        yes("hold_extended", 60, 100, 100, held=60, expiresAt=wire(NOW + DAY), **OF_HOLD),
        later=HOUR,
    ),
    Case(
        "a hold that was renewed keeps its tokens until its new end",
        [*HELD, extend(2 * 86_400)],
        settle(60),
        yes("hold_settled", 60, 100, 40, released=0, **OF_HOLD),
        [("usage", -60, 1)],
        later=DAY,
    ),
    Case(
        "a hold that ran out is settled from what is available",
        HELD,
        settle(25),
        yes("hold_settled_late", 25, 100, 75, required=25, available=100, shortfall=0, **OF_HOLD),
        [("usage", -25, 1)],
        later=DAY,
    ),
    Case(
        "a hold that ran out is settled with what is left",
        HELD,
        settle(60),
        yes("hold_settled_late", 5, 5, 0, required=60, available=5, shortfall=55, **OF_HOLD),
        [("usage", -5, 1)],
        later=SHORTLY,
        at_the_end=[deduct(95, "d")],
    ),
    Case(
        "a hold that ran out is settled with nothing where nothing is left",
        HELD,
        settle(60),
        yes("hold_settled_late", 0, 0, 0, required=60, available=0, shortfall=60, **OF_HOLD),
        later=SHORTLY,
        at_the_end=[deduct(100, "d")],
    ),
    Case(
        "a hold that ran out is settled with nothing of a debt",
        HELD,
        settle(60),
        yes("hold_settled_late", 0, -20, -20, required=60, available=-20, shortfall=60, debt=20, **OF_HOLD),
        later=SHORTLY,
        at_the_end=[adjust(-120, reference_id="a", allow_negative=True)],
    ),
    Case(
        "a hold that ran out is settled with more than it had, where that may be taken",
        HELD,
        settle(80, on_excess="take"),
        yes("hold_settled_late", 80, 100, 20, required=80, available=100, shortfall=0, **OF_HOLD),
        [("usage", -80, 1)],
        later=DAY,
    ),
    Case(
        "what is given up after it expired is gone",
        [opening(), reserve(60, "hold", LONG)],
        release(),
        yes("hold_released", 60, 60, 0, expired=100, **OF_HOLD),
        [("expiry", -40, 1), ("expiry", -60, 1)],
        later=PERIOD_END - NOW,
    ),
]

PAYMENTS = [
    Case(
        "a package by its id credits base and bonus",
        OPEN,
        payment(),
        yes("tokens_purchased", 100, 100, 200, **RICH),
        [("purchases", 90, 2), ("bonus", 10, 3)],
    ),
    Case(
        "a package by its position credits the same",
        OPEN,
        payment(package_index=1),
        yes("tokens_purchased", 100, 100, 200, **RICH),
        [("purchases", 90, 2), ("bonus", 10, 3)],
    ),
    Case(
        "the first position is zero, and no bonus makes no entry",
        OPEN,
        payment(499, "USD", package_index=0),
        yes("tokens_purchased", 60, 100, 160, packageId="plain", baseTokens=60, bonusTokens=0),
        [("purchases", 60, 2)],
    ),
    Case(
        "a purchase repays a debt first",
        OWING,
        payment(),
        yes("tokens_purchased", 100, -30, 70, **RICH),
        [("purchases", 30, None), ("purchases", 60, 2), ("bonus", 10, 3)],
    ),
    Case(
        "another price is credited and told, where that is the policy",
        OPEN,
        payment(998),
        {**yes("purchase_flagged", 100, 100, 200, **RICH), "expected": "999 EUR", "received": "998 EUR"},
        [("purchases", 90, 2), ("bonus", 10, 3)],
        catalog=TAKING_CATALOG,
    ),
    Case(
        "the list price is compared, without tax and shipping, before the discount",
        OPEN,
        payment(1_099, tax_minor=150, other_minor=50, discount_minor=100),
        yes("tokens_purchased", 100, 100, 200, **RICH, listMinor=999),
        [("purchases", 90, 2), ("bonus", 10, 3)],
    ),
    Case(
        "a full discount pays nothing and buys everything",
        OPEN,
        payment(0, discount_minor=999),
        yes("tokens_purchased", 100, 100, 200, **RICH, listMinor=999),
        [("purchases", 90, 2), ("bonus", 10, 3)],
    ),
    Case(
        "two packages in one payment",
        OPEN,
        payment(1_998, quantity=2),
        yes("tokens_purchased", 200, 100, 300, **{**RICH, "baseTokens": 180, "bonusTokens": 20}),
        [("purchases", 180, 2), ("bonus", 20, 3)],
    ),
    Case(
        "a price of the day on which it was paid",
        OPEN,
        payment(650, package_id="many", occurred_at=NOW - 399 * DAY),
        yes("tokens_purchased", 50, 100, 150, packageId="many", baseTokens=45, bonusTokens=5),
        [("purchases", 45, 2), ("bonus", 5, 3)],
    ),
    Case(
        "an open amount buys by the rate, rounded down",
        OPEN,
        payment(399, package_id="open"),
        yes("tokens_purchased", 59, 100, 159, packageId="open", baseTokens=59, bonusTokens=0),
        [("purchases", 59, 2)],
    ),
    Case(
        "a payment that went back before it came is taken back at once",
        [*OPEN, went_back(333, reference_id="e")],
        payment(reference_id="p"),
        yes("tokens_purchased", 100, 100, 167, **RICH),
        [("purchases", 90, 2), ("bonus", 10, 3), ("reversals", -30, 2), ("reversals", -3, 3)],
    ),
    Case(
        "a payment that goes back before it comes is written off where it met a debt",
        [*OWING, went_back(reference_id="e")],
        payment(reference_id="p"),
        yes("tokens_purchased", 100, -30, 0, uncollected=30, **RICH),
        [
            ("purchases", 30, None),
            ("purchases", 60, 2),
            ("bonus", 10, 3),
            ("reversals", -60, 2),
            ("reversals", -10, 3),
        ],
        catalog=FORGIVING_CATALOG,
    ),
    Case(
        "money that goes back takes what it bought",
        PAID,
        went_back(),
        yes("payment_refunded", 100, 200, 100, **OF_PAYMENT),
        [("reversals", -90, 2), ("reversals", -10, 3)],
    ),
    Case(
        "a part of the money takes a part of base and bonus, rounded down",
        PAID,
        went_back(500),
        yes("payment_refunded", 50, 200, 150, **{**OF_PAYMENT, "amountMinor": 500}),
        [("reversals", -45, 2), ("reversals", -5, 3)],
    ),
    Case(
        "more money than was paid takes no more than it bought",
        [*PAID, went_back(900, reference_id="e")],
        went_back(),
        yes("payment_refunded", 10, 110, 100, **OF_PAYMENT, countedMinor=99),
        [("reversals", -9, 2), ("reversals", -1, 3)],
    ),
    Case(
        "what of it is spent is taken from other credit, and then owed",
        [*SPENT, bonus(40, "b")],
        went_back(),
        yes("payment_refunded", 100, 40, -60, debt=60, **OF_PAYMENT),
        [("reversals", -40, 4), ("reversals", -60, None)],
    ),
    Case(
        "what of it is spent is written off, where that is the policy",
        [*SPENT, bonus(40, "b")],
        went_back(),
        yes("payment_refunded", 40, 40, 0, uncollected=60, **OF_PAYMENT),
        [("reversals", -40, 4)],
        catalog=FORGIVING_CATALOG,
    ),
    Case(
        "what is held is not taken back",
        [*PAID, reserve(200, "hold", LONG)],
        went_back(),
        yes("payment_refunded", 100, 200, 100, held=200, debt=100, **OF_PAYMENT),
        [("reversals", -100, None)],
    ),
    Case(
        "a dispute waits for its end",
        PAID,
        disputed(),
        yes("payment_disputed", 0, 200, 200, **OF_PAYMENT),
    ),
    Case(
        "a dispute takes at once, where that is the policy",
        PAID,
        disputed(),
        yes("payment_disputed", 100, 200, 100, **OF_PAYMENT),
        [("reversals", -90, 2), ("reversals", -10, 3)],
        catalog=TAKING_CATALOG,
    ),
    Case(
        "a dispute that was lost takes what it bought",
        [*PAID, disputed(reference_id="e")],
        closed("lost"),
        yes("dispute_lost", 100, 200, 100, **OF_PAYMENT),
        [("reversals", -90, 2), ("reversals", -10, 3)],
    ),
    Case(
        "a dispute that was won gives back what it took",
        [*PAID, disputed(reference_id="e")],
        closed("won"),
        yes("dispute_won", 100, 100, 200, **OF_PAYMENT),
        [("reversals", 90, 2), ("reversals", 10, 3)],
        catalog=TAKING_CATALOG,
    ),
    Case(
        "a dispute that was won gives back nothing that was written off",
        [*SPENT, bonus(40, "b"), disputed(reference_id="e")],
        closed("won"),
        yes("dispute_won", 40, 0, 40, **OF_PAYMENT),
        [("reversals", 40, 4)],
        catalog=STRICT_CATALOG,
    ),
    *(
        Case(
            f"a dispute that was {result} gives back what it took",
            [*PAID, disputed(reference_id="e")],
            closed(result),
            yes(f"dispute_{result}", 100, 100, 200, **OF_PAYMENT),
            [("reversals", 90, 2), ("reversals", 10, 3)],
            catalog=TAKING_CATALOG,
        )
        for result in ("prevented", "withdrawn")
    ),
    Case(
        "a dispute that was won after it was lost gives back what it took",
        [*PAID, closed("lost", reference_id="e", occurred_at=NOW - HOUR)],
        closed("won", occurred_at=NOW),
        yes("dispute_won", 100, 100, 200, **OF_PAYMENT),
        [("reversals", 90, 2), ("reversals", 10, 3)],
    ),
    Case(
        "an inquiry takes nothing, whatever the policy",
        PAID,
        disputed(stage="inquiry"),
        yes("inquiry_opened", 0, 200, 200, **OF_PAYMENT),
        catalog=TAKING_CATALOG,
    ),
    Case(
        "a dispute keeps what is unspent of its payment, where that is the policy",
        PAID,
        disputed(),
        yes("payment_disputed", 0, 200, 200, held=100, **OF_PAYMENT),
        catalog=HOLDING_CATALOG,
    ),
    Case(
        "a dispute that was won lets go what it kept",
        [*PAID, disputed(reference_id="e")],
        closed("won"),
        yes("dispute_won", 0, 200, 200, **OF_PAYMENT),
        catalog=HOLDING_CATALOG,
    ),
    Case(
        "a dispute in another currency is about the whole payment",
        PAID,
        closed("lost", 5, "USD"),
        yes("dispute_lost", 100, 200, 100, originalReferenceId="p", amountMinor=5),
        [("reversals", -90, 2), ("reversals", -10, 3)],
    ),
    Case(
        "a refund that failed gives back what it took",
        [*PAID, went_back(500, reference_id="e")],
        refund_failed("e"),
        yes("refund_failed", 50, 150, 200, originalReferenceId="p"),
        [("reversals", 45, 2), ("reversals", 5, 3)],
    ),
    Case(
        "a total counts what earlier totals don't",
        [*PAID, went_back_in_all(400, reference_id="e", occurred_at=NOW - HOUR)],
        went_back_in_all(500, occurred_at=NOW),
        yes("payment_refunded", 10, 160, 150, **{**OF_PAYMENT, "amountMinor": 500}),
        [("reversals", -9, 2), ("reversals", -1, 3)],
    ),
    Case(
        "single refunds beside totals are told",
        [*PAID, went_back(500, reference_id="e")],
        went_back_in_all(400, occurred_at=NOW),
        yes("refund_style_mixed", 0, 150, 150, **{**OF_PAYMENT, "amountMinor": 400}),
    ),
    Case(
        "names of a payment let what waits under them count",
        [*PAID, went_back(500, reference_id="e", original_reference_id="p2")],
        named("p2"),
        yes("payment_named", 0, 200, 150, originalReferenceId="p", paymentReferenceId="p"),
        [("reversals", -45, 2), ("reversals", -5, 3)],
    ),
    Case(
        "an event is about the payment's user, whatever user it names",
        [*OPEN, opening("o2", "v"), payment(reference_id="p", user_id="v")],
        failed(),
        yes("payment_failed", 100, 200, 100, originalReferenceId="p"),
        [("reversals", -90, 2), ("reversals", -10, 3)],
        user="v",
    ),
    Case(
        "a failure takes everything",
        PAID,
        failed(),
        yes("payment_failed", 100, 200, 100, originalReferenceId="p"),
        [("reversals", -90, 2), ("reversals", -10, 3)],
    ),
    Case(
        "a failure that occurred before the success counts for nothing",
        [opening(), payment(reference_id="p", occurred_at=NOW)],
        failed(occurred_at=NOW - timedelta(microseconds=1)),
        yes("payment_failed", 0, 200, 200, originalReferenceId="p"),
    ),
    Case(
        "money that goes back before its payment waits for it",
        OPEN,
        went_back(),
        awaited(**OF_PAYMENT),
    ),
    Case(
        "a failure of a payment that was refused waits as well",
        [*OPEN, payment(1, reference_id="p")],
        failed(),
        awaited(originalReferenceId="p"),
    ),
]

CREDITS = [
    Case("an account is frozen", OPEN, freezing(), yes("freeze_began", 0, 100, 100)),
    Case("an account is let go", OPEN, unfreezing(), yes("freeze_ended", 0, 100, 100)),
    Case(
        "a refund of what was free gives the free units back",
        [opening(tier="pro"), record("page", 3, reference_id="d")],
        refund(1, "d"),
        yes("tokens_refunded", 0, 250, 250, **OF_USE, freeQuantity=3),
    ),
    Case(
        "a refund gives back to where it was taken from",
        [*OPEN, deduct(30, "d")],
        refund(10, "d"),
        yes("tokens_refunded", 10, 70, 80, **OF_USE),
        [("refunds", 10, 1)],
    ),
    Case(
        "what was taken last is given back first",
        TWO_LOTS,
        refund(15, "d"),
        yes("tokens_refunded", 15, 10, 25, **OF_USE),
        [("refunds", 10, 2), ("refunds", 5, 1)],
    ),
    Case(
        "a second refund goes on where the first ended",
        [*TWO_LOTS, refund(4, "d", reference_id="c")],
        refund(15, "d"),
        yes("tokens_refunded", 15, 14, 29, **OF_USE),
        [("refunds", 6, 2), ("refunds", 9, 1)],
    ),
    Case(
        "a refund repays a debt first",
        [*OPEN, deduct(30, "d"), adjust(-90, reference_id="a", allow_negative=True)],
        refund(30, "d"),
        yes("tokens_refunded", 30, -20, 10, **OF_USE),
        [("refunds", 20, None), ("refunds", 10, 1)],
    ),
    Case(
        "what is given back to a lot that has ended is gone",
        [*OPEN, deduct(30, "d")],
        refund(30, "d"),
        yes("tokens_refunded", 30, 0, 0, expired=100, **OF_USE),
        [("expiry", -70, 1), ("refunds", 30, 1), ("expiry", -30, 1)],
        later=PERIOD_END - NOW,
    ),
    Case(
        "metered usage is refunded",
        [*OPEN, record("page", 2, reference_id="d")],
        refund(24, "d"),
        yes("tokens_refunded", 24, 76, 100, **OF_USE),
        [("refunds", 24, 1)],
    ),
    Case(
        "a settled hold is refunded",
        [*HELD, settle(25, reference_id="d")],
        refund(25, "d"),
        yes("tokens_refunded", 25, 75, 100, **OF_USE),
        [("refunds", 25, 1)],
    ),
    Case(
        "a refund of nothing in particular is credit of its own, where it may be",
        OPEN,
        refund(5),
        yes("tokens_refunded", 5, 100, 105),
        [("refunds", 5, 2)],
    ),
    Case(
        "a bonus gives tokens, to an empty account too",
        POOR,
        bonus(7),
        yes("bonus_granted", 7, 0, 7),
        [("bonus", 7, 1)],
    ),
    Case(
        "a bonus may end",
        OPEN,
        bonus(7, effective_at=NOW - DAY, expires_at=NOW + DAY),
        yes("bonus_granted", 7, 100, 107, expiresAt=wire(NOW + DAY)),
        [("bonus", 7, 2)],
    ),
    Case(
        "a bonus may begin later",
        OPEN,
        bonus(7, effective_at=NOW + HOUR, expires_at=NOW + DAY),
        yes("bonus_scheduled", 7, 100, 100, effectiveAt=wire(NOW + HOUR), expiresAt=wire(NOW + DAY)),
    ),
    Case(
        "a correction gives",
        OPEN,
        adjust(15),
        yes("adjustment_credited", 15, 100, 115, **BY_HAND),
        [("adjustments", 15, 2)],
    ),
    Case(
        "a correction takes",
        OPEN,
        adjust(-100),
        yes("adjustment_debited", 100, 100, 0, **BY_HAND),
        [("adjustments", -100, 1)],
    ),
    Case(
        "a correction takes more than there is, where it says so",
        OPEN,
        adjust(-130, allow_negative=True),
        yes("adjustment_debited", 130, 100, -30, debt=30, **BY_HAND),
        [("adjustments", -100, 1), ("adjustments", -30, None)],
    ),
]

PRESENT = {"tier": "free", "periodStart": wire(PERIOD_END), "periodEnd": wire(NEXT_END)}

SUBSCRIPTIONS = [
    Case(
        "an upgrade grants what the tier has more",
        OPEN,
        change("pro"),
        yes(
            "subscription_changed", 150, 100, 250, tier="pro", previousTier="free", periodEnd=wire(PERIOD_END)
        ),
        [("allocation", 150, 2)],
    ),
    Case(
        "a downgrade grants and takes nothing",
        [opening(tier="pro")],
        change("free"),
        yes("subscription_changed", 0, 250, 250, tier="free", previousTier="pro", periodEnd=wire(PERIOD_END)),
    ),
    Case(
        "down and up again grants nothing twice",
        [opening(tier="pro"), change("free", reference_id="h")],
        change("pro"),
        yes("subscription_changed", 0, 250, 250, tier="pro", previousTier="free", periodEnd=wire(PERIOD_END)),
    ),
    Case(
        "a change in a period that is not granted grants it",
        OPEN,
        change("pro"),
        yes(
            "subscription_changed",
            250,
            0,
            250,
            tier="pro",
            previousTier="free",
            periodEnd=wire(NEXT_END),
            expired=100,
        ),
        [("expiry", -100, 1), ("allocation", 250, 2)],
        later=PERIOD_END - NOW,
    ),
    Case(
        "a change takes a cancellation back",
        [*OPEN, cancel(reference_id="k")],
        change("free"),
        yes(
            "subscription_changed", 0, 100, 100, tier="free", previousTier="free", periodEnd=wire(PERIOD_END)
        ),
    ),
    Case(
        "the present period is granted",
        OPEN,
        renew(),
        yes("subscription_renewed", 100, 0, 100, expired=100, **PRESENT),
        [("expiry", -100, 1), ("allocation", 100, 2)],
        later=PERIOD_END - NOW,
    ),
    Case(
        "the next period is granted ahead of time, and counts when it begins",
        OPEN,
        renew(PERIOD_END + HOUR),
        yes("renewal_scheduled", 100, 100, 100, **PRESENT),
        later=SHORTLY,
    ),
    Case(
        "what comes shortly before a period is about that period",
        OPEN,
        renew(),
        yes("renewal_scheduled", 100, 100, 100, **PRESENT),
        later=SHORTLY,
    ),
    Case(
        "another calendar's beginning of the period, a little before ours",
        OPEN,
        renew(PERIOD_END - HOUR),
        yes("subscription_renewed", 100, 0, 100, expired=100, **PRESENT),
        [("expiry", -100, 1), ("allocation", 100, 2)],
        later=PERIOD_END + HOUR - NOW,
    ),
    Case(
        "what may be kept of a period is kept for one more",
        [opening(tier="saver")],
        renew(),
        yes("subscription_renewed", 90, 40, 130, expired=50, **{**PRESENT, "tier": "saver"}),
        [("transfers", -40, 1), ("transfers", 40, 2), ("expiry", -50, 1), ("allocation", 90, 3)],
        later=PERIOD_END - NOW,
    ),
    Case(
        "a renewal repays a debt first",
        OWING,
        renew(),
        yes("subscription_renewed", 100, -30, 70, **PRESENT),
        [("allocation", 30, None), ("allocation", 70, 2)],
        later=PERIOD_END - NOW,
    ),
    Case(
        "a subscription ends with its period",
        OPEN,
        cancel(),
        yes("subscription_canceled", 0, 100, 100, periodEnd=wire(PERIOD_END)),
    ),
    Case(
        "a subscription ends now, and what it granted as well; what was bought stays",
        PAID,
        cancel("now"),
        yes("subscription_canceled", 100, 200, 100, periodEnd=wire(NOW)),
        [("expiry", -100, 1)],
    ),
    Case(
        "a subscription that was taken up since goes on",
        [*OPEN, change("pro", reference_id="h", occurred_at=NOW)],
        cancel("now", occurred_at=NOW - HOUR),
        yes("cancellation_late", 0, 250, 250),
    ),
    Case(
        "what is held of an allocation outlives its subscription",
        HELD,
        cancel("now"),
        yes("subscription_canceled", 40, 100, 60, held=60, periodEnd=wire(NOW)),
        [("expiry", -40, 1)],
    ),
]

# A period that was granted ahead of time is given up with the subscription that ends now.
SUBSCRIPTIONS += [
    Case(
        "a change from the end of the period on",
        OPEN,
        change("pro", effective_at="period_end"),
        yes(
            "change_scheduled",
            0,
            100,
            100,
            tier="pro",
            previousTier="free",
            effectiveAt=wire(PERIOD_END),
        ),
    ),
    Case(
        "a subscription that gave up what it was granted ahead keeps the present period",
        OPEN,
        change("free"),
        yes(
            "subscription_changed", 0, 100, 100, tier="free", previousTier="free", periodEnd=wire(PERIOD_END)
        ),
        at_the_end=[renew(reference_id="n"), cancel("now", reference_id="k")],
        later=SHORTLY,
    ),
    Case(
        "a lower tier after the next period was granted ahead waits for the end of that",
        [opening(tier="pro")],
        change("free"),
        yes("change_scheduled", 0, 250, 250, tier="free", previousTier="pro", effectiveAt=wire(NEXT_END)),
        at_the_end=[renew(reference_id="n")],
        later=SHORTLY,
    ),
]

# What comes at its deadline comes in time.
USAGE += [
    Case(
        "usage is in time until its deadline",
        OPEN,
        deduct(30, valid_until=NOW),
        yes("tokens_deducted", 30, 100, 70),
        [("usage", -30, 1)],
    ),
]

APPLIED = [*ACCOUNTS, *USAGE, *HOLDS, *PAYMENTS, *CREDITS, *SUBSCRIPTIONS]

#: Fields that all replies have.
COMMON = {"status", "message", "type", "referenceId", "userId", "attempt", "duplicate", "transactionId"}
COMMON |= {"unit", "recordedAt", "schemaVersion", "sequence"}


@pytest.mark.parametrize("case", APPLIED, ids=str)
def test_an_operation_says_and_moves_what_its_rule_says(case: Case) -> None:
    ledger = case.ledger()
    known = len(ledger.entries)
    now = NOW + case.later
    reply = reply_to(ledger, case.command, now)
    written = ledger.entries[known:]

    assert {name: value for name, value in reply.items() if name not in COMMON} == case.reply
    assert picked(reply, "status", "duplicate", "attempt") == ("applied", False, 1)
    assert picked(reply, "type", "referenceId", "userId") == (
        case.command.type,
        case.command.reference_id,
        case.user,
    )
    assert picked(reply, "unit", "recordedAt") == (unit_of(case.command), wire(now))
    assert reply.get("sequence") == (written[-1].sequence if written else None)
    assert [(str(entry.counter), entry.amount, entry.lot) for entry in written] == list(case.entries)
    assert_named(ledger.outcomes[case.command.reference_id], written)


def unit_of(command: Command) -> str:
    return "bytes" if command.type == "usage.free_upload" else "tokens"


def assert_named(outcome: Outcome, written: Sequence[Entry]) -> None:
    """The outcome names the entries that were written with it, and they follow each other."""
    numbers = [entry.sequence for entry in written]
    assert (outcome.first_entry, outcome.last_entry) == (
        (numbers[0], numbers[-1]) if numbers else (None, None)
    )
    assert {entry.outcome.reference_id for entry in written} <= {outcome.reference_id}
    for earlier, later in pairwise(written):
        assert (later.sequence, later.balance_before) == (earlier.sequence + 1, earlier.balance_after)


# -- every rejection --------------------------------------------------------------------------------------

ELSEWHERE: list[Command] = [opening("o2", "v"), deduct(5, "d", "v"), reserve(5, "hold", user_id="v")]

REJECTED = [
    Case(
        "usage after its deadline, which counts before its balance",
        HELD,
        deduct(500, valid_until=NOW - timedelta(microseconds=1)),
        no("too_late", 100, held=60, validUntil="2026-11-22T10:14:59.999999Z"),
    ),
    Case(
        "a hold after its deadline",
        OPEN,
        reserve(5, valid_until=NOW),
        no("too_late", 0, validUntil=wire(NOW)),
        later=PERIOD_END - NOW,
    ),
    Case(
        "metered usage after its deadline",
        OPEN,
        record("no such meter", 1, valid_until=NOW),
        no("too_late", 100, validUntil=wire(NOW)),
        later=HOUR,
    ),
    Case(
        "an upload of nothing after its deadline",
        OPEN,
        upload(0, valid_until=NOW),
        no("too_late", 100, validUntil=wire(NOW)),
        later=HOUR,
    ),
    Case("one token short", OPEN, deduct(101), no("insufficient_balance", 100, **short(101, 100))),
    Case("nothing left", POOR, deduct(1), no("insufficient_balance", 0, **short(1, 0))),
    Case(
        "what is held is not available",
        HELD,
        deduct(50),
        no("insufficient_balance", 100, held=60, **short(50, 40)),
    ),
    Case(
        "a debt is to be repaid first",
        OWING,
        deduct(1),
        no("insufficient_balance", -30, debt=30, **short(1, -30)),
    ),
    Case(
        "what has run out is not available, though nothing is posted yet",
        OPEN,
        deduct(1),
        no("insufficient_balance", 0, **short(1, 0)),
        later=PERIOD_END - NOW,
    ),
    Case("too much to hold", OPEN, reserve(101), no("insufficient_balance", 100, **short(101, 100))),
    Case(
        "metered usage that is too dear",
        OPEN,
        record("page", 9),
        no(
            "insufficient_balance",
            100,
            meter="page",
            quantity=9,
            freeQuantity=0,
            chargedQuantity=9,
            **short(108, 100),
        ),
    ),
    Case(
        "more than was held and is available",
        HELD,
        settle(101, on_excess="take"),
        no("insufficient_balance", 100, held=60, **OF_HOLD, **short(101, 100)),
    ),
    Case(
        "a correction that takes too much",
        OPEN,
        adjust(-101),
        no("insufficient_balance", 100, **BY_HAND, **short(101, 100)),
    ),
    *(
        Case(f"no account for {command.type}", (), command, {"code": "account_not_found"})
        for command in (
            settling(),
            deduct(1),
            upload(1),
            reserve(1),
            settle(1),
            release(),
            record("page", 1),
            payment(),
            refund(1, "d"),
            bonus(1),
            adjust(1),
            change("pro"),
            renew(),
            cancel(),
        )
    ),
    Case("an account there already", OPEN, opening("r", tier="pro"), no("account_exists", 100, tier="free")),
    Case(
        "an account there already, asked for before the tier",
        OPEN,
        opening("r", tier="gold"),
        no("account_exists", 100, tier="free"),
    ),
    Case(
        "an account there already, seen as it stands now",
        OPEN,
        opening("r"),
        no("account_exists", 0, tier="free"),
        later=PERIOD_END - NOW,
    ),
    Case("a tier nobody sells", (), opening("r", tier="gold"), {"code": "unknown_tier", "tier": "gold"}),
    Case("a change to what nobody sells", OPEN, change("gold"), no("unknown_tier", 100, tier="gold")),
    Case(
        "one byte too many",
        OPEN,
        upload(51),
        no("free_upload_limit_exceeded", 100, used=0, limit=50, **short(51, 50)),
    ),
    Case(
        "the limit used up",
        [*OPEN, upload(50, "f")],
        upload(1),
        no("free_upload_limit_exceeded", 100, used=50, limit=50, **short(1, 0)),
    ),
    Case(
        "a tier without free uploads",
        POOR,
        upload(1),
        no("free_upload_limit_exceeded", 0, used=0, limit=0, **short(1, 0)),
    ),
    Case(
        "a limit lowered below what was used",
        [opening(tier="pro"), upload(70, "f"), change("free", reference_id="h")],
        upload(1),
        no("free_upload_limit_exceeded", 250, used=70, limit=50, **short(1, 0)),
    ),
    Case(
        "a subscription that has ended",
        [*OPEN, cancel("now", reference_id="k")],
        upload(1),
        no("free_upload_limit_exceeded", 0, used=0, limit=0, **short(1, 0)),
    ),
    Case("a meter without a price", OPEN, record("fax", 1), no("unknown_meter", 100, meter="fax")),
    Case("a hold nobody opened", OPEN, settle(1), no("hold_not_found", 100, **OF_HOLD)),
    Case(
        "a hold of another user",
        [*OPEN, *ELSEWHERE],
        release(),
        no("hold_not_found", 100, **OF_HOLD),
    ),
    Case(
        "a hold that was refused",
        [*OPEN, reserve(101, "hold")],
        settle(1),
        no("hold_not_found", 100, **OF_HOLD),
    ),
    Case(
        "a deduction is no hold", [*OPEN, deduct(5, "hold")], release(), no("hold_not_found", 95, **OF_HOLD)
    ),
    Case(
        "a hold that was settled",
        [*HELD, settle(60, reference_id="s")],
        settle(1),
        no("hold_closed", 40, state="settled", **OF_HOLD),
    ),
    Case(
        "a hold that was given up",
        [*HELD, release(reference_id="l")],
        settle(1),
        no("hold_closed", 100, state="released", **OF_HOLD),
    ),
    Case(
        "a hold that ran out this very moment",
        HELD,
        release(),
        no("hold_closed", 100, state="expired", **OF_HOLD),
        later=DAY,
    ),
    Case(
        "a hold that ran out, where nothing may be taken late",
        HELD,
        settle(1, on_expired="refuse"),
        no("hold_closed", 100, state="expired", **OF_HOLD),
        later=DAY,
    ),
    Case(
        "a hold that ran out and was settled late",
        HELD,
        settle(1),
        no("hold_closed", 80, state="settled", **OF_HOLD),
        later=SHORTLY,
        at_the_end=[settle(20, reference_id="s")],
    ),
    Case(
        "more than was held of a hold that ran out",
        HELD,
        settle(61),
        no("hold_exceeded", 100, **OF_HOLD, **short(61, 60)),
        later=DAY,
    ),
    Case(
        "a renewal of a hold that ran out this very moment",
        HELD,
        extend(),
        no("hold_closed", 100, state="expired", **OF_HOLD),
        later=DAY,
    ),
    Case("a renewal of a hold nobody opened", OPEN, extend(), no("hold_not_found", 100, **OF_HOLD)),
    Case(
        "more than was held",
        HELD,
        settle(61),
        no("hold_exceeded", 100, held=60, **OF_HOLD, **short(61, 60)),
    ),
    Case(
        "a package nobody sells",
        OPEN,
        payment(package_id="huge"),
        no("unknown_package", 100, packageId="huge"),
    ),
    Case(
        "a position behind the last package",
        OPEN,
        payment(package_index=9),
        no("unknown_package", 100, packageId="#9"),
    ),
    *(
        Case(
            f"{amount} {currency} for 999 EUR",
            OPEN,
            payment(amount, currency),
            no("amount_mismatch", 100, packageId="rich", expected="999 EUR", received=f"{amount} {currency}"),
        )
        for amount, currency in [(998, "EUR"), (1_000, "EUR"), (999, "USD"), (499, "USD"), (1, "EUR")]
    ),
    *(
        Case(
            f"{command.type} in another currency, {number}",
            PAID,
            command,
            no("currency_mismatch", 200, originalReferenceId="p", expected="999 EUR", received="998 USD"),
        )
        for number, command in enumerate(
            (went_back(998, "USD"), went_back_in_all(998, "USD", occurred_at=NOW))
        )
    ),
    Case(
        "a payment whose other name is another payment's",
        PAID,
        payment(also_known_as=("q", "p")),
        no("reference_taken", 200, originalReferenceId="p"),
    ),
    *(
        Case(
            f"{command.type} of what is no payment",
            [*OPEN, deduct(5, "p")],
            command,
            {"code": "original_not_found", "originalReferenceId": "p"},
        )
        for command in (went_back(), disputed(), closed("lost"), failed(), refund_failed("e"), named())
    ),
    Case(
        "names of two payments",
        [*PAID, payment(reference_id="p2")],
        named("p2"),
        {"code": "reference_taken", "originalReferenceId": "p2"},
    ),
    Case(
        "a refund that names no usage",
        OPEN,
        refund(5),
        no("original_required", 100),
        catalog=STRICT_CATALOG,
    ),
    Case("a refund of what nobody used", OPEN, refund(5, "d"), no("original_not_found", 100, **OF_USE)),
    Case(
        "a refund of what another user used",
        [*OPEN, *ELSEWHERE],
        refund(5, "d"),
        no("original_not_found", 100, **OF_USE),
    ),
    Case(
        "a refund of what was refused",
        [*OPEN, deduct(101, "d")],
        refund(5, "d"),
        no("original_not_refundable", 100, **OF_USE),
    ),
    Case(
        "a refund of a bonus",
        [*OPEN, bonus(5, "d")],
        refund(5, "d"),
        no("original_not_refundable", 105, **OF_USE),
    ),
    Case(
        "a refund of a hold",
        [*OPEN, reserve(5, "d")],
        refund(5, "d"),
        no("original_not_refundable", 100, held=5, **OF_USE),
    ),
    Case(
        "a refund of more than was used",
        [*OPEN, deduct(30, "d"), refund(10, "d", reference_id="c")],
        refund(21, "d"),
        no("refund_exceeds_original", 80, **OF_USE, **short(21, 20)),
    ),
    Case(
        "usage of a frozen account",
        [*OPEN, freezing()],
        deduct(5),
        no("account_frozen", 100),
    ),
    Case(
        "a bonus that has ended",
        OPEN,
        bonus(5, expires_at=NOW),
        no("credit_expired", 100, expiresAt=wire(NOW)),
    ),
    Case(
        "a correction that has ended",
        OPEN,
        adjust(5, expires_at=NOW - DAY),
        no("credit_expired", 100, expiresAt=wire(NOW - DAY), **BY_HAND),
    ),
    Case(
        "the present period again",
        OPEN,
        renew(),
        no("period_already_granted", 100, periodStart=wire(NOW), periodEnd=wire(PERIOD_END)),
    ),
    Case(
        "the next period again",
        OPEN,
        renew(PERIOD_END),
        no("period_already_granted", 100, periodStart=wire(PERIOD_END), periodEnd=wire(NEXT_END)),
        at_the_end=[renew(reference_id="n")],
        later=SHORTLY,
    ),
    Case(
        "a period before the account",
        OPEN,
        renew(NOW - 25 * HOUR),
        no("period_out_of_range", 100, periodStart=wire(NOW - 25 * HOUR)),
    ),
    Case(
        "a period that doesn't begin for long",
        OPEN,
        renew(PERIOD_END),
        no("period_out_of_range", 100, periodStart=wire(PERIOD_END)),
    ),
    Case(
        "the next period before the present one is granted",
        OPEN,
        renew(NEXT_END),
        no(
            "period_out_of_range",
            0,
            periodStart=wire(NEXT_END),
            periodEnd=wire(NEXT_END + 31 * DAY),
        ),
        later=NEXT_END - HOUR - NOW,
    ),
    Case(
        "a period that has passed",
        OPEN,
        renew(PERIOD_END),
        no("period_out_of_range", 0, periodStart=wire(PERIOD_END), periodEnd=wire(NEXT_END)),
        later=NEXT_END - NOW,
    ),
    Case(
        "a renewal of what was canceled",
        [*OPEN, cancel(reference_id="k")],
        renew(),
        no("subscription_not_active", 100),
    ),
    Case(
        "an import of a user who has an account",
        OPEN,
        importing(),
        no("account_exists", 100, tier="free"),
    ),
    Case(
        "an import to a tier that is not sold",
        (),
        importing(tier="gone"),
        {"code": "unknown_tier", "tier": "gone"},
    ),
    Case(
        "an import of a quota that no meter counts against",
        (),
        importing(quotas=[{"meter": "ocr", "used": 1}]),
        {"code": "unknown_meter", "meter": "ocr"},
    ),
    Case(
        "an import of a payment whose reference is taken",
        [opening(user_id="v"), payment(reference_id="p", user_id="v")],
        importing(payments=[OLD_PAYMENT]),
        {"code": "reference_taken", "originalReferenceId": "p"},
    ),
    Case(
        "an import of an allocation that lasts longer than its period",
        (),
        importing(lots=[{"source": "allocation", "tokens": 5, "expiresAt": "2026-12-04T00:00:00Z"}]),
        {
            "code": "allocation_outlasts_period",
            "expiresAt": "2026-12-04T00:00:00Z",
            "periodEnd": "2026-12-03T00:00:00Z",
        },
    ),
    Case(
        "a cancellation of what was canceled",
        [*OPEN, cancel(reference_id="k")],
        cancel(),
        no("subscription_not_active", 100),
    ),
    Case(
        "a cancellation at once of what has ended",
        [*OPEN, cancel("now", reference_id="k")],
        cancel("now"),
        no("subscription_not_active", 0),
    ),
]


@pytest.mark.parametrize("case", REJECTED, ids=str)
def test_a_rejection_says_why_and_leaves_everything_as_it_was(case: Case) -> None:
    ledger = case.ledger()
    before = ledger.rows()
    reply = reply_to(ledger, case.command, NOW + case.later)

    assert {name: value for name, value in reply.items() if name not in COMMON} == case.reply
    assert picked(reply, "status", "duplicate", "attempt") == ("rejected", False, 1)
    assert ledger.rows() == before
    outcome = ledger.outcomes[case.command.reference_id]
    assert (outcome.amount, outcome.first_entry, outcome.notices) == (None, None, ())


def test_every_command_and_every_code_has_its_row_here() -> None:
    cases = [*APPLIED, *REJECTED]
    assert {case.command.type for case in APPLIED} == set(COMMAND_TYPES)
    of_the_reference = {Code.REFERENCE_CONFLICT, Code.BATCH_PROCESSED, Code.PAYMENT_IMPORTED}
    of_the_pipeline = {Code.MALFORMED, Code.UNPROCESSABLE}
    assert {case.reply["code"] for case in cases} == set(Code) - of_the_reference - of_the_pipeline


NO_LONGER_SOLD = SMALL_CATALOG.model_copy(
    update={"tiers": {name: tier for name, tier in SMALL_CATALOG.tiers.items() if name != "keeper"}}
)


@pytest.mark.parametrize("command", [upload(1), record("page", 1), renew()], ids=lambda command: command.type)
def test_a_tier_nobody_sells_any_longer_is_unknown_to_what_needs_it(command: Command) -> None:
    ledger = after(opening(tier="keeper"))
    ledger.catalog = NO_LONGER_SOLD
    reply = reply_to(ledger, command, PERIOD_END)
    assert picked(reply, "code", "tier", "balanceAfter") == ("unknown_tier", "keeper", 0)


def test_a_tier_nobody_sells_any_longer_renews_and_keeps_nothing_and_can_be_left() -> None:
    ledger = after(opening(tier="keeper"))
    ledger.catalog = NO_LONGER_SOLD
    assert picked(reply_to(ledger, deduct(1), PERIOD_END), "code", "available") == ("insufficient_balance", 0)
    changed = reply_to(ledger, change("steady", reference_id="h"), PERIOD_END)
    assert picked(changed, "code", "amount", "balanceAfter", "expired") == (
        "subscription_changed",
        120,
        120,
        80,
    )
