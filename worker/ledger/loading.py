"""Loading: all that must be known before a batch can be decided, read under the locks of its accounts.

A batch of plain deductions reads its accounts, the outcomes of its references and its lots; the rest is read
only where a command, or a hold that is open, needs it.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, and_, func, or_, select

from schemas import Command, PaymentSucceeded, Status, slot_of, type_of
from worker.core.calendars import present_period
from worker.core.cancellations import TAKING_UP, taken_up_by
from worker.core.known import (
    AccountState,
    Hold,
    HoldState,
    Known,
    Lot,
    QuotaKey,
    QuotaState,
    Source,
    Taken,
    TakenUp,
)
from worker.core.needs import needs_of
from worker.core.outcomes import Outcome
from worker.core.plan import Counter
from worker.core.rules.credit import free_units_of
from worker.core.superseded import Attempted, Superseded, owner_of
from worker.ledger import rows
from worker.ledger.bulk import Keys, among, insert_rows, select_by, select_rows
from worker.ledger.engine import begun_beside
from worker.ledger.erased_ids import erased_among, ids_to_ask
from worker.ledger.first_reads import are_read_together, read_together
from worker.ledger.payment_names import NamedPayments, look_up, slots_of
from worker.ledger.row_sql import IsKey
from worker.ledger.tables import (
    accounts,
    entries,
    hold_parts,
    holds,
    last_entry,
    lots,
    operations,
    payment_events,
    payments,
    quota_entries,
    quotas,
    superseded_outcomes,
    usage_refunds,
)


def load(
    connection: Connection,
    commands: Sequence[Command],
    now: datetime,
    ids: Callable[[int], Iterator[int]],
    *,
    auto_open: str | None = None,
    slot: int | None = None,
    others: Mapping[str, Outcome] = MappingProxyType({}),
    named: NamedPayments | None = None,
    beside: Connection | None = None,
) -> Known:
    """Return all that ``decide`` needs to know of ``commands``; lock their accounts until the commit.

    ``ids`` gives a number of ids to accounts that are opened, be it on the tier ``auto_open``. Where the
    transaction is of one ``slot``, ``others`` are the outcomes of other users under the references.
    ``named`` are the payments that commands name; without them they are looked up. ``beside`` is a connection
    to the tables beside the ledger, where that is another database.
    """
    needs = needs_of(commands)
    if named is None:
        named = look_up(connection, commands, auto_open)
    users = needs.users | {name.user_id for name in named.names.values() if name.user_id is not None}
    if slot is not None:
        users = {user_id for user_id in users if slot_of(user_id) == slot}
    slots = slots_of(users) if slot is None else (slot,)
    just_opened = _make_missing_accounts(connection, named.opening, now, ids)
    reads = None
    if slot is None and are_read_together(connection, users, needs.references):
        reads = read_together(connection, users, needs.references, list(slots))
    locked = _locked_accounts(connection, users, slots) if reads is None else reads.accounts
    known = Known(accounts=locked, just_opened=just_opened, payment_names=named.names, waiting=named.waiting)
    judged = judged_under(connection, needs.references, slot) if reads is None else _judged(reads.outcomes)
    known.outcomes = {**judged.outcomes, **others}
    known.superseded = superseded_by(connection, commands, judged)
    states = [state for user_id, state in known.accounts.items() if user_id not in just_opened]
    known.lots = open_lots(connection, states, slots) if reads is None else reads.lots
    known.holds = open_holds(connection, [state for state in states if state.held], slots)
    if needs.counting:
        counting = [state for state in states if state.user_id in needs.counting]
        known.quotas = present_quotas(connection, counting, now, slots)
    if needs.holds:
        _closed_holds(connection, known, needs.holds)
    if needs.usages:
        _usages(connection, known, _originals(judged.outcomes, needs.usages))
    if needs.ending:
        ending = [state for state in states if state.user_id in needs.ending]
        theirs = {state.account_id: slot_of(state.user_id) for state in ending}
        _add_used_up(connection, known, theirs, "source", [Source.ALLOCATION.value])
    if needs.canceling:
        known.taken_up = _taken_up(connection, needs.canceling & known.accounts.keys(), slots)
    # A payment whose name isn't bound yet, after a crash of a distributed ledger, is found by its operation.
    unbound = {
        outcome.reference_id: outcome.user_id
        for outcome in judged.outcomes.values()
        if outcome.type == _PAYMENT
        and outcome.is_applied
        and (outcome.reference_id not in named.names or named.names[outcome.reference_id].user_id is None)
    }
    if named.names or unbound:
        _payments(connection, known, slot, unbound)
    known.unopened_payments = named.unopened
    known.erased = _erased(connection, beside, ids_to_ask(commands, known))
    return known


def _erased(connection: Connection, beside: Connection | None, ids: Collection[str]) -> frozenset[str]:
    """Return those of ``ids`` that were erased, as the tables beside the ledger say."""
    if not ids:
        return frozenset()
    with begun_beside(connection, connection if beside is None else beside) as reading:
        return erased_among(reading, ids)


def _taken_up(
    connection: Connection, users: Collection[str], slots: Collection[int]
) -> dict[str, list[TakenUp]]:
    """Return when these users' subscriptions were taken up, where the commands said so."""
    operation = operations.c
    statement = select(operations).where(
        among(connection, operation.user_id, sorted(users)),
        among(connection, operation.slot, sorted(slots)),
        operation.type.in_(TAKING_UP),
        operation.status == Status.APPLIED.value,
        operation.occurred_at.is_not(None),
    )
    found: dict[str, list[TakenUp]] = {}
    for row in connection.execute(statement):
        if (one := taken_up_by(rows.outcome(row))) is not None:
            found.setdefault(row.user_id, []).append(one)
    return found


