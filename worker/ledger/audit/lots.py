"""Checks of each lot: what is left, its origin, and that no period's allocation was granted twice."""

from typing import Any

from sqlalchemy import Select, and_, case, func, or_, select
from sqlalchemy.sql import FromClause

from schemas import Code, Status
from worker.core.known import HoldState, Source
from worker.core.plan import Counter
from worker.ledger.audit.comparing import (
    ONE,
    ZERO,
    Checks,
    Column,
    Condition,
    at_most,
    differences,
    is_applied,
    only,
    owned,
    rows,
    untrue,
    zero_if_none,
)
from worker.ledger.audit.scope import Scope, agree
from worker.ledger.tables import (
    accounts,
    entries,
    hold_parts,
    holds,
    last_entry,
    lots,
    operations,
    payment_events,
    payments,
)


def remains(scope: Scope) -> Checks:
    """Compare what a lot caches with its entries and the holds on it."""
    lot, entry, part = lots.c, entries.c, hold_parts.c
    is_rolled_over = and_(entry.counter == Counter.TRANSFERS.value, entry.amount > 0)
    is_heir = and_(lot.source == Source.ALLOCATION.value, lot.parent.is_not(None))
    posted = (
        select(
            entry.slot,
            entry.account_id,
            entry.lot,
            func.sum(entry.amount).label("amount"),
            func.sum(entry.amount).filter(is_rolled_over).label("rolled_over"),
        )
        .where(scope.of(entries), entry.lot.is_not(None))
        .group_by(entry.account_id, entry.slot, entry.lot)
        .subquery("posted")
    )
    held = (
        select(part.slot, part.account_id, part.lot, func.sum(part.amount).label("amount"))
        .join_from(holds, hold_parts, scope.on(hold_parts, holds, operation_id="operation_id"))
        .where(scope.of(holds), holds.c.state == HoldState.OPEN.value)
        .group_by(part.account_id, part.slot, part.lot)
        .subquery("held")
    )
    statement = (
        _lots()
        .join_from(lots, posted, agree(posted, lots, account_id="account_id", lot="number"), isouter=True)
        .join(held, agree(held, lots, account_id="account_id", lot="number"), isouter=True)
        .where(scope.of(lots))
    )
    previous = func.lag(lot.number, 1, 0).over(partition_by=(lot.account_id, lot.slot), order_by=lot.number)
    something_left = or_(lot.remaining > 0, lot.pending > 0)
    return differences(
        statement,
        {
            "lot_gap": (previous + 1, lot.number),
            "lot_remaining": (zero_if_none(posted.c.amount), lot.remaining),
            "lot_held": (zero_if_none(held.c.amount), lot.held),
            "lot_full": at_most(lot.granted, lot.remaining + lot.pending),
            "lot_granted": only(is_heir, zero_if_none(posted.c.rolled_over), lot.granted),
            "lot_pending": only(lot.pending > 0, lot.granted, lot.pending),
            "lot_ended": untrue(lot.ended_at.is_not(None), lot.remaining - lot.held + lot.pending),
            "lot_open": (case((something_left, ONE), else_=ZERO), case((lot.is_open, ONE), else_=ZERO)),
        },
    )


def _lots() -> Select[Any]:
    lot = lots.c
    return rows(slot=lot.slot, account_id=lot.account_id, operation_id=lot.operation_id, lot=lot.number)


def origins(scope: Scope) -> Checks:
    """Compare each lot with the operation that granted it and the lot it belongs to."""
    lot, operation = lots.c, operations.c
    parent = lots.alias("parent")
    statement = (
        _lots()
        .join_from(lots, operations, scope.on(operations, lots, operation_id="operation_id"), isouter=True)
        .join(accounts, scope.on(accounts, lots, account_id="account_id"), isouter=True)
        .join(payments, scope.on(payments, lots, operation_id="operation_id"), isouter=True)
        .join(
            payment_events,
            scope.on(payment_events, operations, operation_id="operation_id", reference_id="reference_id"),
            isouter=True,
        )
        .join(parent, scope.on(parent, lots, account_id="account_id", number="parent"), isouter=True)
        .where(scope.of(lots))
    )
    is_allocation = and_(lot.source == Source.ALLOCATION.value, lot.parent.is_(None))
    # Only a change of the tier grants more to a period that was granted already; an import may bring both. A
    # gateway's period may end with another.
    may_be_second = operation.code.in_(
        [
            Code.SUBSCRIPTION_CHANGED.value,
            Code.CHANGE_SCHEDULED.value,
            Code.ACCOUNT_IMPORTED.value,
        ]
    )
    is_gateways = operation.content.contains('"periodEnd"')
    is_second = and_(is_allocation, _is_granted_before(is_allocation), ~may_be_second, ~is_gateways)
    granted = _granted(scope)
    is_import = func.coalesce(operation.code == Code.ACCOUNT_IMPORTED.value, False)
    is_unexplained = case(
        (and_(lot.source == Source.CARRIED_OVER.value, ~is_import), lot.operation_id.is_not(None)),
        else_=~is_applied(operations),
    )
    return differences(
        statement,
        {
            "lot_without_outcome": untrue(is_unexplained, lot.granted),
            "lot_account": owned(scope, lot.account_id, accounts, operations),
            "lot_granted": only(and_(is_applied(operations), granted.is_not(None)), granted, lot.granted),
            "lot_parent": (_parent(parent), lot.parent),
            "allocation_twice": untrue(is_second, lot.granted),
            "lot_not_canceled": untrue(_is_ended_by_nobody(scope), lot.granted),
        },
    )


