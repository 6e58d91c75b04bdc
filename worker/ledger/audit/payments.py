"""Checks of payments: the tokens taken back of one follow from the set of its events alone."""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, case, func, or_, select

from schemas import Code
from worker.catalog import Catalog, PaymentPolicy
from worker.core.known import Happened, Payment, PaymentEvent
from worker.core.rules.payments import money_back
from worker.ledger.audit.comparing import (
    ONE,
    Checks,
    Condition,
    detail_of,
    differences,
    is_applied,
    owned,
    rows,
    untrue,
)
from worker.ledger.audit.effects import CODE_OF, PAYING
from worker.ledger.audit.report import Discrepancy
from worker.ledger.audit.scope import Scope, scope_of
from worker.ledger.slots import Slots
from worker.ledger.tables import accounts, operations, payment_events, payments

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
    is_purchase = and_(is_applied(operations), operations.c.code.in_([code.value for code in PAYING]))
    return differences(
        statement,
        {
            "payment_without_outcome": untrue(~is_purchase, payment.base_tokens + payment.bonus_tokens),
            "payment_account": owned(scope, payment.account_id, accounts, operations),
        },
    )


def events(scope: Scope) -> Checks:
    """Compare each event with its operation; an event without its payment has moved nothing."""
    event, own = payment_events.c, operations
    bought = operations.alias("bought")
    statement = (
        rows(slot=event.slot, account_id=event.account_id, operation_id=event.operation_id)
        .join_from(
            payment_events, own, scope.on(own, payment_events, operation_id="operation_id"), isouter=True
        )
        .join(accounts, scope.on(accounts, payment_events, account_id="account_id"), isouter=True)
        .join(
            bought,
            and_(scope.on(bought, payment_events, reference_id="payment_reference"), ~bought.c.is_taken),
            isouter=True,
        )
        .join(
            payments,
            and_(
                scope.on(payments, bought, operation_id="operation_id"),
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
    """Return the condition that the event's operation was applied, and is about this payment and kind."""
    event, own = payment_events.c, operations
    is_its_code = or_(
        *(
            and_(event.happened == happened.value, own.c.code == code.value)
            for happened, code in CODE_OF.items()
        )
    )
    is_purchase = event.happened == Happened.SUCCEEDED.value
    named = case((is_purchase, own.c.reference_id), else_=detail_of(own, "original_reference_id"))
    is_awaited = and_(own.c.code == Code.PAYMENT_AWAITED.value, ~is_purchase)
    return and_(is_applied(own), named == event.payment_reference, or_(is_its_code, is_awaited))


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
    return (
        select(
            payments,
            accounts.c.user_id,
            operations.c.reference_id,
            operations.c.occurred_at.label("paid_at"),
            *(
                payment_events.c[name]
                for name in ("happened", "dispute_id", "occurred_at", "collected", "uncollected")
            ),
            payment_events.c.amount_minor.label("event_minor"),
            payment_events.c.currency.label("event_currency"),
        )
        .join_from(payments, operations, scope.on(operations, payments, operation_id="operation_id"))
        .join(
            payment_events,
            and_(
                scope.on(payment_events, operations, payment_reference="reference_id"),
                payment_events.c.account_id == payments.c.account_id,
            ),
        )
        .join(accounts, scope.on(accounts, payments, account_id="account_id"), isouter=True)
        .where(scope.of(payments))
        .order_by(payments.c.slot, payments.c.account_id, payments.c.operation_id)
    )


def _differences(happened: list[Row[Any]], policies: Iterable[PaymentPolicy]) -> Iterator[Discrepancy]:
    first = happened[0]
    payment, events = _payment(first), [_event(row) for row in happened]
    back = sum(event.collected + event.uncollected for event in events)
    uncollected = sum(event.uncollected for event in events)
    due = [_tokens(payment, money_back(payment, events, policy)) for policy in policies]
    if back not in due:
        yield _finding("payment_back", first, due[0], back)
    if uncollected < 0:
        yield _finding("payment_uncollected", first, 0, uncollected)


def _tokens(payment: Payment, back: int) -> int:
    """Return the tokens for ``back`` minor units of the payment, base and bonus each rounded down."""
    paid = payment.amount_minor
    return payment.base_tokens * back // paid + payment.bonus_tokens * back // paid


def _payment(row: Row[Any]) -> Payment:
    return Payment(
        account_id=row.account_id,
        reference_id=row.reference_id,
        package_id=row.package_id,
        amount_minor=row.amount_minor,
        currency=row.currency,
        base_tokens=row.base_tokens,
        bonus_tokens=row.bonus_tokens,
        provider=row.provider,
        recorded_at=row.recorded_at,
        occurred_at=row.paid_at,
    )


def _event(row: Row[Any]) -> PaymentEvent:
    return PaymentEvent(
        account_id=row.account_id,
        payment_reference=row.reference_id,
        happened=Happened(row.happened),
        recorded_at=row.recorded_at,
        dispute_id=row.dispute_id,
        amount_minor=row.event_minor,
        currency=row.event_currency,
        occurred_at=row.occurred_at,
        collected=row.collected,
        uncollected=row.uncollected,
    )


def _finding(check: str, row: Row[Any], expected: int, actual: int) -> Discrepancy:
    return Discrepancy(
        check, row.account_id, row.user_id, row.reference_id, None, None, None, expected, actual
    )