def keys_of(states: Collection[AccountState], slots: Collection[int] = ()) -> Keys:
    """Return the keys of these accounts' rows, whose slots are among ``slots`` where these are known."""
    slots = slots or {slot_of(state.user_id) for state in states}
    return Keys([state.account_id for state in states], list(slots))


def open_lots(
    connection: Connection, states: Collection[AccountState], slots: Collection[int] = ()
) -> dict[int, list[Lot]]:
    """Return the lots of these accounts that are not used up, by account, in the order of numbers."""
    found: dict[int, list[Lot]] = {}
    in_order = ("account_id", "number")
    for row in select_rows(
        connection,
        lots,
        rows.LOT,
        "account_id",
        keys_of(states, slots),
        only=("is_open", True),
        order_by=in_order,
    ):
        found.setdefault(row[0], []).append(rows.lot(row))
    return found


def open_holds(
    connection: Connection, states: Collection[AccountState], slots: Collection[int] = ()
) -> dict[int, list[Hold]]:
    """Return the open holds of these accounts, by account."""
    found: dict[int, list[Hold]] = {}
    for hold in _grouped(select_by(connection, _open_holds, keys_of(states, slots))):
        found.setdefault(hold.account_id, []).append(hold)
    return found


# -- accounts and references ------------------------------------------------------------------------------


def _make_missing_accounts(
    connection: Connection, opening: Mapping[str, str], now: datetime, ids: Callable[[int], Iterator[int]]
) -> set[str]:
    made = insert_rows(
        connection,
        accounts,
        [
            {
                "account_id": account_id,
                "slot": slot_of(user_id),
                "user_id": user_id,
                "tier": opening[user_id],
                "anchor": now,
                "granted_until": now,
                "opened_at": now,
                "updated_at": now,
            }
            for user_id, account_id in zip(sorted(opening), ids(len(opening)), strict=True)
        ],
        on_conflict="nothing",
        returning=("user_id",),
    )
    return {row.user_id for row in made}


def _locked_accounts(
    connection: Connection, users: Iterable[str], slots: Iterable[int]
) -> dict[str, AccountState]:
    keys = Keys(sorted(users), list(slots))
    found = select_rows(
        connection, accounts, rows.ACCOUNT, "user_id", keys, order_by=("user_id",), for_update=True
    )
    return {row.user_id: rows.account(row) for row in found}


class Judged(NamedTuple):
    """Stored outcomes of references: those in force, and those whose reference was taken."""

    outcomes: dict[str, Outcome]
    taken: list[Outcome]


def judged_under(connection: Connection, references: Collection[str], slot: int | None) -> Judged:
    """Return the outcomes that are stored under ``references``: of one slot, or of the whole ledger."""
    in_order = sorted(references)
    keys = Keys(in_order, () if slot is None else [slot] * len(in_order))
    return _judged(select_rows(connection, operations, rows.OPERATION, "reference_id", keys))


def _judged(found: Iterable[Any]) -> Judged:
    judged = Judged({}, [])
    for row in found:
        outcome = rows.outcome(row)
        if row.is_taken:
            judged.taken.append(outcome)
        else:
            judged.outcomes[outcome.reference_id] = outcome
    return judged


