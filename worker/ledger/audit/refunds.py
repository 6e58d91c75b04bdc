"""Checks of usage refunds: never more than the usage took, tokens and free units, and to the same user."""

from sqlalchemy import and_, case, func

from schemas import Code
from worker.core.rules.credit import REFUNDABLE
from worker.ledger.audit.comparing import (
    ZERO,
    Checks,
    Column,
    at_most,
    detail_of,
    differences,
    is_applied,
    owned,
    quantity_of,
    rows,
    untrue,
    zero_if_none,
)
from worker.ledger.audit.scope import Scope
from worker.ledger.tables import accounts, operations, usage_refunds


def each(scope: Scope) -> Checks:
    """Compare each refund with its operation and the usage that it names."""
    refund, own = usage_refunds.c, operations
    original = operations.alias("original")
    statement = (
        rows(slot=refund.slot, account_id=refund.account_id, operation_id=refund.operation_id)
        .join_from(
            usage_refunds, own, scope.on(own, usage_refunds, operation_id="operation_id"), isouter=True
        )
        .join(original, scope.on(original, usage_refunds, operation_id="original_id"), isouter=True)
        .join(accounts, scope.on(accounts, usage_refunds, account_id="account_id"), isouter=True)
        .where(scope.of(usage_refunds))
    )
    is_refund = and_(is_applied(own), own.c.code == Code.TOKENS_REFUNDED.value)
    is_usage = and_(
        is_applied(original),
        original.c.type.in_(sorted(REFUNDABLE)),
        original.c.user_id == accounts.c.user_id,
        original.c.reference_id == detail_of(own, "original_reference_id"),
    )
    return differences(
        statement,
        {
            "refund_without_outcome": untrue(~is_refund, refund.tokens),
            "refund_account": owned(scope, refund.account_id, accounts, own),
            "refund_original": untrue(~func.coalesce(is_usage, False), refund.tokens),
        },
    )


def together(scope: Scope) -> Checks:
    """Compare all refunds of one usage with its amounts, which other checks compare with its entries."""
    refund, original = usage_refunds.c, operations.c
    free = quantity_of(operations, "free_quantity")
    statement = (
        rows(slot=refund.slot, account_id=func.min(refund.account_id), operation_id=refund.original_id)
        .join_from(usage_refunds, operations, scope.on(operations, usage_refunds, operation_id="original_id"))
        .where(scope.of(usage_refunds), original.type.in_(sorted(REFUNDABLE)))
        .group_by(refund.original_id, refund.slot, original.amount, original.code, free)
    )
    is_upload = original.code == Code.FREE_UPLOAD_COUNTED.value
    tokens: Column = case((is_upload, ZERO), else_=original.amount)
    units: Column = case((is_upload, original.amount), else_=zero_if_none(free))
    return differences(
        statement,
        {
            "refund_exceeds": at_most(tokens, func.sum(refund.tokens)),
            "refund_free_exceeds": at_most(units, func.sum(refund.free_quantity)),
        },
    )
