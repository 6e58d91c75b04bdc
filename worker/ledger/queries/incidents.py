"""Incidents: money without tokens. Rejected payments, events that wait for their payment, flagged purchases.

Rejected and flagged ones are operations, and have an index of their own. What waits stands beside the ledger:
the two are never joined, but merged in the order of time.
"""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Row,
    Select,
    and_,
    case,
    collate,
    func,
    or_,
    select,
    text,
    true,
    tuple_,
)
from sqlalchemy.sql import ColumnElement

from schemas import NO_USER, Code, Status
from schemas.fields import INT64_MAX
from worker.core.incidents import money_of, subscription_payment_of
from worker.core.known import Happened
from worker.core.outcomes import Outcome
from worker.ledger import rows
from worker.ledger.queries.cursors import refused_cursor
from worker.ledger.queries.snapshots import values_of, within
from worker.ledger.queries.views import View
from worker.ledger.slots import Slots, in_slots, parts_of
from worker.ledger.tables import IS_INCIDENT, operations, payment_names, payments, waiting_events

LIMIT_MAX = 1000
#: Rows that a statement reads of one source.
_CHUNK = 200
#: Number before those of all operations.
_NO_OPERATION = 0
#: As the index has it, so that it is used.
_IS_INCIDENT = text(f"({IS_INCIDENT})")


class IncidentKind(StrEnum):
    """Kinds of incidents."""

    REJECTED = "rejected"
    WAITING = "waiting"
    FLAGGED = "flagged"


@dataclass(frozen=True)
class Incident(View):
    """An operation, or an event that waits, at which an operator may have to do something.

    ``user_id``, ``gateway`` and the money are None where they are unknown. ``code`` is the outcome's, or the
    reason why an event can't count. ``is_overdue`` says that an event waits longer than the catalog allows.
    ``original_reference_id`` is the payment that is named, ``attempt`` the one that was rejected last.
    """

    kind: IncidentKind
    recorded_at: datetime
    reference_id: str
    type: str
    user_id: str | None
    gateway: str | None
    amount_minor: int | None
    currency: str | None
    code: str
    is_overdue: bool
    original_reference_id: str | None
    attempt: int
    what_to_do: str


@dataclass(frozen=True, slots=True)
class IncidentFilter:
    """Filter of incidents; without ``kinds`` it finds those that need somebody.

    Of what waits, these are the overdue and the stuck ones. ``since`` and ``until`` (left out itself) bound
    the time of recording.
    """

    kinds: frozenset[IncidentKind] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    user_id: str | None = None
    gateway: str | None = None


@dataclass(frozen=True)
class IncidentPage(View):
    """Incidents, newest first; ``next`` is the cursor of the next page, None at the end."""

    incidents: tuple[Incident, ...]
    next: str | None


@dataclass(frozen=True)
class WaitingCounts(View):
    """Numbers of events that wait. ``overdue`` and ``stuck`` are parts of ``waiting``, and share none."""

    waiting: int = 0
    overdue: int = 0
    stuck: int = 0


@dataclass(frozen=True)
class IncidentCounts(WaitingCounts):
    """Numbers of incidents of each kind."""

    rejected: int = 0
    flagged: int = 0

    @property
    def needing_somebody(self) -> int:
        """Number of those that a list shows without filters."""
        return self.rejected + self.flagged + self.overdue + self.stuck


@dataclass(frozen=True, slots=True)
class OverdueEvent:
    """Event that waits for the payment of ``name`` since ``recorded_at``."""

    reference_id: str
    name: str
    recorded_at: datetime


def overdue_before(now: datetime, waiting_days: int) -> datetime:
    """Return the time before which an event that still waits was recorded where it is overdue at ``now``."""
    return now - timedelta(days=waiting_days)


def incidents(
    connection: Connection,
    filter_: IncidentFilter,
    before: datetime,
    limit: int = 50,
    cursor: str | None = None,
) -> IncidentPage:
    """Return a page of incidents; events that were recorded ``before`` this time are overdue.

    Raises QueryError for a limit outside 1 to 1000, and for a cursor that no page has named.
    """
    within("limit", limit, 1, LIMIT_MAX)
    behind = None if cursor is None else _place_in(cursor)
    found = list(islice(_newest_first(connection, filter_, before, behind), limit + 1))
    page = found[:limit]
    return IncidentPage(
        tuple(one.incident for one in page), _cursor_of(page[-1].place) if len(found) > limit else None
    )


