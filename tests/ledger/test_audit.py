"""The audit: a true ledger is clean, and each way to corrupt one is found where it was done."""

# ruff: noqa: S608 - the statements are put together from this file's own words

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Engine, text

from schemas import (
    COMMAND_TYPES,
    BonusCredit,
    DeductUsage,
    FreeUpload,
    OpenAccount,
    PaymentSucceeded,
    RefundCredit,
)
from worker.catalog import Catalog, Tier, load_catalog
from worker.ledger.audit import BALANCE_EFFECT, CHECKS, AuditReport, Finding, Progress, audit
from worker.ledger.tables import accounts

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
UPLOADS = "free_upload 2026-11-01"
ADA, BOB = 1, 2  # the account ids in a new database

Apply = Callable[..., Any]


@pytest.fixture
def catalog() -> Catalog:
    packaged = load_catalog()
    nothing = Tier(monthly_tokens=0, free_upload_bytes=0)
    return packaged.model_copy(update={"tiers": {**packaged.tiers, "trial": nothing}})


@pytest.fixture
def ledger(engine: Engine, apply: Apply) -> Engine:
    """Every operation once, a rejection, one judged anew, and an account that never moved."""
    apply(OpenAccount(reference_id="ada-open", user_id="ada", tier="free"), now=NOW)
    apply(
        DeductUsage(reference_id="ada-deduct", user_id="ada", tokens=1_500),
        PaymentSucceeded(
            reference_id="ada-pay", user_id="ada", package_id="standard", amount_minor=1_999, currency="USD"
        ),
        RefundCredit(reference_id="ada-refund", user_id="ada", tokens=400),
        BonusCredit(reference_id="ada-bonus", user_id="ada", tokens=100),
        FreeUpload(reference_id="ada-upload-1", user_id="ada", bytes=1_000),
        FreeUpload(reference_id="ada-upload-2", user_id="ada", bytes=2_000),
        now=NOW,
    )
    apply(
        OpenAccount(reference_id="bob-open", user_id="bob", tier="basic"),
        DeductUsage(reference_id="bob-refused", user_id="bob", tokens=200_000),
        DeductUsage(reference_id="bob-anew", user_id="bob", tokens=100_001),
        DeductUsage(reference_id="bob-anew", user_id="bob", tokens=60_000, attempt=2),
        OpenAccount(reference_id="eve-open", user_id="eve", tier="trial"),
        now=NOW,
    )
    with engine.connect() as connection:
        ids = connection.execute(accounts.select()).all()
    assert {row.user_id: row.account_id for row in ids}.items() >= {"ada": ADA, "bob": BOB}.items()
    return engine


def tamper(engine: Engine, *statements: str) -> None:
    """Run ``statements`` with every trigger, foreign key and CHECK of the database out of the way."""
    if engine.dialect.name == "postgresql":
        _tamper_postgresql(engine, statements)
    else:
        _tamper_sqlite(engine, statements)


def _tamper_postgresql(engine: Engine, statements: tuple[str, ...]) -> None:
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        checks = connection.execute(
            text(
                "SELECT conrelid::regclass::text, conname FROM pg_constraint"
                " WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
            )
        )
        for table, name in checks.all():
            connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {name}"))
        for statement in statements:
            connection.execute(text(statement))


def _tamper_sqlite(engine: Engine, statements: tuple[str, ...]) -> None:
    connection = engine.raw_connection()  # outside a transaction, where the pragmas have an effect
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA foreign_keys = OFF")
        cursor.execute("PRAGMA ignore_check_constraints = ON")
        cursor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in cursor.fetchall():
            cursor.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            cursor.execute(statement)
    finally:
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA ignore_check_constraints = OFF")
        connection.close()


class Found(NamedTuple):
    """What a test says of a finding."""

    check: str
    user_id: str | None
    reference_id: str | None
    expected: int | None
    actual: int | None
    sequence: int | None = None
    quota: str | None = None


def found_in(report: AuditReport) -> set[Found]:
    findings = [
        Found(f.check, f.user_id, f.reference_id, f.expected, f.actual, f.sequence, f.quota)
        for f in report.findings
    ]
    assert len(set(findings)) == len(findings)
    return set(findings)


# -- a true ledger ----------------------------------------------------------------------------------------


def test_an_empty_ledger_is_clean(engine: Engine) -> None:
    report = audit(engine)
    assert report.is_clean
    assert report.drift == 0
    assert set(report.examined.values()) == {0}


def test_a_ledger_with_every_operation_is_clean(ledger: Engine) -> None:
    report = audit(ledger)
    assert report.findings == ()
    assert report.is_clean
    assert report.drift == 0


