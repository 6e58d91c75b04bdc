"""The audit: proves from the entries that every balance is explained, or names what isn't.

Everything is counted anew by the database, in one snapshot, so that the audit can run beside the workers.
A check is a statement whose rows are its findings; checks that read the same rows share one pass over them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Date,
    Engine,
    Row,
    Select,
    Table,
    Text,
    and_,
    case,
    cast,
    func,
    literal,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeEngine

from schemas import BonusCredit, DeductUsage, FreeUpload, OpenAccount, PaymentSucceeded, RefundCredit, Status
from worker.core.plan import Counter
from worker.ledger.queries import View, snapshot
from worker.ledger.tables import accounts, entries, operations, payments, quota_entries, quotas

FINDINGS_MAX = 100

#: What each check finds untrue, with what ``expected`` and ``actual`` of its findings are.
CHECKS: Mapping[str, str] = {
    "balance": "the balance is not the sum of the account's entries",
    "allocated": "the sum of allocations is not that of the entries",
    "purchased": "the sum of purchases is not that of the entries",
    "bonus": "the sum of bonuses is not that of the entries",
    "refunded": "the sum of refunds is not that of the entries",
    "used": "the sum of usage is not that of the entries",
    "sequence": "the account's sequence is not that of its last entry",
    "account_missing": "entries without an account; the sums of their amounts",
    "entry_gap": "the entry's sequence does not follow the one before it",
    "entry_chain": "the entry's balance before is not the balance after the one before it",
    "entry_arithmetic": "the entry's balance after is not its balance before plus its amount",
    "entry_without_outcome": "an entry whose operation is missing or was not applied; its amount",
    "entry_account": "an entry on another account than its operation's user has; account ids",
    "operation_without_entries": "an applied operation that moved nothing; the sums of its entries",
    "operation_amount": "the operation's entries don't add up to its amount",
    "operation_before": "the operation's balance before is not that of its first entry",
    "operation_after": "the operation's balance after is not that of its last entry",
    "payment_missing": "an applied payment without its row among the payments; rows",
    "payment_base": "the payment's base tokens are not those of its entries",
    "payment_bonus": "the payment's bonus tokens are not those of its entries",
    "payment_without_outcome": "a payment whose operation is missing or was not applied; its tokens",
    "payment_account": "a payment on another account than its operation's user has; account ids",
    "upload_without_quota_entry": "a counted upload without its quota entry; bytes",
    "upload_amount": "the upload's quota entries don't add up to its bytes",
    "quota_entry_without_outcome": "a quota entry whose operation is missing or was not applied; its amount",
    "quota_entry_account": "a quota entry on another account than its operation's user has; account ids",
    "quota_used": "the quota's used amount is not the sum of its entries",
    "quota_sequence": "the quota's sequence is not that of its last entry",
    "quota_missing": "quota entries without a quota; the sums of their amounts",
    "quota_gap": "the quota entry's sequence does not follow the one before it",
    "quota_chain": "the quota entry's used before is not the used after of the one before it",
    "quota_arithmetic": "the quota entry's used after is not its used before plus its amount",
}

#: What an applied operation of each type does to the balance: its amount times this.
BALANCE_EFFECT: Mapping[str, int] = {
    OpenAccount.model_fields["type"].default: 1,
    DeductUsage.model_fields["type"].default: -1,
    FreeUpload.model_fields["type"].default: 0,
    PaymentSucceeded.model_fields["type"].default: 1,
    RefundCredit.model_fields["type"].default: 1,
    BonusCredit.model_fields["type"].default: 1,
}

_PAYMENT = PaymentSucceeded.model_fields["type"].default
_UPLOAD = FreeUpload.model_fields["type"].default

# The account's column, the entries behind it, and their sign.
_SUMS = (
    ("allocated", Counter.ALLOCATION, 1),
    ("purchased", Counter.PURCHASES, 1),
    ("bonus", Counter.BONUS, 1),
    ("refunded", Counter.REFUNDS, 1),
    ("used", Counter.USAGE, -1),
)


@dataclass(frozen=True)
class Finding(View):
    """One thing that isn't as it must be. ``check`` is a key of ``CHECKS``.

    What identifies it is given where it is known: the account, the reference, the sequence of an entry, the
    meter and period of a quota. ``expected`` follows from the entries or the outcome, ``actual`` is stored.
    """

    check: str
    account_id: int | None
    user_id: str | None
    reference_id: str | None
    sequence: int | None
    quota: str | None
    expected: int | None
    actual: int | None

    def __str__(self) -> str:
        names = {
            "user": self.user_id,
            "account": None if self.user_id is not None else self.account_id,
            "reference": self.reference_id,
            "quota": self.quota,
            "entry": self.sequence,
        }
        place = ", ".join(f"{name} {value}" for name, value in names.items() if value is not None)
        return f"{place}: {CHECKS[self.check]}: expected {self.expected}, found {self.actual}"


@dataclass(frozen=True)
class AuditReport(View):
    """What was examined and what was found.

    ``found`` counts the findings of each check that has any, also those past the limit, which are not among
    ``findings``. ``drift`` is the sum of the differences, in tokens and without their signs, between the
    balances and their entries, over all accounts. ``examined`` counts the rows of each table.
    """

    findings: tuple[Finding, ...]
    found: Mapping[str, int]
    drift: int
    examined: Mapping[str, int]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.found

    @property
    def unlisted(self) -> int:
        """How many findings are counted but not listed."""
        return sum(self.found.values()) - len(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """As every view, with the verdict first."""
        return {"isClean": self.is_clean, "unlisted": self.unlisted, **super().to_dict()}


@dataclass(frozen=True)
class Progress(View):
    """Before a pass: its name, and how many of ``total`` are done."""

    step: str
    done: int
    total: int


OnProgress = Callable[[Progress], None]


def audit(
    engine: Engine, on_progress: OnProgress | None = None, findings_max: int = FINDINGS_MAX
) -> AuditReport:
    """Audit the whole ledger as it stands at one moment, beside workers that go on.

    Lists at most ``findings_max`` (from 1) findings of each check and counts the others. Raises
    LedgerUnavailableError.
    """
    with snapshot(engine) as connection:
        return audit_snapshot(connection, on_progress, findings_max)


def audit_snapshot(
    connection: Connection, on_progress: OnProgress | None = None, findings_max: int = FINDINGS_MAX
) -> AuditReport:
    """As ``audit``, inside a transaction that is there already and should not see others' commits."""
    rows: list[Row[Any]] = []
    for done, (step, statement) in enumerate(_PASSES.items()):
        if on_progress is not None:
            on_progress(Progress(step, done, len(_PASSES)))
        rows += connection.execute(_listed(statement(), findings_max))
    distance = {row.check: int(row.distance or 0) for row in rows}
    return AuditReport(
        findings=tuple(_finding(row) for row in rows),
        found={row.check: row.found for row in rows},
        drift=distance.get("balance", 0) + distance.get("account_missing", 0),
        examined={
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (accounts, operations, entries, payments, quotas, quota_entries)
        },
    )


