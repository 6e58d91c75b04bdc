"""Checks of quotas: the counted amounts of a period, and the operations that counted them."""

from sqlalchemy import FromClause, and_, func, select

from schemas import Code, Status
from worker.ledger.audit.comparing import (
    ZERO,
    Checks,
    differences,
    is_applied,
    links,
    only,
    owned,
    quantity_of,
    rows,
    sums_without,
    untrue,
    zero_if_none,
)
from worker.ledger.audit.scope import Scope, agree
from worker.ledger.tables import accounts, operations, quota_entries, quotas, usage_refunds

_KEY = ("account_id", "meter", "period_start")
_COUNTING = (Code.FREE_UPLOAD_COUNTED.value, Code.USAGE_RECORDED.value)
_WITH_ENTRIES = (*_COUNTING, Code.TOKENS_REFUNDED.value, Code.ACCOUNT_IMPORTED.value)


def sums(scope: Scope) -> Checks:
    """Compare what each quota caches with its entries."""
    entry, quota = quota_entries.c, quotas.c
    key = [entry[name] for name in ("slot", *_KEY)]
    counted = (
        select(*key, func.sum(entry.amount).label("used"), func.max(entry.sequence).label("sequence"))
        .where(scope.of(quota_entries))
        .group_by(*key)
        .subquery("counted")
    )
    statement = (
        rows(slot=quota.slot, **{name: quota[name] for name in _KEY})
        .join_from(quotas, counted, agree(counted, quotas, **{name: name for name in _KEY}), isouter=True)
        .where(scope.of(quotas))
    )
    return [
        *differences(
            statement,
            {
                "quota_used": (zero_if_none(counted.c.used), quota.used),
                "quota_sequence": (zero_if_none(counted.c.sequence), quota.sequence),
            },
        ),
        sums_without(scope, "quota_missing", quota_entries, quotas, *_KEY),
    ]


def chains(scope: Scope) -> Checks:
    """Compare each quota entry with the one before it, and with its operation."""
    entry, operation = quota_entries.c, operations.c
    key = {name: entry[name] for name in _KEY}
    statement = (
        rows(slot=entry.slot, **key, operation_id=entry.operation_id, sequence=entry.sequence)
        .join_from(
            quota_entries,
            operations,
            scope.on(operations, quota_entries, operation_id="operation_id"),
            isouter=True,
        )
        .join(accounts, scope.on(accounts, quota_entries, account_id="account_id"), isouter=True)
        .where(scope.of(quota_entries))
    )
    has_counted = and_(is_applied(operations), operation.code.in_(_WITH_ENTRIES))
    return differences(
        statement,
        {
            **links("quota", quota_entries, entry.used_after, *key.values()),
            "quota_entry_without_outcome": untrue(~has_counted, entry.amount),
            "quota_entry_account": owned(scope, entry.account_id, accounts, operations),
        },
    )


def given_back(scope: Scope) -> Checks:
    """Compare each refund of usage with its quota entries, and these with the quota of the usage."""
    refund, moved = usage_refunds.c, _moved(scope)
    back, used = quota_entries.alias("back"), quota_entries.alias("used")
    identity = {"slot": refund.slot, "account_id": refund.account_id, "operation_id": refund.operation_id}
    refunds = (
        rows(**identity)
        .join_from(
            usage_refunds, moved, agree(moved, usage_refunds, operation_id="operation_id"), isouter=True
        )
        .where(scope.of(usage_refunds))
    )
    is_same = and_(
        scope.on(used, back, **{name: name for name in _KEY}), used.c.operation_id == refund.original_id
    )
    entries = (
        rows(**identity)
        .join_from(back, usage_refunds, scope.on(usage_refunds, back, operation_id="operation_id"))
        .join(used, is_same, isouter=True)
        .where(scope.of(back))
    )
    return [
        *differences(refunds, {"refund_free": (refund.free_quantity, -zero_if_none(moved.c.amount))}),
        *differences(entries, {"refund_quota": untrue(used.c.operation_id.is_(None), -back.c.amount)}),
    ]


def _moved(scope: Scope) -> FromClause:
    entry = quota_entries.c
    return (
        select(entry.slot, entry.operation_id, func.sum(entry.amount).label("amount"))
        .where(scope.of(quota_entries))
        .group_by(entry.operation_id, entry.slot)
        .subquery("moved")
    )


def counted(scope: Scope) -> Checks:
    """Compare each counting operation with its quota entries."""
    operation, moved = operations.c, _moved(scope)
    statement = (
        rows(slot=operation.slot, account_id=accounts.c.account_id, operation_id=operation.operation_id)
        .join_from(operations, moved, agree(moved, operations, operation_id="operation_id"), isouter=True)
        .join(accounts, scope.on(accounts, operations, user_id="user_id"), isouter=True)
        .where(scope.of(operations), operation.status == Status.APPLIED.value, operation.code.in_(_COUNTING))
    )
    is_upload = operation.code == Code.FREE_UPLOAD_COUNTED.value
    has_counted = moved.c.amount.is_not(None)
    return differences(
        statement,
        {
            "upload_without_quota_entry": only(and_(is_upload, ~has_counted), operation.amount, ZERO),
            "upload_amount": only(and_(is_upload, has_counted), operation.amount, moved.c.amount),
            "record_free": only(
                ~is_upload,
                zero_if_none(quantity_of(operations, "free_quantity")),
                zero_if_none(moved.c.amount),
            ),
        },
    )
