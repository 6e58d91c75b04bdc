"""Loading: all that must be known before a batch can be decided, read under the locks of its accounts.

A batch of plain deductions reads its accounts, the outcomes of its references and its lots; the rest is read
only where a command, or a hold that is open, needs it.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, select, tuple_

from schemas import Command, PaymentSucceeded, ReserveUsage, type_of
from worker.core.known import (
    AccountState,
    Hold,
    HoldState,
    Known,
    Lot,
    Payment,
    PaymentEvent,
    QuotaKey,
    QuotaState,
    Source,
    Taken,
    present_period,
)
from worker.core.needs import needs_of
from worker.core.outcomes import Outcome
from worker.core.plan import Counter
from worker.core.superseded import Attempted, Owner, Superseded, is_usage, owner_of
from worker.ledger import rows
from worker.ledger.bulk import insert_rows, select_by, select_rows
from worker.ledger.row_sql import IsKey
from worker.ledger.tables import (
    accounts,
    entries,
    hold_parts,
    holds,
    lots,
    operations,
    payment_events,
    payments,
    quotas,
    superseded_outcomes,
    usage_refunds,
)


def load(connection: Connection, commands: Sequence[Command], now: datetime) -> Known:
    """Return all that ``decide`` needs to know of ``commands``; lock their accounts until the commit."""
    needs = needs_of(commands)
    just_opened = _make_missing_accounts(connection, needs.opening, now)
    known = Known(accounts=_locked_accounts(connection, needs.users), just_opened=just_opened)
    known.outcomes = outcomes_of(connection, needs.references)
    known.superseded = superseded_by(connection, commands, known.outcomes)
    states = [state for user_id, state in known.accounts.items() if user_id not in just_opened]
    known.lots = open_lots(connection, [state.account_id for state in states])
    known.holds = open_holds(connection, [state.account_id for state in states if state.held])
    if needs.counting:
        known.quotas = _quotas(connection, [s for s in states if s.user_id in needs.counting], now)
    if needs.holds:
        _closed_holds(connection, known, needs.holds)
    if needs.usages:
        _usages(connection, known, needs.usages)
    if needs.paying:
        _payments(connection, known, needs.payments, needs.paying)
    return known


def open_lots(connection: Connection, account_ids: Collection[int]) -> dict[int, list[Lot]]:
    """Return the lots of these accounts that are not used up, by account, in the order of numbers."""
    found: dict[int, list[Lot]] = {}
    in_order = ("account_id", "number")
    for row in select_rows(
        connection, lots, rows.LOT, "account_id", account_ids, only=("is_open", True), order_by=in_order
    ):
        found.setdefault(row[0], []).append(rows.lot(row))
    return found


def open_holds(connection: Connection, account_ids: Collection[int]) -> dict[int, list[Hold]]:
    """Return the open holds of these accounts, by account."""
    found: dict[int, list[Hold]] = {}
    for hold in _grouped(select_by(connection, _open_holds, account_ids)):
        found.setdefault(hold.account_id, []).append(hold)
    return found


# -- accounts and references ------------------------------------------------------------------------------


def _make_missing_accounts(connection: Connection, opening: Mapping[str, str], now: datetime) -> set[str]:
    made = insert_rows(
        connection,
        accounts,
        [
            {
                "user_id": user_id,
                "tier": opening[user_id],
                "anchor": now,
                "granted_until": now,
                "opened_at": now,
                "updated_at": now,
            }
            for user_id in sorted(opening)
        ],
        on_conflict="nothing",
        returning=("user_id",),
    )
    return {row.user_id for row in made}


def _locked_accounts(connection: Connection, users: Iterable[str]) -> dict[str, AccountState]:
    in_order = sorted(users)
    found = select_rows(
        connection, accounts, rows.ACCOUNT, "user_id", in_order, order_by=("user_id",), for_update=True
    )
    return {row.user_id: rows.account(row) for row in found}


def outcomes_of(connection: Connection, references: Iterable[str]) -> dict[str, Outcome]:
    """Return the outcomes that are stored under these references."""
    found = select_rows(connection, operations, rows.OPERATION, "reference_id", sorted(references))
    return {row.reference_id: rows.outcome(row) for row in found}


def superseded_by(
    connection: Connection, asking: Iterable[Attempted], outcomes: Mapping[str, Outcome]
) -> Superseded:
    """Return the outcomes that the stored ``outcomes`` replaced, as far as ``asking`` names them."""
    late: set[tuple[str, str, str, int]] = set()
    lost: set[Owner] = set()
    for one in asking if outcomes else ():
        stored = outcomes.get(one.reference_id)
        if stored is None:
            continue
        owner = owner_of(one)
        if owner != owner_of(stored):
            if is_usage(one.type) and not is_usage(stored.type):
                lost.add(owner)
                late.add((*owner, one.attempt))
        elif one.attempt < stored.attempt:
            late.add((*owner, one.attempt))
    if not late:
        return Superseded()
    attempts = _superseded(connection, late, tuple_(*_OWNER, superseded_outcomes.c.attempt).in_(sorted(late)))
    latest = _superseded(connection, lost, and_(tuple_(*_OWNER).in_(sorted(lost)), _IS_LATEST))
    return Superseded(
        {(owner_of(outcome), outcome.attempt): outcome for outcome in attempts},
        {owner_of(outcome): outcome for outcome in latest},
    )


def _superseded(
    connection: Connection, keys: Collection[Any], condition: ColumnElement[bool]
) -> list[Outcome]:
    if not keys:
        return []
    found = connection.execute(select(superseded_outcomes).where(condition))
    return [rows.outcome(row) for row in found]


_later = superseded_outcomes.alias("later")
_OWNER = tuple(superseded_outcomes.c[name] for name in ("reference_id", "type", "user_id"))
_IS_LATEST = ~(
    select(_later.c.attempt)
    .where(*(_later.c[column.name] == column for column in _OWNER))
    .where(_later.c.attempt > superseded_outcomes.c.attempt)
    .exists()
)


def _quotas(
    connection: Connection, states: Sequence[AccountState], now: datetime
) -> dict[QuotaKey, QuotaState]:
    """Return the quotas of the accounts' present periods, whatever their meters."""
    if not states:
        return {}
    present = {state.account_id: present_period(state, now).key for state in states}
    starts = sorted(set(present.values()))
    found = select_rows(
        connection, quotas, _QUOTA, "account_id", sorted(present), also=("period_start", starts)
    )
    return {
        QuotaKey(row.account_id, row.meter, row.period_start): QuotaState(row.used, row.sequence)
        for row in found
        if row.period_start == present[row.account_id]
    }


