"""Checks of frozen accounts: the word that occurred latest counts, and of two at one time the freeze."""

from typing import Any

from sqlalchemy import FromClause, and_, case, func, or_, select, union_all
from sqlalchemy.sql import ColumnElement

from schemas import Code, FreezeAccount, UnfreezeAccount, type_of
from worker.core.known import Happened
from worker.ledger.audit.comparing import ONE, ZERO, Checks, differences, is_applied, rows
from worker.ledger.audit.scope import Scope, agree
from worker.ledger.tables import UtcDateTime, accounts, operations, payment_events


def states(scope: Scope) -> Checks:
    """Compare each account's freezing with the latest freeze and the latest unfreeze of its user."""
    latest = _latest(scope)
    frozen, unfrozen = latest.c.frozen, latest.c.unfrozen
    counts = and_(frozen.is_not(None), or_(unfrozen.is_(None), frozen >= unfrozen))
    is_true = and_(
        accounts.c.frozen_at.is_not_distinct_from(case((counts, frozen))),
        accounts.c.unfrozen_at.is_not_distinct_from(unfrozen),
    )
    statement = (
        rows(slot=accounts.c.slot, account_id=accounts.c.account_id)
        .join_from(accounts, latest, agree(latest, accounts, account_id="account_id"), isouter=True)
        .where(scope.of(accounts))
    )
    return differences(statement, {"frozen": (ONE, case((is_true, ONE), else_=ZERO))})


def _latest(scope: Scope) -> FromClause:
    """Select the latest freeze and unfreeze of each account; some came before their payment."""
    said = union_all(_commands(scope), _taken_in(scope)).subquery("said")

    def last(*, is_freeze: bool) -> ColumnElement[Any]:
        return func.max(said.c.at, type_=UtcDateTime()).filter(said.c.is_freeze == int(is_freeze))

    return (
        select(
            said.c.slot,
            said.c.account_id,
            last(is_freeze=True).label("frozen"),
            last(is_freeze=False).label("unfrozen"),
        )
        .group_by(said.c.account_id, said.c.slot)
        .subquery("latest")
    )


def _commands(scope: Scope) -> Any:
    operation = operations.c
    types = [type_of(FreezeAccount), type_of(UnfreezeAccount)]
    return (
        select(
            accounts.c.slot,
            accounts.c.account_id,
            case((operation.type == types[0], ONE), else_=ZERO).label("is_freeze"),
            func.coalesce(operation.occurred_at, operation.recorded_at, type_=UtcDateTime()).label("at"),
        )
        .join_from(operations, accounts, scope.on(accounts, operations, user_id="user_id"))
        .where(
            scope.of(operations),
            operation.type.in_(types),
            is_applied(operations),
            operation.code != Code.PAYMENT_AWAITED.value,
        )
    )


def _taken_in(scope: Scope) -> Any:
    event = payment_events.c
    happened = [Happened.FROZEN.value, Happened.UNFROZEN.value]
    return select(
        event.slot,
        event.account_id,
        case((event.happened == happened[0], ONE), else_=ZERO).label("is_freeze"),
        func.coalesce(event.occurred_at, event.recorded_at, type_=UtcDateTime()).label("at"),
    ).where(scope.of(payment_events), event.happened.in_(happened))