def superseded_by(connection: Connection, asking: Iterable[Attempted], judged: Judged) -> Superseded:
    """Return the outcomes that others replaced, as far as ``asking`` names them."""
    superseded = Superseded(lost={owner_of(outcome): outcome for outcome in judged.taken})
    late: dict[int, Outcome] = {}
    attempts: set[int] = set()
    for one in asking if judged.outcomes or judged.taken else ():
        stored = judged.outcomes.get(one.reference_id)
        if stored is None or owner_of(stored) != owner_of(one):
            stored = superseded.lost.get(owner_of(one))
        if stored is not None and stored.transaction_id is not None and one.attempt < stored.attempt:
            late[stored.transaction_id] = stored
            attempts.add(one.attempt)
    if late:
        keys = Keys(list(late), [slot_of(outcome.user_id) for outcome in late.values()])
        for row in select_rows(
            connection,
            superseded_outcomes,
            rows.SUPERSEDED,
            "operation_id",
            keys,
            also=("attempt", sorted(attempts)),
        ):
            superseded.add_attempt(rows.outcome(row))
    return superseded


def present_quotas(
    connection: Connection, states: Sequence[AccountState], now: datetime, slots: Collection[int] = ()
) -> dict[QuotaKey, QuotaState]:
    """Return the quotas of the accounts' present periods, whatever their meters."""
    if not states:
        return {}
    present = {state.account_id: present_period(state, now).key for state in states}
    starts = sorted(set(present.values()))
    found = select_rows(
        connection, quotas, _QUOTA, "account_id", keys_of(states, slots), also=("period_start", starts)
    )
    return {
        QuotaKey(row.account_id, row.meter, row.period_start): QuotaState(row.used, row.sequence)
        for row in found
        if row.period_start == present[row.account_id]
    }


_QUOTA = ("account_id", "meter", "period_start", "used", "sequence")


# -- what commands name -----------------------------------------------------------------------------------


def _originals(outcomes: Mapping[str, Outcome], references: Iterable[str]) -> dict[int, Outcome]:
    """Return the applied outcomes of ``references`` by operation."""
    found = (outcomes.get(reference_id) for reference_id in references)
    return {
        outcome.transaction_id: outcome
        for outcome in found
        if outcome is not None and outcome.is_applied and outcome.transaction_id is not None
    }


def _keys_of_originals(originals: Mapping[int, Outcome]) -> Keys:
    return Keys(list(originals), [slot_of(outcome.user_id) for outcome in originals.values()])


def _closed_holds(connection: Connection, known: Known, named: Set[tuple[str, str]]) -> None:
    """Add the holds that users name and that have ended to ``known``; open ones are known already."""
    still_open = {hold.reference_id for own in known.holds.values() for hold in own}
    ended = sorted(
        {(slot_of(user_id), reference) for user_id, reference in named if reference not in still_open}
    )
    keys = Keys([reference for _, reference in ended], [slot for slot, _ in ended])
    # Two statements: a plan that joins both, made while there are no holds, would later read all of them.
    opening = select_rows(connection, operations, ("operation_id", "slot"), "reference_id", keys)
    ids = Keys([row.operation_id for row in opening], [row.slot for row in opening])
    for hold in _grouped(select_by(connection, _ended_holds, ids)):
        known.holds.setdefault(hold.account_id, []).append(hold)


def _open_holds(is_asked_for: IsKey) -> Select[Any]:
    return _holds_and_parts.where(is_asked_for(holds.c.account_id), holds.c.state == HoldState.OPEN.value)


def _ended_holds(is_asked_for: IsKey) -> Select[Any]:
    return _holds_and_parts.where(is_asked_for(holds.c.operation_id), holds.c.state != HoldState.OPEN.value)


_holds_and_parts = (
    select(*(holds.c[name] for name in rows.HOLD), hold_parts.c.lot, hold_parts.c.amount)
    .join_from(
        holds,
        hold_parts,
        and_(hold_parts.c.operation_id == holds.c.operation_id, hold_parts.c.slot == holds.c.slot),
    )
    .order_by(holds.c.opened_at, holds.c.reference_id, holds.c.operation_id, hold_parts.c.place)
)