_QUOTA = ("account_id", "meter", "period_start", "used", "sequence")


# -- what commands name -----------------------------------------------------------------------------------


def _originals(outcomes: Mapping[str, Outcome], references: Iterable[str], *types: str) -> dict[int, Outcome]:
    """Return the applied outcomes of ``references`` by operation; only of ``types`` where any are named."""
    found = (outcomes.get(reference_id) for reference_id in references)
    return {
        outcome.transaction_id: outcome
        for outcome in found
        if outcome is not None
        and outcome.is_applied
        and outcome.transaction_id is not None
        and (not types or outcome.type in types)
    }


def _closed_holds(connection: Connection, known: Known, references: Set[str]) -> None:
    """Add the named holds that have ended to ``known``; open ones are known already."""
    ended = references - {hold.reference_id for own in known.holds.values() for hold in own}
    ids = _originals(outcomes_of(connection, ended), ended, type_of(ReserveUsage))
    if not ids:
        return
    for hold in _grouped(select_by(connection, _ended_holds, sorted(ids))):
        known.holds.setdefault(hold.account_id, []).append(hold)


def _open_holds(is_asked_for: IsKey) -> Select[Any]:
    return _holds_and_parts.where(is_asked_for(holds.c.account_id), holds.c.state == HoldState.OPEN.value)


def _ended_holds(is_asked_for: IsKey) -> Select[Any]:
    return _holds_and_parts.where(is_asked_for(holds.c.operation_id), holds.c.state != HoldState.OPEN.value)


_holds_and_parts = (
    select(*(holds.c[name] for name in rows.HOLD), hold_parts.c.lot, hold_parts.c.amount)
    .join_from(holds, hold_parts, hold_parts.c.operation_id == holds.c.operation_id)
    .order_by(holds.c.operation_id, hold_parts.c.place)
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
        [row.operation_id for row in found],
        order_by=("operation_id", "place"),
    ):
        parts[row.operation_id].append((row.lot, row.amount))
    return [rows.hold(row, parts[row.operation_id]) for row in found]


