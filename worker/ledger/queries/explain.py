"""Everything the ledger knows about one reference: the command, its outcome, and what followed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic.alias_generators import to_camel
from sqlalchemy import Connection, Row, select

from schemas import (
    Code,
    ExtendUsage,
    ReleaseUsage,
    ReserveUsage,
    SettleAccount,
    SettleUsage,
    slot_of,
    type_of,
)
from worker.catalog import Catalog
from worker.core import Account, Decided, Hold, Outcome, reply_for
from worker.core.replies import message_for
from worker.core.superseded import ABOUT_PAYMENTS, is_usage
from worker.errors import NotFoundError
from worker.ledger import rows
from worker.ledger.loading import holds_of
from worker.ledger.queries.charges import reverse_run_in
from worker.ledger.queries.history import PostedEntry, transactions_of
from worker.ledger.queries.holdings import HoldView, LotView, closed_by, hold_view, lot_view
from worker.ledger.queries.payment_views import (
    AwaitedView,
    NamedPayment,
    PaymentEventView,
    PaymentView,
    awaited,
    named_payment,
)
from worker.ledger.queries.posted import posted_state
from worker.ledger.queries.prices import CatalogView, PriceView, catalogs_by_key, price_of
from worker.ledger.queries.senders import SenderView, senders_of
from worker.ledger.queries.snapshots import IN_FORCE, in_utc, key_of, on_operation, owner_of
from worker.ledger.queries.views import View
from worker.ledger.slots import in_slots, parts_of
from worker.ledger.tables import (
    holds,
    lots,
    operations,
    superseded_outcomes,
    usage_refunds,
)

_OF_HOLDS = frozenset((type_of(ExtendUsage), type_of(SettleUsage), type_of(ReleaseUsage)))


@dataclass(frozen=True)
class Asked(View):
    """The command. ``content`` is the part of it that moves the ledger, under the names on the wire."""

    type: str
    user_id: str
    content: Mapping[str, Any]
    occurred_at: datetime | None
    description: str | None
    metadata: Mapping[str, Any] | None


@dataclass(frozen=True)
class Attempt(View):
    """Outcome of an attempt. ``detail`` is what the reply says beside the amounts.

    ``sender`` sent the message that was judged, and ``catalog`` it was judged with; None where unknown.

    ``type`` and ``user_id`` differ from the command's where it took the reference from a usage that moved
    nothing.
    """

    type: str
    user_id: str
    attempt: int
    status: str
    code: str
    message: str
    amount: int | None
    balance_before: int | None
    balance_after: int | None
    detail: Mapping[str, Any]
    sender: SenderView | None
    catalog: CatalogView | None
    recorded_at: datetime


@dataclass(frozen=True)
class RefundView(View):
    """Tokens that were given back; ``reverse_run`` is the number of the run that did so, if one did."""

    reference_id: str
    tokens: int
    recorded_at: datetime
    reverse_run: int | None


@dataclass(frozen=True)
class Original(View):
    """The operation that is named as the original; only its reference, where the ledger doesn't have it."""

    reference_id: str
    type: str | None
    status: str | None
    code: str | None


@dataclass(frozen=True)
class Explanation(View):
    """One reference. ``outcomes`` are its attempts; the last of them is in force.

    ``price`` is that of the last one. ``entries`` are all it posted, what was due among them (``due_at``).
    ``lots`` are those it opened, as they are now, and ``hold`` the one it opened or ended. ``payment`` and
    its events belong to a payment's reference, to its other names, and to that of anything that happened to
    it. ``awaited`` is given for an event that came before its payment. ``refunds`` name this reference, as
    this one names its ``original``. ``reply`` is what the caller got, and gets again. Without an operation of
    that name ``asked`` and ``reply`` are None.
    """

    reference_id: str
    asked: Asked | None
    outcomes: tuple[Attempt, ...]
    price: PriceView | None
    entries: tuple[PostedEntry, ...]
    lots: tuple[LotView, ...]
    hold: HoldView | None
    payment: PaymentView | None
    payment_events: tuple[PaymentEventView, ...]
    awaited: AwaitedView | None
    refunds: tuple[RefundView, ...]
    original: Original | None
    notices: tuple[Mapping[str, Any], ...]
    reply: Mapping[str, Any] | None


