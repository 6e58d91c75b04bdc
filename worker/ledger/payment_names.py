"""Names of payments, and the events that wait for one of them.

A payment has several names at its gateway, and its events may use any of them, without a user, before the
payment is there. So a name stands beside the ledger, outside all slots, with the payment and the user it is
bound to. An event and its payment that come at the same time can't miss each other: each changes the name, a
change expects the version that was read, and who comes second begins again.

On one database all that is part of the batch's transaction. Where the ledger is distributed, what waits is
written before the batch and names are bound after it, each in a transaction of its own; what a crash, or the
other worker, leaves between is healed by the next copy of the message, or by the next ``account.settle``.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update

from schemas import SLOTS, Code, Command, PaymentSucceeded, Status, slot_of, type_of
from worker.core.contents import command_of
from worker.core.known import PaymentEvent, PaymentName
from worker.core.needs import Needs, names_of, needs_of
from worker.core.outcomes import Outcome
from worker.core.plan import Plan
from worker.core.superseded import ABOUT_PAYMENTS
from worker.errors import ContentionError
from worker.ledger import rows
from worker.ledger.bulk import Keys, RowInsert, RowUpdate, RowWrite, among, select_rows, write_all
from worker.ledger.records import length_of
from worker.ledger.tables import accounts, operations, payment_names, waiting_events


@dataclass(slots=True)
class NamedPayments:
    """Names that commands give or ask for, as far as they are known, and the events that wait for them.

    ``opening`` are the users whose account the commands may open, with the tier, ``unopened`` the payments
    that came before that.
    """

    names: dict[str, PaymentName] = field(default_factory=dict)
    waiting: dict[str, list[PaymentEvent]] = field(default_factory=dict)
    unopened: dict[str, list[Outcome]] = field(default_factory=dict)
    opening: Mapping[str, str] = field(default_factory=dict)


def look_up(
    connection: Connection,
    commands: Sequence[Command],
    auto_open: str | None,
    *,
    beside: Connection | None = None,
) -> NamedPayments:
    """Return the names of ``commands``, and what waits for them.

    ``connection`` reads the ledger, ``beside`` the names where these are in another database.
    """
    beside = connection if beside is None else beside
    needs = needs_of(commands)
    opening = _opening_of(connection, needs, auto_open)
    asked = set(needs.names)
    awaited = _awaited_of(beside, needs.settling) if needs.settling else set()
    unopened = _unopened_payments(connection, opening) if opening else {}
    for outcome in (outcome for own in unopened.values() for outcome in own):
        asked.update(names_of(command_of(outcome, outcome.attempt)))
    if not asked and not awaited:
        return NamedPayments(unopened=unopened, opening=opening)
    names = _names_of(beside, asked | awaited)
    unbound = {name for name, bound in names.items() if bound.user_id is None}
    waiting = _waiting(beside, sorted(unbound | awaited)) if unbound or awaited else {}
    return NamedPayments(names, waiting, unopened, opening)


_NAME = ("name", "payment_reference", "user_id", "version", "same_as")


def _names_of(connection: Connection, asked: Collection[str]) -> dict[str, PaymentName]:
    """Return these names, and all that are the same as one of them, as far as they have a row."""
    found = select_rows(connection, payment_names, _NAME, "name", Keys(sorted(asked)))
    names = {row.name: _known(row) for row in found}
    firsts = {name.same_as for name in names.values() if name.same_as is not None}
    if firsts:
        alike = select_rows(connection, payment_names, _NAME, "same_as", Keys(sorted(firsts)))
        names |= {row.name: _known(row) for row in alike}
    return names


def _known(row: Row[Any]) -> PaymentName:
    """Return a name; what it was the same as says nothing once it is bound (0.3.0 leaves it there)."""
    name = PaymentName(*row)
    return name if name.user_id is None else replace(name, same_as=None)


def _opening_of(connection: Connection, needs: Needs, auto_open: str | None) -> Mapping[str, str]:
    """Return the users whose account commands may open, with the tier that is asked for first."""
    if auto_open is None or not needs.first:
        return needs.opening
    missing = _without_account(connection, needs.first)
    return {**dict.fromkeys(missing, auto_open), **needs.opening}


def _without_account(connection: Connection, users: Set[str]) -> Set[str]:
    """Return those of ``users`` who have no account yet; nearly all have one."""
    keys = Keys(sorted(users), list(slots_of(users)))
    return users - {row.user_id for row in select_rows(connection, accounts, ("user_id",), "user_id", keys)}


def slots_of(users: Collection[str]) -> Collection[int]:
    """Return the slots that these users may be in: all of them where there are as many users."""
    return range(SLOTS) if len(users) >= SLOTS else {slot_of(user_id) for user_id in users}


def _unopened_payments(connection: Connection, users: Collection[str]) -> dict[str, list[Outcome]]:
    """Return the payments that were rejected because these users had no account, in the order they came."""
    operation = operations.c
    statement = (
        select(operations)
        .where(
            among(connection, operation.user_id, sorted(users)),
            among(connection, operation.slot, sorted(set(map(slot_of, users)))),
            operation.status == Status.REJECTED.value,
            operation.type == type_of(PaymentSucceeded),
            operation.code == Code.ACCOUNT_NOT_FOUND.value,
            ~operation.is_taken,
        )
        .order_by(operation.recorded_at, operation.operation_id)
    )
    found: dict[str, list[Outcome]] = {}
    for row in connection.execute(statement):
        found.setdefault(row.user_id, []).append(rows.outcome(row))
    return found


def owners_of(connection: Connection, commands: Iterable[Command]) -> dict[str, str]:
    """Return the users of the payments that commands name, by the name."""
    names = sorted({name for command in commands for name in names_of(command)})
    if not names:
        return {}
    name = payment_names.c
    statement = select(name.name, name.user_id).where(
        among(connection, name.name, names), name.user_id.is_not(None)
    )
    return {row.name: row.user_id for row in connection.execute(statement)}


def _awaited_of(connection: Connection, users: Collection[str]) -> set[str]:
    """Return the names of these users' payments that events wait for."""
    name, event = payment_names.c, waiting_events.c
    statement = (
        select(name.name)
        .join_from(payment_names, waiting_events, event.name == name.name)
        .where(among(connection, name.user_id, sorted(users)), event.reason.is_(None))
    )
    return set(connection.execute(statement).scalars())


