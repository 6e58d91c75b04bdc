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
from tests.support.true_ledger import ADA, CATALOG, DAN
from worker.catalog import Catalog
from worker.ledger.audit import (
    EFFECTS,
    AuditProgress,
    AuditReport,
    Discrepancy,
    audit,
    audit_snapshot,
    shares,
)
from worker.ledger.audit.share_checks import STEPS_A_SHARE
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
        "accounts": 11,
        "operations": 110,
        "entries": 101,
        "lots": 42,
        "holds": 11,
        "usage_refunds": 3,
        "payments": 12,
        "payment_events": 26,
        "quotas": 3,
        "quota_entries": 5,
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
    return f"(SELECT operation_id FROM operations WHERE reference_id = '{reference_id}' AND NOT is_taken)"


# -- share by share ---------------------------------------------------------------------------------------

_OFF_BY_SEVEN = "UPDATE accounts SET balance = balance + 7"


@pytest.fixture
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "SMALL", 10)
    monkeypatch.setattr(shares, "ENTRIES_A_SHARE", 10)


@pytest.mark.parametrize(
    ("entries", "jobs", "number"),
    [
        (0, 1, 1),
        (250_000, 4, 1),
        (250_001, 1, 1),
        (250_001, 4, 4),
        (2_600_000, 1, 3),
        (2_600_000, 2, 4),
        (10_000_000, 1, 5),
        (10_000_000, 2, 6),
        (10_000_000, 8, 8),
    ],
)
def test_large_ledger_has_some_shares_and_as_many_for_each_job(entries: int, jobs: int, number: int) -> None:
    assert len(shares.shares_of(entries, jobs)) == number


@pytest.mark.parametrize("number", [1, 2, 5, 6, 15, 64])
def test_shares_leave_no_slot_out(number: int) -> None:
    divided = shares.divided(number)
    assert len(divided) == number
    assert (divided[0].first, divided[-1].last) == (-(2**15), 2**15 - 1)
    assert all(before.last + 1 == after.first for before, after in pairwise(divided))
    inner = [min(slots.last, 63) - max(slots.first, 0) + 1 for slots in divided]
    assert max(inner) - min(inner) <= 1


def test_progress_counts_the_checks_of_all_shares(true_ledger: Engine, small_shares: None) -> None:
    reported: list[AuditProgress] = []
    audit(true_ledger, reported.append)
    in_all = 5 * STEPS_A_SHARE
    assert reported == [AuditProgress("checks", done, in_all) for done in range(in_all + 1)]


@pytest.mark.usefixtures("small_shares")
def test_shares_leave_nothing_out(true_ledger: Engine) -> None:
    report = audited(
        true_ledger,
        _OFF_BY_SEVEN,
        "UPDATE operations SET balance_after = balance_before + 1 WHERE first_entry IS NULL",
    )
    assert report.found["balance"] == 11
    assert report.drift == 77
    first = [finding.user_id for finding in report.findings if finding.check == "balance"]
    assert first == [
        "hal",
        "kim",
        "ben",
        "jan",
        "gus",
        "eve",
        "fay",
        "cyd",
        "dan",
        "ada",
        "ibu",
    ]  # slots 8 to 63
    silent = "SELECT count(*) FROM operations WHERE first_entry IS NULL AND status = 1"
    with true_ledger.connect() as connection:
        assert report.found["operation_after"] == connection.execute(text(silent)).scalar_one()


@pytest.mark.usefixtures("small_shares")
@pytest.mark.parametrize("nobody", [-5, 2**62])
def test_entry_of_no_account_is_in_a_share_as_well(true_ledger: Engine, nobody: int) -> None:
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


@pytest.mark.usefixtures("small_shares")
def test_a_check_lists_its_first_findings_over_all_shares_and_counts_the_rest(true_ledger: Engine) -> None:
    report = audited(
        true_ledger, "UPDATE accounts SET balance = balance + 5, used = used + 5", findings_max=3
    )
    assert [(f.check, f.user_id) for f in report.findings] == [
        (check, user) for check in ("balance", "used", "lots") for user in ("hal", "kim", "ben")
    ]
    assert report.found == {"balance": 11, "used": 11, "lots": 11}
    assert report.unlisted == 24
    assert report.drift == 55  # of all accounts, listed or not


def test_findings_made_outside_the_database_are_capped_as_well(true_ledger: Engine) -> None:
    report = audited(
        true_ledger, "UPDATE payment_events SET uncollected = uncollected - 1000", findings_max=1
    )
    assert [f.check for f in report.findings].count("payment_back") == 1
    assert report.found["payment_back"] == 10


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
                "accountId": ADA,
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
    assert report.examined["operations"] == 1 + STEPS_A_SHARE + 1  # as often as progress was reported


# -- several jobs and snapshots ---------------------------------------------------------------------------


@pytest.mark.usefixtures("small_shares")
def test_jobs_side_by_side_have_the_report_of_one(true_ledger: Engine) -> None:
    reported: list[AuditProgress] = []
    report = audit(true_ledger, reported.append, catalog=SMALL_CATALOG, findings_max=1)
    assert not report.is_clean
    for jobs in (2, 3):
        side_by_side: list[AuditProgress] = []
        again = audit(true_ledger, side_by_side.append, 1, catalog=SMALL_CATALOG, jobs=jobs)
        assert again == report
        assert [progress.done for progress in side_by_side] == list(range(side_by_side[-1].total + 1))


def _opened(apply: Apply) -> None:
    apply(*(OpenAccount(reference_id=f"open-{user}", user_id=f"u{user}", tier="free") for user in range(20)))


def _used(apply: Apply, reference: str) -> None:
    """Let every user use a token."""
    apply(
        *(DeductUsage(reference_id=f"{reference}-{user}", user_id=f"u{user}", tokens=1) for user in range(20))
    )


@pytest.mark.usefixtures("small_shares")
def test_all_jobs_see_one_moment(engine: Engine, apply: Apply) -> None:
    _opened(apply)
    report = audit(engine, lambda progress: _used(apply, f"use-{progress.done}"), jobs=2)
    assert report.is_clean
    assert report.examined["operations"] == 20
    assert audit(engine).examined["operations"] > 20


def test_each_slot_has_its_own_moment_where_the_ledger_is_distributed(engine: Engine, apply: Apply) -> None:
    _opened(apply)

    def use(progress: AuditProgress) -> None:
        if progress.done % 200 == 0:
            _used(apply, f"use-{progress.done}")

    report = audit(engine, use, one_slot=True, jobs=2)
    assert report.findings == ()
    assert report.examined["accounts"] == 20
    assert report.examined["operations"] > 20


def test_audit_of_one_slot_at_a_time_has_the_same_report(true_ledger: Engine) -> None:
    assert audit(true_ledger, one_slot=True, jobs=2) == audit(true_ledger)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_audit_that_is_interrupted_leaves_no_connection_behind(
    true_ledger: Engine, error: type[BaseException], small_shares: None
) -> None:
    def interrupt(progress: AuditProgress) -> None:
        if progress.done == 3:
            raise error

    with pytest.raises(error):
        audit(true_ledger, interrupt, jobs=2)
    assert audit(true_ledger).is_clean
