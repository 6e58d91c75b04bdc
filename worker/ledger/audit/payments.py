"""Checks of payments: the tokens taken back of one follow from the set of its events alone."""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, case, func, or_, select

from worker.catalog import Catalog, PaymentPolicy
from worker.core.known import Happened, Payment, PaymentEvent
from worker.core.reversals import Back, money_back
from worker.ledger.audit.comparing import (
    ONE,
    Checks,
    Condition,
    differences,
    is_applied,
    owned,
    rows,
    untrue,
)
from worker.ledger.audit.effects import CODES_OF, MAY_PAY, TAKING_IN
from worker.ledger.audit.report import Discrepancy
from worker.ledger.audit.scope import Scope, scope_of
from worker.ledger.rows import payment as payment_in
from worker.ledger.slots import Slots
from worker.ledger.tables import accounts, operations, payment_events, payments

#: Columns of an event that its effect follows from, and that say what it was.
_OF_EVENT = (
    "reference_id",
    "happened",
    "recorded_at",
    "dispute_id",
    "refund_reference",
    "amount_minor",
    "currency",
    "occurred_at",
    "collected",
    "uncollected",
)

# The catalog may have had either when the last event came.
_ANY_POLICY = (PaymentPolicy(on_dispute="wait"), PaymentPolicy(on_dispute="take"))


def each(scope: Scope) -> Checks:
    """Compare each payment with its operation."""
    payment = payments.c
    statement = (
        rows(slot=payment.slot, account_id=payment.account_id, operation_id=payment.operation_id)
        .join_from(
            payments, operations, scope.on(operations, payments, operation_id="operation_id"), isouter=True
        )
        .join(accounts, scope.on(accounts, payments, account_id="account_id"), isouter=True)
        .where(scope.of(payments))
    )
    is_purchase = and_(is_applied(operations), operations.c.code.in_([code.value for code in MAY_PAY]))
    return differences(
        statement,
        {
            "payment_without_outcome": untrue(~is_purchase, payment.base_tokens + payment.bonus_tokens),
            "payment_account": owned(scope, payment.account_id, accounts, operations),
        },
    )


def events(scope: Scope) -> Checks:
    """Compare each event with the operation that posted it, and with its payment."""
    event, own = payment_events.c, operations
    statement = (
        rows(slot=event.slot, account_id=event.account_id, operation_id=event.operation_id)
        .join_from(
            payment_events, own, scope.on(own, payment_events, operation_id="operation_id"), isouter=True
        )
        .join(accounts, scope.on(accounts, payment_events, account_id="account_id"), isouter=True)
        .join(
            payments,
            and_(
                scope.on(payments, payment_events, reference_id="payment_reference"),
                payments.c.account_id == event.account_id,
            ),
            isouter=True,
        )
        .where(scope.of(payment_events))
    )
    moved = func.abs(event.collected) + func.abs(event.uncollected)
    return differences(
        statement,
        {
            "event_without_outcome": (ONE, case((_says_so(), ONE), else_=0)),
            "event_account": owned(scope, event.account_id, accounts, own),
            "event_awaited": untrue(payments.c.operation_id.is_(None), moved),
        },
    )


def _says_so() -> Condition:
    """Return the condition that the event's operation was applied, and is of this kind.

    An event that had come before its payment is posted by the operation that took it in.
    """
    event, own = payment_events.c, operations
    is_its_code = or_(
        *(
            and_(event.happened == happened.value, own.c.code.in_([code.value for code in codes]))
            for happened, codes in CODES_OF.items()
        )
    )
    is_own = own.c.reference_id == event.reference_id
    takes_in = own.c.code.in_([code.value for code in TAKING_IN])
    return and_(is_applied(own), or_(and_(is_own, or_(is_its_code, takes_in)), and_(~is_own, takes_in)))


# -- what follows from the events -------------------------------------------------------------------------


def back(connection: Connection, slots: Slots, catalog: Catalog | None) -> Iterator[Discrepancy]:
    """Compare the tokens taken back of each payment of a share with what its events ask for.

    Without a catalog any policy is accepted: it may have been another when the last event came.
    """
    policies = _ANY_POLICY if catalog is None else (catalog.payments,)
    happened = connection.execute(
        _happened(scope_of(slots)), slots._asdict(), execution_options={"yield_per": 1_000}
    )
    for _, group in groupby(happened, key=attrgetter("slot", "operation_id")):
        yield from _differences(list(group), policies)


@cache
def _happened(scope: Scope) -> Select[Any]:
    """Select the events of all payments of a share, each with its payment."""
    event = payment_events.c
    return (
        select(
            payments,
            accounts.c.user_id,
            *(event[name].label(f"event_{name}") for name in _OF_EVENT),
        )
        .join_from(
            payments,
            payment_events,
            and_(
                scope.on(payment_events, payments, payment_reference="reference_id"),
                event.account_id == payments.c.account_id,
            ),
        )
        .join(accounts, scope.on(accounts, payments, account_id="account_id"), isouter=True)
        .where(scope.of(payments))
        .order_by(payments.c.slot, payments.c.account_id, payments.c.operation_id)
    )


def _differences(happened: list[Row[Any]], policies: Iterable[PaymentPolicy]) -> Iterator[Discrepancy]:
    first = happened[0]
    paid, events = payment_in(first, first.user_id), [_event(row) for row in happened]
    back = sum(event.collected + event.uncollected for event in events)
    uncollected = sum(event.uncollected for event in events)
    due = [_tokens(paid, money_back(paid, events, policy)) for policy in policies]
    if back not in due:
        yield _finding("payment_back", first, due[0], back)
    if uncollected < 0:
        yield _finding("payment_uncollected", first, 0, uncollected)


def _tokens(payment: Payment, back: Back) -> int:
    """Return the tokens for what has gone back of the payment, base and bonus each rounded down."""
    return back.share(payment.base_tokens) + back.share(payment.bonus_tokens)


def _event(row: Row[Any]) -> PaymentEvent:
    return PaymentEvent(
        reference_id=row.event_reference_id,
        name=row.reference_id,
        happened=Happened(row.event_happened),
        recorded_at=row.event_recorded_at,
        dispute_id=row.event_dispute_id,
        refund_reference=row.event_refund_reference,
        amount_minor=row.event_amount_minor,
        currency=row.event_currency,
        occurred_at=row.event_occurred_at,
        collected=row.event_collected,
        uncollected=row.event_uncollected,
    )


def _finding(check: str, row: Row[Any], expected: int, actual: int) -> Discrepancy:
    return Discrepancy(
        check, row.account_id, row.user_id, row.reference_id, None, None, None, expected, actual
    )