# -- from rows to findings --------------------------------------------------------------------------------

Column = ColumnElement[Any]
#: The name of a check, what must be, and what is: a row is a finding where they differ.
Pairs = Mapping[str, tuple[Column, Column]]


def _findings(rows: Select[Any], pairs: Pairs) -> list[Select[Any]]:
    """One statement a check over ``rows``, which are read once and give what identifies a finding."""
    compared = rows.add_columns(
        *(expected.label(f"{check}_expected") for check, (expected, _) in pairs.items()),
        *(actual.label(f"{check}_actual") for check, (_, actual) in pairs.items()),
    ).subquery()
    differs = {
        check: compared.c[f"{check}_actual"].is_distinct_from(compared.c[f"{check}_expected"])
        for check in pairs
    }
    # Filtered before it is shared: a few suspects are kept, not a copy of the table.
    suspects = select(compared).where(or_(*differs.values())).cte()
    return [
        select(
            literal(check, Text()).label("check"),
            *(suspects.c[name] for name in _IDENTITY),
            suspects.c[f"{check}_expected"].label("expected"),
            suspects.c[f"{check}_actual"].label("actual"),
        ).where(suspects.c[f"{check}_actual"].is_distinct_from(suspects.c[f"{check}_expected"]))
        for check in pairs
    ]


