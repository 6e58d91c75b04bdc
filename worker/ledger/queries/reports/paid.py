"""Payments and their events as reports read them, in one order: by slot, then by operation."""

from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, and_, case, func, select
from sqlalchemy.sql import ColumnElement

from worker.catalog import PaymentPolicy
from worker.core.known import Happened, Payment, PaymentEvent
from worker.core.reversals import MoneyBack, money_back_by_reason
from worker.ledger.queries.reports.reading import IMPORTS, streamed
from worker.ledger.queries.reports.request import Grouping, ReportRequest
from worker.ledger.queries.reports.table import Group
from worker.ledger.slots import Slots, in_slots
from worker.ledger.tables import operations, payment_events, payments


class PaymentKey(NamedTuple):
    """Key of a payment, by which everything about payments is ordered here."""

    slot: int
    operation_id: int


class MovedBack(NamedTuple):
    """Money of a payment that went back at a time; negative where it was given back again."""

    posted_at: datetime
    money: MoneyBack


class ReturnedPayment(NamedTuple):
    """Payment of which money went back, its group, and when."""

    key: PaymentKey
    group: Group
    moved: tuple[MovedBack, ...]


def group_labels(connection: Connection, request: ReportRequest) -> list[Any]:
    """Return the columns of the groupings of payments."""
    return [
        _column(connection, grouping).label(f"group_{place}") for place, grouping in enumerate(request.groups)
    ]


def _column(connection: Connection, grouping: Grouping) -> ColumnElement[Any]:
    match grouping:
        case Grouping.CURRENCY:
            return payments.c.currency
        case Grouping.PACKAGE:
            return payments.c.package_id
        case Grouping.TIER:
            return payments.c.tier
        case Grouping.GATEWAY:
            return _gateway(connection)
    raise AssertionError(f"payments are not grouped by {grouping}")


def _gateway(connection: Connection) -> ColumnElement[Any]:
    """Return the provider, or what is before the colon of the reference; null where neither is there."""
    reference = payments.c.reference_id
    find = func.strpos if connection.dialect.name == "postgresql" else func.instr
    colon = find(reference, ":")
    prefix = case((and_(colon > 1, colon < func.length(reference)), func.substr(reference, 1, colon - 1)))
    return func.coalesce(func.nullif(payments.c.provider, ""), prefix)


def was_imported() -> ColumnElement[bool]:
    """Return the condition that the operation of a payment is an import."""
    return operations.c.type.in_(IMPORTS)


def by_operation() -> ColumnElement[bool]:
    """Return the condition that joins payments to their operations."""
    return and_(operations.c.slot == payments.c.slot, operations.c.operation_id == payments.c.operation_id)


def returned_payments(
    connection: Connection, request: ReportRequest, policy: PaymentPolicy
) -> Iterator[ReturnedPayment]:
    """Yield the payments of which something happened before the end of the range, in order.

    The events of a payment count as a set, by the policy of today; each moved what the set changed by it.
    """

    def select_in(slots: Slots) -> Select[Any]:
        event, payment = payment_events.c, payments.c
        return (
            select(
                payment.slot,
                payment.operation_id,
                payment.account_id,
                payment.reference_id,
                payment.amount_minor,
                payment.currency,
                payment.recorded_at,
                payment.occurred_at,
                operations.c.recorded_at.label("posted_at"),
                event.reference_id.label("event_reference"),
                event.happened,
                event.dispute_id,
                event.refund_reference,
                event.amount_minor.label("event_minor"),
                event.currency.label("event_currency"),
                event.occurred_at.label("event_occurred_at"),
                event.recorded_at.label("event_recorded_at"),
                *group_labels(connection, request),
            )
            .select_from(payment_events)
            .join(payments, and_(payment.slot == event.slot, payment.reference_id == event.payment_reference))
            .join(
                operations,
                and_(operations.c.slot == event.slot, operations.c.operation_id == event.operation_id),
            )
            .where(in_slots(event.slot, slots), operations.c.recorded_at < request.end)
            .order_by(payment.slot, payment.operation_id, operations.c.recorded_at, event.reference_id)
        )

    rows = streamed(connection, select_in)
    for key, of_payment in groupby(rows, key=lambda row: PaymentKey(row.slot, row.operation_id)):
        found = list(of_payment)
        yield ReturnedPayment(key, group_of(found[0], request), tuple(_moves(found, policy)))


def group_of(row: Row[Any], request: ReportRequest) -> Group:
    """Return the group of a row that has the columns of ``group_labels``."""
    return tuple(getattr(row, f"group_{place}") for place in range(len(request.groups)))


def _moves(rows: list[Row[Any]], policy: PaymentPolicy) -> Iterator[MovedBack]:
    payment = _payment(rows[0])
    events: list[PaymentEvent] = []
    before = MoneyBack(0, 0, 0)
    for posted_at, together in groupby(rows, key=lambda row: row.posted_at):
        events += map(_event, together)
        after = money_back_by_reason(payment, events, policy)
        if after != before:
            yield MovedBack(posted_at, after.since(before))
        before = after


def _payment(row: Row[Any]) -> Payment:
    return Payment(
        account_id=row.account_id,
        reference_id=row.reference_id,
        user_id="",  # no rule about money asks for it
        amount_minor=row.amount_minor,
        currency=row.currency,
        base_tokens=0,
        bonus_tokens=0,
        provider=None,
        recorded_at=row.recorded_at,
        occurred_at=row.occurred_at,
    )


def _event(row: Row[Any]) -> PaymentEvent:
    return PaymentEvent(
        reference_id=row.event_reference,
        name=row.reference_id,
        happened=Happened(row.happened),
        recorded_at=row.event_recorded_at,
        dispute_id=row.dispute_id,
        refund_reference=row.refund_reference,
        amount_minor=row.event_minor,
        currency=row.event_currency,
        occurred_at=row.event_occurred_at,
    )
