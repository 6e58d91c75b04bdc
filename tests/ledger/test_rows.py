"""Rows and values: every field of the core has its column, and every column its field, both ways.

A field or a column that is added and forgotten in one place fails here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Table

from schemas import Code, Status
from tests.support.distinct import distinct
from tests.support.strategies import NOW
from worker.core import (
    AccountMove,
    AccountState,
    Entry,
    Hold,
    Lot,
    Outcome,
    Payment,
    PaymentEvent,
    QuotaEntry,
    QuotaKey,
    UsageRefund,
)
from worker.ledger import rows
from worker.ledger.identifiers import SYMBOLS
from worker.ledger.records import Columns, by_row
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

WRITTEN = distinct(
    Outcome,
    transaction_id=901,
    type="payment.failed",
    code=Code.SUBSCRIPTION_NOT_ACTIVE,
    status=Status.REJECTED,
)
SLOT = 11


class _OneSlot(dict[int, int]):
    """Slots of accounts: all are in one."""

    def __missing__(self, account_id: int) -> int:
        return SLOT


SLOTS_OF = _OneSlot()


def names_of(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def only_row(columns: Columns) -> dict[str, Any]:
    (row,) = by_row(columns)
    return row


def as_row(columns: Mapping[str, Any], names: Sequence[str]) -> Iterable[Any]:
    """The values of a row in the order of ``names``, as a SELECT of these would return them."""
    return [columns[name] for name in names]


# -- by position ------------------------------------------------------------------------------------------


def test_columns_of_an_account_are_the_fields_of_its_state_in_order() -> None:
    assert list(rows.ACCOUNT) == names_of(AccountState)
    state = distinct(AccountState)
    assert rows.account(as_row(only_row_of_state(state), rows.ACCOUNT)) == state


def only_row_of_state(state: AccountState) -> dict[str, Any]:
    return {
        "user_id": state.user_id,
        **only_row(rows.of_accounts([AccountMove(state, 7, False)], SLOTS_OF, NOW)),
    }


def test_columns_of_a_lot_are_its_fields_in_order() -> None:
    assert list(rows.LOT) == [name for name in names_of(Lot) if name != "outcome"]
    lot = distinct(Lot, outcome=WRITTEN)
    read = rows.lot(as_row(only_row(rows.of_new_lots([lot], SLOTS_OF)), rows.LOT))
    assert read == replace(lot, operation_id=901, outcome=None)


def test_hold_is_read_from_all_its_columns() -> None:
    hold = distinct(Hold, outcome=WRITTEN, closed_by=distinct(Outcome, transaction_id=902))
    row = only_row(rows.of_new_holds([hold], SLOTS_OF))
    parts = [(part["lot"], part["amount"]) for part in by_row(rows.of_parts([hold], SLOTS_OF))]
    assert row["closed_by"] == 902
    read = rows.hold(as_row(row, rows.HOLD), parts)
    assert read == replace(hold, operation_id=901, outcome=None, closed_by=None)


# -- by name ----------------------------------------------------------------------------------------------


def row_of(columns: Columns, **more: Any) -> Any:
    """The first row of ``columns`` as a SELECT would return it."""
    return SimpleNamespace(**by_row(columns)[0], **more)


def test_outcome_is_read_as_it_was_written() -> None:
    assert rows.outcome(row_of(rows.of_outcomes([WRITTEN]))) == WRITTEN


def test_outcome_of_empty_values_is_read_as_it_was_written() -> None:
    empty = replace(WRITTEN, detail={}, metadata=None, description=None, notices=())
    assert rows.outcome(row_of(rows.of_outcomes([empty]))) == empty


def test_payment_is_read_as_it_was_written() -> None:
    paid = distinct(Payment, outcome=WRITTEN)
    read = rows.payment(row_of(rows.of_payments([paid], SLOTS_OF)), paid.user_id)
    # What has lapsed or was taken comes from entries.
    assert read == replace(paid, operation_id=901, outcome=None, lapsed={}, taken={})


def test_event_of_a_payment_is_read_as_it_was_written() -> None:
    event = distinct(PaymentEvent, outcome=WRITTEN)
    assert rows.payment_event(row_of(rows.of_payment_events([event], SLOTS_OF))) == replace(
        event, outcome=None, user_id=None
    )


# -- every column -----------------------------------------------------------------------------------------

LOTS, HOLDS = [distinct(Lot, outcome=WRITTEN)], [distinct(Hold, outcome=WRITTEN, closed_by=WRITTEN)]
ENTRIES = [distinct(Entry, outcome=WRITTEN)]
COUNTS = [distinct(QuotaEntry, outcome=WRITTEN, key=QuotaKey(1, "page", NOW.date()))]
REFUNDS = [distinct(UsageRefund, outcome=WRITTEN, original=WRITTEN)]

WHOLE_ROWS: list[tuple[Table, Callable[[], Columns]]] = [
    (operations, lambda: {**rows.of_outcomes([WRITTEN]), "is_taken": rows.taken_of([WRITTEN], {901})}),
    (superseded_outcomes, lambda: rows.of_outcomes([WRITTEN])),
    (entries, lambda: rows.of_entries(ENTRIES, SLOTS_OF)),
    (lots, lambda: rows.of_new_lots(LOTS, SLOTS_OF)),
    (holds, lambda: rows.of_new_holds(HOLDS, SLOTS_OF)),
    (hold_parts, lambda: rows.of_parts(HOLDS, SLOTS_OF)),
    (quotas, lambda: rows.of_quotas(COUNTS, SLOTS_OF)),
    (quota_entries, lambda: rows.of_quota_entries(COUNTS, SLOTS_OF)),
    (payments, lambda: rows.of_payments([distinct(Payment, outcome=WRITTEN)], SLOTS_OF)),
    (payment_events, lambda: rows.of_payment_events([distinct(PaymentEvent, outcome=WRITTEN)], SLOTS_OF)),
    (usage_refunds, lambda: rows.of_usage_refunds(REFUNDS, SLOTS_OF)),
]


@pytest.mark.parametrize(("table", "columns"), WHOLE_ROWS, ids=[table.name for table, _ in WHOLE_ROWS])
def test_new_row_has_every_column(table: Table, columns: Callable[[], Columns]) -> None:
    assert columns().keys() == {column.name for column in table.columns}
    for name, values in columns().items():
        assert values[0] is not None, f"{name} is empty"


def test_account_has_no_column_that_nothing_reads_or_writes() -> None:
    written = only_row_of_state(distinct(AccountState)).keys() - {"expected_sequence"}
    assert written | {"opened_at", "imported_at"} == {column.name for column in accounts.columns}


def test_changed_row_has_all_that_may_change() -> None:
    closed = distinct(Hold, closed_by=WRITTEN)
    assert only_row(rows.of_changed_holds([closed], SLOTS_OF)) == {
        "slot": SLOT,
        "operation_id": closed.operation_id,
        "expires_at": closed.expires_at,
        "state": closed.state.value,
        "captured": closed.captured,
        "closed_at": closed.closed_at,
        "closed_by": 901,
    }
    lot = distinct(Lot)
    assert only_row(rows.of_changed_lots([lot], SLOTS_OF)) == {
        "slot": SLOT,
        **{name: getattr(lot, name) for name in ("account_id", "number", "remaining", "held", "pending")},
        "is_noticed": True,
        "is_open": True,
        "ended_at": lot.ended_at,
    }
    assert only_row(rows.of_used_lots([lot], SLOTS_OF)) == {
        "slot": SLOT,
        "account_id": lot.account_id,
        "number": lot.number,
        "remaining": lot.remaining,
        "is_open": True,
    }


def test_entry_is_written_with_every_field() -> None:
    (entry,) = ENTRIES
    written = {"outcome", "counter", "balance_before", "due_at", "feature"}
    assert only_row(rows.of_entries([entry], SLOTS_OF)) == {
        **{name: getattr(entry, name) for name in names_of(Entry) if name not in written},
        "slot": SLOT,
        "counter": SYMBOLS[entry.counter],
        "is_due": True,
        "operation_id": 901,
    }
