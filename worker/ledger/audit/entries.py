"""Checks of each entry: against the one before it, its account, its lot and its operation."""

from typing import Any

from sqlalchemy import FromClause, and_, case, func, or_, select

from schemas import ImportAccount, SettleUsage, type_of
from worker.core.plan import Counter
from worker.core.rules.imports import PAYMENT_IMPORT
from worker.ledger.audit.comparing import (
    Checks,
    Column,
    Condition,
    differences,
    is_applied,
    links,
    owned,
    rows,
    untrue,
)
from worker.ledger.audit.scope import Scope
from worker.ledger.tables import accounts, entries, last_entry, lots, operations


def chains(scope: Scope) -> Checks:
    """Compare each entry with the one before it, and with its lot."""
    entry, lot = entries.c, lots.c
    statement = (
        _entries()
        .join_from(
            entries, lots, scope.on(lots, entries, account_id="account_id", number="lot"), isouter=True
        )
        .where(scope.of(entries))
    )
    # What is left of the lot, or, without one, of the debt, which is below zero until it is repaid.
    left = func.sum(entry.amount).over(
        partition_by=(entry.account_id, entry.slot, entry.lot), order_by=entry.sequence, rows=(None, 0)
    )
    too_much = case((entry.lot.is_(None), left > 0), else_=left < 0)
    return differences(
        statement,
        {
            **links("entry", entries, entry.balance_after, entry.account_id),
            "entry_due": untrue(and_(entry.is_due, entry.occurred_at > entry.recorded_at), entry.amount),
            "lot_missing": untrue(and_(entry.lot.is_not(None), lot.number.is_(None)), entry.amount),
            "lot_overdrawn": untrue(too_much, left),
            "lot_early": untrue(_is_early(scope), entry.amount),
            "lot_late": untrue(_is_late(scope), entry.amount),
        },
    )


def _entries() -> Any:
    entry = entries.c
    return rows(
        slot=entry.slot,
        account_id=entry.account_id,
        operation_id=entry.operation_id,
        sequence=entry.sequence,
        lot=entry.lot,
    )


def _is_early(scope: Scope) -> Condition:
    """Return the condition that the lot had been granted for later and had not taken effect yet."""
    # Clocks of two workers differ: a lot that was granted for now is there for all who see it.
    was_for_later = _of_operation(scope, "recorded_at", lots) < lots.c.effective_at
    # A period that was paid ahead takes effect with what goes back of its payment.
    credit, back = entries.alias("credited_early"), entries.alias("went_back")
    is_credit = and_(
        scope.on(credit, entries, account_id="account_id", lot="lot"),
        credit.c.counter == Counter.ALLOCATION.value,
        credit.c.is_due,
        credit.c.sequence <= entries.c.sequence,
        scope.on(back, credit, account_id="account_id", lot="lot", operation_id="operation_id"),
        back.c.counter == Counter.REVERSALS.value,
    )
    took_effect = select(1).where(is_credit).exists()
    is_early = and_(was_for_later, ~took_effect)
    return case((entries.c.recorded_at < lots.c.effective_at, is_early), else_=False)


def _is_late(scope: Scope) -> Condition:
    """Return the condition that expired tokens were taken, other than by the capture of a hold.

    An import takes what was spent before, also of a lot whose end has come since. A lot that ended before its
    time has an entry for what was left then: clocks of two workers differ, sequences don't.
    """
    entry, end = entries.c, entries.alias("at_the_end")
    is_end = and_(
        scope.on(end, entries, account_id="account_id", lot="lot"),
        end.c.counter == Counter.EXPIRY.value,
        ~end.c.is_due,
        end.c.recorded_at == lots.c.ended_at,
        end.c.sequence < entry.sequence,
    )
    was_ended = case((entry.recorded_at > lots.c.ended_at, select(1).where(is_end).exists()), else_=False)
    is_over = or_(entry.recorded_at >= lots.c.expires_at, was_ended)
    is_after_its_end = and_(entry.amount < 0, ~entry.is_due, is_over)
    may_be_late = _of_operation(scope, "type", entries).in_(_MAY_BE_LATE)
    return case((is_after_its_end, func.coalesce(~may_be_late, True)), else_=False)


_MAY_BE_LATE = (type_of(SettleUsage), type_of(ImportAccount), PAYMENT_IMPORT)


def _of_operation(scope: Scope, column: str, table: FromClause) -> Column:
    """Return a column of the operation of a row, looked up inside a CASE for the few that need it."""
    operation = operations.alias(f"operation_{column}")
    is_its = scope.on(operation, table, operation_id="operation_id")
    return select(operation.c[column]).where(is_its).scalar_subquery()


def unclaimed(scope: Scope) -> Checks:
    """Find each entry that no applied operation of the account's user counts among its own.

    It looks up the operation of every entry: only needed where the operations claim fewer
    entries than there are, or not the ones that are there.
    """
    entry, operation = entries.c, operations.c
    statement = (
        _entries()
        .join_from(
            entries, operations, scope.on(operations, entries, operation_id="operation_id"), isouter=True
        )
        .join(accounts, scope.on(accounts, entries, account_id="account_id"), isouter=True)
        .where(scope.of(entries))
    )
    is_outside = and_(
        is_applied(operations),
        or_(
            operation.first_entry.is_(None),
            ~entry.sequence.between(operation.first_entry, last_entry()),
        ),
    )
    return differences(
        statement,
        {
            "entry_without_outcome": untrue(~is_applied(operations), entry.amount),
            "entry_account": owned(scope, entry.account_id, accounts, operations),
            "entry_unclaimed": untrue(is_outside, entry.amount),
        },
    )
