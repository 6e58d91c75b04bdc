"""Checks of each entry: against the one before it, its account, its lot and its operation."""

from typing import Any

from sqlalchemy import and_, case, func, or_, select

from schemas import SettleUsage, type_of
from worker.ledger.audit.comparing import (
    Checks,
    Column,
    Condition,
    differences,
    is_applied,
    links,
    of_step,
    owned,
    rows,
    untrue,
)
from worker.ledger.tables import accounts, entries, lots, operations


def chains() -> Checks:
    """Compare each entry with the one before it, and with its lot."""
    entry, lot = entries.c, lots.c
    statement = (
        _entries()
        .join_from(
            entries,
            lots,
            and_(of_step(lot.account_id), lot.account_id == entry.account_id, lot.number == entry.lot),
            isouter=True,
        )
        .where(of_step(entry.account_id))
    )
    # What is left of the lot, or, without one, of the debt, which is below zero until it is repaid.
    left = func.sum(entry.amount).over(
        partition_by=(entry.account_id, entry.lot), order_by=entry.sequence, rows=(None, 0)
    )
    too_much = case((entry.lot.is_(None), left > 0), else_=left < 0)
    return differences(
        statement,
        {
            **links("entry", entries, entry.balance_before, entry.balance_after, entry.account_id),
            "entry_due": untrue(entry.due_at > entry.recorded_at, entry.amount),
            "lot_missing": untrue(and_(entry.lot.is_not(None), lot.number.is_(None)), entry.amount),
            "lot_overdrawn": untrue(too_much, left),
            "lot_early": untrue(_is_early(), entry.amount),
            "lot_late": untrue(_is_late(), entry.amount),
        },
    )


def _entries() -> Any:
    entry = entries.c
    return rows(
        account_id=entry.account_id,
        operation_id=entry.operation_id,
        sequence=entry.sequence,
        lot=entry.lot,
    )


def _is_early() -> Condition:
    """Return the condition that the lot had been granted for later and had not taken effect yet."""
    # Clocks of two workers differ: a lot that was granted for now is there for all who see it.
    was_for_later = _of_operation("recorded_at", lots.c.operation_id) < lots.c.effective_at
    return case((entries.c.recorded_at < lots.c.effective_at, was_for_later), else_=False)


def _is_late() -> Condition:
    """Return the condition that expired tokens were taken, other than by the capture of a hold."""
    entry = entries.c
    is_after_its_end = and_(entry.amount < 0, entry.due_at.is_(None), entry.recorded_at >= lots.c.expires_at)
    is_settling = _of_operation("type", entry.operation_id) == type_of(SettleUsage)
    return case((is_after_its_end, func.coalesce(~is_settling, True)), else_=False)


def _of_operation(column: str, operation_id: Column) -> Column:
    """Return a column of an operation, looked up inside a CASE for the few rows that need it."""
    operation = operations.alias(f"operation_{column}")
    return select(operation.c[column]).where(operation.c.operation_id == operation_id).scalar_subquery()


def unclaimed() -> Checks:
    """Find each entry that no applied operation of the account's user counts among its own.

    It looks up the operation of every entry of the ledger: only needed where the operations claim fewer
    entries than there are, or not the ones that are there.
    """
    entry, operation = entries.c, operations.c
    statement = (
        _entries()
        .join_from(entries, operations, operation.operation_id == entry.operation_id, isouter=True)
        .join(accounts, accounts.c.account_id == entry.account_id, isouter=True)
    )
    is_outside = and_(
        is_applied(operations),
        or_(
            operation.first_entry.is_(None),
            ~entry.sequence.between(operation.first_entry, operation.last_entry),
        ),
    )
    return differences(
        statement,
        {
            "entry_without_outcome": untrue(~is_applied(operations), entry.amount),
            "entry_account": owned(entry.account_id, accounts, operations),
            "entry_unclaimed": untrue(is_outside, entry.amount),
        },
    )