def test_an_account_on_a_tier_without_tokens_needs_no_entry(engine: Engine, apply: Apply) -> None:
    apply(OpenAccount(reference_id="o", user_id="eve", tier="trial"), now=NOW)
    report = audit(engine)
    assert report.is_clean
    assert report.examined["entries"] == 0


def test_the_report_counts_what_it_has_examined(ledger: Engine) -> None:
    assert audit(ledger).examined == {
        "accounts": 3,
        "operations": 11,
        "entries": 8,
        "payments": 1,
        "quotas": 1,
        "quota_entries": 2,
    }


def test_every_command_type_has_its_effect_in_the_audit() -> None:
    assert BALANCE_EFFECT.keys() == COMMAND_TYPES.keys()


def test_progress_is_told_before_each_pass(ledger: Engine) -> None:
    told: list[Progress] = []
    audit(ledger, on_progress=told.append)
    assert [progress.step for progress in told] == ["accounts", "entries", "outcomes", "effects", "quotas"]
    assert [progress.done for progress in told] == [0, 1, 2, 3, 4]
    assert {progress.total for progress in told} == {5}


# -- a corrupted one --------------------------------------------------------------------------------------


def entry(account: int, sequence: int) -> str:
    return f"account_id = {account} AND sequence = {sequence}"


def operation(reference_id: str) -> str:
    return f"(SELECT operation_id FROM operations WHERE reference_id = '{reference_id}')"


def _account_sum(name: str, right: int) -> tuple[str, str, set[Found]]:
    statement = f"UPDATE accounts SET {name} = {name} + 7 WHERE user_id = 'ada'"
    return f"an account's {name}", statement, {Found(name, "ada", None, right, right + 7)}


