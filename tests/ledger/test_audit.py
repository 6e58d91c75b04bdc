"""The audit as a whole: a true ledger is clean, the report, the totals, and how far it is.

The findings of each check stand in ``test_audit_corruptions.py``.
"""

# ruff: noqa: S608 - the statements are put together from this file's own words

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, select, text

from schemas import DeductUsage, OpenAccount, Status
from tests.support.strategies import SMALL_CATALOG
from tests.support.true_ledger import CATALOG, DAN
from worker.catalog import Catalog
from worker.ledger.audit import (
    EFFECTS,
    AuditProgress,
    AuditReport,
    Discrepancy,
    audit,
    audit_snapshot,
    steps,
)
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.ledger.tables import operations

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
HISTORY = Path(__file__).with_name("ledger_0001.sql")

Apply = Callable[..., Any]


def corrupted(connection: Connection, *statements: str) -> None:
    """Run ``statements`` in the transaction of ``connection``, which is not committed."""
    for statement in statements:
        connection.execute(text(statement))


def audited(engine: Engine, *statements: str, **options: Any) -> AuditReport:
    """Report of the audit after ``statements``, which leave nothing behind."""
    with engine.connect() as connection:
        corrupted(connection, *statements)
        report = audit_snapshot(connection, **options)
        connection.rollback()
    return report


# -- a true ledger ----------------------------------------------------------------------------------------


def test_an_empty_ledger_is_clean(engine: Engine) -> None:
    report = audit(engine)
    assert report.is_clean
    assert report.drift == 0
    assert set(report.examined.values()) == {0}


def test_a_ledger_with_everything_in_it_is_clean(true_ledger: Engine) -> None:
    report = audit(true_ledger, catalog=CATALOG)
    assert report.findings == ()
    assert report.is_clean
    assert report.drift == 0


def test_the_true_ledger_has_every_code_of_which_the_audit_knows_the_effect(true_ledger: Engine) -> None:
    applied = select(operations.c.code).where(operations.c.status == Status.APPLIED.value).distinct()
    with true_ledger.connect() as connection:
        assert set(connection.execute(applied).scalars()) == {code.value for code in EFFECTS}


@pytest.fixture
def catalog() -> Catalog:
    return CATALOG


