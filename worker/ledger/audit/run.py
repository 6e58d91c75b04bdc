"""The audit as a whole: step by step over all accounts, then over all operations, in one snapshot."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, Engine, Select, func, select, text

from worker.catalog import Catalog
from worker.ledger.audit import accounts as account_checks
from worker.ledger.audit import entries as entry_checks
from worker.ledger.audit import holds as hold_checks
from worker.ledger.audit import lots as lot_checks
from worker.ledger.audit import outcomes as outcome_checks
from worker.ledger.audit import payments as payment_checks
from worker.ledger.audit import quotas as quota_checks
from worker.ledger.audit import refunds as refund_checks
from worker.ledger.audit.comparing import Checks, listed
from worker.ledger.audit.report import FINDINGS_MAX, AuditProgress, AuditReport, Discrepancies, OnProgress
from worker.ledger.audit.steps import WHOLE, AuditStep, account_steps, operation_steps
from worker.ledger.queries import snapshot
from worker.ledger.tables import (
    accounts,
    entries,
    holds,
    lots,
    operations,
    payment_events,
    payments,
    quota_entries,
    quotas,
    usage_refunds,
)

_EXAMINED = (
    accounts,
    operations,
    entries,
    lots,
    holds,
    usage_refunds,
    payments,
    payment_events,
    quotas,
    quota_entries,
)

_OF_ACCOUNTS = (
    account_checks.sums,
    entry_checks.chains,
    lot_checks.remains,
    lot_checks.origins,
    quota_checks.sums,
    quota_checks.chains,
)
_OF_OPERATIONS = (
    outcome_checks.each,
    outcome_checks.replaced,
    hold_checks.lives,
    hold_checks.endings,
    hold_checks.parts,
    refund_checks.each,
    refund_checks.together,
    payment_checks.each,
    payment_checks.events,
)


def audit(
    engine: Engine,
    on_progress: OnProgress | None = None,
    findings_max: int = FINDINGS_MAX,
    *,
    catalog: Catalog | None = None,
) -> AuditReport:
    """Audit the whole ledger as it stands at one moment, beside workers that go on.

    Lists at most ``findings_max`` (from 1) findings of each check and counts the others. ``catalog`` says
    whether an open dispute has taken tokens; without one both are accepted, since policies change and the
    ledger keeps what was done under each. Raises LedgerUnavailableError.
    """
    with snapshot(engine) as connection:
        return audit_snapshot(connection, on_progress, findings_max, catalog=catalog)


def audit_snapshot(
    connection: Connection,
    on_progress: OnProgress | None = None,
    findings_max: int = FINDINGS_MAX,
    *,
    catalog: Catalog | None = None,
) -> AuditReport:
    """Audit as ``audit`` does, inside an open transaction, which should not see others' commits."""
    if connection.dialect.name == "postgresql":
        # The statements are long and a step is short: to compile them takes longer than to run them.
        connection.execute(text("SET LOCAL jit = off"))
        # A step of a large ledger sorts its entries: with a session's default memory, mostly on the disk.
        connection.execute(text("SET LOCAL work_mem = '64MB'"))
    examined = _examined(connection)
    findings = Discrepancies(findings_max)

    def check(step: AuditStep, *passes: Callable[[], Checks]) -> None:
        bounds = {"after": step.after, "up_to": step.up_to, "findings_max": findings_max}
        for checks in passes:
            findings.add(connection.execute(_statement(checks), bounds))

    def reporting(name: str, total: int, steps: Iterable[AuditStep]) -> Iterator[AuditStep]:
        return _reporting(on_progress, name, total, steps)

    by_account = account_steps(connection, examined["accounts"], examined["entries"])
    for step in reporting("accounts", examined["accounts"], by_account):
        check(step, *_OF_ACCOUNTS)
        for finding in payment_checks.back(connection, step.after, step.up_to, catalog):
            findings.add_one(finding)
    if _may_be_without_account(connection, examined["entries"], findings):
        check(WHOLE, account_checks.missing)
    by_operation = operation_steps(connection, examined["operations"])
    for step in reporting("operations", examined["operations"], by_operation):
        check(step, *_OF_OPERATIONS)
    for step in reporting("quotas", 1, [WHOLE]):
        check(step, quota_checks.counted)
    if _may_be_unclaimed(connection, examined["entries"], findings):
        for step in reporting("entries", 1, [WHOLE]):
            check(step, entry_checks.unclaimed)
    debtors, debt, uncollected = connection.execute(_OWED).one()
    return AuditReport(
        findings=findings.listed,
        found=findings.found,
        drift=findings.drift,
        debtors=debtors,
        debt=int(debt or 0),
        uncollected=int(uncollected or 0),
        examined=examined,
    )


def _examined(connection: Connection) -> Mapping[str, int]:
    counts = (select(func.count()).select_from(table).scalar_subquery() for table in _EXAMINED)
    row = connection.execute(select(*counts)).one()
    return dict(zip((table.name for table in _EXAMINED), row, strict=True))


_OWED = select(
    func.count(),
    func.sum(accounts.c.debt),
    select(func.sum(payment_events.c.uncollected)).scalar_subquery(),
).where(accounts.c.debt > 0)


def _may_be_without_account(connection: Connection, entries_in_all: int, findings: Discrepancies) -> bool:
    """Return True where there may be an entry without an account.

    An account's entries are numbered from one: where no check found otherwise, and the accounts have as many
    entries as there are, they have all of them.
    """
    posted = connection.execute(account_checks.POSTED).scalar_one() or 0
    return posted != entries_in_all or not findings.found.keys().isdisjoint(account_checks.NUMBERED)


def _may_be_unclaimed(connection: Connection, entries_in_all: int, findings: Discrepancies) -> bool:
    """Return True where there may be an entry that no operation counts among its own.

    An entry names one operation, so that it can't be claimed twice: where all operations have the entries
    that they claim, and claim as many as there are, they claim all of them.
    """
    claimed = connection.execute(outcome_checks.CLAIMED).scalar_one() or 0
    return claimed != entries_in_all or not findings.found.keys().isdisjoint(outcome_checks.CLAIMS)


@cache
def _statement(checks: Callable[[], Checks]) -> Select[Any]:
    return listed(checks())


def _reporting(
    on_progress: OnProgress | None, name: str, total: int, steps: Iterable[AuditStep]
) -> Iterator[AuditStep]:
    """Yield ``steps``, and report the progress before each and after the last."""
    done = 0
    for step in steps:
        if on_progress is not None:
            on_progress(AuditProgress(name, done, total))
        yield step
        done += step.size
    if on_progress is not None:
        on_progress(AuditProgress(name, done, total))
