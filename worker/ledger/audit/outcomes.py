"""Checks of each applied operation: what it says it moved, against what moved."""

from typing import Any

from sqlalchemy import FromClause, Text, and_, bindparam, case, cast, false, func, or_, select

from schemas import Code, Status
from worker.core.outcomes import MAY_MOVE_NOTHING
from worker.core.plan import Counter
from worker.core.superseded import is_usage
from worker.ledger.audit.comparing import (
    ONE,
    ZERO,
    Checks,
    Column,
    Condition,
    detail_of,
    differences,
    number_of,
    only,
    present,
    quantity_of,
    rows,
    untrue,
    zero_if_none,
)
from worker.ledger.audit.effects import DUE_COUNTERS, EFFECTS, IMPORTING, PAYING, REVERSING
from worker.ledger.audit.scope import Scope, agree
from worker.ledger.audit.user_slots import slot_of_user
from worker.ledger.identifiers import IDENTIFIERS, SYMBOLS
from worker.ledger.tables import (
    accounts,
    balance_before,
    entries,
    holds,
    last_entry,
    operations,
    payment_events,
    payments,
    superseded_outcomes,
    usage_refunds,
)

_CODES, _TYPES = IDENTIFIERS["code"], IDENTIFIERS["type"]

# Null, and so never a finding, for a code that a later version has added, and for imports.
_EFFECT: Column = operations.c.amount * case(
    {_CODES[code.value]: effect.sign for code, effect in EFFECTS.items() if effect.sign is not None},
    value=number_of(operations.c.code),
)
_IS_IMPORT: Condition = operations.c.code.in_([code.value for code in IMPORTING])

#: Checks that find an operation without the entries that it claims.
CLAIMS = ("operation_entries", "operation_account")
#: Number of entries that applied operations claim.
CLAIMED: Column = func.sum(last_entry() - operations.c.first_entry + ONE).filter(
    operations.c.status == Status.APPLIED.value
)


def each(scope: Scope) -> Checks:
    """Compare each applied operation with its entries, and with the other rows it must have written."""
    moves = (
        _moves()
        .add_columns(operations.c.slot, operations.c.operation_id)
        .join_from(operations, entries, and_(scope.on(entries, operations), _is_own()))
        .where(scope.of(operations))
        .group_by(operations.c.operation_id, operations.c.slot, entries.c.account_id)
        .subquery("moves")
    )
    return _each(scope, moves)


def owners(scope: Scope) -> Checks:
    """Compare the slot of each operation with its user, find its sender, and check it if it was taken."""
    operation = operations.c
    statement = rows(slot=operation.slot, operation_id=operation.operation_id).where(scope.of(operations))
    # Lists: the tables of senders and catalogs are not distributed, and have few rows.
    is_unknown_sender, is_unknown_catalog = (
        and_(column.is_not(None), ~column.in_(bindparam(known, expanding=True)))
        for column, known in ((operation.sender_id, "senders"), (operation.catalog_id, "catalogs"))
    )
    return differences(
        statement,
        {
            "operation_slot": (slot_of_user(operation.user_id), operation.slot),
            "operation_sender": untrue(is_unknown_sender, operation.sender_id),
            "operation_catalog": untrue(is_unknown_catalog, operation.catalog_id),
            "taken_moved": untrue(and_(operation.is_taken, ~_moved_nothing()), ONE),
        },
    )


def _moved_nothing() -> Condition:
    """Return the condition that the operation is usage, and a rejection or without any effect."""
    operation = operations.c
    is_idle = and_(
        operation.code.in_([code.value for code in MAY_MOVE_NOTHING]),
        func.coalesce(operation.amount, ONE) == 0,
        operation.first_entry.is_(None),
        zero_if_none(quantity_of(operations, "free_quantity")) == 0,
    )
    return and_(
        operation.type.in_([name for name in _TYPES if is_usage(name)]),
        or_(operation.status == Status.REJECTED.value, is_idle),
    )


def replaced(scope: Scope) -> Checks:
    """Check each superseded outcome: a rejection, and a higher attempt of the same command replaced it."""
    operation, outcome = operations.c, superseded_outcomes.c
    same = {name: name for name in ("operation_id", "reference_id", "type", "user_id")}
    statement = (
        rows(slot=outcome.slot, operation_id=outcome.operation_id)
        .join_from(
            superseded_outcomes, operations, scope.on(operations, superseded_outcomes, **same), isouter=True
        )
        .where(scope.of(superseded_outcomes))
    )
    may_replace = func.coalesce(outcome.attempt < operation.attempt, false())
    return differences(
        statement,
        {
            "superseded_moved": untrue(outcome.status != Status.REJECTED.value, ONE),
            "superseded_by": untrue(~may_replace, ONE),
        },
    )