def _grouped(found: Iterable[Row[Any]]) -> Iterator[Hold]:
    """Yield the holds of rows that have one part each; the rows of a hold follow one another."""
    for _, own in groupby(found, key=itemgetter(0)):
        lines = [tuple(row) for row in own]
        yield rows.hold(lines[0][:-2], [(line[-2], line[-1]) for line in lines])


def holds_of(connection: Connection, statement: Select[Any]) -> list[Hold]:
    """Return the holds that ``statement``, a select of holds, finds, in its order, with their parts."""
    found = connection.execute(statement).all()
    parts: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row in select_rows(
        connection,
        hold_parts,
        ("operation_id", "lot", "amount"),
        "operation_id",
        Keys([row.operation_id for row in found], [row.slot for row in found]),
        order_by=("operation_id", "place"),
    ):
        parts[row.operation_id].append((row.lot, row.amount))
    return [rows.hold((getattr(row, name) for name in rows.HOLD), parts[row.operation_id]) for row in found]


def _usages(connection: Connection, known: Known, originals: Mapping[int, Outcome]) -> None:
    """Add to ``known`` what these usages took, how much is refunded, and their lots, used up or not."""
    if not originals:
        return
    keys = _keys_of_originals(originals)
    taken: dict[int, list[tuple[int, int]]] = defaultdict(list)
    accounts_: dict[int, int] = {}
    numbers: set[int] = set()
    for row in select_by(connection, _usage_entries, keys):
        taken[row.operation_id].append((row.lot, -row.amount))
        accounts_[row.account_id] = slot_of(originals[row.operation_id].user_id)
        numbers.add(row.lot)
    refunded: dict[int, int] = defaultdict(int)
    freed: dict[int, int] = defaultdict(int)
    columns = ("original_id", "tokens", "free_quantity")
    for row in select_rows(connection, usage_refunds, columns, "original_id", keys):
        refunded[row.original_id] += row.tokens
        freed[row.original_id] += row.free_quantity
    counted = _present_quotas_of(connection, known, originals)
    for operation_id, outcome in originals.items():
        known.usages[outcome.reference_id] = Taken(
            tuple(taken[operation_id]), refunded[operation_id], counted.get(operation_id), freed[operation_id]
        )
    _add_used_up(connection, known, accounts_, "number", numbers)


def _present_quotas_of(
    connection: Connection, known: Known, originals: Mapping[int, Outcome]
) -> dict[int, QuotaKey]:
    """Return the quotas of present periods that these usages counted against, by operation."""
    free = {operation: outcome for operation, outcome in originals.items() if free_units_of(outcome)}
    if not free or not known.quotas:
        return {}
    entry = quota_entries.c
    # Found by the primary key's beginning: no index leads from an operation to its quota entries.
    statement = select(entry.operation_id, entry.account_id, entry.meter, entry.period_start).where(
        among(connection, entry.account_id, sorted({key.account_id for key in known.quotas})),
        among(connection, entry.slot, sorted({slot_of(outcome.user_id) for outcome in free.values()})),
        entry.meter.in_(sorted({key.meter for key in known.quotas})),
        entry.period_start.in_(sorted({key.period_start for key in known.quotas})),
        among(connection, entry.operation_id, sorted(free)),
    )
    found = connection.execute(statement).all()
    keys = {row.operation_id: QuotaKey(row.account_id, row.meter, row.period_start) for row in found}
    return {operation: key for operation, key in keys.items() if key in known.quotas}


def _usage_entries(is_asked_for: IsKey) -> Select[Any]:
    """Select what operations took by usage, in order."""
    return _entries_of(is_asked_for, Counter.USAGE)


def _reversal_entries(is_asked_for: IsKey) -> Select[Any]:
    """Select what operations about payments took back, in order."""
    return _entries_of(is_asked_for, Counter.REVERSALS)


def _entries_of(is_asked_for: IsKey, counter: Counter) -> Select[Any]:
    """Select the entries of operations, in order; found by account and sequence, which is the primary key."""
    account, entry, operation = accounts.c, entries.c, operations.c
    return (
        select(entry.operation_id, entry.account_id, entry.lot, entry.amount)
        .join_from(
            operations,
            accounts,
            and_(account.slot == operation.slot, account.user_id == operation.user_id),
        )
        .join(entries, and_(entry.slot == account.slot, entry.account_id == account.account_id))
        .where(
            is_asked_for(operation.operation_id),
            entry.sequence.between(operation.first_entry, last_entry()),
            entry.operation_id == operation.operation_id,
            entry.counter == counter.value,
        )
        .order_by(entry.account_id, entry.sequence)
    )


