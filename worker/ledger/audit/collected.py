"""Tokens that operations took back of payments, added up over the events that each of them posted."""

from sqlalchemy import FromClause, func, select

from worker.ledger.audit.scope import Scope
from worker.ledger.tables import payment_events


def collected_by(scope: Scope) -> FromClause:
    """Return the events of payments by the operation that posted them: their number, and the tokens."""
    event = payment_events.c
    return (
        select(
            event.slot,
            event.operation_id,
            func.count().label("count"),
            func.sum(event.collected).label("collected"),
        )
        .where(scope.of(payment_events))
        .group_by(event.operation_id, event.slot)
        .subquery("events_of")
    )