# What is corrupted, how, and exactly what the audit finds.
CORRUPTIONS: list[tuple[str, str, set[Found]]] = [
    _account_sum("balance", 284_000),
    _account_sum("allocated", 10_000),
    _account_sum("purchased", 250_000),
    _account_sum("bonus", 25_100),
    _account_sum("refunded", 400),
    _account_sum("used", 1_500),
    _account_sum("sequence", 6),
    (
        "an account that is gone",
        "DELETE FROM accounts WHERE user_id = 'bob'",
        {Found("account_missing", None, None, 40_000, 0)},
    ),
    (
        "a hole in the sequence",
        f"UPDATE entries SET sequence = 9 WHERE {entry(ADA, 6)}",
        {
            Found("entry_gap", "ada", "ada-bonus", 6, 9, sequence=9),
            Found("sequence", "ada", None, 9, 6),
        },
    ),
    (
        "a broken chain",
        f"UPDATE entries SET balance_before = 10001, balance_after = 8501 WHERE {entry(ADA, 2)}",
        {
            Found("entry_chain", "ada", "ada-deduct", 10_000, 10_001, sequence=2),
            Found("entry_chain", "ada", "ada-pay", 8_501, 8_500, sequence=3),
            Found("operation_before", "ada", "ada-deduct", 10_001, 10_000),
            Found("operation_after", "ada", "ada-deduct", 8_501, 8_500),
        },
    ),
    (
        "a first entry that begins above zero",
        f"UPDATE entries SET balance_before = 1 WHERE {entry(BOB, 1)}",
        {
            Found("entry_chain", "bob", "bob-open", 0, 1, sequence=1),
            Found("entry_arithmetic", "bob", "bob-open", 100_001, 100_000, sequence=1),
            Found("operation_before", "bob", "bob-open", 1, 0),
        },
    ),
    (
        "an entry's amount",
        f"UPDATE entries SET amount = -1499 WHERE {entry(ADA, 2)}",
        {
            Found("balance", "ada", None, 284_001, 284_000),
            Found("used", "ada", None, 1_499, 1_500),
            Found("entry_arithmetic", "ada", "ada-deduct", 8_501, 8_500, sequence=2),
            Found("operation_amount", "ada", "ada-deduct", -1_500, -1_499),
        },
    ),
    (
        "an entry's counter-account",
        f"UPDATE entries SET counter = 'bonus' WHERE {entry(ADA, 5)}",
        {Found("bonus", "ada", None, 25_500, 25_100), Found("refunded", "ada", None, 0, 400)},
    ),
    (
        "the last entry that is gone",
        f"DELETE FROM entries WHERE {entry(ADA, 6)}",
        {
            Found("balance", "ada", None, 283_900, 284_000),
            Found("bonus", "ada", None, 25_000, 25_100),
            Found("sequence", "ada", None, 5, 6),
            Found("operation_without_entries", "ada", "ada-bonus", 100, 0),
        },
    ),
    (
        "half of a purchase that is gone",
        f"DELETE FROM entries WHERE {entry(ADA, 4)}",
        {
            Found("balance", "ada", None, 259_000, 284_000),
            Found("bonus", "ada", None, 100, 25_100),
            Found("entry_gap", "ada", "ada-refund", 4, 5, sequence=5),
            Found("entry_chain", "ada", "ada-refund", 258_500, 283_500, sequence=5),
            Found("operation_amount", "ada", "ada-pay", 275_000, 250_000),
            Found("operation_after", "ada", "ada-pay", 258_500, 283_500),
            Found("payment_bonus", "ada", "ada-pay", 0, 25_000),
        },
    ),
    (
        "an entry whose operation is unknown",
        f"UPDATE entries SET operation_id = 999 WHERE {entry(BOB, 1)}",
        {
            Found("entry_without_outcome", "bob", None, 0, 100_000, sequence=1),
            Found("operation_without_entries", "bob", "bob-open", 100_000, 0),
        },
    ),
    (
        "an entry of a refused operation",
        f"UPDATE entries SET operation_id = {operation('bob-refused')} WHERE {entry(BOB, 2)}",
        {
            Found("entry_without_outcome", "bob", "bob-refused", 0, -60_000, sequence=2),
            Found("operation_without_entries", "bob", "bob-anew", -60_000, 0),
        },
    ),
    (
        "an applied operation that becomes refused",
        "UPDATE operations SET status = 'rejected', amount = NULL WHERE reference_id = 'bob-anew'",
        {Found("entry_without_outcome", "bob", "bob-anew", 0, -60_000, sequence=2)},
    ),
    (
        "an entry on the account of another user",
        "UPDATE operations SET user_id = 'bob' WHERE reference_id = 'ada-bonus'",
        {Found("entry_account", "ada", "ada-bonus", BOB, ADA, sequence=6)},
    ),
    (
        "an operation's amount",
        "UPDATE operations SET amount = 1501 WHERE reference_id = 'ada-deduct'",
        {Found("operation_amount", "ada", "ada-deduct", -1_501, -1_500)},
    ),
    (
        "an operation's balance before",
        "UPDATE operations SET balance_before = NULL WHERE reference_id = 'ada-pay'",
        {Found("operation_before", "ada", "ada-pay", 8_500, None)},
    ),
    (
        "an operation's balance after",
        "UPDATE operations SET balance_after = 258500 WHERE reference_id = 'ada-pay'",
        {Found("operation_after", "ada", "ada-pay", 283_500, 258_500)},
    ),
    (
        "an upload that seems to have moved tokens",
        "UPDATE operations SET balance_after = balance_before - 1 WHERE reference_id = 'ada-upload-1'",
        {Found("operation_after", "ada", "ada-upload-1", 284_000, 283_999)},
    ),
    (
        "a payment that is gone",
        "DELETE FROM payments",
        {Found("payment_missing", "ada", "ada-pay", 1, 0)},
    ),
    (
        "a payment's base tokens",
        "UPDATE payments SET base_tokens = 250001",
        {Found("payment_base", "ada", "ada-pay", 250_000, 250_001)},
    ),
    (
        "a payment's bonus tokens",
        "UPDATE payments SET bonus_tokens = 0",
        {Found("payment_bonus", "ada", "ada-pay", 25_000, 0)},
    ),
    (
        "a payment of an operation that is none",
        f"UPDATE payments SET operation_id = {operation('ada-refund')}",
        {
            Found("payment_missing", "ada", "ada-pay", 1, 0),
            Found("payment_without_outcome", "ada", "ada-refund", 0, 275_000),
            Found("payment_base", "ada", "ada-refund", 0, 250_000),
            Found("payment_bonus", "ada", "ada-refund", 0, 25_000),
        },
    ),
    (
        "a payment on the account of another user",
        f"UPDATE payments SET account_id = {BOB}",
        {Found("payment_account", "bob", "ada-pay", ADA, BOB)},
    ),
    (
        "a quota's use",
        "UPDATE quotas SET used = 3001",
        {Found("quota_used", "ada", None, 3_000, 3_001, quota=UPLOADS)},
    ),
    (
        "a quota's sequence",
        "UPDATE quotas SET sequence = 3",
        {Found("quota_sequence", "ada", None, 2, 3, quota=UPLOADS)},
    ),
    (
        "a quota that is gone",
        "DELETE FROM quotas",
        {Found("quota_missing", "ada", None, 3_000, 0, quota=UPLOADS)},
    ),
    (
        "a hole in a quota's sequence",
        "UPDATE quota_entries SET sequence = 4 WHERE sequence = 2",
        {
            Found("quota_gap", "ada", "ada-upload-2", 2, 4, sequence=4, quota=UPLOADS),
            Found("quota_sequence", "ada", None, 4, 2, quota=UPLOADS),
        },
    ),
    (
        "a quota's broken chain",
        "UPDATE quota_entries SET used_before = 1001, used_after = 3001 WHERE sequence = 2",
        {Found("quota_chain", "ada", "ada-upload-2", 1_000, 1_001, sequence=2, quota=UPLOADS)},
    ),
    (
        "a quota entry's amount",
        "UPDATE quota_entries SET amount = 2001 WHERE sequence = 2",
        {
            Found("quota_arithmetic", "ada", "ada-upload-2", 3_001, 3_000, sequence=2, quota=UPLOADS),
            Found("quota_used", "ada", None, 3_001, 3_000, quota=UPLOADS),
            Found("upload_amount", "ada", "ada-upload-2", 2_000, 2_001),
        },
    ),
    (
        "a quota entry of an operation that is no upload",
        f"UPDATE quota_entries SET operation_id = {operation('ada-bonus')} WHERE sequence = 2",
        {
            Found("quota_entry_without_outcome", "ada", "ada-bonus", 0, 2_000, sequence=2, quota=UPLOADS),
            Found("upload_without_quota_entry", "ada", "ada-upload-2", 2_000, 0),
        },
    ),
    (
        "an upload on the account of another user",
        "UPDATE operations SET user_id = 'bob' WHERE reference_id = 'ada-upload-2'",
        {Found("quota_entry_account", "ada", "ada-upload-2", BOB, ADA, sequence=2, quota=UPLOADS)},
    ),
]


