"""Checks of each hold: its parts, and the operations that opened, extended and ended it."""

from sqlalchemy import FromClause, and_, case, func, null, or_, select

from schemas import Code, Status
from worker.core.known import HoldState
from worker.ledger.audit.comparing import (
    ONE,
    ZERO,
    Checks,
    Column,
    Condition,
    detail_of,
    differences,
    is_applied,
    only,
    owned,
    rows,
    untrue,
    zero_if_none,
)
from worker.ledger.audit.detail_times import time_of_text
from worker.ledger.audit.effects import REVERSING, TAKING_IN
from worker.ledger.audit.scope import Scope, agree
from worker.ledger.tables import UtcDateTime, accounts, hold_parts, holds, lots, operations

_ENDED_BY = {HoldState.SETTLED: Code.HOLD_SETTLED, HoldState.RELEASED: Code.HOLD_RELEASED}


def lives(scope: Scope) -> Checks:
    """Compare each hold with its parts, its beginning and its end."""
    hold, part = holds.c, hold_parts.c
    opening, ending = operations.alias("opening"), operations.alias("ending")
    parts = (
        select(part.slot, part.operation_id, part.account_id, func.sum(part.amount).label("amount"))
        .where(scope.of(hold_parts))
        .group_by(part.operation_id, part.account_id, part.slot)
        .subquery("parts")
    )
    followed = _followed(scope)
    statement = (
        rows(slot=hold.slot, account_id=hold.account_id, operation_id=hold.operation_id)
        .join_from(
            holds,
            parts,
            agree(parts, holds, operation_id="operation_id", account_id="account_id"),
            isouter=True,
        )
        .join(opening, scope.on(opening, holds, operation_id="operation_id"), isouter=True)
        .join(ending, scope.on(ending, holds, operation_id="closed_by"), isouter=True)
        .join(accounts, scope.on(accounts, holds, account_id="account_id"), isouter=True)
        .join(followed, _is_about(followed, opening), isouter=True)
        .where(scope.of(holds))
    )
    opened_by = case(
        (hold.is_dispute, _is_about_payment(opening)), else_=opening.c.code == Code.TOKENS_RESERVED.value
    )
    is_opened = and_(is_applied(opening), opened_by, opening.c.reference_id == hold.reference_id)
    is_reserved = and_(is_opened, ~hold.is_dispute)  # a dispute's hold keeps what it finds
    # The operation's amount is what it took. Another check compares that with its entries.
    captured = case(
        (_is_captured_late(), followed.c.captured),
        (hold.state == HoldState.SETTLED.value, ending.c.amount),
        else_=ZERO,
    )
    reserved_until = _end_in(opening)
    until = case((followed.c.until > reserved_until, followed.c.until), else_=reserved_until)
    return differences(
        statement,
        {
            "hold_without_outcome": untrue(~is_opened, hold.amount),
            "hold_account": owned(scope, hold.account_id, accounts, opening),
            "hold_reserved": only(is_reserved, opening.c.amount, hold.amount),
            "hold_amount": (zero_if_none(parts.c.amount), hold.amount),
            "hold_captured": (captured, hold.captured),
            "hold_end": (ONE, case((_is_explained(opening, ending), ONE), else_=ZERO)),
            "hold_until": untrue(and_(is_reserved, hold.expires_at != until), ONE),
        },
    )


def _followed(scope: Scope) -> FromClause:
    """Select the holds that were extended or captured late: the latest end, and the captured tokens."""
    operation = operations.c
    is_extension = operation.code == Code.HOLD_EXTENDED.value
    is_late = operation.code == Code.HOLD_SETTLED_LATE.value
    return (
        select(
            operation.slot,
            operation.user_id,
            detail_of(operations, "original_reference_id").label("hold"),
            func.max(_end_in(operations), type_=UtcDateTime()).filter(is_extension).label("until"),
            func.sum(operation.amount).filter(is_late).label("captured"),
        )
        .where(scope.of(operations), is_applied(operations), or_(is_extension, is_late))
        .group_by(operation.slot, operation.user_id, "hold")
        .subquery("followed")
    )


def _is_about(followed: FromClause, opening: FromClause) -> Condition:
    """Return the condition that the hold which ``opening`` opened is the one that is named."""
    return and_(
        followed.c.slot == opening.c.slot,
        followed.c.user_id == opening.c.user_id,
        followed.c.hold == opening.c.reference_id,
    )


