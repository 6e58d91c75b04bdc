"""A payment as any of its names finds it, with its events: those that count, and those that still wait."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select

from schemas import slot_of
from worker.core.outcomes import Outcome
from worker.ledger.queries.snapshots import on_operation
from worker.ledger.queries.views import View
from worker.ledger.tables import operations, payment_events, payment_names, payments, waiting_events

#: State of an event that counts, and of one whose payment isn't there; a stuck one has its reason instead.
COUNTED, WAITING = "counted", "waiting"


@dataclass(frozen=True)
class PaymentView(View):
    """A payment in minor units, the tokens it bought, and how many of them were taken back since.

    It bought a package or a period of a tier. ``names`` are all by which it is found.
    """

    reference_id: str
    package_id: str | None
    tier: str | None
    amount_minor: int
    currency: str
    base_tokens: int
    bonus_tokens: int
    provider: str | None
    collected: int
    uncollected: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class PaymentEventView(View):
    """An event of the payment, and its effect.

    ``collected`` tokens were taken back (negative: given back), ``uncollected`` were written off. ``state``
    is ``counted``, ``waiting`` while its payment isn't there, or the reason why it can't count. ``posted_by``
    is the operation that counted it, its own or the one that took it in; None while it waits.
    """

    reference_id: str
    happened: str
    dispute_id: str | None
    amount_minor: int | None
    currency: str | None
    collected: int
    uncollected: int
    occurred_at: datetime | None
    recorded_at: datetime
    state: str
    posted_by: str | None
    posted_at: datetime | None


@dataclass(frozen=True)
class AwaitedView(View):
    """An event that came before the payment ``name``: what it waits for, or the operation that took it in.

    ``state`` is that of the event. ``overdue_at`` is when it is shown to operators, if it still waits then.
    """

    name: str
    state: str
    since: datetime
    overdue_at: datetime
    payment_reference_id: str | None
    taken_in_by: str | None
    taken_in_at: datetime | None


@dataclass(frozen=True, slots=True)
class NamedPayment:
    """Payment that a name leads to, and its events; without a payment those that wait for it.

    These include what waits under other names of the same payment.
    """

    payment: PaymentView | None
    events: tuple[PaymentEventView, ...]


def named_payment(connection: Connection, name: str) -> NamedPayment:
    """Return the payment that is called ``name``, and its events, in order."""
    own = payment_names.c
    bound = connection.execute(
        select(own.payment_reference, own.user_id, own.same_as).where(own.name == name)
    ).one_or_none()
    if bound is None or bound.user_id is None:
        first = None if bound is None else bound.same_as
        alike = connection.execute(select(own.name).where(own.same_as == first)).scalars()
        return NamedPayment(None, tuple(_waiting(connection, {name, *alike})))
    reference, user_id = bound.payment_reference, bound.user_id
    names = connection.execute(
        select(own.name).where(own.user_id == user_id, own.payment_reference == reference).order_by(own.name)
    ).scalars()
    found = tuple(names)
    events = [*_counted(connection, slot_of(user_id), reference), *_waiting(connection, found)]
    # One that took others in comes behind them.
    events.sort(key=lambda event: (event.recorded_at, event.posted_at or event.recorded_at))
    payment = payments.c
    row = connection.execute(
        select(payments).where(payment.slot == slot_of(user_id), payment.reference_id == reference)
    ).one_or_none()
    return NamedPayment(None if row is None else _payment(row, events, found), tuple(events))


def awaited(outcome: Outcome, name: str, found: NamedPayment, waiting_days: int) -> AwaitedView:
    """Return what the event of ``outcome`` waits for; ``found`` is what is called ``name``."""
    own = next((event for event in found.events if event.reference_id == outcome.reference_id), None)
    is_counted = own is not None and own.state == COUNTED
    return AwaitedView(
        name=name,
        state=WAITING if own is None else own.state,
        since=outcome.recorded_at,
        overdue_at=outcome.recorded_at + timedelta(days=waiting_days),
        payment_reference_id=None if found.payment is None else found.payment.reference_id,
        taken_in_by=own.posted_by if own is not None and is_counted else None,
        taken_in_at=own.posted_at if own is not None and is_counted else None,
    )


def _payment(row: Row[Any], events: Collection[PaymentEventView], names: tuple[str, ...]) -> PaymentView:
    return PaymentView(
        reference_id=row.reference_id,
        package_id=row.package_id,
        tier=row.tier,
        amount_minor=row.amount_minor,
        currency=row.currency,
        base_tokens=row.base_tokens,
        bonus_tokens=row.bonus_tokens,
        provider=row.provider,
        collected=sum(event.collected for event in events),
        uncollected=sum(event.uncollected for event in events),
        names=names,
    )


def _counted(connection: Connection, slot: int, payment_reference: str) -> Iterator[PaymentEventView]:
    event, operation = payment_events.c, operations.c
    statement = (
        select(
            payment_events,
            operation.reference_id.label("posted_by"),
            operation.recorded_at.label("posted_at"),
        )
        .join(operations, on_operation(event.operation_id))
        .where(event.slot == slot, operation.slot == slot, event.payment_reference == payment_reference)
        .order_by(operation.recorded_at, operation.first_entry, event.reference_id)
    )
    for row in connection.execute(statement):
        yield _event(row, row.collected, row.uncollected, COUNTED, row.posted_by, row.posted_at)


def _waiting(connection: Connection, names: Collection[str]) -> Iterator[PaymentEventView]:
    event = waiting_events.c
    statement = (
        select(waiting_events).where(event.name.in_(names)).order_by(event.recorded_at, event.reference_id)
    )
    for row in connection.execute(statement):
        yield _event(row, 0, 0, row.reason or WAITING, None, None)


def _event(
    row: Row[Any],
    collected: int,
    uncollected: int,
    state: str,
    posted_by: str | None,
    posted_at: datetime | None,
) -> PaymentEventView:
    return PaymentEventView(
        reference_id=row.reference_id,
        happened=row.happened,
        dispute_id=row.dispute_id,
        amount_minor=row.amount_minor,
        currency=row.currency,
        collected=collected,
        uncollected=uncollected,
        occurred_at=row.occurred_at,
        recorded_at=row.recorded_at,
        state=state,
        posted_by=posted_by,
        posted_at=posted_at,
    )
