"""Writing of a decided batch in two statements: one claims its references, one writes all other rows."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Row, delete

from worker.core.known import Known
from worker.core.outcomes import Outcome
from worker.core.plan import AccountMove, Plan
from worker.errors import ContentionError
from worker.ledger import rows
from worker.ledger.bulk import RowInsert, RowUpdate, RowWrite, among, insert, write_all, write_uses
from worker.ledger.records import length_of
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


def write(connection: Connection, plan: Plan, known: Known, now: datetime) -> None:
    """Write ``plan``, which was decided on ``known``; its outcomes have their transaction ids afterwards.

    Raises ContentionError where another worker has claimed a reference or moved an account meanwhile.
    """
    if plan.only_uses and len(plan.outcomes) <= _FEW and connection.dialect.name == "postgresql":
        _write_uses(connection, plan, now)
    else:
        _claim(connection, plan.outcomes)
        _supersede(connection, plan)
        _write_rows(connection, plan, now)
    _drop_unopened(connection, plan, known)


# A transaction of one deduction was eight round trips, and its four writes a third of its time.
_FEW = 32


def _write_uses(connection: Connection, plan: Plan, now: datetime) -> None:
    """Write few plain deductions with one statement."""
    claimed = write_uses(
        connection,
        _claims(plan.outcomes),
        _uses_of_accounts(plan.accounts, now),
        _uses_of_lots(plan),
        RowInsert(entries, rows.of_entries_by_reference(plan.entries)),
    )
    _must_be_claimed(plan.outcomes, claimed)
    written = claimed[0].moved, claimed[0].used, claimed[0].posted
    if written != (len(plan.accounts), len(plan.used_lots), len(plan.entries)):
        raise ContentionError("accounts of this batch changed although they were locked")


def _write_rows(connection: Connection, plan: Plan, now: datetime) -> None:
    """Write all other rows, in an order that keeps every reference to another row true."""
    if plan.moves_nothing:
        return
    writes = list(_writes(plan, now))
    for write, written in zip(writes, write_all(connection, writes), strict=True):
        if written != length_of(write.columns):
            raise ContentionError(f"{write.table.name} of this batch changed although they were locked")


def _writes(plan: Plan, now: datetime) -> Iterator[RowWrite]:
    """Yield the writes that ``plan`` needs; a row comes before the rows that refer to it.

    Inserts that belong together always come together, with rows or without: an empty part costs less than a
    plan for each mixture. An update comes only with rows: a plan made for an empty table later reads all of
    it for each row.
    """
    used = [move for move in plan.accounts if move.only_used]
    moved = [move for move in plan.accounts if not move.only_used]
    if used:
        yield _uses_of_accounts(used, now)
    if moved:
        yield RowUpdate(accounts, rows.of_accounts(moved, now), ("account_id",), _SEQUENCE)
        yield RowInsert(lots, rows.of_new_lots(plan.new_lots))
    if plan.used_lots:
        yield _uses_of_lots(plan)
    if plan.changed_lots:
        yield RowUpdate(lots, rows.of_changed_lots(plan.changed_lots), _LOT_KEY)
    yield RowInsert(entries, rows.of_entries(plan.entries))
    if plan.new_holds:
        yield RowInsert(holds, rows.of_new_holds(plan.new_holds))
        yield RowInsert(hold_parts, rows.of_parts(plan.new_holds))
    if plan.closed_holds:
        yield RowUpdate(holds, rows.of_closed_holds(plan.closed_holds), ("operation_id",))
    if plan.quota_entries:
        latest = {entry.key: entry for entry in plan.quota_entries}
        yield RowInsert(quotas, rows.of_quotas([latest[key] for key in sorted(latest)]), on_conflict="update")
        yield RowInsert(quota_entries, rows.of_quota_entries(plan.quota_entries))
    if plan.payments or plan.payment_events:
        yield RowInsert(payments, rows.of_payments(plan.payments))
        yield RowInsert(payment_events, rows.of_payment_events(plan.payment_events))
    if plan.usage_refunds:
        yield RowInsert(usage_refunds, rows.of_usage_refunds(plan.usage_refunds))


_LOT_KEY = ("account_id", "number")
_SEQUENCE = (("sequence", "expected_sequence"),)


def _uses_of_accounts(moves: Sequence[AccountMove], now: datetime) -> RowUpdate:
    return RowUpdate(accounts, rows.of_uses(moves, now), ("account_id",), _SEQUENCE)


def _uses_of_lots(plan: Plan) -> RowUpdate:
    return RowUpdate(lots, rows.of_used_lots(plan.used_lots), _LOT_KEY)


def _claim(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    """Insert the outcomes of new references: the unique key decides what is new."""
    if outcomes:
        claimed = insert(connection, _claims(outcomes), returning=("reference_id", "operation_id"))
        _must_be_claimed(outcomes, claimed)


def _claims(outcomes: Sequence[Outcome]) -> RowInsert:
    return RowInsert(operations, rows.of_outcomes(sorted(outcomes, key=_reference)), on_conflict="nothing")


_reference = attrgetter("reference_id")


def _must_be_claimed(outcomes: Sequence[Outcome], claimed: Sequence[Row[Any]]) -> None:
    """Give ``outcomes`` their transaction ids from the rows that were written; each must have one."""
    if len(claimed) != len(outcomes):
        raise ContentionError("another worker has claimed a reference of this batch")
    ids: dict[str, int] = {row.reference_id: row.operation_id for row in claimed}
    for outcome in outcomes:
        outcome.transaction_id = ids[outcome.reference_id]


def _supersede(connection: Connection, plan: Plan) -> None:
    if not plan.rejudged:
        return
    for stored, outcome in plan.rejudged:
        outcome.transaction_id = stored.transaction_id
    # In order of their references, so that two workers do not wait for each other.
    replaced = sorted((stored for stored, _ in plan.rejudged), key=_reference)
    first = {stored.reference_id: stored for stored in reversed(replaced)}
    latest = {outcome.reference_id: outcome for _, outcome in plan.rejudged}
    references = sorted(latest)
    operation_ids = [stored.transaction_id for stored in replaced]
    judged = rows.of_outcomes([latest[reference_id] for reference_id in references])
    expected = rows.expected_of([first[reference_id] for reference_id in references])
    written = write_all(
        connection,
        [
            # Workers that take a reference for different users meet here: no account's lock keeps them apart.
            RowInsert(
                superseded_outcomes,
                {"operation_id": operation_ids, **rows.of_outcomes(replaced)},
                on_conflict="nothing",
            ),
            RowUpdate(operations, {**judged, **expected}, ("reference_id",), rows.EXPECTED),
        ],
    )
    if written != [len(replaced), len(references)]:
        raise ContentionError("another worker has judged a reference of this batch anew")


def _drop_unopened(connection: Connection, plan: Plan, known: Known) -> None:
    if unopened := sorted(known.just_opened - plan.opened):
        connection.execute(delete(accounts).where(among(connection, accounts.c.user_id, unopened)))
