"""Checks of what stands beside the ledger: names of payments, and events that wait for their payment.

Neither is ever joined with a table of the ledger: where that is distributed, they lie elsewhere. A name is
bound after its payment is committed, and an event waits before its operation is; so each check reads first
what is written last, or begins another snapshot in between.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, Table, select

from schemas import NO_USER, Code, Status, slot_of
from worker.ledger.audit.report import Discrepancy
from worker.ledger.audit.scope import scope_of
from worker.ledger.slots import Slots
from worker.ledger.tables import accounts, operations, payment_events, payment_names, payments, waiting_events

#: Rows that a statement looks up.
_PAGE = 5_000

_Begin = Callable[[Connection], None]


class Places(NamedTuple):
    """Slots that a statement may read at once, all together, and what begins another snapshot."""

    divisions: Sequence[Slots]
    begin: _Begin


# -- beside the ledger: once for all slots ----------------------------------------------------------------


def beside(
    connection: Connection, places: Places, made_before: datetime | None, waiting_before: datetime | None
) -> Iterator[Discrepancy]:
    """Find events that wait although their payment is there, or without operation, and names without payment.

    Events recorded since ``made_before`` may lack their operation. Those recorded since ``waiting_before``
    may wait for a payment that is there: it is to take them in.
    """
    yield from _waiting_for_what_is_there(connection, waiting_before)
    for waiting in _pages(connection, waiting_events, waiting_events.c.reference_id):
        yield from _without_outcome(connection, places, waiting, made_before)
    for names in _pages(connection, payment_names, payment_names.c.name):
        yield from _without_payment(connection, places, [row for row in names if row.user_id is not None])


def _pages(connection: Connection, table: Table, key: Any) -> Iterator[Sequence[Row[Any]]]:
    """Yield all rows in pages, by their key: a snapshot may end between two of them."""
    statement = select(table).order_by(key).limit(_PAGE)
    page = connection.execute(statement).all()
    while page:
        last = getattr(page[-1], key.name)
        yield page
        page = connection.execute(statement.where(key > last)).all() if len(page) == _PAGE else []


def _waiting_for_what_is_there(connection: Connection, before: datetime | None) -> Iterator[Discrepancy]:
    event, name = waiting_events.c, payment_names.c
    statement = (
        select(event.reference_id, name.user_id)
        .join_from(waiting_events, payment_names, name.name == event.name)
        .where(name.user_id.is_not(None), event.reason.is_(None))
        .order_by(event.reference_id)
    )
    if before is not None:
        statement = statement.where(event.recorded_at < before)
    for row in connection.execute(statement).all():
        yield _finding("event_not_taken_in", row.reference_id, row.user_id, expected=0, actual=1)


def _without_outcome(
    connection: Connection, places: Places, waiting: Sequence[Row[Any]], before: datetime | None
) -> Iterator[Discrepancy]:
    old = [row for row in waiting if before is None or row.recorded_at < before]
    by_slot = _by_slot((row.user_id or NO_USER, row.reference_id) for row in old)
    operation = operations.c
    found: set[tuple[str, str]] = set()
    for slots, references in _lookups(connection, places, by_slot):
        statement = select(operation.reference_id, operation.user_id).where(
            scope_of(slots).of(operations),
            operation.reference_id.in_(references),
            operation.status == Status.APPLIED.value,
            operation.code == Code.PAYMENT_AWAITED.value,
        )
        found.update(tuple(row) for row in connection.execute(statement, slots._asdict()))
    for row in old:
        if (row.reference_id, row.user_id or NO_USER) not in found:
            yield _finding("waiting_without_outcome", row.reference_id, row.user_id)


def _without_payment(
    connection: Connection, places: Places, bound: Sequence[Row[Any]]
) -> Iterator[Discrepancy]:
    by_slot = _by_slot((row.user_id, row.payment_reference) for row in bound)
    found: set[tuple[str, str]] = set()
    for slots, references in _lookups(connection, places, by_slot):
        statement = _payments_of(slots).where(payments.c.reference_id.in_(references))
        found.update(tuple(row) for row in connection.execute(statement, slots._asdict()))
    for row in bound:
        if (row.payment_reference, row.user_id) not in found:
            yield _finding("name_without_payment", row.name, row.user_id)


def _by_slot(references: Iterator[tuple[str, str]]) -> dict[int, list[str]]:
    """Return references, which come with their users, by the users' slots."""
    found: dict[int, list[str]] = {}
    for user_id, reference in references:
        found.setdefault(slot_of(user_id), []).append(reference)
    return found


def _lookups(
    connection: Connection, places: Places, by_slot: Mapping[int, Sequence[str]]
) -> Iterator[tuple[Slots, Sequence[str]]]:
    """Yield each division with the references of its slots, in a snapshot that is younger than these."""
    for slots in places.divisions:
        own = [one for slot, some in by_slot.items() if slots.first <= slot <= slots.last for one in some]
        if own:
            places.begin(connection)
            yield slots, own


# -- of a share -------------------------------------------------------------------------------------------


def of_share(
    connection: Connection, slots: Slots, places: Places, made_before: datetime | None
) -> Iterator[Discrepancy]:
    """Find payments without their name, names that were to be one payment's and are not, and lost events.

    These are of operations whose event neither waits nor was taken in. What was recorded since
    ``made_before`` is left out.
    """
    yield from _unnamed(connection, slots, made_before)
    yield from _apart(connection, slots, made_before)
    yield from _lost(connection, slots, places, made_before)