def _usages(connection: Connection, known: Known, references: Iterable[str]) -> None:
    """Add to ``known`` what these usages took, how much is refunded, and their lots, used up or not."""
    originals = _originals(known.outcomes, references)
    if not originals:
        return
    taken: dict[int, list[tuple[int, int]]] = defaultdict(list)
    places: set[tuple[int, int]] = set()
    for row in select_by(connection, _usage_entries, sorted(originals)):
        taken[row.operation_id].append((row.lot, -row.amount))
        places.add((row.account_id, row.lot))
    refunded: dict[int, int] = defaultdict(int)
    for row in select_rows(
        connection, usage_refunds, ("original_id", "tokens"), "original_id", sorted(originals)
    ):
        refunded[row.original_id] += row.tokens
    for operation_id, outcome in originals.items():
        known.usages[outcome.reference_id] = Taken(tuple(taken[operation_id]), refunded[operation_id])
    _add_used_up(
        connection,
        known,
        {account_id for account_id, _ in places},
        "number",
        {number for _, number in places},
    )


def _usage_entries(is_asked_for: IsKey) -> Select[Any]:
    """Select what operations took, in order; found by account and sequence, which is the primary key."""
    entry, operation = entries.c, operations.c
    return (
        select(entry.operation_id, entry.account_id, entry.lot, entry.amount)
        .join_from(operations, accounts, accounts.c.user_id == operation.user_id)
        .join(entries, entry.account_id == accounts.c.account_id)
        .where(
            is_asked_for(operation.operation_id),
            entry.sequence.between(operation.first_entry, operation.last_entry),
            entry.operation_id == operation.operation_id,
            entry.counter == Counter.USAGE.value,
        )
        .order_by(entry.account_id, entry.sequence)
    )


def _payments(
    connection: Connection, known: Known, references: Iterable[str], paying: Collection[str]
) -> None:
    """Add the named payments with their lots to ``known``, and all events of payments so far."""
    happened: dict[str, list[PaymentEvent]] = defaultdict(list)
    for row in select_rows(
        connection,
        payment_events,
        rows.PAYMENT_EVENT,
        "payment_reference",
        sorted(paying),
        order_by=("operation_id",),
    ):
        happened[row.payment_reference].append(rows.payment_event(row))
    known.payment_events = dict(happened)
    originals = _originals(known.outcomes, references, type_of(PaymentSucceeded))
    if not originals:
        return
    found: list[Payment] = []
    for row in select_rows(connection, payments, rows.PAYMENT, "operation_id", sorted(originals)):
        outcome = originals[row.operation_id]
        found.append(rows.payment(row, outcome.reference_id, outcome.occurred_at))
    lapsed = {row.operation_id: int(row.tokens) for row in select_by(connection, _lapsed, sorted(originals))}
    for payment in found:
        payment.lapsed = lapsed.get(payment.operation_id, 0)
    known.payments = {payment.reference_id: payment for payment in found}
    _add_used_up(connection, known, {payment.account_id for payment in found}, "operation_id", set(originals))


def _lapsed(is_asked_for: IsKey) -> Select[Any]:
    """Select the expired tokens of the lots that payments made, by the payment's operation."""
    return (
        select(lots.c.operation_id, func.sum(-entries.c.amount).label("tokens"))
        .join_from(payments, lots, lots.c.account_id == payments.c.account_id)
        .join(entries, and_(entries.c.account_id == lots.c.account_id, entries.c.lot == lots.c.number))
        .where(
            is_asked_for(payments.c.operation_id),
            lots.c.operation_id == payments.c.operation_id,
            lots.c.source.in_((Source.PURCHASE.value, Source.PURCHASE_BONUS.value)),
            entries.c.counter == Counter.EXPIRY.value,
        )
        .group_by(lots.c.operation_id)
    )


def _add_used_up(
    connection: Connection, known: Known, account_ids: Collection[int], name: str, values: Collection[int]
) -> None:
    """Add the used-up lots of these accounts whose column ``name`` has one of ``values`` to ``known``."""
    for row in select_rows(
        connection,
        lots,
        rows.LOT,
        "account_id",
        sorted(account_ids),
        also=(name, sorted(values)),
        only=("is_open", False),
    ):
        own = known.lots.setdefault(row.account_id, [])
        if all(lot.number != row.number for lot in own):
            own.append(rows.lot(row))
            own.sort(key=lambda lot: lot.number)