def _waiting(connection: Connection, names: Sequence[str]) -> dict[str, list[PaymentEvent]]:
    event = waiting_events.c
    statement = (
        select(waiting_events)
        .where(among(connection, event.name, names), event.reason.is_(None))
        .order_by(event.recorded_at, event.reference_id)
    )
    found: dict[str, list[PaymentEvent]] = {}
    for row in connection.execute(statement):
        found.setdefault(row.name, []).append(rows.waiting_event(row))
    return found


# -- writes -----------------------------------------------------------------------------------------------


def writes_of(plan: Plan, names: Mapping[str, PaymentName], now: datetime) -> list[RowWrite]:
    """Return the writes of all names of ``plan``, and of the events that wait."""
    if not plan.waiting:
        return list(_changes(sorted(plan.names, key=_name), names, now)) if plan.names else []
    fresh = {event.name for event in plan.waiting} - {bound.name for bound in plan.names}
    unbound = [PaymentName(name) if name not in names else names[name] for name in fresh]
    waiting = RowInsert(waiting_events, rows.of_waiting_events(sorted(plan.waiting, key=_reference)))
    return [*_changes(sorted((*plan.names, *unbound), key=_name), names, now), waiting]


def tidy(connection: Connection, plan: Plan) -> None:
    """Forget what waits no longer, and write why an event can't count."""
    if plan.taken_in:
        connection.execute(
            delete(waiting_events).where(among(connection, waiting_events.c.reference_id, plan.taken_in))
        )
    if plan.stuck:
        connection.execute(
            update(waiting_events)
            .where(among(connection, waiting_events.c.reference_id, plan.stuck))
            .values(reason=CURRENCY_MISMATCH)
        )


#: Reason of an event that waits although its payment is there.
CURRENCY_MISMATCH = "currency_mismatch"


_reference, _name = attrgetter("reference_id"), attrgetter("name")


def write_waiting(
    connection: Connection, plan: Plan, names: Mapping[str, PaymentName], now: datetime
) -> None:
    """Write the events of a plan that wait, and its names without payment, before its batch.

    Raises ContentionError.
    """
    unbound = [name for name in plan.names if name.user_id is None]
    carry_out(connection, writes_of(replace(plan, names=unbound), names, now))


def bind_after_all(connection: Connection, plan: Plan, now: datetime) -> None:
    """Bind the names of a plan that is committed, as they are by now, and all that are the same.

    Another worker may have let an event wait for one meanwhile: it is taken in with the next settlement.
    Raises ContentionError.
    """
    bound = {name.name: name for name in plan.names if name.user_id is not None}
    if bound:
        names = _names_of(connection, bound)
        of_first = {
            known.same_as: bound[known.name]
            for known in names.values()
            if known.same_as is not None and known.name in bound
        }
        bound |= {
            known.name: replace(of_first[known.same_as], name=known.name)
            for known in names.values()
            if known.same_as in of_first and known.name not in bound
        }
        fresh = [
            replace(one, version=names[one.name].version if one.name in names else 0)
            for one in bound.values()
            if one.name not in names or names[one.name].user_id is None
        ]
        carry_out(connection, writes_of(replace(plan, names=fresh, waiting=[]), names, now))
    tidy(connection, plan)


def _changes(
    changed: Sequence[PaymentName], names: Mapping[str, PaymentName], now: datetime
) -> Iterator[RowWrite]:
    """Yield the writes of names: those that nobody knew, and those that were read before."""
    yield RowInsert(payment_names, rows.of_names([name for name in changed if name.name not in names], now))
    known = [name for name in changed if name.name in names]
    if known:
        expected = {"expected_version": [names[name.name].version for name in known]}
        yield RowUpdate(payment_names, {**rows.of_names(known, now), **expected}, ("name",), _VERSION)


_VERSION = (("version", "expected_version"),)


def carry_out(connection: Connection, writes: Sequence[RowWrite]) -> None:
    """Carry out writes of names. Raises ContentionError where another worker has changed one."""
    counts = write_all(connection, writes) if writes else []
    if any(count != length_of(write.columns) for write, count in zip(writes, counts, strict=True)):
        raise ContentionError("another worker has changed the name of a payment of this batch")


def with_owners(
    commands: Iterable[Command], owners: Mapping[str, str], claimed: Mapping[str, str]
) -> list[Command]:
    """Return the commands, those about payments with the user of their reference, or else of the payment.

    ``owners`` has users by the payment's name, ``claimed`` those of references that are known already.
    """
    return list(_with_owners(commands, owners, claimed))


def _with_owners(
    commands: Iterable[Command], owners: Mapping[str, str], claimed: Mapping[str, str]
) -> Iterator[Command]:
    for command in commands:
        if command.type not in ABOUT_PAYMENTS or not (names := names_of(command)):
            yield command
            continue
        named = next((owners[name] for name in names if name in owners), command.user_id)
        owner = claimed.get(command.reference_id, named)
        yield command if owner == command.user_id else command.model_copy(update={"user_id": owner})
