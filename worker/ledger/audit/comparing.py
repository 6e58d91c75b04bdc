"""Parts of a check: rows with an expected and an actual value. A row where they differ is a finding.

Every statement works on one share of the ledger, see ``scope``. All rows of a user have one slot, so that a
share has whatever a row must be compared with.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Date,
    FromClause,
    Select,
    SmallInteger,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    false,
    func,
    literal,
    null,
    or_,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeEngine

from schemas import Status
from worker.ledger.audit.checks import DRIFT
from worker.ledger.audit.scope import Scope
from worker.ledger.tables import accounts, operations

Column = ColumnElement[Any]
Condition = ColumnElement[bool]
#: The name of a check, what must be, and what is: a row is a finding where they differ.
Pairs = Mapping[str, tuple[Column, Column]]
#: Statements whose rows are the findings of one check each.
Checks = list[Select[Any]]

ZERO = literal(0, BigInteger())
ONE = literal(1, BigInteger())

_IDENTITY: Mapping[str, TypeEngine[Any]] = {
    "slot": SmallInteger(),
    "account_id": BigInteger(),
    "operation_id": BigInteger(),
    "sequence": BigInteger(),
    "lot": BigInteger(),
    "meter": Text(),
    "period_start": Date(),
}


def rows(**identity: Column) -> Select[Any]:
    """Return a select of the columns that identify a finding; null where a row has no such thing."""
    return select(
        *(
            identity.get(name, cast(null(), kind)).label(name)  # a typed null, for the union
            for name, kind in _IDENTITY.items()
        )
    )


def differences(compared_rows: Select[Any], pairs: Pairs) -> Checks:
    """Return one statement a check over ``compared_rows``, which are read once and identify findings."""
    compared = compared_rows.add_columns(
        *(expected.label(f"{check}_expected") for check, (expected, _) in pairs.items()),
        *(actual.label(f"{check}_actual") for check, (_, actual) in pairs.items()),
    ).subquery()
    differs = {
        check: compared.c[f"{check}_actual"].is_distinct_from(compared.c[f"{check}_expected"])
        for check in pairs
    }
    # Filtered before it is shared: the few rows that differ are kept, not a copy of the table.
    differing = select(compared).where(or_(*differs.values())).cte()
    return [
        select(
            literal(check, Text()).label("check"),
            *(differing.c[name] for name in _IDENTITY),
            differing.c[f"{check}_expected"].label("expected"),
            differing.c[f"{check}_actual"].label("actual"),
        ).where(differing.c[f"{check}_actual"].is_distinct_from(differing.c[f"{check}_expected"]))
        for check in pairs
    ]


def sums_without(scope: Scope, check: str, movements: Table, cache: Table, *key: str) -> Select[Any]:
    """Find movements under keys without a row in ``cache``, which ought to hold their sum."""
    same = scope.on(cache, movements, **{name: name for name in key})
    columns = {name: movements.c[name] for name in ("slot", *key)}
    sums = (
        rows(**columns)
        .add_columns(func.sum(movements.c.amount).label("amount"))
        .where(scope.of(movements), ~select(1).where(same).exists())
        .group_by(*columns.values())
        .subquery()
    )
    return select(
        literal(check, Text()).label("check"),
        *(sums.c[name] for name in _IDENTITY),
        sums.c.amount.label("expected"),
        ZERO.label("actual"),
    )


def listed(scope: Scope, checks: Checks) -> Select[Any]:
    """Select the first findings of each check with their names, and the count and drift of all of them."""
    found = union_all(*checks).subquery("found")
    place = (
        found.c.slot,
        found.c.account_id,
        found.c.meter,
        found.c.period_start,
        found.c.operation_id,
        found.c.lot,
        found.c.sequence,
    )
    # Of other checks it would add up sequences, ids and whatever else was corrupted, to no purpose.
    distance = case((found.c.check.in_(DRIFT), func.abs(found.c.expected - found.c.actual)))
    numbered = select(
        found,
        func.row_number().over(partition_by=found.c.check, order_by=place).label("number"),
        func.count().over(partition_by=found.c.check).label("found"),
        func.sum(distance).over(partition_by=found.c.check).label("drift"),
    ).subquery("numbered")
    return (
        select(
            numbered,
            operations.c.reference_id,
            func.coalesce(accounts.c.user_id, operations.c.user_id).label("user_id"),
        )
        .join_from(numbered, accounts, scope.on(accounts, numbered, account_id="account_id"), isouter=True)
        .join(operations, scope.on(operations, numbered, operation_id="operation_id"), isouter=True)
        .where(numbered.c.number <= bindparam("findings_max", type_=BigInteger()))
        .order_by(numbered.c.check, numbered.c.number)
    )


# -- pairs ------------------------------------------------------------------------------------------------


def only(condition: Condition, expected: Column, actual: Column) -> tuple[Column, Column]:
    """Return a pair that can differ only where ``condition`` holds."""
    return case((condition, expected)), case((condition, actual))


def untrue(condition: Condition, amount: Column) -> tuple[Column, Column]:
    """Return a pair for what must not be: ``amount`` where there should be nothing."""
    return ZERO, case((condition, amount), else_=ZERO)


def present(condition: Condition, row: Column) -> tuple[Column, Column]:
    """Return a pair for a row that must be there where ``condition`` holds; ``row`` is its key."""
    return ONE, case((and_(condition, row.is_(None)), ZERO), else_=ONE)


def at_most(limit: Column, amount: Column) -> tuple[Column, Column]:
    """Return a pair for an amount that must not be above ``limit``."""
    return limit, case((amount > limit, amount), else_=limit)


def links(name: str, movements: Table, after: Column, *key: Column) -> Pairs:
    """Return pairs of each movement and the one before it: no gap, no copy, and the sum carried on."""
    sequence, amount = movements.c.sequence, movements.c.amount

    def previous(column: Column) -> Column:
        return func.lag(column, 1, 0).over(partition_by=(*key, movements.c.slot), order_by=sequence)

    return {
        f"{name}_gap": (previous(sequence) + 1, sequence),
        f"{name}_chain": (previous(after) + amount, after),
    }


def zero_if_none(value: Column) -> Column:
    """Return ``value``, or 0 where there was nothing to add up."""
    return func.coalesce(value, ZERO)


# -- operations -------------------------------------------------------------------------------------------


def is_applied(operation: FromClause) -> Condition:
    """Return the condition that the operation is there and was applied."""
    return func.coalesce(operation.c.status == Status.APPLIED.value, false())


def number_of(column: Column) -> Column:
    """Return the number behind a name, see ``identifiers``."""
    return type_coerce(column, SmallInteger())


def owned(
    scope: Scope, account_id: Column, account: FromClause, operation: FromClause
) -> tuple[Column, Column]:
    """Return a pair for an effect on ``account_id``: the account that its operation's user has.

    ``account`` is the row of ``account_id``, ``operation`` that of the effect, where they are there.
    """
    owner = accounts.alias("owner")
    is_owner = scope.on(owner, operation, user_id="user_id")
    owner_id = select(owner.c.account_id).where(is_owner).scalar_subquery()
    # Looked up only where the names differ. A user without an account is another finding.
    is_other = and_(operation.c.user_id.is_distinct_from(account.c.user_id), owner_id.is_not(None))
    return only(is_other, owner_id, account_id)


def detail_of(operation: FromClause, name: str) -> Column:
    """Return a text of the operation's detail."""
    text: Column = operation.c.detail[name].as_string()
    return text


def quantity_of(operation: FromClause, name: str) -> Column:
    """Return a whole number of the operation's detail; null where it has none."""
    return cast(detail_of(operation, name), BigInteger())