def explain(connection: Connection, reference_id: str, now: datetime, catalog: Catalog) -> Explanation:
    """Return all that the ledger knows of ``reference_id``; lots and holds are those at ``now``.

    Raises NotFoundError where it knows nothing, and QueryError for a time without an offset.
    """
    now = in_utc("now", now)
    row = _operation(connection, reference_id)
    if row is None:
        return _without_operation(connection, reference_id)
    outcome = rows.outcome(row)
    content: dict[str, Any] = json.loads(outcome.content)
    named: str | None = content.get("originalReferenceId")
    original = None if named is None else _operation(connection, named)
    account = _account(connection, outcome.user_id, now, catalog)
    name = _payment_named_by(outcome, content)
    paid = NamedPayment(None, ()) if name is None else named_payment(connection, name)
    if named is not None and original is None and paid.payment is not None:
        original = _operation(connection, paid.payment.reference_id)
    return Explanation(
        reference_id=reference_id,
        asked=Asked(
            type=outcome.type,
            user_id=outcome.user_id,
            content=content,
            occurred_at=outcome.occurred_at,
            description=outcome.description,
            metadata=outcome.metadata,
        ),
        outcomes=_attempts(connection, list(_outcomes(connection, row)), catalog),
        price=price_of(connection, outcome),
        entries=()
        if account is None
        else tuple(transactions_of(connection, key_of(account.state), outcome, row.operation_id)),
        lots=() if account is None else _lots(connection, account, row.operation_id, reference_id),
        hold=None if account is None else _hold(connection, account, outcome, named),
        payment=paid.payment,
        payment_events=paid.events,
        awaited=None
        if name is None or outcome.code is not Code.PAYMENT_AWAITED
        else awaited(outcome, name, paid, catalog.payments.waiting_days),
        refunds=_refunds(connection, row),
        original=None if named is None else _original(named, original),
        notices=tuple({to_camel(name): value for name, value in n.items()} for n in outcome.notices),
        reply=_reply(outcome),
    )


def _without_operation(connection: Connection, reference_id: str) -> Explanation:
    """Explain a reference without operation: another name of a payment, or of one to come."""
    found = named_payment(connection, reference_id)
    if found.payment is None and not found.events:
        raise NotFoundError(
            f"nothing is known of the reference {reference_id!r}: look at its spelling; it may still wait in "
            "its queue, or be a dead letter, see `billing-worker dead-letters list`; a usage.batch is known "
            "by the references of its items"
        )
    return replace(unknown(reference_id), payment=found.payment, payment_events=found.events)


def _payment_named_by(outcome: Outcome, content: Mapping[str, Any]) -> str | None:
    """Return the name of the payment that a command makes or is about; None for usage."""
    if is_usage(outcome.type):
        return None
    if outcome.type in ABOUT_PAYMENTS:
        about: str | None = content.get("originalReferenceId") or content.get("paymentReferenceId")
        return about
    brought: str = (content.get("payment") or {}).get("referenceId", outcome.reference_id)
    return brought


def unknown(reference_id: str) -> Explanation:
    """Return the explanation of a reference of which the ledger knows nothing."""
    return Explanation(
        reference_id=reference_id,
        asked=None,
        outcomes=(),
        price=None,
        entries=(),
        lots=(),
        hold=None,
        payment=None,
        payment_events=(),
        awaited=None,
        refunds=(),
        original=None,
        notices=(),
        reply=None,
    )


# -- the operation ----------------------------------------------------------------------------------------


def _operation(connection: Connection, reference_id: str) -> Row[Any] | None:
    user_id = owner_of(connection, reference_id)
    if user_id is None:
        return None
    statement = select(operations).where(
        operations.c.slot == slot_of(user_id), operations.c.reference_id == reference_id, IN_FORCE
    )
    return connection.execute(statement).one_or_none()


def _outcomes(connection: Connection, row: Row[Any]) -> Iterator[Outcome]:
    """Yield the attempts of the usage that lost the reference, then those of the operation ``row``."""
    for operation in (*_taken(connection, row.reference_id), row):
        yield from _superseded(connection, operation)
        yield rows.outcome(operation)


def _taken(connection: Connection, reference_id: str) -> Iterator[Row[Any]]:
    """Yield the operation from which the reference was taken, if there is one."""
    operation = operations.c
    for slots in parts_of(connection):
        statement = select(operations).where(
            in_slots(operation.slot, slots), operation.reference_id == reference_id, operation.is_taken
        )
        yield from connection.execute(statement).all()


