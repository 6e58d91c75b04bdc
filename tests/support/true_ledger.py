"""A true ledger with everything in it: every code, every source of lots, every end of a hold.

And a way to corrupt it, which the database refuses otherwise.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, event, text

from schemas import (
    AdjustCredit,
    BonusCredit,
    CancelSubscription,
    ChangeSubscription,
    Command,
    DeductUsage,
    DisputeClosed,
    ExtendUsage,
    FreeUpload,
    FreezeAccount,
    OpenAccount,
    PaymentDisputed,
    PaymentFailed,
    PaymentRefunded,
    PaymentSucceeded,
    RecordUsage,
    RefundCredit,
    ReleaseUsage,
    RenewSubscription,
    ReserveUsage,
    SettleAccount,
    SettleUsage,
    UnfreezeAccount,
)
from tests.support.apply_commands import applied
from tests.support.commands import importing
from tests.support.strategies import STRICT_CATALOG, TAKING_CATALOG
from tests.support.true_payments import history_of_kim
from worker.catalog import Catalog
from worker.ledger.engine import ledger_engine
from worker.ledger.ids import SHARED

OPENED = datetime(2026, 11, 1, 10, tzinfo=UTC)
CATALOG = TAKING_CATALOG
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)

#: The account ids in a new database.
ACCOUNTS = tuple(65 * number + SHARED for number in range(1, 12))
ADA, BEN, CYD, DAN, EVE, FAY, GUS, HAL, IBU, JAN, KIM = ACCOUNTS


def fill(engine: Engine) -> None:
    """Fill the ledger with the history of eleven users over a month and a half."""
    for day, commands, catalog in HISTORY:
        applied(engine, catalog, *commands, now=OPENED + day)


def _opened(user: str, tier: str) -> Command:
    return OpenAccount(reference_id=f"{user}-open", user_id=user, tier=tier)


def _paid(reference: str, user: str, package: str = "rich") -> Command:
    minor, currency = (499, "USD") if package == "plain" else (999, "EUR")
    return PaymentSucceeded(
        reference_id=reference, user_id=user, package_id=package, amount_minor=minor, currency=currency
    )


_JAN = importing(
    "jan",
    asOf="2026-11-04T09:00:00Z",
    lots=[
        {"source": "allocation", "tokens": 40, "granted": 250, "expiresAt": "2026-12-03T00:00:00Z"},
        {"source": "purchase", "tokens": 30, "paymentReferenceId": "jan-old"},
    ],
    totals={"allocated": 500, "purchased": 200, "bonus": 15, "used": 600, "expired": 45},
    payments=[
        {
            "referenceId": "jan-old",
            "amountMinor": 999,
            "currency": "EUR",
            "packageId": "gone",
            "tokens": 90,
            "bonusTokens": 10,
            "paidAt": "2026-10-10T00:00:00Z",
        }
    ],
)

#: Time since the opening, commands, and the catalog they are judged by.
HISTORY: Sequence[tuple[timedelta, Sequence[Command], Catalog]] = [
    (
        0 * _DAY,
        [
            _opened("ada", "pro"),  # uses, is refunded and corrected
            _opened("ben", "free"),  # holds
            _opened("cyd", "free"),  # pays, and gets it back
            _opened("dan", "free"),  # owes
            _opened("eve", "empty"),  # never moves
            _opened("fay", "saver"),  # subscribes
            _opened("gus", "steady"),  # is renewed
            _opened("hal", "free"),  # is let off
            _opened("ibu", "empty"),  # has the slot of ada
        ],
        CATALOG,
    ),
    (
        1 * _DAY,
        [
            DeductUsage(reference_id="ada-use", user_id="ada", tokens=70, feature="chat"),
            RecordUsage(reference_id="ada-pages", user_id="ada", meter="page", quantity=5),
            RecordUsage(reference_id="ada-words", user_id="ada", meter="chat", quantity=10),
            FreeUpload(reference_id="ada-up-1", user_id="ada", bytes=10),
            FreeUpload(reference_id="ada-up-2", user_id="ada", bytes=20),
            _paid("ada-pay", "ada"),
            RefundCredit(reference_id="ada-back", user_id="ada", tokens=20, original_reference_id="ada-use"),
            RefundCredit(reference_id="ada-gift", user_id="ada", tokens=5),
            BonusCredit(reference_id="ada-bonus", user_id="ada", tokens=100, priority=0),
            AdjustCredit(reference_id="ada-up", user_id="ada", tokens=15, reason="slip", actor="ann"),
            AdjustCredit(reference_id="ada-down", user_id="ada", tokens=-25, reason="slip", actor="ann"),
            DeductUsage(reference_id="ada-poor", user_id="ada", tokens=5_000),
            DeductUsage(reference_id="ada-anew", user_id="ada", tokens=5_000),
            DeductUsage(reference_id="ada-anew", user_id="ada", tokens=30, attempt=2),
            DeductUsage(reference_id="ada-none", user_id="ada", tokens=0),
            FreeUpload(reference_id="ada-no-up", user_id="ada", bytes=0),
            DeductUsage(reference_id="eve-due-1", user_id="nobody", tokens=5),
            SettleAccount(reference_id="eve-due-1", user_id="eve"),
            FreeUpload(reference_id="eve-due-2", user_id="ada", bytes=0),
            SettleAccount(reference_id="eve-due-2", user_id="eve"),
            RecordUsage(reference_id="ada-search", user_id="ada", meter="search", quantity=4),
            RefundCredit(
                reference_id="ada-free",
                user_id="ada",
                tokens=0,
                free_quantity=3,
                original_reference_id="ada-search",
            ),
        ],
        CATALOG,
    ),
    (
        2 * _DAY,
        [
            ReserveUsage(reference_id="ben-hold-1", user_id="ben", tokens=30, ttl_seconds=3_600),
            SettleUsage(
                reference_id="ben-settle", user_id="ben", original_reference_id="ben-hold-1", tokens=20
            ),
            ReserveUsage(reference_id="ben-hold-2", user_id="ben", tokens=10, ttl_seconds=3_600),
            ReleaseUsage(reference_id="ben-release", user_id="ben", original_reference_id="ben-hold-2"),
            ReserveUsage(reference_id="ben-hold-3", user_id="ben", tokens=15, ttl_seconds=3_600),
            ReserveUsage(reference_id="ben-hold-4", user_id="ben", tokens=25, ttl_seconds=2_600_000),
            ReserveUsage(reference_id="ben-hold-5", user_id="ben", tokens=10, ttl_seconds=2_600_000),
            RefundCredit(
                reference_id="ben-back", user_id="ben", tokens=5, original_reference_id="ben-settle"
            ),
        ],
        CATALOG,
    ),
    (3 * _DAY, [SettleAccount(reference_id="ben-due", user_id="ben")], CATALOG),
    (3 * _DAY, [_JAN], CATALOG),  # came from another system
    (
        4 * _DAY,
        [
            _paid("cyd-pay-1", "cyd", "brief"),
            PaymentDisputed(
                reference_id="cyd-dispute",
                user_id="cyd",
                original_reference_id="cyd-pay-1",
                dispute_id="x",
                amount_minor=999,
                currency="EUR",
            ),
            DisputeClosed(
                reference_id="cyd-won",
                user_id="cyd",
                original_reference_id="cyd-pay-1",
                dispute_id="x",
                result="won",
                amount_minor=999,
                currency="EUR",
            ),
            PaymentRefunded(
                reference_id="cyd-early",
                user_id="cyd",
                original_reference_id="cyd-pay-2",
                amount_minor=333,
                currency="EUR",
            ),
            _paid("cyd-pay-2", "cyd"),
            PaymentRefunded(
                reference_id="cyd-refunded",
                user_id="cyd",
                original_reference_id="cyd-pay-2",
                amount_minor=333,
                currency="EUR",
            ),
            PaymentRefunded(
                reference_id="cyd-lone",
                user_id="cyd",
                original_reference_id="cyd-nowhere",
                amount_minor=100,
                currency="EUR",
            ),
            _paid("cyd-pay-3", "cyd", "plain"),
            PaymentDisputed(
                reference_id="cyd-undecided",
                user_id="cyd",
                original_reference_id="cyd-pay-3",
                dispute_id="z",
                amount_minor=499,
                currency="USD",
            ),
        ],
        CATALOG,
    ),
    (
        5 * _DAY,
        [
            _paid("dan-pay", "dan", "plain"),
            DeductUsage(reference_id="dan-use", user_id="dan", tokens=140),
            ReserveUsage(reference_id="dan-hold", user_id="dan", tokens=20, ttl_seconds=3_600),
            PaymentFailed(reference_id="dan-failed", user_id="dan", original_reference_id="dan-pay"),
            ReleaseUsage(reference_id="dan-release", user_id="dan", original_reference_id="dan-hold"),
        ],
        CATALOG,
    ),
    (
        5 * _DAY,
        [
            _paid("hal-pay", "hal", "plain"),
            DeductUsage(reference_id="hal-use", user_id="hal", tokens=150),
            DisputeClosed(
                reference_id="hal-lost",
                user_id="hal",
                original_reference_id="hal-pay",
                dispute_id="y",
                result="lost",
                amount_minor=499,
                currency="USD",
            ),
        ],
        STRICT_CATALOG,  # disputes take under either; here what is spent is written off
    ),
    (
        6 * _DAY,
        [
            BonusCredit(
                reference_id="fay-later",
                user_id="fay",
                tokens=40,
                effective_at=OPENED + 40 * _DAY,
                expires_at=OPENED + 90 * _DAY,
            ),
            ChangeSubscription(reference_id="gus-change", user_id="gus", tier="pro"),
            ChangeSubscription(reference_id="gus-again", user_id="gus", tier="steady"),
            ChangeSubscription(
                reference_id="hal-change", user_id="hal", tier="pro", effective_at="period_end"
            ),
        ],
        CATALOG,
    ),
    (
        12 * _DAY,
        [
            BonusCredit(reference_id="hal-bonus", user_id="hal", tokens=90),
            ReserveUsage(reference_id="hal-hold-1", user_id="hal", tokens=30, ttl_seconds=3_600),
            ReserveUsage(reference_id="hal-hold-2", user_id="hal", tokens=10, ttl_seconds=3_600),
            ReserveUsage(reference_id="hal-hold-3", user_id="hal", tokens=20, ttl_seconds=3_600),
            ExtendUsage(
                reference_id="hal-extend",
                user_id="hal",
                original_reference_id="hal-hold-1",
                ttl_seconds=7_200,
            ),
        ],
        CATALOG,
    ),
    (
        12 * _DAY + _HOUR / 2,
        [
            ExtendUsage(
                reference_id="hal-extend-3",
                user_id="hal",
                original_reference_id="hal-hold-3",
                ttl_seconds=2_678_400,
            )
        ],
        CATALOG,
    ),
    (
        12 * _DAY + _HOUR,  # one hold has run out; the other runs out with its capture
        [SettleAccount(reference_id="hal-due", user_id="hal")],
        CATALOG,
    ),
    (
        12 * _DAY + 2 * _HOUR,
        [
            SettleUsage(
                reference_id="hal-late-1", user_id="hal", original_reference_id="hal-hold-1", tokens=25
            ),
            SettleUsage(
                reference_id="hal-late-2",
                user_id="hal",
                original_reference_id="hal-hold-2",
                tokens=70,
                on_excess="take",
            ),
        ],
        CATALOG,
    ),
    (
        30 * _DAY - _HOUR,  # shortly before its period
        [RenewSubscription(reference_id="fay-ahead", user_id="fay")],
        CATALOG,
    ),
    (
        31 * _DAY,  # its lot has ended: what was held of it may still be spent
        [
            SettleUsage(
                reference_id="ben-late", user_id="ben", original_reference_id="ben-hold-5", tokens=10
            ),
        ],
        CATALOG,
    ),
    (
        33 * _DAY,
        [
            # Usage of zero posts nothing: what is due stays for the next command.
            RecordUsage(reference_id="ada-no-pages", user_id="ada", meter="page", quantity=0),
            RenewSubscription(reference_id="ada-renew", user_id="ada"),
            SettleAccount(reference_id="fay-due", user_id="fay"),
            DeductUsage(reference_id="gus-use", user_id="gus", tokens=10),
            AdjustCredit(reference_id="dan-credit", user_id="dan", tokens=15, reason="slip", actor="ann"),
        ],
        CATALOG,
    ),
    (
        41 * _DAY,
        [
            SettleAccount(reference_id="fay-more", user_id="fay"),
            CancelSubscription(reference_id="gus-cancel", user_id="gus", at="now"),
            FreezeAccount(reference_id="hal-freeze", user_id="hal", reason="fraud warning"),
            FreezeAccount(reference_id="fay-freeze", user_id="fay", reason="fraud warning"),
            UnfreezeAccount(
                reference_id="fay-unfreeze",
                user_id="fay",
                reason="cleared",
                occurred_at=OPENED + 41 * _DAY + _HOUR / 60,
            ),
            # The warning was there before the payment.
            FreezeAccount(reference_id="gus-warning", payment_reference_id="gus-pay", reason="fraud warning"),
            _paid("gus-pay", "gus", "plain"),
        ],
        CATALOG,
    ),
    *history_of_kim(OPENED),
]


# -- where nothing is refused -----------------------------------------------------------------------------


def unguarded(url: str) -> Engine:
    """An engine on a database of the test's own, with every trigger, foreign key and CHECK out of the way."""
    engine = ledger_engine(url)
    is_postgresql = engine.dialect.name == "postgresql"

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for statement in _REFUSE_NOTHING_POSTGRESQL if is_postgresql else _REFUSE_NOTHING_SQLITE:
            cursor.execute(statement)
        cursor.close()
        connection.commit()

    with engine.begin() as connection:
        guards = text(_CHECKS_POSTGRESQL if is_postgresql else _TRIGGERS_SQLITE)
        for drop in connection.execute(guards).scalars().all():
            connection.exec_driver_sql(drop)
    return engine


_REFUSE_NOTHING_POSTGRESQL = ("SET session_replication_role = replica",)  # neither triggers nor foreign keys
_REFUSE_NOTHING_SQLITE = ("PRAGMA foreign_keys = OFF", "PRAGMA ignore_check_constraints = ON")
_CHECKS_POSTGRESQL = (
    "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) FROM pg_constraint"
    " WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
)
_TRIGGERS_SQLITE = "SELECT 'DROP TRIGGER ' || name FROM sqlite_master WHERE type = 'trigger'"