def _each(scope: Scope, moves: FromClause) -> Checks:
    operation = operations.c
    is_of_operation = and_(
        agree(moves, operations, operation_id="operation_id"), moves.c.account_id == accounts.c.account_id
    )
    statement = (
        rows(slot=operation.slot, account_id=accounts.c.account_id, operation_id=operation.operation_id)
        .join_from(operations, accounts, scope.on(accounts, operations, user_id="user_id"), isouter=True)
        .join(moves, is_of_operation, isouter=True)
        .where(scope.of(operations), operation.status == Status.APPLIED.value)
    )
    for table in (payments, usage_refunds, holds):
        written = scope.on(table, operations, operation_id="operation_id")
        statement = statement.join(table, written, isouter=True)
    # Of the events that an operation posts, its own has the tokens; those that it takes in have none.
    is_own = scope.on(payment_events, operations, operation_id="operation_id", reference_id="reference_id")
    statement = statement.join(payment_events, is_own, isouter=True)
    return differences(statement, {**_moved(scope, moves), **_written(moves)})


def _moved(scope: Scope, moves: FromClause) -> dict[str, tuple[Column, Column]]:
    """Return pairs for the sums of the operation's entries, their number and their balances."""
    operation, moved = operations.c, moves.c
    has_account = accounts.c.account_id.is_not(None)
    has_moved = moved.count > 0
    says_nothing = operation.first_entry.is_(None)
    is_still = and_(says_nothing, or_(_EFFECT.is_(None), _EFFECT == 0))
    claimed = last_entry() - operation.first_entry + ONE
    after = case(
        (moved.after.is_not(None), moved.after),
        (is_still, balance_before()),
        else_=operation.balance_after,
    )
    return {
        # What waits for its payment is of no account, and so may be what names it.
        "operation_account": present(
            operation.code.not_in((Code.PAYMENT_AWAITED.value, Code.PAYMENT_NAMED.value)),
            accounts.c.account_id,
        ),
        "operation_entries": only(and_(has_account, ~says_nothing), claimed, zero_if_none(moved.count)),
        "operation_without_entries": only(and_(has_account, says_nothing, _EFFECT != 0), _EFFECT, ZERO),
        "operation_amount": _amounts(moves),
        "operation_before": only(has_moved, _before(scope, moves), balance_before()),
        "operation_after": (after, operation.balance_after),
        "operation_counter": (ZERO, zero_if_none(moved.foreign)),
        "operation_transfers": (ZERO, zero_if_none(moved.transfers)),
        "operation_of_nothing": untrue(_is_of_nothing(), zero_if_none(moved.count)),
    }


def _amounts(moves: FromClause) -> tuple[Column, Column]:
    """Return the pair of what the operation says, and what its own entries add up to."""
    operation, moved = operations.c, moves.c
    owed = zero_if_none(quantity_of(operations, "owed"))
    imported = zero_if_none(moved.amount) + zero_if_none(moved.reversals)
    is_checked = or_(_IS_IMPORT, and_(moved.count > 0, _EFFECT.is_not(None)))
    return only(
        and_(accounts.c.account_id.is_not(None), is_checked),
        case((_IS_IMPORT, operation.amount - owed), else_=_EFFECT),
        case((_IS_IMPORT, imported), else_=moved.amount),
    )


def _is_of_nothing() -> Condition:
    """Return the condition that usage asked for nothing.

    Usage rounded to nothing could once own entries of what was due.
    """
    operation = operations.c
    return or_(
        and_(
            operation.code.in_([Code.TOKENS_DEDUCTED.value, Code.FREE_UPLOAD_COUNTED.value]),
            operation.amount == 0,
        ),
        and_(operation.code == Code.USAGE_RECORDED.value, quantity_of(operations, "quantity") == 0),
    )