@pytest.mark.parametrize(
    ("statement", "findings"), [pytest.param(*rest, id=name) for name, *rest in CORRUPTIONS]
)
def test_what_was_corrupted_is_found_and_nothing_else(
    ledger: Engine, statement: str, findings: set[Found]
) -> None:
    tamper(ledger, statement)
    report = audit(ledger)
    assert found_in(report) == findings
    assert not report.is_clean
    assert sum(report.found.values()) == len(findings)


def test_every_check_is_seen_to_fail() -> None:
    assert {found.check for _, _, findings in CORRUPTIONS for found in findings} == CHECKS.keys()


# -- the report -------------------------------------------------------------------------------------------


def test_drift_adds_up_differences_of_either_sign(ledger: Engine) -> None:
    tamper(
        ledger,
        "UPDATE accounts SET balance = balance + 30 WHERE user_id = 'ada'",
        "UPDATE accounts SET balance = balance - 30 WHERE user_id = 'bob'",
    )
    assert audit(ledger).drift == 60


def test_the_entries_of_an_account_that_is_gone_are_drift(ledger: Engine) -> None:
    tamper(ledger, "DELETE FROM accounts WHERE user_id = 'bob'")
    assert audit(ledger).drift == 40_000


def test_a_check_lists_its_first_findings_and_counts_the_rest(ledger: Engine) -> None:
    tamper(ledger, "UPDATE accounts SET balance = balance + 5, used = used + 5")
    report = audit(ledger, findings_max=2)
    assert [(f.check, f.user_id) for f in report.findings] == [
        ("balance", "ada"),
        ("balance", "bob"),
        ("used", "ada"),
        ("used", "bob"),
    ]
    assert report.found == {"balance": 3, "used": 3}
    assert report.unlisted == 2
    assert report.drift == 15  # of all accounts, listed or not


def test_a_finding_reads_as_a_sentence() -> None:
    finding = Finding("balance", 1, "ada", None, None, None, 100, 107)
    assert str(finding) == (
        "user ada: the balance is not the sum of the account's entries: expected 100, found 107"
    )


def test_the_report_has_a_form_for_scripts(ledger: Engine) -> None:
    tamper(ledger, "UPDATE quotas SET used = 3001")
    assert audit(ledger).to_dict() == {
        "isClean": False,
        "unlisted": 0,
        "findings": [
            {
                "check": "quota_used",
                "accountId": ADA,
                "userId": "ada",
                "referenceId": None,
                "sequence": None,
                "quota": UPLOADS,
                "expected": 3_000,
                "actual": 3_001,
            }
        ],
        "found": {"quota_used": 1},
        "drift": 0,
        "examined": {
            "accounts": 3,
            "operations": 11,
            "entries": 8,
            "payments": 1,
            "quotas": 1,
            "quota_entries": 2,
        },
    }