def _unnamed(connection: Connection, slots: Slots, before: datetime | None) -> Iterator[Discrepancy]:
    statement = _payments_of(slots).order_by(payments.c.reference_id)
    if before is not None:
        statement = statement.where(payments.c.recorded_at < before)
    for page in _partitions(connection, statement, slots):
        names = _named(connection, [row.reference_id for row in page])
        for row in page:
            if names.get(row.reference_id) != (row.reference_id, row.user_id):
                yield _finding("payment_without_name", row.reference_id, row.user_id)


def _apart(connection: Connection, slots: Slots, before: datetime | None) -> Iterator[Discrepancy]:
    """Find commands about names of which one has another payment, or isn't the same as the others."""
    operation = operations.c
    statement = select(operation.reference_id, operation.user_id, operation.content).where(
        scope_of(slots).of(operations),
        operation.status == Status.APPLIED.value,
        operation.code == Code.PAYMENT_NAMED.value,
    )
    if before is not None:
        statement = statement.where(operation.recorded_at < before)
    for page in _partitions(connection, statement.order_by(operation.reference_id), slots):
        given = {row.reference_id: _names_in(row.content) for row in page}
        known = _wholes(connection, {name for names in given.values() for name in names})
        for row in page:
            wholes = {known.get(name) for name in given[row.reference_id]}
            if len(given[row.reference_id]) > 1 and (len(wholes) != 1 or None in wholes):
                yield _finding("names_apart", row.reference_id, row.user_id, actual=len(wholes))


def _names_in(content: str) -> set[str]:
    fields = json.loads(content)
    return {fields["originalReferenceId"], *fields["alsoKnownAs"]}


def _wholes(connection: Connection, names: Collection[str]) -> dict[str, tuple[str | None, str | None]]:
    """Return what each name belongs to: its payment, or else the first of the names that are the same."""
    name = payment_names.c
    in_order, found = sorted(names), {}
    for first in range(0, len(in_order), _PAGE):
        statement = select(name.name, name.payment_reference, name.same_as).where(
            name.name.in_(in_order[first : first + _PAGE])
        )
        for row in connection.execute(statement):
            if row.payment_reference is not None or row.same_as is not None:
                found[row.name] = (row.payment_reference, row.same_as)
    return found


def _lost(
    connection: Connection, slots: Slots, places: Places, before: datetime | None
) -> Iterator[Discrepancy]:
    operation = operations.c
    statement = select(operation.reference_id, operation.user_id, operation.content).where(
        scope_of(slots).of(operations),
        operation.status == Status.APPLIED.value,
        operation.code == Code.PAYMENT_AWAITED.value,
    )
    if before is not None:
        statement = statement.where(operation.recorded_at < before)
    awaited: Sequence[Any] = connection.execute(
        statement.order_by(operation.reference_id), slots._asdict()
    ).all()
    for first in range(0, len(awaited), _PAGE):
        page = awaited[first : first + _PAGE]
        waiting = _waiting_among(connection, [row.reference_id for row in page])
        left = [row for row in page if row.reference_id not in waiting]
        taken_in = _taken_in(connection, places, left)
        for row in left:
            if row.reference_id not in taken_in:
                yield _finding("awaited_without_event", row.reference_id, row.user_id)


def _waiting_among(connection: Connection, references: Collection[str]) -> set[str]:
    event = waiting_events.c
    statement = select(event.reference_id).where(event.reference_id.in_(references))
    return set(connection.execute(statement).scalars())


def _taken_in(connection: Connection, places: Places, left: Sequence[Row[Any]]) -> set[str]:
    """Return the references of events that are among those of a payment, of whatever slot."""
    by_name = {row.reference_id: _name_in(row.content) for row in left}
    names = _named(connection, set(by_name.values()))
    owners = {reference: names[name][1] for reference, name in by_name.items() if name in names}
    owned = ((user_id, reference) for reference, user_id in owners.items())
    event = payment_events.c
    found: set[str] = set()
    for slots, references in _lookups(connection, places, _by_slot(owned)):
        statement = select(event.reference_id, event.slot).where(
            scope_of(slots).of(payment_events), event.reference_id.in_(references)
        )
        for row in connection.execute(statement, slots._asdict()):
            if row.slot == slot_of(owners[row.reference_id]):
                found.add(row.reference_id)
    return found


def _name_in(content: str) -> str:
    """Return the name of the payment that a command is about."""
    fields = json.loads(content)
    name: str = fields.get("originalReferenceId") or fields["paymentReferenceId"]
    return name


def _named(connection: Connection, names: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return the payment and the user of each name that is bound."""
    name = payment_names.c
    statement = select(name.name, name.payment_reference, name.user_id).where(
        name.name.in_(names), name.user_id.is_not(None)
    )
    return {row.name: (row.payment_reference, row.user_id) for row in connection.execute(statement)}


# -- statements -------------------------------------------------------------------------------------------


def _payments_of(slots: Slots) -> Select[Any]:
    """Select the references of payments and their users."""
    scope = scope_of(slots)
    return (
        select(payments.c.reference_id, accounts.c.user_id)
        .join_from(payments, accounts, scope.on(accounts, payments, account_id="account_id"))
        .where(scope.of(payments))
    )


def _partitions(connection: Connection, statement: Select[Any], slots: Slots) -> Iterator[Sequence[Any]]:
    streamed = connection.execute(statement, slots._asdict(), execution_options={"yield_per": _PAGE})
    return streamed.partitions()


def _finding(
    check: str, reference_id: str, user_id: str | None, *, expected: int = 1, actual: int = 0
) -> Discrepancy:
    return Discrepancy(
        check, None, user_id or None, reference_id, None, None, None, expected=expected, actual=actual
    )