def _written(moves: FromClause) -> dict[str, tuple[Column, Column]]:
    """Return pairs for the rows beside the entries: they must be there and agree with the entries."""
    operation, moved, event, refund = operations.c, moves.c, payment_events.c, usage_refunds.c
    has_account = accounts.c.account_id.is_not(None)
    is_paid = and_(moved.count > 0, payments.c.operation_id.is_not(None))
    is_refund = and_(has_account, refund.operation_id.is_not(None))
    is_reversing = operation.code.in_([code.value for code in REVERSING])
    names_usage = detail_of(operations, "original_reference_id").is_not(None)
    return {
        "payment_missing": present(
            operation.code.in_([code.value for code in PAYING]), payments.c.operation_id
        ),
        "payment_base": only(
            and_(is_paid, payments.c.tier.is_(None)), zero_if_none(moved.purchases), payments.c.base_tokens
        ),
        "payment_bonus": only(is_paid, zero_if_none(moved.bonus), payments.c.bonus_tokens),
        "event_missing": present(is_reversing, event.operation_id),
        "event_collected": only(
            and_(has_account, ~_IS_IMPORT), -zero_if_none(moved.reversals), zero_if_none(event.collected)
        ),
        "event_amount": only(
            and_(is_reversing, event.operation_id.is_not(None)), func.abs(event.collected), operation.amount
        ),
        "hold_missing": present(operation.code == Code.TOKENS_RESERVED.value, holds.c.operation_id),
        "refund_missing": present(
            and_(operation.code == Code.TOKENS_REFUNDED.value, names_usage), refund.operation_id
        ),
        "refund_tokens": only(is_refund, zero_if_none(moved.refunds), refund.tokens),
    }


def _moves() -> Any:
    """Select the sums of the entries that an operation says are its own."""
    operation, entry = operations.c, entries.c
    is_own = ~entry.is_due
    before = entry.balance_after - entry.amount
    reversals, transfers = Counter.REVERSALS.value, Counter.TRANSFERS.value
    bought_or_given = (Counter.PURCHASES, Counter.BONUS, Counter.REFUNDS)

    def summed(*conditions: Condition) -> Column:
        return zero_if_none(func.sum(entry.amount).filter(*conditions))

    return select(
        func.count().label("count"),
        entry.account_id,
        func.min(entry.sequence).filter(is_own).label("own_first"),
        func.min(before).filter(entry.sequence == operation.first_entry).label("before"),
        func.min(entry.balance_after).filter(entry.sequence == last_entry()).label("after"),
        summed(is_own, entry.counter != reversals).label("amount"),
        func.count().filter(_is_foreign()).label("foreign"),
        summed(entry.counter == reversals).label(reversals),
        summed(entry.counter == transfers).label(transfers),
        *(summed(is_own, entry.counter == name.value).label(name.value) for name in bought_or_given),
    )


def _is_own() -> Condition:
    """Return the condition that the operation claims the entry.

    On an account of another user it counts for nothing.

    No index leads from an operation to its entries: each step reads all of them once, which takes a few
    seconds; to look them up one by one takes a minute. ``entries.unclaimed`` finds those that none claims.
    """
    operation, entry = operations.c, entries.c
    return and_(
        entry.operation_id == operation.operation_id,
        entry.sequence.between(operation.first_entry, last_entry()),
    )


def _is_foreign() -> Condition:
    """Return the condition that the operation does not move the entry's counter-account."""
    entry, code = entries.c, operations.c.code
    known = [name.value for name in EFFECTS]
    own = [
        f"{_CODES[name.value]}{SYMBOLS[counter.value]}"
        for name, effect in EFFECTS.items()
        for counter in effect.counters
    ]
    # One text, so that PostgreSQL looks it up and doesn't try one pair after the other.
    moved = cast(number_of(code), Text()) + cast(entry.counter, Text())
    is_foreign = and_(code.in_(known), moved.not_in(own))
    return case(
        (~entry.is_due, is_foreign),
        else_=entry.counter.not_in([counter.value for counter in DUE_COUNTERS]),
    )


def _before(scope: Scope, moves: FromClause) -> Column:
    """Return the balance before the operation's own entries, after the entries of what was due with it.

    Without own entries nothing has moved since, unless the operation freed tokens that then expired: that can
    only have lowered the balance.
    """
    operation, moved = operations.c, moves.c
    first = entries.alias("own_first")
    before_own = (
        select(first.c.balance_after - first.c.amount)
        .where(scope.on(first, moves, account_id="account_id", sequence="own_first"))
        .scalar_subquery()
    )
    is_freeing = operation.code.in_([Code.HOLD_RELEASED.value, Code.HOLD_SETTLED.value])
    # A period that was paid ahead takes effect with the event that takes it: then it is the event's own.
    credit = entries.alias("credited_early")
    is_forward = and_(
        scope.on(credit, moves, account_id="account_id"),
        credit.c.operation_id == operation.operation_id,
        credit.c.counter == Counter.ALLOCATION.value,
        credit.c.is_due,
        credit.c.occurred_at == operation.recorded_at,
        operation.code.in_([code.value for code in REVERSING]),
    )
    return case(
        (select(1).where(is_forward).exists(), operation.balance_before),
        (moved.own_first == operation.first_entry, moved.before),
        (moved.own_first.is_not(None), before_own),
        (and_(is_freeing, balance_before() >= moved.after), balance_before()),
        else_=func.coalesce(moved.after, balance_before()),
    )
