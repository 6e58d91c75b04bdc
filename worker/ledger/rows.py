"""Conversion between rows of the tables and the values of the core."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Row

from schemas import Code, Status
from worker.core.known import (
    AccountState,
    Happened,
    Hold,
    HoldState,
    Lot,
    Payment,
    PaymentEvent,
    Source,
)
from worker.core.outcomes import Outcome
from worker.core.plan import AccountMove, Entry, QuotaEntry, UsageRefund
from worker.ledger.records import Columns
from worker.ledger.tables import holds, operations, payment_events, payments

#: The columns of an account's state, in the order of its fields.
ACCOUNT = (
    "account_id",
    "user_id",
    "tier",
    "anchor",
    "granted_until",
    "balance",
    "sequence",
    "allocated",
    "purchased",
    "bonus",
    "refunded",
    "adjusted",
    "used",
    "expired",
    "reversed",
    "held",
    "debt",
    "lot_count",
    "alerts",
    "period_granted",
    "ends_at",
    "due_at",
)

#: The columns of a lot, in the order of its fields.
LOT = (
    "account_id",
    "number",
    "source",
    "granted",
    "priority",
    "effective_at",
    "expires_at",
    "parent",
    "remaining",
    "held",
    "pending",
    "is_noticed",
    "operation_id",
)


#: All columns of an operation, a hold, a payment, and of an event of a payment.
OPERATION = tuple(column.name for column in operations.columns)
HOLD = tuple(column.name for column in holds.columns)
PAYMENT = tuple(column.name for column in payments.columns)
PAYMENT_EVENT = tuple(column.name for column in payment_events.columns)


# -- from rows --------------------------------------------------------------------------------------------


def account(row: Iterable[Any]) -> AccountState:
    """Return an account's state from the columns ``ACCOUNT``."""
    return AccountState(*row)


def lot(row: Iterable[Any]) -> Lot:
    """Return a lot from the columns ``LOT``."""
    account_id, number, source, *rest = row
    return Lot(account_id, number, _SOURCES[source], *rest)


_SOURCES: Mapping[str, Source] = {source.value: source for source in Source}


def outcome(row: Row[Any]) -> Outcome:
    """Return an outcome from a row of operations or of superseded outcomes."""
    return Outcome(
        reference_id=row.reference_id,
        type=row.type,
        user_id=row.user_id,
        attempt=row.attempt,
        content=row.content,
        status=_STATUSES[row.status],
        code=_CODES[row.code],
        recorded_at=row.recorded_at,
        amount=row.amount,
        balance_before=row.balance_before,
        balance_after=row.balance_after,
        detail=row.detail or {},
        occurred_at=row.occurred_at,
        metadata=row.metadata,
        description=row.description,
        first_entry=row.first_entry,
        last_entry=row.last_entry,
        notices=tuple(row.notices or ()),
        transaction_id=row.operation_id,
    )


_STATUSES: Mapping[str, Status] = {status.value: status for status in Status}
_CODES: Mapping[str, Code] = {code.value: code for code in Code}


def hold(row: Iterable[Any], parts: Sequence[tuple[int, int]]) -> Hold:
    """Return a hold from the columns ``HOLD``, and its parts in order."""
    operation_id, account_id, reference_id, amount, state, captured, opened_at, expires_at, closed_at, _ = row
    return Hold(
        account_id,
        reference_id,
        amount,
        tuple(parts),
        opened_at,
        expires_at,
        _HOLD_STATES[state],
        captured,
        closed_at,
        operation_id,
    )


_HOLD_STATES: Mapping[str, HoldState] = {state.value: state for state in HoldState}


def payment(row: Row[Any], reference_id: str, occurred_at: datetime | None) -> Payment:
    """Return a payment from its row; its operation has the other two values."""
    return Payment(
        account_id=row.account_id,
        reference_id=reference_id,
        package_id=row.package_id,
        amount_minor=row.amount_minor,
        currency=row.currency,
        base_tokens=row.base_tokens,
        bonus_tokens=row.bonus_tokens,
        provider=row.provider,
        recorded_at=row.recorded_at,
        occurred_at=occurred_at,
        operation_id=row.operation_id,
    )