def _superseded(connection: Connection, operation: Row[Any]) -> Iterator[Outcome]:
    """Yield the rejections of an operation that a higher attempt replaced, in order."""
    table = superseded_outcomes
    statement = (
        select(table)
        .where(table.c.slot == operation.slot, table.c.operation_id == operation.operation_id)
        .order_by(table.c.attempt)
    )
    return map(rows.outcome, connection.execute(statement))


def _attempts(connection: Connection, outcomes: Sequence[Outcome], in_use: Catalog) -> tuple[Attempt, ...]:
    senders = senders_of(connection, outcomes)
    catalogs = catalogs_by_key(connection, outcomes, in_use)
    return tuple(
        _attempt(outcome, senders.get(outcome.sender_id), catalogs.get(outcome.catalog_id))
        for outcome in outcomes
    )


def _attempt(outcome: Outcome, sender: SenderView | None, catalog: CatalogView | None) -> Attempt:
    return Attempt(
        type=outcome.type,
        user_id=outcome.user_id,
        attempt=outcome.attempt,
        status=outcome.status.value,
        code=outcome.code.value,
        message=message_for(outcome),
        amount=outcome.amount,
        balance_before=None if outcome.is_of_no_account else outcome.balance_before,
        balance_after=None if outcome.is_of_no_account else outcome.balance_after,
        detail={to_camel(name): value for name, value in outcome.detail.items()},
        sender=sender,
        catalog=catalog,
        recorded_at=outcome.recorded_at,
    )


def _reply(outcome: Outcome) -> Mapping[str, Any]:
    # Only the reply to a conflict says anything of the command itself.
    command = SettleAccount.model_construct(reference_id=outcome.reference_id, user_id=outcome.user_id)
    reply: dict[str, Any] = json.loads(reply_for(command, Decided(outcome, duplicate=False)).to_json())
    return reply


def _account(connection: Connection, user_id: str, now: datetime, catalog: Catalog) -> Account | None:
    try:
        return posted_state(connection, user_id).now(now, catalog)
    except NotFoundError:
        return None


# -- what it opened ---------------------------------------------------------------------------------------


def _lots(
    connection: Connection, account: Account, operation_id: int, reference_id: str
) -> tuple[LotView, ...]:
    statement = (
        select(*(lots.c[name] for name in rows.LOT))
        .where(key_of(account.state).owns(lots), lots.c.operation_id == operation_id)
        .order_by(lots.c.number)
    )
    opened = [rows.lot(row) for row in connection.execute(statement)]
    return tuple(lot_view(account.lots.get(lot.number, lot), {operation_id: reference_id}) for lot in opened)


def _hold(connection: Connection, account: Account, outcome: Outcome, named: str | None) -> HoldView | None:
    """Return the hold that ``outcome`` opened, or that it extended or ended, or would have."""
    if outcome.type == type_of(ReserveUsage):
        reference_id: str | None = outcome.reference_id
    else:
        reference_id = named if outcome.type in _OF_HOLDS else None
    if reference_id is None:
        return None
    open_hold: Hold | None = account.holds.get(reference_id)
    if open_hold is not None:
        return hold_view(open_hold, None)
    key = key_of(account.state)
    statement = (
        select(holds)
        .join(operations, on_operation(holds.c.operation_id))
        .where(key.owns(holds), operations.c.reference_id == reference_id, IN_FORCE)
    )
    found = holds_of(connection, statement)
    if not found:
        return None
    (hold,) = found
    return hold_view(hold, closed_by(connection, key, [hold.operation_id]).get(hold.operation_id))


# -- what belongs to it -----------------------------------------------------------------------------------


def _refunds(connection: Connection, operation: Row[Any]) -> tuple[RefundView, ...]:
    refund = usage_refunds.c
    statement = (
        select(operations.c.reference_id, refund.tokens, refund.recorded_at, operations.c.metadata)
        .join(operations, on_operation(refund.operation_id))
        .where(refund.slot == operation.slot, refund.original_id == operation.operation_id)
        .order_by(refund.recorded_at, operations.c.first_entry)
    )
    return tuple(
        RefundView(reference, tokens, at, reverse_run_in(more))
        for reference, tokens, at, more in connection.execute(statement)
    )


def _original(reference_id: str, row: Row[Any] | None) -> Original:
    if row is None:
        return Original(reference_id, None, None, None)
    return Original(row.reference_id, row.type, row.status, row.code)