_IDENTITY: Mapping[str, TypeEngine[Any]] = {
    "account_id": BigInteger(),
    "operation_id": BigInteger(),
    "sequence": BigInteger(),
    "meter": Text(),
    "period_start": Date(),
}


def _rows(**identity: Column) -> Select[Any]:
    """A select of what identifies a finding; null where a row has no such thing."""
    return select(
        *(
            identity.get(name, cast(null(), kind)).label(name)  # a typed null, for the union
            for name, kind in _IDENTITY.items()
        )
    )


def _listed(checks: list[Select[Any]], findings_max: int) -> Select[Any]:
    """The first findings of each check with their names, and the count and sum of all of them."""
    found = union_all(*checks).subquery("found")
    place = (found.c.account_id, found.c.meter, found.c.period_start, found.c.operation_id, found.c.sequence)
    distance = func.abs(found.c.expected - found.c.actual)
    numbered = select(
        found,
        func.row_number().over(partition_by=found.c.check, order_by=place).label("number"),
        func.count().over(partition_by=found.c.check).label("found"),
        func.sum(distance).over(partition_by=found.c.check).label("distance"),
    ).subquery("numbered")
    return (
        select(
            numbered,
            operations.c.reference_id,
            func.coalesce(accounts.c.user_id, operations.c.user_id).label("user_id"),
        )
        .join_from(numbered, accounts, accounts.c.account_id == numbered.c.account_id, isouter=True)
        .join(operations, operations.c.operation_id == numbered.c.operation_id, isouter=True)
        .where(numbered.c.number <= findings_max)
        .order_by(numbered.c.check, numbered.c.number)
    )


def _finding(row: Row[Any]) -> Finding:
    return Finding(
        check=row.check,
        account_id=row.account_id,
        user_id=row.user_id,
        reference_id=row.reference_id,
        sequence=row.sequence,
        quota=None if row.meter is None else f"{row.meter} {row.period_start}",
        expected=None if row.expected is None else int(row.expected),
        actual=None if row.actual is None else int(row.actual),
    )


def _only(condition: ColumnElement[bool], expected: Column, actual: Column) -> tuple[Column, Column]:
    """A pair that can differ only where ``condition`` holds."""
    return case((condition, expected)), case((condition, actual))


def _zero_if_none(value: Column) -> Column:
    return func.coalesce(value, 0)


# -- the passes -------------------------------------------------------------------------------------------


def _accounts() -> list[Select[Any]]:
    """The sums that an account caches, against its entries."""
    entry = entries.c
    booked = (
        select(
            entry.account_id,
            func.sum(entry.amount).label("balance"),
            func.max(entry.sequence).label("sequence"),
            *(
                func.sum(case((entry.counter == counter.value, sign * entry.amount), else_=0)).label(name)
                for name, counter, sign in _SUMS
            ),
        )
        .group_by(entry.account_id)
        .subquery("booked")
    )
    rows = _rows(account_id=accounts.c.account_id).join_from(
        accounts, booked, booked.c.account_id == accounts.c.account_id, isouter=True
    )
    names = ("balance", "sequence", *(name for name, _, _ in _SUMS))
    return [
        *_findings(rows, {name: (_zero_if_none(booked.c[name]), accounts.c[name]) for name in names}),
        _sums_without("account_missing", entries, accounts, entry.account_id),
    ]