def payment_event(row: Row[Any]) -> PaymentEvent:
    """Return an event of a payment from its row."""
    return PaymentEvent(
        account_id=row.account_id,
        payment_reference=row.payment_reference,
        happened=Happened(row.happened),
        recorded_at=row.recorded_at,
        dispute_id=row.dispute_id,
        amount_minor=row.amount_minor,
        currency=row.currency,
        occurred_at=row.occurred_at,
        collected=row.collected,
        uncollected=row.uncollected,
    )


# -- to rows ----------------------------------------------------------------------------------------------


def of_outcomes(outcomes: Sequence[Outcome]) -> Columns:
    """Operations, or superseded outcomes, without their ids."""
    return {
        **_fields(outcomes, _FIELDS_OF_OUTCOME),
        "status": [outcome.status._value_ for outcome in outcomes],  # a plain string is written much faster
        "code": [outcome.code._value_ for outcome in outcomes],
        "detail": [outcome.detail or None for outcome in outcomes],
        "metadata": [outcome.metadata or None for outcome in outcomes],
        "description": [outcome.description or None for outcome in outcomes],
        "notices": [outcome.notices or None for outcome in outcomes],
    }


#: Columns that an operation must still have unchanged when it is judged anew, as a guard of its update.
EXPECTED = (("attempt", "expected_attempt"), ("type", "expected_type"), ("user_id", "expected_user_id"))


def expected_of(outcomes: Sequence[Outcome]) -> Columns:
    """Return the values of ``EXPECTED`` for operations that have these outcomes."""
    return {parameter: [getattr(outcome, column) for outcome in outcomes] for column, parameter in EXPECTED}


_FIELDS_OF_OUTCOME = (
    "reference_id",
    "type",
    "user_id",
    "attempt",
    "content",
    "amount",
    "balance_before",
    "balance_after",
    "occurred_at",
    "first_entry",
    "last_entry",
    "recorded_at",
)


def of_entries(entries: Sequence[Entry]) -> Columns:
    """Entries, whose outcomes are written."""
    return {**_of_entries(entries), "operation_id": [entry.outcome.transaction_id for entry in entries]}


def of_entries_by_reference(entries: Sequence[Entry]) -> Columns:
    """Entries, whose outcomes are written with them: they name the reference instead of the operation."""
    return {**_of_entries(entries), "reference_id": [entry.outcome.reference_id for entry in entries]}


def _of_entries(entries: Sequence[Entry]) -> Columns:
    names = ("account_id", "sequence", "amount", "balance_before", "balance_after", "lot", "feature")
    return {
        **_fields(entries, (*names, "due_at", "occurred_at", "recorded_at")),
        "counter": [entry.counter._value_ for entry in entries],
    }


def of_uses(moves: Sequence[AccountMove], now: datetime) -> Columns:
    """Account columns that usage alone changes, with the sequence each account must have had."""
    states = [move.state for move in moves]
    return {**_fields(states, _USED_OF_ACCOUNT), **_moved(moves, now)}


def of_accounts(moves: Sequence[AccountMove], now: datetime) -> Columns:
    """Account columns that may change, with the sequence each account must have had."""
    states = [move.state for move in moves]
    return {**_fields(states, _CHANGED_OF_ACCOUNT), **_moved(moves, now)}


_USED_OF_ACCOUNT = ("account_id", "balance", "sequence", "used")
_CHANGED_OF_ACCOUNT = tuple(name for name in ACCOUNT if name != "user_id")


def _moved(moves: Sequence[AccountMove], now: datetime) -> Columns:
    return {
        "updated_at": [now] * len(moves),
        "expected_sequence": [move.sequence_before for move in moves],
    }


def of_new_lots(lots: Sequence[Lot]) -> Columns:
    """Whole lots; the outcomes that granted them are written."""
    return {
        **_fields(lots, LOT),
        "operation_id": [_transaction(lot.outcome) for lot in lots],
        "is_open": [lot.remaining > 0 or lot.pending > 0 for lot in lots],
    }