def _is_granted_before(is_allocation: Condition) -> Condition:
    """Return the condition that an earlier lot of the same period was not given up before.

    A cancellation gives up a period that was granted ahead; who goes on is granted it again. A cancellation
    that ended both lots came after both.
    """
    lot, operation = lots.c, operations.c
    period = (lot.account_id, lot.slot, is_allocation, lot.expires_at)
    before = func.lag(lot.number).over(partition_by=period, order_by=lot.number)
    ended_at = func.lag(lot.ended_at).over(partition_by=period, order_by=lot.number)
    is_ended_with_it = and_(ended_at == lot.ended_at, operation.recorded_at < lot.ended_at)
    return and_(before.is_not(None), or_(ended_at.is_(None), is_ended_with_it))


def _is_ended_by_nobody(scope: Scope) -> Condition:
    """Return the condition that the lot ended before its time, and no cancellation of its user ended it."""
    lot, cancellation = lots.c, operations.alias("cancellation")
    is_its = and_(
        scope.on(cancellation, accounts, user_id="user_id"),
        cancellation.c.status == Status.APPLIED.value,
        cancellation.c.code.in_([Code.SUBSCRIPTION_CANCELED.value, Code.CANCELLATION_LATE.value]),
        cancellation.c.recorded_at == lot.ended_at,
    )
    is_canceled = select(1).where(is_its).exists()
    may_be = and_(lot.source == Source.ALLOCATION.value, is_canceled)
    return case((lot.ended_at.is_not(None), ~may_be), else_=False)


def _granted(scope: Scope) -> Column:
    """Return the amount that the lot's operation granted; null where it may be a renewal due with it."""
    lot, operation = lots.c, operations.c
    is_allocation = and_(lot.source == Source.ALLOCATION.value, lot.parent.is_(None))
    is_scheduled = operation.code.in_([Code.RENEWAL_SCHEDULED.value, Code.CHANGE_SCHEDULED.value])
    scheduled = case((is_scheduled, operation.amount), else_=ZERO)
    amounts = {
        Source.BONUS: (Code.BONUS_GRANTED, Code.BONUS_SCHEDULED),
        Source.ADJUSTMENT: (Code.ADJUSTMENT_CREDITED,),
        Source.REFUND: (Code.TOKENS_REFUNDED,),
    }
    return case(
        (and_(operation.code == Code.ACCOUNT_IMPORTED.value, lot.parent.is_(None)), _imported(scope)),
        (
            and_(
                lot.source == Source.PURCHASE.value,
                lot.parent.is_(None),
                payments.c.operation_id.is_not(None),
            ),
            payments.c.base_tokens,
        ),
        (
            and_(lot.source == Source.PURCHASE.value, lot.parent.is_not(None)),
            -zero_if_none(payment_events.c.collected),
        ),
        (lot.source == Source.PURCHASE.value, _given_back()),
        (lot.source == Source.PURCHASE_BONUS.value, zero_if_none(payments.c.bonus_tokens)),
        (and_(is_allocation, operation.code == Code.ACCOUNT_OPENED.value), operation.amount),
        (and_(is_allocation, lot.effective_at > operation.recorded_at), scheduled),
        *(
            (
                lot.source == source.value,
                case((operation.code.in_([code.value for code in codes]), operation.amount), else_=ZERO),
            )
            for source, codes in amounts.items()
        ),
    )


def _given_back() -> Column:
    """Return the tokens of a lot that was given back: at most what its event gave; else none."""
    given = -zero_if_none(payment_events.c.collected)
    return case((lots.c.granted <= given, lots.c.granted), else_=given)


def _imported(scope: Scope) -> Column:
    """Return the tokens that came into a lot with its import.

    They are looked up inside a CASE for the few such lots. Null for a lot of an allocation that fell due with
    the import: its entries are due.
    """
    entry, operation = entries.alias("credited"), operations.c
    return (
        select(func.sum(entry.c.amount))
        .where(
            scope.on(entry, lots, account_id="account_id", lot="number"),
            entry.c.sequence.between(operation.first_entry, last_entry()),
            entry.c.amount > 0,
            ~entry.c.is_due,
        )
        .scalar_subquery()
    )


def _parent(parent: FromClause) -> Column:
    """Return the number of the lot that this one must belong to; null for none.

    A bonus belongs to the purchase of its own operation. Tokens given back belong to the purchase that they
    were taken from. Tokens rolled over belong to the allocation that ended when they began.
    """
    lot = lots.c
    is_bought = and_(parent.c.source == Source.PURCHASE.value, parent.c.parent.is_(None))
    is_its_bonus = and_(
        lot.source == Source.PURCHASE_BONUS.value, is_bought, parent.c.operation_id == lot.operation_id
    )
    is_given_back = and_(lot.source == Source.PURCHASE.value, is_bought, payment_events.c.collected < 0)
    is_heir = and_(
        lot.source == Source.ALLOCATION.value,
        parent.c.source == Source.ALLOCATION.value,
        parent.c.parent.is_(None),
        parent.c.expires_at == lot.effective_at,
    )
    return case(
        (or_(is_its_bonus, is_given_back, is_heir), lot.parent),
        # A purchase is followed by its bonus.
        (
            and_(lot.source == Source.PURCHASE_BONUS.value, lot.parent.is_distinct_from(lot.number - 1)),
            lot.number - 1,
        ),
    )
