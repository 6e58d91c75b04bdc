"""Checks of quotas: the counted amounts of a period, and the operations that counted them."""

from sqlalchemy import and_, func, select

from schemas import Code, Status
from worker.ledger.audit.comparing import (
    ZERO,
    Checks,
    differences,
    is_applied,
    links,
    of_step,
    only,
    owned,
    quantity_of,
    rows,
    sums_without,
    untrue,
    zero_if_none,
)
from worker.ledger.tables import accounts, operations, quota_entries, quotas

_COUNTING = (Code.FREE_UPLOAD_COUNTED.value, Code.USAGE_RECORDED.value)


def sums() -> Checks:
    """Compare what each quota caches with its entries."""
    entry, quota = quota_entries.c, quotas.c
    key = (entry.account_id, entry.meter, entry.period_start)
    counted = (
        select(*key, func.sum(entry.amount).label("used"), func.max(entry.sequence).label("sequence"))
        .where(of_step(entry.account_id))
        .group_by(*key)
        .subquery("counted")
    )
    same = and_(*(counted.c[column.name] == quota[column.name] for column in key))
    statement = (
        rows(**{column.name: quota[column.name] for column in key})
        .join_from(quotas, counted, same, isouter=True)
        .where(of_step(quota.account_id))
    )
    return [
        *differences(
            statement,
            {
                "quota_used": (zero_if_none(counted.c.used), quota.used),
                "quota_sequence": (zero_if_none(counted.c.sequence), quota.sequence),
            },
        ),
        sums_without("quota_missing", quota_entries, quotas, *key),
    ]


def chains() -> Checks:
    """Compare each quota entry with the one before it, and with its operation."""
    entry, operation = quota_entries.c, operations.c
    key = (entry.account_id, entry.meter, entry.period_start)
    statement = (
        rows(
            **{column.name: column for column in key},
            operation_id=entry.operation_id,
            sequence=entry.sequence,
        )
        .join_from(quota_entries, operations, operation.operation_id == entry.operation_id, isouter=True)
        .join(
            accounts,
            and_(of_step(accounts.c.account_id), accounts.c.account_id == entry.account_id),
            isouter=True,
        )
        .where(of_step(entry.account_id))
    )
    has_counted = and_(is_applied(operations), operation.code.in_(_COUNTING))
    return differences(
        statement,
        {
            **links("quota", quota_entries, entry.used_before, entry.used_after, *key),
            "quota_entry_without_outcome": untrue(~has_counted, entry.amount),
            "quota_entry_account": owned(entry.account_id, accounts, operations),
        },
    )


def counted() -> Checks:
    """Compare each counting operation with its quota entries, in the whole ledger: no index leads to them."""
    operation = operations.c
    moved = (
        select(quota_entries.c.operation_id, func.sum(quota_entries.c.amount).label("amount"))
        .group_by(quota_entries.c.operation_id)
        .subquery("moved")
    )
    statement = (
        rows(account_id=accounts.c.account_id, operation_id=operation.operation_id)
        .join_from(operations, moved, moved.c.operation_id == operation.operation_id, isouter=True)
        .join(accounts, accounts.c.user_id == operation.user_id, isouter=True)
        .where(operation.status == Status.APPLIED.value, operation.code.in_(_COUNTING))
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