def _sums_without(check: str, movements: Table, cache: Table, *key: Column) -> Select[Any]:
    """What was moved under keys that have no row in ``cache``, which ought to hold the sum."""
    same = and_(*(cache.c[column.name] == column for column in key))
    sums = (
        _rows(**{column.name: column for column in key})
        .add_columns(func.sum(movements.c.amount).label("amount"))
        .where(~select(1).where(same).exists())
        .group_by(*key)
        .subquery()
    )
    return select(
        literal(check, Text()).label("check"),
        *(sums.c[name] for name in _IDENTITY),
        sums.c.amount.label("expected"),
        literal(0, BigInteger()).label("actual"),
    )


def _entry_chains() -> list[Select[Any]]:
    """Each entry against the one before it: no gap, no copy, and the balance carried over."""
    entry = entries.c
    rows = _rows(account_id=entry.account_id, operation_id=entry.operation_id, sequence=entry.sequence)
    return _findings(
        rows, _links("entry", entries, entry.balance_before, entry.balance_after, entry.account_id)
    )


def _links(name: str, movements: Table, before: Column, after: Column, *key: Column) -> Pairs:
    sequence, amount = movements.c.sequence, movements.c.amount

    def previous(column: Column) -> Column:
        return func.lag(column, 1, 0).over(partition_by=key, order_by=sequence)

    return {
        f"{name}_gap": (previous(sequence) + 1, sequence),
        f"{name}_chain": (previous(after), before),
        f"{name}_arithmetic": (before + amount, after),
    }


def _outcomes() -> list[Select[Any]]:
    """Each applied operation against what it has moved."""
    operation, payment = operations.c, payments.c
    moved, counted = _moved_by_operation(), _counted_by_operation()
    first, last = entries.alias("first_entry"), entries.alias("last_entry")
    rows = (
        _rows(account_id=moved.c.account_id, operation_id=operation.operation_id)
        .join_from(operations, moved, moved.c.operation_id == operation.operation_id, isouter=True)
        .join(
            first,
            and_(first.c.account_id == moved.c.account_id, first.c.sequence == moved.c.first),
            isouter=True,
        )
        .join(
            last,
            and_(last.c.account_id == moved.c.account_id, last.c.sequence == moved.c.last),
            isouter=True,
        )
        .join(payments, payment.operation_id == operation.operation_id, isouter=True)
        .join(counted, counted.c.operation_id == operation.operation_id, isouter=True)
        .where(operation.status == Status.APPLIED.value)
    )
    # Null, and so never a finding, for a type that a later version has added.
    effect = operation.amount * case(BALANCE_EFFECT, value=operation.type)
    has_moved = moved.c.operation_id.is_not(None)
    is_payment, is_upload = operation.type == _PAYMENT, operation.type == _UPLOAD
    is_paid = and_(has_moved, payment.operation_id.is_not(None))
    is_counted = counted.c.operation_id.is_not(None)
    paid_rows = case((payment.operation_id.is_(None), 0), else_=1)
    return _findings(
        rows,
        {
            "operation_without_entries": _only(
                and_(~has_moved, effect.is_not(None)), effect, literal(0, BigInteger())
            ),
            "operation_amount": _only(and_(has_moved, effect.is_not(None)), effect, moved.c.amount),
            "operation_before": _only(has_moved, first.c.balance_before, operation.balance_before),
            "operation_after": (
                case(
                    (has_moved, last.c.balance_after),
                    (effect == 0, operation.balance_before),
                    else_=operation.balance_after,
                ),
                operation.balance_after,
            ),
            "payment_missing": _only(is_payment, literal(1, BigInteger()), paid_rows),
            "payment_base": _only(is_paid, moved.c.purchases, payment.base_tokens),
            "payment_bonus": _only(is_paid, moved.c.bonus, payment.bonus_tokens),
            "upload_without_quota_entry": _only(
                and_(is_upload, ~is_counted), operation.amount, literal(0, BigInteger())
            ),
            "upload_amount": _only(and_(is_upload, is_counted), operation.amount, counted.c.amount),
        },
    )