def _end_in(operation: FromClause) -> Column:
    """Return the end of a hold that the operation says."""
    return time_of_text(detail_of(operation, "expires_at"))


def _is_captured_late() -> Condition:
    """Return the condition that the hold ran out, and was captured all the same."""
    hold = holds.c
    return and_(hold.state == HoldState.SETTLED.value, hold.closed_at == hold.expires_at)


def _is_explained(opening: FromClause, ending: FromClause) -> Condition:
    """Return the condition that the hold is open, or a fitting operation of the same user ended it."""
    hold = holds.c
    is_named = and_(
        ~hold.is_dispute,
        detail_of(ending, "original_reference_id") == hold.reference_id,
        or_(
            *(
                and_(hold.state == state.value, ending.c.code == code.value)
                for state, code in _ENDED_BY.items()
            )
        ),
    )
    has_run_out = and_(
        or_(hold.state == HoldState.EXPIRED.value, _is_captured_late()),
        hold.closed_at == hold.expires_at,
        ending.c.recorded_at >= hold.expires_at,
    )
    is_let_go = and_(hold.is_dispute, hold.state == HoldState.RELEASED.value, _is_about_payment(ending))
    ended_by = or_(is_named, is_let_go, has_run_out)
    has_ended = and_(is_applied(ending), ending.c.user_id == opening.c.user_id, ended_by)
    return case((hold.state == HoldState.OPEN.value, hold.closed_by.is_(None)), else_=has_ended)


def _is_about_payment(operation: FromClause) -> Condition:
    """Return the condition that the operation posts events of a payment."""
    return operation.c.code.in_([code.value for code in (*REVERSING, *TAKING_IN)])


def endings(scope: Scope) -> Checks:
    """Compare each operation that says it ended or extended a hold with that hold.

    No open hold was ended before, and none ends before an extension said.
    """
    operation, hold = operations.c, holds.c
    opening = operations.alias("opening")
    statement = (
        rows(slot=operation.slot, account_id=hold.account_id, operation_id=operation.operation_id)
        .join_from(
            operations,
            opening,
            and_(
                scope.on(opening, operations),
                opening.c.reference_id == detail_of(operations, "original_reference_id"),
                ~opening.c.is_taken,
            ),
            isouter=True,
        )
        .join(holds, scope.on(holds, opening, operation_id="operation_id"), isouter=True)
        .where(
            scope.of(operations),
            operation.status == Status.APPLIED.value,
            operation.code.in_(
                [code.value for code in (*_ENDED_BY.values(), Code.HOLD_EXTENDED, Code.HOLD_SETTLED_LATE)]
            ),
        )
    )
    ended = {HoldState.SETTLED: hold.captured, HoldState.RELEASED: hold.amount}
    said = case(
        *(
            (
                and_(
                    hold.closed_by == operation.operation_id,
                    hold.state == state.value,
                    operation.code == code.value,
                ),
                ended[state],
            )
            for state, code in _ENDED_BY.items()
        ),
        (and_(operation.code == Code.HOLD_SETTLED_LATE.value, _is_captured_late()), hold.captured),
        (
            and_(operation.code == Code.HOLD_EXTENDED.value, hold.expires_at >= _end_in(operations)),
            hold.amount,
        ),
        else_=null(),
    )
    return differences(statement, {"hold_ended": (operation.amount, said)})


def parts(scope: Scope) -> Checks:
    """Compare each part of a hold with the hold and the lot that it names."""
    part, hold, lot = hold_parts.c, holds.c, lots.c
    statement = (
        rows(slot=part.slot, account_id=part.account_id, operation_id=part.operation_id, lot=part.lot)
        .join_from(
            hold_parts,
            holds,
            scope.on(holds, hold_parts, operation_id="operation_id", account_id="account_id"),
            isouter=True,
        )
        .join(lots, scope.on(lots, hold_parts, account_id="account_id", number="lot"), isouter=True)
        .where(scope.of(hold_parts))
    )
    return differences(
        statement,
        {
            "part_without_hold": untrue(hold.operation_id.is_(None), part.amount),
            "part_without_lot": untrue(lot.number.is_(None), part.amount),
        },
    )
