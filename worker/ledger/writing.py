"""Writing of a decided batch, as a rule in one statement: the unique key of references judges what is new."""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

from sqlalchemy import Connection, delete, update

from schemas import slot_of
from worker.core.known import Known
from worker.core.outcomes import Outcome
from worker.core.plan import Plan
from worker.errors import ContentionError
from worker.ledger import rows
from worker.ledger.bulk import RowInsert, RowUpdate, RowWrite, among, write_all
from worker.ledger.records import length_of
from worker.ledger.round_trips import is_of_batches
from worker.ledger.slots import is_slot_by_slot
from worker.ledger.tables import (
    accounts,
    entries,
    hold_parts,
    holds,
    lots,
    operations,
    payment_events,
    payments,
    quota_entries,
    quotas,
    superseded_outcomes,
    usage_refunds,
)


def write(
    connection: Connection,
    plan: Plan,
    known: Known,
    now: datetime,
    ids: Callable[[int], Iterator[int]],
    beside: Sequence[RowWrite] = (),
) -> Sequence[RowWrite]:
    """Write ``plan``, which was decided on ``known``; its outcomes have their transaction ids afterwards.

    ``ids`` gives a number of ids to new operations, ``beside`` are writes beside the ledger. Returns what may
    be written together with the COMMIT, as a rule all of it. Raises ContentionError where another worker has
    an operation of a reference, or moved an account, meanwhile.
    """
    written = _outcomes_of(plan, ids)
    if written.changed:
        _change(connection, written)
    writes = [*_new_operations(written), *([] if plan.moves_nothing else _writes(plan, known, now)), *beside]
    if _may_end(connection) and not _is_followed(plan, known):
        return writes
    for write, count in zip(writes, write_all(connection, writes) if writes else (), strict=True):
        if count != length_of(write.columns):
            raise ContentionError(f"{write.table.name} of this batch changed although they were locked")
    _date_imported(connection, plan, known, now)
    _drop_unopened(connection, plan, known)
    return ()


def _may_end(connection: Connection) -> bool:
    """Return True where the statement that writes a batch may be sent with the COMMIT.

    Citus, which was not tried with it, gets them one by one.
    """
    return is_of_batches(connection) and not is_slot_by_slot(connection)


def _is_followed(plan: Plan, known: Known) -> bool:
    """Return True where the transaction has statements behind the one that writes the batch."""
    return bool(plan.imported or plan.taken_in or plan.stuck or known.just_opened - plan.opened)


# -- operations -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Outcomes:
    """Outcomes of a plan as they are to be written: of each operation the last one.

    ``new`` ones are in the order of their references, so that two workers do not wait for each other;
    ``changed`` are operations that were stored before, with the stored outcome and the last; ``replaced`` are
    outcomes that a higher attempt replaced, ``taken`` the ids of operations that lose their reference.
    """

    new: Sequence[Outcome]
    changed: Sequence[tuple[Outcome, Outcome]] = ()
    replaced: Sequence[Outcome] = ()
    taken: Set[int] = frozenset()


def _outcomes_of(plan: Plan, ids: Callable[[int], Iterator[int]]) -> _Outcomes:
    """Give all outcomes of ``plan`` their transaction ids, and return what is to be written of them."""
    # In the order in which they are inserted: ids that rise fill the pages of their index.
    in_order = sorted(plan.outcomes, key=_reference)
    for outcome, operation_id in zip(in_order, ids(len(in_order)), strict=True):
        outcome.transaction_id = operation_id
    if not plan.rejudged and not plan.taken:
        return _Outcomes(in_order)
    for stored, outcome in plan.rejudged:
        outcome.transaction_id = stored.transaction_id
    last = {outcome.transaction_id: outcome for outcome in (*plan.outcomes, *plan.taken)}
    last |= {outcome.transaction_id: outcome for _, outcome in plan.rejudged}
    fresh = {outcome.transaction_id for outcome in plan.outcomes}
    before: dict[int | None, Outcome] = {}
    for stored in (*(stored for stored, _ in plan.rejudged), *plan.taken):
        if stored.transaction_id not in fresh:
            before.setdefault(stored.transaction_id, stored)
    return _Outcomes(
        new=[last[outcome.transaction_id] for outcome in in_order],
        # In order of their references, so that two workers do not wait for each other.
        changed=[(stored, last[key]) for key, stored in sorted(before.items(), key=_reference_of_item)],
        replaced=[stored for stored, _ in plan.rejudged],
        taken={outcome.transaction_id for outcome in plan.taken if outcome.transaction_id is not None},
    )


_reference = attrgetter("reference_id")