def of_used_lots(lots: Sequence[Lot]) -> Columns:
    """Lot columns that usage alone changes, and their key."""
    return {
        **_fields(lots, ("account_id", "number", "remaining")),
        "is_open": [lot.remaining > 0 for lot in lots],
    }


def of_changed_lots(lots: Sequence[Lot]) -> Columns:
    """Lot columns that may change, and their key."""
    return {
        **_fields(lots, ("account_id", "number", "remaining", "held", "pending", "is_noticed")),
        "is_open": [lot.remaining > 0 or lot.pending > 0 for lot in lots],
    }


def of_new_holds(holds: Sequence[Hold]) -> Columns:
    """Whole holds; one may have been closed in the same batch."""
    return {
        "operation_id": [_transaction(hold.outcome) for hold in holds],
        **_fields(holds, ("account_id", "reference_id", "amount", "opened_at", "expires_at")),
        **_ends_of(holds),
    }


def of_closed_holds(holds: Sequence[Hold]) -> Columns:
    """Ends of holds, and their key."""
    return {"operation_id": [hold.operation_id for hold in holds], **_ends_of(holds)}


def _ends_of(holds: Sequence[Hold]) -> Columns:
    return {
        "state": [hold.state._value_ for hold in holds],
        "captured": [hold.captured for hold in holds],
        "closed_at": [hold.closed_at for hold in holds],
        "closed_by": [_transaction(hold.closed_by) for hold in holds],
    }


def of_parts(holds: Iterable[Hold]) -> Columns:
    """Return the parts of new holds, whose outcomes are written."""
    parts = [
        (_transaction(hold.outcome), place, hold.account_id, lot, amount)
        for hold in holds
        for place, (lot, amount) in enumerate(hold.parts)
    ]
    names = ("operation_id", "place", "account_id", "lot", "amount")
    return dict(zip(names, zip(*parts, strict=True) if parts else [()] * len(names), strict=True))


def of_quotas(entries: Sequence[QuotaEntry]) -> Columns:
    """Counters after ``entries``, the last entry of each."""
    return {
        **_keys_of(entries),
        "used": [entry.used_after for entry in entries],
        "sequence": [entry.sequence for entry in entries],
    }


def of_quota_entries(entries: Sequence[QuotaEntry]) -> Columns:
    """Quota entries, whose outcomes are written."""
    return {
        **_keys_of(entries),
        "operation_id": [entry.outcome.transaction_id for entry in entries],
        **_fields(entries, ("sequence", "amount", "used_before", "used_after", "recorded_at")),
    }


def _keys_of(entries: Sequence[QuotaEntry]) -> Columns:
    return {
        "account_id": [entry.key.account_id for entry in entries],
        "meter": [entry.key.meter for entry in entries],
        "period_start": [entry.key.period_start for entry in entries],
    }


def of_payments(paid: Sequence[Payment]) -> Columns:
    """Payments, whose outcomes are written."""
    names = ("account_id", "package_id", "amount_minor", "currency", "base_tokens", "bonus_tokens")
    return {
        "operation_id": [_transaction(payment.outcome) for payment in paid],
        **_fields(paid, (*names, "provider", "recorded_at")),
    }


def of_payment_events(events: Sequence[PaymentEvent]) -> Columns:
    """Events of payments, whose outcomes are written."""
    names = ("account_id", "payment_reference", "dispute_id", "amount_minor", "currency", "occurred_at")
    return {
        "operation_id": [_transaction(event.outcome) for event in events],
        "happened": [event.happened._value_ for event in events],
        **_fields(events, (*names, "collected", "uncollected", "recorded_at")),
    }


def of_usage_refunds(refunds: Sequence[UsageRefund]) -> Columns:
    """Refunds of usage; their outcomes are written."""
    return {
        "operation_id": [refund.outcome.transaction_id for refund in refunds],
        "original_id": [refund.original.transaction_id for refund in refunds],
        **_fields(refunds, ("account_id", "tokens", "recorded_at")),
    }


def _fields(objects: Sequence[Any], names: Iterable[str]) -> Columns:
    return {name: list(map(attrgetter(name), objects)) for name in names}


def _transaction(outcome: Outcome | None) -> int | None:
    return None if outcome is None else outcome.transaction_id