def counts(connection: Connection, before: datetime) -> IncidentCounts:
    """Return the numbers of incidents of all users."""
    operation = operations.c
    is_rejected = operation.status == Status.REJECTED.value
    statement = select(_count_if(is_rejected), _count_if(~is_rejected)).where(
        _IS_INCIDENT, _has_money(), ~operation.is_taken
    )
    rejected = flagged = 0
    for slots in parts_of(connection):
        some = connection.execute(statement.where(in_slots(operation.slot, slots))).one()
        rejected, flagged = rejected + some[0], flagged + some[1]
    found = waiting_counts(connection, before)
    return IncidentCounts(found.waiting, found.overdue, found.stuck, rejected, flagged)


def waiting_counts(connection: Connection, before: datetime) -> WaitingCounts:
    """Return the numbers of events that wait; those that were recorded ``before`` this time are overdue."""
    event = waiting_events.c
    is_stuck = event.reason.is_not(None)
    is_overdue = and_(~is_stuck, event.recorded_at < before)
    statement = select(func.count(), _count_if(is_overdue), _count_if(is_stuck)).select_from(waiting_events)
    return WaitingCounts(*connection.execute(statement).one())


def overdue_events(
    connection: Connection, before: datetime, limit: int, after: OverdueEvent | None = None
) -> list[OverdueEvent]:
    """Return events that wait and were recorded ``before`` this time, the oldest first, behind ``after``."""
    event = waiting_events.c
    place = (event.recorded_at, event.reference_id)
    statement = (
        select(event.reference_id, event.name, event.recorded_at)
        .where(event.reason.is_(None), event.recorded_at < before)
        .order_by(*place)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(
            tuple_(*place) > values_of(place, (after.recorded_at, after.reference_id))
        )
    return [OverdueEvent(*row) for row in connection.execute(statement)]


# -- in the order of time ---------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Place of an incident among all: of one time the operations are newer than what waits.

    ``reference_id`` is that of an event, which has no operation of its own here.
    """

    recorded_at: datetime
    operation_id: int
    reference_id: str

    @property
    def is_operation(self) -> bool:
        """True for the place of an operation."""
        return self.operation_id != _NO_OPERATION


@dataclass(frozen=True, slots=True)
class _Placed:
    incident: Incident
    place: _Place = field(repr=False)


_Fetch = Callable[[_Place | None], list[_Placed]]


def _newest_first(
    connection: Connection, filter_: IncidentFilter, before: datetime, behind: _Place | None
) -> Iterator[_Placed]:
    sources: list[_Fetch] = []
    if filter_.kinds != {IncidentKind.WAITING}:
        sources += [_operations_of(connection, filter_, slots) for slots in parts_of(connection)]
    if not filter_.kinds or IncidentKind.WAITING in filter_.kinds:
        sources.append(_events_of(connection, filter_, before))
    in_order = merge(*(_all(fetch, behind) for fetch in sources), key=attrgetter("place"), reverse=True)
    return (one for one in in_order if filter_.gateway in (None, one.incident.gateway))


def _all(fetch: _Fetch, behind: _Place | None) -> Iterator[_Placed]:
    while True:
        some = fetch(behind)
        yield from some
        if len(some) < _CHUNK:
            return
        behind = some[-1].place


# -- operations -------------------------------------------------------------------------------------------


def _operations_of(connection: Connection, filter_: IncidentFilter, slots: Slots) -> _Fetch:
    operation = operations.c
    statement = (
        select(operations, payments.c.provider.label("provider"))
        .join_from(
            operations,
            payments,
            and_(
                in_slots(payments.c.slot, slots),
                payments.c.slot == operation.slot,
                payments.c.operation_id == operation.operation_id,
            ),
            isouter=True,
        )
        .where(in_slots(operation.slot, slots), _IS_INCIDENT, _has_money(), ~operation.is_taken)
        .where(_of_kinds(filter_.kinds))
        .order_by(operation.recorded_at.desc(), operation.operation_id.desc())
        .limit(_CHUNK)
    )
    statement = _filtered(statement, filter_, operation.recorded_at, operation.user_id)

    def fetch(behind: _Place | None) -> list[_Placed]:
        own = statement if behind is None else statement.where(_operation_behind(behind))
        return [_of_operation(row) for row in connection.execute(own)]

    return fetch


def _has_money() -> ColumnElement[bool]:
    """Return the condition that an operation in the index of incidents is about a payment.

    Content is canonical JSON, in which a quotation mark inside a text has a backslash before it.
    """
    is_subscription = operations.c.type.in_(("subscription.change", "subscription.renew"))
    return or_(~is_subscription, operations.c.content.like('%"payment":{%'))


def _of_kinds(kinds: frozenset[IncidentKind]) -> ColumnElement[bool]:
    is_rejected = operations.c.status == Status.REJECTED.value
    match IncidentKind.REJECTED in kinds, IncidentKind.FLAGGED in kinds:
        case (True, False):
            return is_rejected
        case (False, True):
            return ~is_rejected
    return true()


def _operation_behind(place: _Place) -> ColumnElement[bool]:
    operation = operations.c
    if not place.is_operation:
        return operation.recorded_at < place.recorded_at
    columns = (operation.recorded_at, operation.operation_id)
    return tuple_(*columns) < values_of(columns, (place.recorded_at, place.operation_id))


def _of_operation(row: Row[Any]) -> _Placed:
    outcome = rows.outcome(row)
    amount, currency = money_of(outcome)
    kind = IncidentKind.FLAGGED if outcome.is_applied else IncidentKind.REJECTED
    content = json.loads(outcome.content)
    incident = Incident(
        kind=kind,
        recorded_at=outcome.recorded_at,
        reference_id=outcome.reference_id,
        type=outcome.type,
        user_id=None if outcome.user_id == NO_USER else outcome.user_id,
        gateway=row.provider or _provider_in(outcome) or _prefix_of(outcome.reference_id),
        amount_minor=amount,
        currency=currency,
        code=outcome.code.value,
        is_overdue=False,
        original_reference_id=content.get("originalReferenceId"),
        attempt=outcome.attempt,
        what_to_do=_WAYS_OUT.get(outcome.code, _EXPLAIN),
    )
    return _Placed(incident, _Place(outcome.recorded_at, row.operation_id, ""))


def _provider_in(outcome: Outcome) -> str | None:
    """Return the provider of a rejected payment, which is kept in its detail, or of a subscription's."""
    if (paid := subscription_payment_of(outcome)) is not None:
        return paid.get("provider") or _prefix_of(paid["referenceId"])
    kept = outcome.detail.get("provider")
    provider: str | None = json.loads(kept) if isinstance(kept, str) else None
    return provider


_PREFIX = re.compile(r"([^:]+):.")


def _prefix_of(reference_id: str) -> str | None:
    """Return the gateway of a reference such as ``stripe:pi_1``; None where it names none."""
    found = _PREFIX.match(reference_id)
    return None if found is None else found[1]


# -- what waits -------------------------------------------------------------------------------------------


def _events_of(connection: Connection, filter_: IncidentFilter, before: datetime) -> _Fetch:
    event, name = waiting_events.c, payment_names.c
    reference = (
        collate(event.reference_id, "C") if connection.dialect.name == "postgresql" else event.reference_id
    )
    user_id = func.coalesce(name.user_id, event.user_id)
    statement = (
        select(waiting_events, user_id.label("owner"))
        .join_from(waiting_events, payment_names, name.name == event.name, isouter=True)
        .order_by(event.recorded_at.desc(), reference.desc())
        .limit(_CHUNK)
    )
    statement = _filtered(statement, filter_, event.recorded_at, user_id)
    if not filter_.kinds:
        statement = statement.where(or_(event.reason.is_not(None), event.recorded_at < before))

    def fetch(behind: _Place | None) -> list[_Placed]:
        own = statement if behind is None else statement.where(_event_behind(behind, reference))
        return [_of_event(row, before) for row in connection.execute(own)]

    return fetch


def _event_behind(place: _Place, reference: ColumnElement[str]) -> ColumnElement[bool]:
    recorded_at = waiting_events.c.recorded_at
    if place.is_operation:
        return recorded_at <= place.recorded_at
    is_next = and_(recorded_at == place.recorded_at, reference < place.reference_id)
    return or_(recorded_at < place.recorded_at, is_next)


def _of_event(row: Row[Any], before: datetime) -> _Placed:
    is_overdue = row.reason is None and row.recorded_at < before
    incident = Incident(
        kind=IncidentKind.WAITING,
        recorded_at=row.recorded_at,
        reference_id=row.reference_id,
        type=TYPE_OF[Happened(row.happened)],
        user_id=row.owner or None,
        gateway=_prefix_of(row.reference_id) or _prefix_of(row.name),
        amount_minor=row.amount_minor,
        currency=row.currency,
        code=row.reason or Code.PAYMENT_AWAITED.value,
        is_overdue=is_overdue,
        original_reference_id=row.name,
        attempt=1,
        what_to_do=_AWAITED if row.reason is None else _STUCK,
    )
    return _Placed(incident, _Place(row.recorded_at, _NO_OPERATION, row.reference_id))


#: Types of the commands that tell an event.
TYPE_OF: Mapping[Happened, str] = {
    Happened.REFUNDED: "payment.refunded",
    Happened.REFUNDED_TOTAL: "payment.refunded",
    Happened.REFUND_FAILED: "payment.refund_failed",
    Happened.INQUIRED: "payment.disputed",
    Happened.DISPUTED: "payment.disputed",
    Happened.DISPUTE_WON: "payment.dispute_closed",
    Happened.DISPUTE_LOST: "payment.dispute_closed",
    Happened.DISPUTE_PREVENTED: "payment.dispute_closed",
    Happened.DISPUTE_WITHDRAWN: "payment.dispute_closed",
    Happened.FAILED: "payment.failed",
    Happened.FROZEN: "account.freeze",
    Happened.UNFROZEN: "account.unfreeze",
    Happened.SUCCEEDED: "payment.succeeded",
}

# -- ways out ---------------------------------------------------------------------------------------------

_EXPLAIN = "see `billing-worker explain`; mend the cause, then `billing-worker retry`"
_AWAITED = "send the payment, or give it this name in alsoKnownAs"
_STUCK = "the payment is there and this can't count for it: correct it by hand with `billing-worker adjust`"
_WAYS_OUT: Mapping[Code, str] = {
    Code.UNKNOWN_PACKAGE: "add the package to the catalog, then retry",
    Code.UNKNOWN_TIER: "add the tier to the catalog, then retry",
    Code.AMOUNT_MISMATCH: "mend the catalog's price (or price_check), then retry; or refund at the gateway",
    Code.CURRENCY_MISMATCH: "the event is in another currency than its payment: correct it by hand",
    Code.ACCOUNT_NOT_FOUND: "open the account: it takes the payment in by itself",
    Code.REFERENCE_TAKEN: "another payment has this name: see explain, and refund what was paid twice",
    Code.PERIOD_ALREADY_GRANTED: "the period was paid twice: refund one of both at the gateway",
    Code.PERIOD_OUT_OF_RANGE: "see explain; retry when the period has come, or refund at the gateway",
    Code.ORIGINAL_NOT_FOUND: "the named payment is another operation: see explain",
    Code.PURCHASE_FLAGGED: "credited although the price differs: compare it with the catalog",
    Code.REFUND_STYLE_MIXED: "single refunds and totals were both sent: let the bridge send one of both",
}

# -- filters and cursors ----------------------------------------------------------------------------------


def _filtered(
    statement: Select[Any],
    filter_: IncidentFilter,
    recorded_at: ColumnElement[datetime],
    user_id: ColumnElement[Any],
) -> Select[Any]:
    if filter_.since is not None:
        statement = statement.where(recorded_at >= filter_.since)
    if filter_.until is not None:
        statement = statement.where(recorded_at < filter_.until)
    if filter_.user_id is not None:
        statement = statement.where(user_id == filter_.user_id)
    return statement


def _count_if(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _cursor_of(place: _Place) -> str:
    parts = (place.recorded_at.isoformat(), place.operation_id, place.reference_id)
    return urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def _place_in(cursor: str) -> _Place:
    """Return the place of a cursor. Raises QueryError for one that no page has named."""
    try:
        recorded_at, number, reference = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        place = _Place(datetime.fromisoformat(recorded_at), number, reference)
    except (ValueError, TypeError) as error:
        raise refused_cursor() from error
    is_typed = type(place.operation_id) is int and isinstance(place.reference_id, str)
    if not is_typed or place.recorded_at.tzinfo is None or _cursor_of(place) != cursor:
        raise refused_cursor()
    if not 0 <= place.operation_id <= INT64_MAX:
        raise refused_cursor()
    return place