_PAYMENT = type_of(PaymentSucceeded)


def _payments(connection: Connection, known: Known, slot: int | None, unbound: Mapping[str, str]) -> None:
    """Add the payments that are named to ``known``, with their lots, their events and what these took.

    ``unbound`` are the references of others, with their users.
    """
    users = dict(unbound) | {
        name.payment_reference: name.user_id
        for name in known.payment_names.values()
        if name.payment_reference is not None
        and name.user_id is not None
        and slot in (None, slot_of(name.user_id))
    }
    if not users:
        return
    keys = Keys(list(users), [slot_of(user_id) for user_id in users.values()])
    slots: dict[int, int] = {}
    for row in select_rows(connection, payments, rows.PAYMENT, "reference_id", keys):
        payment = rows.payment(row, users[row.reference_id])
        known.payments[payment.reference_id] = payment
        slots[payment.account_id] = row.slot
    if not known.payments:
        return
    paid = {
        payment.operation_id: payment
        for payment in known.payments.values()
        if payment.operation_id is not None
    }
    of_payments = Keys(list(paid), [slot_of(payment.user_id) for payment in paid.values()])
    for row in select_by(connection, _lapsed, of_payments):
        paid[row.operation_id].lapsed[row.number] = int(row.tokens)
    took = _payment_events(connection, known, keys)
    numbers: set[int] = set()
    for row in select_by(connection, _reversal_entries, Keys(list(took), list(_slots_in(took, users)))):
        taken = known.payments[took[row.operation_id]].taken
        taken[row.lot] = taken.get(row.lot, 0) - row.amount
        numbers |= {row.lot} - {None}
    _add_used_up(connection, known, slots, "operation_id", set(paid))
    if numbers:
        _add_used_up(connection, known, slots, "number", numbers)
    of_tiers = {payment.account_id for payment in paid.values() if payment.tier is not None}
    if of_tiers:
        theirs = {account_id: slots[account_id] for account_id in of_tiers}
        _add_used_up(connection, known, theirs, "source", [Source.ALLOCATION.value])


def _slots_in(took: Mapping[int, str], users: Mapping[str, str]) -> Iterator[int]:
    return (slot_of(users[reference]) for reference in took.values())


def _payment_events(connection: Connection, known: Known, keys: Keys) -> dict[int, str]:
    """Add all events so far of payments to ``known``, in order; return the payment of each operation."""
    took: dict[int, str] = {}
    for row in select_rows(
        connection,
        payment_events,
        rows.PAYMENT_EVENT,
        "payment_reference",
        keys,
        order_by=("recorded_at", "operation_id", "reference_id"),
    ):
        known.payment_events.setdefault(row.payment_reference, []).append(rows.payment_event(row))
        took[row.operation_id] = row.payment_reference
    return took


def _lapsed(is_asked_for: IsKey) -> Select[Any]:
    """Select the expired tokens of the lots that payments made, or that rolled over, by operation and lot."""
    entry, lot, payment = entries.c, lots.c, payments.c
    is_own = lot.operation_id == payment.operation_id
    is_heir = and_(payment.tier.is_not(None), lot.source == Source.ALLOCATION.value, lot.parent.is_not(None))
    return (
        select(payment.operation_id, lot.number, func.sum(-entry.amount).label("tokens"))
        .join_from(payments, lots, and_(lot.slot == payment.slot, lot.account_id == payment.account_id))
        .join(
            entries,
            and_(entry.slot == lot.slot, entry.account_id == lot.account_id, entry.lot == lot.number),
        )
        .where(
            is_asked_for(payment.operation_id),
            or_(is_own, is_heir),
            entry.counter == Counter.EXPIRY.value,
        )
        .group_by(payment.operation_id, lot.number)
    )


def _add_used_up(
    connection: Connection, known: Known, slots: Mapping[int, int], name: str, values: Collection[int | str]
) -> None:
    """Add used-up lots of accounts, given with their slots, whose column ``name`` has one of ``values``."""
    for row in select_rows(
        connection,
        lots,
        rows.LOT,
        "account_id",
        Keys(list(slots), list(slots.values())),
        also=(name, sorted(values)),
        only=("is_open", False),
    ):
        own = known.lots.setdefault(row.account_id, [])
        if all(lot.number != row.number for lot in own):
            own.append(rows.lot(row))
            own.sort(key=lambda lot: lot.number)