def _moved_by_operation() -> Any:
    entry = entries.c
    return (
        select(
            entry.operation_id,
            func.min(entry.account_id).label("account_id"),
            func.min(entry.sequence).label("first"),
            func.max(entry.sequence).label("last"),
            func.sum(entry.amount).label("amount"),
            *(
                func.sum(case((entry.counter == counter.value, entry.amount), else_=0)).label(counter.value)
                for counter in (Counter.PURCHASES, Counter.BONUS)
            ),
        )
        .group_by(entry.operation_id)
        .subquery("moved")
    )


def _counted_by_operation() -> Any:
    return (
        select(quota_entries.c.operation_id, func.sum(quota_entries.c.amount).label("amount"))
        .group_by(quota_entries.c.operation_id)
        .subquery("counted")
    )


def _effects() -> list[Select[Any]]:
    """Each effect against the operation that it is said to come from."""
    return [
        *_effects_in(entries, "entry", entries.c.amount, sequence=entries.c.sequence),
        *_effects_in(
            payments, "payment", payments.c.base_tokens + payments.c.bonus_tokens, operation_type=_PAYMENT
        ),
        *_effects_in(
            quota_entries,
            "quota_entry",
            quota_entries.c.amount,
            operation_type=_UPLOAD,
            sequence=quota_entries.c.sequence,
            meter=quota_entries.c.meter,
            period_start=quota_entries.c.period_start,
        ),
    ]


def _effects_in(
    table: Table, name: str, amount: Column, operation_type: str | None = None, **identity: Column
) -> list[Select[Any]]:
    owner = accounts.alias("owner")
    effect = table.c
    rows = (
        _rows(account_id=effect.account_id, operation_id=effect.operation_id, **identity)
        .join_from(table, operations, operations.c.operation_id == effect.operation_id, isouter=True)
        .join(owner, owner.c.user_id == operations.c.user_id, isouter=True)
    )
    is_outcome = func.coalesce(operations.c.status, "") == Status.APPLIED.value
    if operation_type is not None:
        is_outcome = and_(is_outcome, operations.c.type == operation_type)
    return _findings(
        rows,
        {
            f"{name}_without_outcome": _only(~is_outcome, literal(0, BigInteger()), amount),
            f"{name}_account": _only(owner.c.account_id.is_not(None), owner.c.account_id, effect.account_id),
        },
    )


def _quotas() -> list[Select[Any]]:
    """The quotas, and the chains of their entries."""
    entry = quota_entries.c
    key = (entry.account_id, entry.meter, entry.period_start)
    counted = (
        select(*key, func.sum(entry.amount).label("used"), func.max(entry.sequence).label("sequence"))
        .group_by(*key)
        .subquery("counted")
    )
    quota = quotas.c
    same = and_(*(counted.c[column.name] == quota[column.name] for column in key))
    rows = _rows(**{column.name: quota[column.name] for column in key})
    return [
        *_findings(
            rows.join_from(quotas, counted, same, isouter=True),
            {
                "quota_used": (_zero_if_none(counted.c.used), quota.used),
                "quota_sequence": (_zero_if_none(counted.c.sequence), quota.sequence),
            },
        ),
        _sums_without("quota_missing", quota_entries, quotas, *key),
        *_findings(
            _rows(
                **{column.name: column for column in key},
                operation_id=entry.operation_id,
                sequence=entry.sequence,
            ),
            _links("quota", quota_entries, entry.used_before, entry.used_after, *key),
        ),
    ]


_PASSES: Mapping[str, Callable[[], list[Select[Any]]]] = {
    "accounts": _accounts,
    "entries": _entry_chains,
    "outcomes": _outcomes,
    "effects": _effects,
    "quotas": _quotas,
}