def _reference_of_item(item: tuple[int | None, Outcome]) -> str:
    return item[1].reference_id


def _change(connection: Connection, written: _Outcomes) -> None:
    """Write operations that are judged anew or lose their reference, where nothing else changed them."""
    last = [outcome for _, outcome in written.changed]
    columns = {
        **rows.of_outcomes(last),
        "is_taken": rows.taken_of(last, written.taken),
        **rows.expected_of([stored for stored, _ in written.changed]),
    }
    changes = [RowUpdate(operations, columns, ("operation_id",), rows.EXPECTED)]
    if write_all(connection, changes) != [len(written.changed)]:
        raise ContentionError("another worker has judged a reference of this batch anew")


def _new_operations(written: _Outcomes) -> Iterator[RowWrite]:
    """Yield the inserts of operations and superseded outcomes: the unique key decides what is new."""
    if written.new:
        # As a rule none is taken: the column has its default.
        is_taken = {"is_taken": rows.taken_of(written.new, written.taken)} if written.taken else {}
        columns = {**rows.of_outcomes(written.new), **is_taken}
        yield RowInsert(operations, columns)
    if written.replaced:
        yield RowInsert(superseded_outcomes, rows.of_outcomes(written.replaced))


# -- all other rows ---------------------------------------------------------------------------------------


def _writes(plan: Plan, known: Known, now: datetime) -> Iterator[RowWrite]:
    """Yield the writes that ``plan`` needs; a row comes before the rows that refer to it.

    Inserts that belong together always come together, with rows or without: an empty part costs less than a
    plan for each mixture. An update comes only with rows: a plan made for an empty table later reads all of
    it for each row.
    """
    slots = {state.account_id: slot_of(state.user_id) for state in known.accounts.values()}
    used = [move for move in plan.accounts if move.only_used]
    moved = [move for move in plan.accounts if not move.only_used]
    if used:
        yield RowUpdate(accounts, rows.of_uses(used, slots, now), ("account_id",), _SEQUENCE)
    if moved:
        yield RowUpdate(accounts, rows.of_accounts(moved, slots, now), ("account_id",), _SEQUENCE)
        yield RowInsert(lots, rows.of_new_lots(plan.new_lots, slots))
    if plan.used_lots:
        yield RowUpdate(lots, rows.of_used_lots(plan.used_lots, slots), _LOT_KEY)
    if plan.changed_lots:
        yield RowUpdate(lots, rows.of_changed_lots(plan.changed_lots, slots), _LOT_KEY)
    yield RowInsert(entries, rows.of_entries(plan.entries, slots))
    if plan.new_holds:
        yield RowInsert(holds, rows.of_new_holds(plan.new_holds, slots))
        yield RowInsert(hold_parts, rows.of_parts(plan.new_holds, slots))
    if plan.changed_holds:
        yield RowUpdate(holds, rows.of_changed_holds(plan.changed_holds, slots), ("operation_id",))
    if plan.late_holds:
        yield RowUpdate(holds, rows.of_late_holds(plan.late_holds, slots), ("operation_id",))
    if plan.quota_entries:
        latest = {entry.key: entry for entry in plan.quota_entries}
        last = rows.of_quotas([latest[key] for key in sorted(latest)], slots)
        yield RowInsert(quotas, last, on_conflict="update")
        yield RowInsert(quota_entries, rows.of_quota_entries(plan.quota_entries, slots))
    if plan.payments or plan.payment_events:
        yield RowInsert(payments, rows.of_payments(plan.payments, slots))
        yield RowInsert(payment_events, rows.of_payment_events(plan.payment_events, slots))
    if plan.usage_refunds:
        yield RowInsert(usage_refunds, rows.of_usage_refunds(plan.usage_refunds, slots))


_LOT_KEY = ("account_id", "number")
_SEQUENCE = (("sequence", "expected_sequence"),)


def _date_imported(connection: Connection, plan: Plan, known: Known, now: datetime) -> None:
    """Write when the imported accounts were opened elsewhere, and that they came now."""
    for one in plan.imported:
        account = accounts.c
        connection.execute(
            update(accounts)
            .where(
                account.slot == slot_of(one.user_id),
                account.account_id == known.accounts[one.user_id].account_id,
            )
            .values(opened_at=one.opened_at, imported_at=now)
        )


def _drop_unopened(connection: Connection, plan: Plan, known: Known) -> None:
    if unopened := sorted(known.just_opened - plan.opened):
        slots = {slot_of(user_id) for user_id in unopened}
        connection.execute(
            delete(accounts).where(
                among(connection, accounts.c.user_id, unopened), among(connection, accounts.c.slot, slots)
            )
        )
