"""The audit as a whole: step by step over all accounts, then over all operations, in one snapshot."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Select, Subquery, func, or_, select, text

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
from worker.ledger.audit.report import FINDINGS_MAX, AuditReport, Findings, OnProgress, Progress
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

#: So many accounts, or as many as have so many entries, are worked on at a time; and so many operations.
ACCOUNTS_A_STEP = 5_000
ENTRIES_A_STEP = 250_000
OPERATIONS_A_STEP = 100_000
#: But in a large ledger so much of it: the entries of some accounts are everywhere, and each step reads far.
SMALLEST_STEP = 1 / 20

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
    hold_checks.lives,
    hold_checks.endings,
    hold_checks.parts,
    refund_checks.each,
    refund_checks.together,
    payment_checks.each,
    payment_checks.events,
)


class _Step(NamedTuple):
    """Ids behind ``after``, up to ``up_to``: so many of ``size`` are there."""

    after: int
    up_to: int
    size: int


# All ids that a column can hold: a step also finds what belongs to nobody.
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
_ALL = _Step(_LOWEST, _HIGHEST, 1)

# Each operation was found to have what it claims unless one of these says otherwise. Then no entry can be
# claimed twice, since it names one operation: as many claims as entries are all of them.
_CLAIMS = frozenset({"operation_entries", "operation_account"})


def audit(
    engine: Engine,
    on_progress: OnProgress | None = None,
    findings_max: int = FINDINGS_MAX,
    *,
    catalog: Catalog | None = None,
) -> AuditReport:
    """Audit the whole ledger as it stands at one moment, beside workers that go on.

    Lists at most ``findings_max`` (from 1) findings of each check and counts the others. ``catalog`` has the
    policy by which payments went back; without it, any policy will do. Raises LedgerUnavailableError.
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
    """As ``audit``, inside a transaction that is there already and should not see others' commits."""
    is_postgresql = connection.dialect.name == "postgresql"
    outcomes = outcome_checks.looked_up if is_postgresql else outcome_checks.joined
    if is_postgresql:
        _prepare(connection)
    examined = _examined(connection)
    findings = Findings(findings_max)
    policy = None if catalog is None else catalog.payments

    def check(passes: Iterable[Callable[[], Checks]], step: _Step) -> None:
        bounds = {"after": step.after, "up_to": step.up_to, "findings_max": findings_max}
        for checks in passes:
            findings.add(connection.execute(_statement(checks), bounds))

    told = partial(_told, on_progress)
    for step in told("accounts", examined["accounts"], _account_steps(connection, examined)):
        check(_OF_ACCOUNTS, step)
        for finding in payment_checks.back(connection, step.after, step.up_to, policy):
            findings.add_one(finding)
    for step in told("operations", examined["operations"], _operation_steps(connection)):
        check([outcomes, *_OF_OPERATIONS], step)
    for step in told("quotas", 1, [_ALL]):
        check([quota_checks.counted], step)
    claimed = connection.execute(outcome_checks.CLAIMED).scalar_one() or 0
    if claimed != examined["entries"] or findings.found.keys() & _CLAIMS:
        for step in told("entries", 1, [_ALL]):
            check([entry_checks.unclaimed], step)
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


def _prepare(connection: Connection) -> None:
    """Tell the planner what kind of statements follow; in this transaction only."""
    # They are long, and a step is short: to compile them takes longer than to run them.
    connection.execute(text("SET LOCAL jit = off"))
    # A step looks up a part of the operations and the next one another: together they read them once.
    connection.execute(text("SET LOCAL random_page_cost = 1.1"))


def _examined(connection: Connection) -> Mapping[str, int]:
    counts = (select(func.count()).select_from(table).scalar_subquery() for table in _EXAMINED)
    row = connection.execute(select(*counts)).one()
    return dict(zip((table.name for table in _EXAMINED), row, strict=True))


_OWED = select(
    func.count(),
    func.sum(accounts.c.debt),
    select(func.sum(payment_events.c.uncollected)).scalar_subquery(),
).where(accounts.c.debt > 0)


@cache
def _statement(checks: Callable[[], Checks]) -> Select[Any]:
    return listed(checks())


# -- steps ------------------------------------------------------------------------------------------------


def _told(on_progress: OnProgress | None, name: str, total: int, steps: Iterable[_Step]) -> Iterator[_Step]:
    """``steps``, telling before each and after the last how far they are."""
    done = 0
    for step in steps:
        if on_progress is not None:
            on_progress(Progress(name, done, total))
        yield step
        done += step.size
    if on_progress is not None:
        on_progress(Progress(name, done, total))


def _account_steps(connection: Connection, examined: Mapping[str, int]) -> Iterator[_Step]:
    """Ranges of accounts, smaller ones where they have many entries."""
    accounts_max = max(ACCOUNTS_A_STEP, int(examined["accounts"] * SMALLEST_STEP))
    entries_max = max(ENTRIES_A_STEP, int(examined["entries"] * SMALLEST_STEP * 2))
    after = _LOWEST
    while True:
        ahead = _accounts_ahead(after, accounts_max)
        fits = or_(ahead.c.place == 1, ahead.c.written <= entries_max)
        size, last, count = connection.execute(
            select(
                func.count().filter(fits), func.max(ahead.c.account_id).filter(fits), func.count()
            ).select_from(ahead)
        ).one()
        if size == count < accounts_max:
            yield _Step(after, _HIGHEST, size)
            return
        yield _Step(after, last, size)
        after = last


def _accounts_ahead(after: int, limit: int) -> Subquery:
    """The next accounts, each with its place and how many entries there are up to it."""
    return (
        select(
            accounts.c.account_id,
            func.row_number().over(order_by=accounts.c.account_id).label("place"),
            func.sum(accounts.c.sequence)
            .over(order_by=accounts.c.account_id, rows=(None, 0))
            .label("written"),
        )
        .where(accounts.c.account_id > after)
        .order_by(accounts.c.account_id)
        .limit(limit)
        .subquery()
    )


def _operation_steps(connection: Connection) -> Iterator[_Step]:
    """Ranges of operations."""
    after = _LOWEST
    while True:
        ahead = (
            select(operations.c.operation_id)
            .where(operations.c.operation_id > after)
            .order_by(operations.c.operation_id)
            .limit(OPERATIONS_A_STEP)
            .subquery()
        )
        size, last = connection.execute(select(func.count(), func.max(ahead.c.operation_id))).one()
        if size < OPERATIONS_A_STEP:
            yield _Step(after, _HIGHEST, size)
            return
        yield _Step(after, last, size)
        after = last