@pytest.fixture(params=["sqlite", "postgresql"])
def before_lots(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A ledger as revision 0001 left it."""
    name, server = f"history_{uuid4().hex[:12]}", None
    url = f"sqlite:///{tmp_path / 'history.sqlite3'}"
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        server.databases.create_database(name)
        url = server.address.url(name)
    engine = ledger_engine(url)
    migrate(engine, "0001")
    with engine.begin() as connection:
        for statement in filter(str.strip, HISTORY.read_text().split(";\n")):
            connection.exec_driver_sql(statement)
    yield engine
    engine.dispose()
    if server is not None:
        server.databases.drop_database(name)


def test_a_ledger_from_before_there_were_lots_is_clean(before_lots: Engine) -> None:
    migrate(before_lots)
    report = audit(before_lots)
    assert report.findings == ()
    assert report.examined["lots"] == 3


def test_an_account_on_a_tier_without_tokens_needs_no_entry(engine: Engine, apply: Apply) -> None:
    apply(OpenAccount(reference_id="o", user_id="eve", tier="empty"), now=NOW)
    report = audit(engine)
    assert report.is_clean
    assert report.examined["entries"] == 0


def test_debts_and_what_was_written_off_are_totals_and_no_findings(true_ledger: Engine) -> None:
    report = audit(true_ledger, catalog=CATALOG)
    assert (report.debtors, report.debt, report.uncollected) == (1, 25, 50)


def test_the_report_counts_what_it_has_examined(true_ledger: Engine) -> None:
    assert audit(true_ledger).examined == {
        "accounts": 8,
        "operations": 63,
        "entries": 59,
        "lots": 27,
        "holds": 6,
        "usage_refunds": 2,
        "payments": 6,
        "payment_events": 9,
        "quotas": 2,
        "quota_entries": 3,
    }


# -- what the catalog adds --------------------------------------------------------------------------------


def test_an_open_dispute_is_measured_by_the_policy_of_the_catalog(true_ledger: Engine) -> None:
    (finding,) = audit(true_ledger, catalog=SMALL_CATALOG).findings
    assert str(finding) == (
        "user cyd, reference cyd-pay-3: what was taken back of the payment does not follow from what happened"
        " to it: expected 0, found 60"
    )


def test_audit_without_a_catalog_accepts_either_policy_of_an_open_dispute(true_ledger: Engine) -> None:
    assert audit(true_ledger).is_clean
    waited = f"UPDATE payment_events SET collected = 0 WHERE operation_id = {_operation('cyd-undecided')}"
    assert "payment_back" not in audited(true_ledger, waited).found
    assert "payment_back" in audited(true_ledger, waited, catalog=CATALOG).found
    half = f"UPDATE payment_events SET collected = 30 WHERE operation_id = {_operation('cyd-undecided')}"
    assert "payment_back" in audited(true_ledger, half).found


def _operation(reference_id: str) -> str:
    return f"(SELECT operation_id FROM operations WHERE reference_id = '{reference_id}')"


# -- step by step -----------------------------------------------------------------------------------------

_OFF_BY_SEVEN = "UPDATE accounts SET balance = balance + 7"


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "ACCOUNTS_A_STEP", 3)
    monkeypatch.setattr(steps, "ENTRIES_A_STEP", 20)
    monkeypatch.setattr(steps, "OPERATIONS_A_STEP", 10)
    monkeypatch.setattr(steps, "STEPS", 1_000)


def test_progress_counts_accounts_and_then_operations(true_ledger: Engine) -> None:
    reported: list[AuditProgress] = []
    audit(true_ledger, reported.append)
    assert reported == [
        AuditProgress("accounts", 0, 8),
        AuditProgress("accounts", 8, 8),
        AuditProgress("operations", 0, 63),
        AuditProgress("operations", 63, 63),
        AuditProgress("quotas", 0, 1),
        AuditProgress("quotas", 1, 1),
    ]


@pytest.mark.usefixtures("small_steps")
def test_a_step_ends_after_so_many_accounts_or_so_many_entries(true_ledger: Engine) -> None:
    reported: list[AuditProgress] = []
    audit(true_ledger, reported.append)
    done = {step: [p.done for p in reported if p.step == step] for step in ("accounts", "operations")}
    # 14 and 5 entries, 14 and 2, 8 and 0 and 6, 7 and 5.
    assert done["accounts"] == [0, 2, 3, 6, 8]
    assert done["operations"] == [0, 10, 20, 30, 40, 50, 60, 63]
    assert all(before.done <= after.done for before, after in pairwise(reported) if before.step == after.step)


@pytest.mark.usefixtures("small_steps")
def test_an_account_with_more_entries_than_a_step_takes_is_a_step(
    true_ledger: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "ENTRIES_A_STEP", 1)
    reported: list[AuditProgress] = []
    assert audit(true_ledger, reported.append, catalog=CATALOG).is_clean
    assert [p.done for p in reported if p.step == "accounts"] == [0, 1, 2, 3, 5, 6, 7, 8]  # eve has none


def test_a_large_ledger_has_no_more_steps_for_it(
    true_ledger: Engine, monkeypatch: pytest.MonkeyPatch, small_steps: None
) -> None:
    monkeypatch.setattr(steps, "STEPS", 2)
    reported: list[AuditProgress] = []
    audit(true_ledger, reported.append)
    assert [p.done for p in reported if p.step == "accounts"] == [0, 4, 8, 8]
    assert [p.done for p in reported if p.step == "operations"] == [0, 31, 62, 63]


@pytest.mark.usefixtures("small_steps")
def test_the_steps_leave_nothing_out(true_ledger: Engine) -> None:
    report = audited(
        true_ledger,
        _OFF_BY_SEVEN,
        "UPDATE operations SET balance_after = balance_before + 1 WHERE first_entry IS NULL",
    )
    assert report.found["balance"] == 8
    assert report.drift == 56
    first = [finding.user_id for finding in report.findings if finding.check == "balance"]
    assert first == ["ada", "ben", "cyd", "dan", "eve", "fay", "gus", "hal"]
    silent = "SELECT count(*) FROM operations WHERE first_entry IS NULL AND status = 'applied'"
    with true_ledger.connect() as connection:
        assert report.found["operation_after"] == connection.execute(text(silent)).scalar_one()


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("nobody", [-5, 2**62])
def test_entry_of_no_account_is_in_a_step_as_well(true_ledger: Engine, nobody: int) -> None:
    report = audited(true_ledger, f"UPDATE entries SET account_id = {nobody} WHERE account_id = {DAN}")
    (missing,) = (finding for finding in report.findings if finding.check == "account_missing")
    assert (missing.account_id, missing.expected, missing.actual) == (nobody, -25, 0)


# -- the report -------------------------------------------------------------------------------------------


def test_drift_adds_up_differences_of_either_sign(true_ledger: Engine) -> None:
    report = audited(
        true_ledger,
        "UPDATE accounts SET balance = balance + 30 WHERE user_id = 'ada'",
        "UPDATE accounts SET balance = balance - 30 WHERE user_id = 'ben'",
    )
    assert report.drift == 60


def test_the_entries_of_an_account_that_is_gone_are_drift(true_ledger: Engine) -> None:
    assert audited(true_ledger, "DELETE FROM accounts WHERE user_id = 'cyd'").drift == 219


@pytest.mark.usefixtures("small_steps")
def test_a_check_lists_its_first_findings_over_all_steps_and_counts_the_rest(true_ledger: Engine) -> None:
    report = audited(
        true_ledger, "UPDATE accounts SET balance = balance + 5, used = used + 5", findings_max=3
    )
    assert [(f.check, f.user_id) for f in report.findings] == [
        ("balance", "ada"),
        ("balance", "ben"),
        ("balance", "cyd"),
        ("used", "ada"),
        ("used", "ben"),
        ("used", "cyd"),
        ("lots", "ada"),
        ("lots", "ben"),
        ("lots", "cyd"),
    ]
    assert report.found == {"balance": 8, "used": 8, "lots": 8}
    assert report.unlisted == 15
    assert report.drift == 40  # of all accounts, listed or not


def test_findings_made_outside_the_database_are_capped_as_well(true_ledger: Engine) -> None:
    report = audited(
        true_ledger, "UPDATE payment_events SET uncollected = uncollected - 1000", findings_max=1
    )
    assert [f.check for f in report.findings].count("payment_back") == 1
    assert report.found["payment_back"] == 5


def test_a_finding_reads_as_a_sentence() -> None:
    finding = Discrepancy("lot_remaining", 1, "ada", "ada-open", None, 3, None, 100, 107)
    assert str(finding) == (
        "user ada, reference ada-open, lot 3: what remains of the lot is not the sum of its entries:"
        " expected 100, found 107"
    )


def test_the_report_has_a_form_for_scripts(true_ledger: Engine) -> None:
    report = audited(true_ledger, "UPDATE quotas SET used = 31 WHERE meter = 'free_upload'")
    assert report.to_dict() == {
        "isClean": False,
        "unlisted": 0,
        "findings": [
            {
                "check": "quota_used",
                "accountId": 1,
                "userId": "ada",
                "referenceId": None,
                "sequence": None,
                "lot": None,
                "quota": "free_upload 2026-11-01",
                "expected": 30,
                "actual": 31,
            }
        ],
        "found": {"quota_used": 1},
        "drift": 0,
        "debtors": 1,
        "debt": 25,
        "uncollected": 50,
        "examined": dict(report.examined),
    }


def test_audit_does_not_see_commits_made_meanwhile(engine: Engine, apply: Apply) -> None:
    apply(OpenAccount(reference_id="o", user_id="u", tier="free"), now=NOW)
    references = (f"d{number}" for number in count())

    def deduct(_: AuditProgress) -> None:
        apply(DeductUsage(reference_id=next(references), user_id="u", tokens=1), now=NOW)

    report = audit(engine, deduct)
    assert report.is_clean
    assert report.examined["operations"] == 1
    report = audit(engine)
    assert report.is_clean
    assert report.examined["operations"] == 7
