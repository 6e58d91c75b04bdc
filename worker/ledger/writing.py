"""Writing: a decided batch, in as few statements as it has kinds of rows."""

from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Row, Table, delete

from worker.core.known import Known
from worker.core.outcomes import Outcome
from worker.core.plan import Plan
from worker.errors import ContentionError
from worker.ledger import rows
from worker.ledger.bulk import among, insert_rows, update_rows, write_uses
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
        _use(connection, plan, now)
    else:
        _write_by_kind(connection, plan, now)
    _drop_unopened(connection, plan, known)


# A transaction of one deduction was eight round trips, and its four writes a third of its time.
_FEW = 32


def _use(connection: Connection, plan: Plan, now: datetime) -> None:
    """Few plain deductions, with one statement."""
    claimed = write_uses(
        connection,
        rows.of_outcomes(sorted(plan.outcomes, key=_reference)),
        [rows.of_use(move, now) for move in plan.accounts],
        [rows.of_used_lot(lot) for lot in plan.used_lots],
        rows.of_entries(plan.entries, by_reference=True),
    )
    _must_be_claimed(plan.outcomes, claimed)
    written = claimed[0].moved, claimed[0].used, claimed[0].booked
    if written != (len(plan.accounts), len(plan.used_lots), len(plan.entries)):
        raise ContentionError("an account of this batch moved although it was locked")


def _write_by_kind(connection: Connection, plan: Plan, now: datetime) -> None:
    """Each kind of rows with a statement, in an order that keeps every reference to another row true."""
    _claim(connection, plan.outcomes)
    _supersede(connection, plan)
    _move_accounts(connection, plan, now)
    insert_rows(connection, lots, [rows.of_new_lot(lot) for lot in plan.new_lots])
    _must_change(connection, lots, [rows.of_used_lot(lot) for lot in plan.used_lots], _LOT_KEY)
    _must_change(connection, lots, [rows.of_changed_lot(lot) for lot in plan.changed_lots], _LOT_KEY)
    insert_rows(connection, entries, rows.of_entries(plan.entries))
    insert_rows(connection, holds, [rows.of_new_hold(hold) for hold in plan.new_holds])
    insert_rows(connection, hold_parts, [part for hold in plan.new_holds for part in rows.of_parts(hold)])
    _must_change(
        connection, holds, [rows.of_closed_hold(hold) for hold in plan.closed_holds], ("operation_id",)
    )
    _count_quotas(connection, plan)
    insert_rows(connection, payments, [rows.of_payment(payment) for payment in plan.payments])
    insert_rows(connection, payment_events, [rows.of_payment_event(event) for event in plan.payment_events])
    insert_rows(connection, usage_refunds, [rows.of_usage_refund(refund) for refund in plan.usage_refunds])


_LOT_KEY = ("account_id", "number")


def _claim(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    """Insert the outcomes of new references: the unique key is the judge of what is new."""
    if not outcomes:
        return
    claimed = insert_rows(
        connection,
        operations,
        rows.of_outcomes(sorted(outcomes, key=_reference)),
        on_conflict="nothing",
        returning=("reference_id", "operation_id"),
    )
    _must_be_claimed(outcomes, claimed)


_reference = attrgetter("reference_id")


def _must_be_claimed(outcomes: Sequence[Outcome], claimed: Sequence[Row[Any]]) -> None:
    """Their transaction ids, from the rows that were written; each must have one."""
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
    replaced = [{"operation_id": old.transaction_id, **rows.of_outcome(old)} for old, _ in plan.rejudged]
    insert_rows(connection, superseded_outcomes, replaced)
    first = {stored.reference_id: stored for stored, _ in reversed(plan.rejudged)}
    latest = {outcome.reference_id: outcome for _, outcome in plan.rejudged}
    changed = [
        {**rows.of_outcome(latest[reference_id]), "expected_attempt": first[reference_id].attempt}
        for reference_id in sorted(latest)
    ]
    count = update_rows(
        connection, operations, changed, key=("reference_id",), guard={"attempt": "expected_attempt"}
    )
    if count != len(changed):
        raise ContentionError("another worker has judged a reference of this batch anew")


def _move_accounts(connection: Connection, plan: Plan, now: datetime) -> None:
    used = [rows.of_use(move, now) for move in plan.accounts if move.only_used]
    moved = [rows.of_account(move, now) for move in plan.accounts if not move.only_used]
    guard = {"sequence": "expected_sequence"}
    count = update_rows(connection, accounts, used, key=("account_id",), guard=guard)
    count += update_rows(connection, accounts, moved, key=("account_id",), guard=guard)
    if count != len(plan.accounts):
        raise ContentionError("an account of this batch moved although it was locked")


def _must_change(
    connection: Connection, table: Table, changed: Sequence[dict[str, Any]], key: tuple[str, ...]
) -> None:
    if update_rows(connection, table, changed, key=key) != len(changed):
        raise ContentionError(f"{table.name} of this batch changed although their account was locked")


def _count_quotas(connection: Connection, plan: Plan) -> None:
    latest = {entry.key: entry for entry in plan.quota_entries}
    counted = [
        {**key._asdict(), "used": entry.used_after, "sequence": entry.sequence}
        for key, entry in sorted(latest.items())
    ]
    insert_rows(connection, quotas, counted, on_conflict="update")
    insert_rows(connection, quota_entries, [rows.of_quota_entry(entry) for entry in plan.quota_entries])


def _drop_unopened(connection: Connection, plan: Plan, known: Known) -> None:
    if unopened := sorted(known.just_opened - plan.opened):
        connection.execute(delete(accounts).where(among(connection, accounts.c.user_id, unopened)))
