"""Freezing of an account at a past time, from its operations and from events that came before a payment."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, select

from schemas import Code, FreezeAccount, Status, UnfreezeAccount, type_of
from worker.core.known import Happened
from worker.ledger.queries.snapshots import AccountKey
from worker.ledger.tables import operations, payment_events

_FREEZE, _UNFREEZE = type_of(FreezeAccount), type_of(UnfreezeAccount)


class Freezing(NamedTuple):
    """Latest time at which an account was frozen, where it still is, and at which it was let go."""

    frozen_at: datetime | None
    unfrozen_at: datetime | None


def freezing_at(connection: Connection, key: AccountKey, user_id: str, at: datetime) -> Freezing:
    """Return the freezing of an account as it was posted at ``at``."""
    frozen: list[datetime] = []
    unfrozen: list[datetime] = []
    for row in _said(connection, key, user_id, at):
        is_freeze = row.said in (_FREEZE, Happened.FROZEN.value)
        (frozen if is_freeze else unfrozen).append(row.occurred_at or row.recorded_at)
    first, last = max(frozen, default=None), max(unfrozen, default=None)
    is_over = first is not None and last is not None and first < last
    return Freezing(None if is_over else first, last)


def _said(connection: Connection, key: AccountKey, user_id: str, at: datetime) -> list[Row[Any]]:
    operation, event = operations.c, payment_events.c
    commands = select(operation.type.label("said"), operation.occurred_at, operation.recorded_at).where(
        operation.slot == key.slot,
        operation.user_id == user_id,
        operation.type.in_([_FREEZE, _UNFREEZE]),
        operation.status == Status.APPLIED.value,
        operation.code != Code.PAYMENT_AWAITED.value,
        operation.recorded_at <= at,
    )
    # An event that came before its payment counts from the payment's operation on.
    taken_in = (
        select(event.happened.label("said"), event.occurred_at, event.recorded_at)
        .join_from(
            payment_events,
            operations,
            and_(operation.slot == event.slot, operation.operation_id == event.operation_id),
        )
        .where(
            key.owns(payment_events),
            event.happened.in_([Happened.FROZEN.value, Happened.UNFROZEN.value]),
            operation.recorded_at <= at,
        )
    )
    return [*connection.execute(commands), *connection.execute(taken_in)]
