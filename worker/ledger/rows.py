"""Conversion between rows of the tables and the values of the core."""

from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import Row

from schemas import Code, Status, slot_of
from worker.core.known import (
    AccountState,
    Happened,
    Hold,
    HoldState,
    Lot,
    Payment,
    PaymentEvent,
    PaymentName,
    Source,
)
from worker.core.outcomes import Outcome
from worker.core.plan import AccountMove, Entry, QuotaEntry, UsageRefund
from worker.ledger.identifiers import IDENTIFIERS, NAMES, SYMBOLS
from worker.ledger.records import Columns
from worker.ledger.tables import operations, payment_events, payments, superseded_outcomes

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
    "granted_from",
    "next_tier",
    "next_tier_at",
    "frozen_at",
    "unfrozen_at",
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
    "ended_at",
)


#: The columns of a hold, in the order that ``hold`` reads them.
HOLD = (
    "operation_id",
    "account_id",
    "reference_id",
    "amount",
    "state",
    "captured",
    "opened_at",
    "expires_at",
    "closed_at",
    "is_dispute",
)

#: All columns of an operation, a superseded outcome, a payment, and of an event of a payment.
OPERATION = tuple(column.name for column in operations.columns)
SUPERSEDED = tuple(column.name for column in superseded_outcomes.columns)
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
        type=_TYPES[row.type],
        user_id=row.user_id,
        attempt=row.attempt,
        content=row.content,
        status=_STATUSES[row.status],
        code=_CODES[row.code],
        recorded_at=row.recorded_at,
        amount=row.amount,
        balance_before=_balance_before(row),
        balance_after=row.balance_after,
        detail=row.detail or {},
        occurred_at=row.occurred_at,
        metadata=row.metadata,
        description=row.description,
        first_entry=row.first_entry,
        last_entry=row.first_entry if row.last_entry is None else row.last_entry,
        notices=tuple(row.notices or ()),
        transaction_id=row.operation_id,
        sender_id=row.sender_id,
        catalog_id=row.catalog_id,
    )


def _balance_before(row: Row[Any]) -> int | None:
    """Return the balance before: with its amount that after it, unless its column says else."""
    before: int | None = row.balance_before
    return row.balance_after + row.amount if before is None and row.amount is not None else before


# A statement of ours has the numbers, one of SQLAlchemy's the names.
_TYPES: Mapping[int | str, str] = {
    **dict(NAMES["type"].items()),
    **{name: name for name in IDENTIFIERS["type"]},
}
_STATUSES: Mapping[int | str, Status] = {
    **{number: Status(name) for number, name in NAMES["status"].items()},
    **{status.value: status for status in Status},
}
_CODES: Mapping[int | str, Code] = {
    **{number: Code(name) for number, name in NAMES["code"].items()},
    **{code.value: code for code in Code},
}


def hold(row: Iterable[Any], parts: Sequence[tuple[int, int]]) -> Hold:
    """Return a hold from the columns ``HOLD``, and its parts in order."""
    (
        operation_id,
        account_id,
        reference_id,
        amount,
        state,
        captured,
        opened_at,
        expires_at,
        closed_at,
        dispute,
    ) = row
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
        dispute,
    )


_HOLD_STATES: Mapping[str, HoldState] = {state.value: state for state in HoldState}


def payment(row: Row[Any], user_id: str) -> Payment:
    """Return a payment of ``user_id`` from its row."""
    return Payment(
        account_id=row.account_id,
        reference_id=row.reference_id,
        user_id=user_id,
        package_id=row.package_id,
        tier=row.tier,
        amount_minor=row.amount_minor,
        currency=row.currency,
        base_tokens=row.base_tokens,
        bonus_tokens=row.bonus_tokens,
        provider=row.provider,
        recorded_at=row.recorded_at,
        occurred_at=row.occurred_at,
        operation_id=row.operation_id,
    )


def payment_event(row: Row[Any]) -> PaymentEvent:
    """Return an event of a payment from its row."""
    return PaymentEvent(
        reference_id=row.reference_id,
        name=row.payment_reference,
        happened=Happened(row.happened),
        recorded_at=row.recorded_at,
        dispute_id=row.dispute_id,
        refund_reference=row.refund_reference,
        amount_minor=row.amount_minor,
        currency=row.currency,
        occurred_at=row.occurred_at,
        collected=row.collected,
        uncollected=row.uncollected,
        account_id=row.account_id,
    )


def waiting_event(row: Row[Any]) -> PaymentEvent:
    """Return an event that waits from its row."""
    return PaymentEvent(
        reference_id=row.reference_id,
        name=row.name,
        happened=Happened(row.happened),
        recorded_at=row.recorded_at,
        dispute_id=row.dispute_id,
        refund_reference=row.refund_reference,
        amount_minor=row.amount_minor,
        currency=row.currency,
        occurred_at=row.occurred_at,
        user_id=row.user_id,
    )


# -- to rows ----------------------------------------------------------------------------------------------


#: Slots of accounts, by their ids.
Slots = Mapping[int, int]
_OfAccount = Entry | Lot | Hold | Payment | PaymentEvent | UsageRefund


def taken_of(outcomes: Sequence[Outcome], taken: Set[int]) -> Sequence[bool]:
    """Return whether the operation of each outcome loses its reference; ``taken`` are their ids."""
    return [outcome.transaction_id in taken for outcome in outcomes]


def of_outcomes(outcomes: Sequence[Outcome]) -> Columns:
    """Operations, or superseded outcomes, which have their ids already."""
    return {
        **_fields(outcomes, _FIELDS_OF_OUTCOME),
        "operation_id": [outcome.transaction_id for outcome in outcomes],
        "slot": [slot_of(outcome.user_id) for outcome in outcomes],
        "balance_before": list(map(_own_balance_before, outcomes)),
        "last_entry": [one.last_entry if one.last_entry != one.first_entry else None for one in outcomes],
        "type": [_TYPE_NUMBERS[outcome.type] for outcome in outcomes],
        "status": [_STATUS_NUMBERS[outcome.status._value_] for outcome in outcomes],
        "code": [_CODE_NUMBERS[outcome.code._value_] for outcome in outcomes],
        "detail": [outcome.detail or None for outcome in outcomes],
        "metadata": [outcome.metadata or None for outcome in outcomes],
        "description": [outcome.description or None for outcome in outcomes],
        "notices": [outcome.notices or None for outcome in outcomes],
    }


def _own_balance_before(outcome: Outcome) -> int | None:
    """Return the balance before, unless entries show it and it is that after and the amount.

    An operation without entries keeps both balances: nothing else would show that one is wrong.
    """
    before, after, amount = outcome.balance_before, outcome.balance_after, outcome.amount
    if outcome.first_entry is None or after is None or amount is None:
        return before
    return None if before == after + amount else before


_TYPE_NUMBERS, _CODE_NUMBERS = IDENTIFIERS["type"], IDENTIFIERS["code"]
_STATUS_NUMBERS = IDENTIFIERS["status"]

#: Columns that an operation must still have unchanged when it is judged anew, as a guard of its update.
EXPECTED = (("attempt", "expected_attempt"), ("is_taken", "expected_taken"))


def expected_of(outcomes: Sequence[Outcome]) -> Columns:
    """Return the values of ``EXPECTED`` for operations that have these outcomes."""
    return {
        "expected_attempt": [outcome.attempt for outcome in outcomes],
        "expected_taken": [False] * len(outcomes),
    }


_FIELDS_OF_OUTCOME = (
    "reference_id",
    "user_id",
    "attempt",
    "content",
    "amount",
    "balance_after",
    "occurred_at",
    "first_entry",
    "recorded_at",
    "sender_id",
    "catalog_id",
)


def of_entries(entries: Sequence[Entry], slots: Slots) -> Columns:
    """Entries, whose outcomes have their ids."""
    names = ("account_id", "sequence", "amount", "balance_after", "lot", "occurred_at", "recorded_at")
    return {
        **_fields(entries, names),
        "slot": _slots_of(entries, slots),
        "operation_id": [entry.outcome.transaction_id for entry in entries],
        "counter": [SYMBOLS[entry.counter._value_] for entry in entries],
        "is_due": [entry.due_at is not None for entry in entries],
    }


def _slots_of(rows: Iterable[_OfAccount], slots: Slots) -> list[int]:
    return [slots[row.account_id] for row in rows if row.account_id is not None]


def of_uses(moves: Sequence[AccountMove], slots: Slots, now: datetime) -> Columns:
    """Account columns that usage alone changes, with the sequence each account must have had."""
    states = [move.state for move in moves]
    return {**_fields(states, _USED_OF_ACCOUNT), **_moved(moves, slots, now)}


def of_accounts(moves: Sequence[AccountMove], slots: Slots, now: datetime) -> Columns:
    """Account columns that may change, with the sequence each account must have had."""
    states = [move.state for move in moves]
    return {**_fields(states, _CHANGED_OF_ACCOUNT), **_moved(moves, slots, now)}


_USED_OF_ACCOUNT = ("account_id", "balance", "sequence", "used")
_CHANGED_OF_ACCOUNT = tuple(name for name in ACCOUNT if name != "user_id")


def _moved(moves: Sequence[AccountMove], slots: Slots, now: datetime) -> Columns:
    return {
        "slot": [slots[move.state.account_id] for move in moves],
        "updated_at": [now] * len(moves),
        "expected_sequence": [move.sequence_before for move in moves],
    }


def of_new_lots(lots: Sequence[Lot], slots: Slots) -> Columns:
    """Whole lots; the outcomes that granted them have their ids."""
    return {
        **_fields(lots, LOT),
        "slot": _slots_of(lots, slots),
        "operation_id": [_transaction(lot.outcome) for lot in lots],
        "is_open": [lot.remaining > 0 or lot.pending > 0 for lot in lots],
    }


def of_used_lots(lots: Sequence[Lot], slots: Slots) -> Columns:
    """Lot columns that usage alone changes, and their key."""
    return {
        "slot": _slots_of(lots, slots),
        **_fields(lots, ("account_id", "number", "remaining")),
        "is_open": [lot.remaining > 0 for lot in lots],
    }


def of_changed_lots(lots: Sequence[Lot], slots: Slots) -> Columns:
    """Lot columns that may change, and their key."""
    return {
        "slot": _slots_of(lots, slots),
        **_fields(lots, ("account_id", "number", "remaining", "held", "pending", "is_noticed", "ended_at")),
        "is_open": [lot.remaining > 0 or lot.pending > 0 for lot in lots],
    }


def of_new_holds(holds: Sequence[Hold], slots: Slots) -> Columns:
    """Whole holds; one may have been closed in the same batch."""
    return {
        "slot": _slots_of(holds, slots),
        "operation_id": [_transaction(hold.outcome) for hold in holds],
        **_fields(holds, ("account_id", "reference_id", "amount", "opened_at", "expires_at", "is_dispute")),
        **_ends_of(holds),
    }


def of_changed_holds(holds: Sequence[Hold], slots: Slots) -> Columns:
    """Columns that may change of holds that were open before, and their key."""
    return {
        "slot": _slots_of(holds, slots),
        **_fields(holds, ("operation_id", "expires_at")),
        **_ends_of(holds),
    }


def of_late_holds(holds: Sequence[Hold], slots: Slots) -> Columns:
    """Late captures of holds that had run out before, and their key."""
    return {
        "slot": _slots_of(holds, slots),
        **_fields(holds, ("operation_id", "captured")),
        "state": [hold.state._value_ for hold in holds],
    }


def _ends_of(holds: Sequence[Hold]) -> Columns:
    return {
        "state": [hold.state._value_ for hold in holds],
        "captured": [hold.captured for hold in holds],
        "closed_at": [hold.closed_at for hold in holds],
        "closed_by": [_transaction(hold.closed_by) for hold in holds],
    }


def of_parts(holds: Iterable[Hold], slots: Slots) -> Columns:
    """Return the parts of new holds, whose outcomes have their ids."""
    parts = [
        (slots[hold.account_id], _transaction(hold.outcome), place, hold.account_id, lot, amount)
        for hold in holds
        for place, (lot, amount) in enumerate(hold.parts)
    ]
    names = ("slot", "operation_id", "place", "account_id", "lot", "amount")
    return dict(zip(names, zip(*parts, strict=True) if parts else [()] * len(names), strict=True))


def of_quotas(entries: Sequence[QuotaEntry], slots: Slots) -> Columns:
    """Counters after ``entries``, the last entry of each."""
    return {
        **_keys_of(entries, slots),
        "used": [entry.used_after for entry in entries],
        "sequence": [entry.sequence for entry in entries],
    }


def of_quota_entries(entries: Sequence[QuotaEntry], slots: Slots) -> Columns:
    """Quota entries, whose outcomes have their ids."""
    return {
        **_keys_of(entries, slots),
        "operation_id": [entry.outcome.transaction_id for entry in entries],
        **_fields(entries, ("sequence", "amount", "used_after", "recorded_at")),
    }


def _keys_of(entries: Sequence[QuotaEntry], slots: Slots) -> Columns:
    return {
        "slot": [slots[entry.key.account_id] for entry in entries],
        "account_id": [entry.key.account_id for entry in entries],
        "meter": [entry.key.meter for entry in entries],
        "period_start": [entry.key.period_start for entry in entries],
    }


def of_payments(paid: Sequence[Payment], slots: Slots) -> Columns:
    """Payments, whose outcomes have their ids."""
    names = ("account_id", "reference_id", "package_id", "tier", "amount_minor", "currency", "base_tokens")
    return {
        "slot": _slots_of(paid, slots),
        "operation_id": [_transaction(payment.outcome) for payment in paid],
        **_fields(paid, (*names, "bonus_tokens", "provider", "recorded_at", "occurred_at")),
    }


def of_payment_events(events: Sequence[PaymentEvent], slots: Slots) -> Columns:
    """Events of payments, whose outcomes have their ids."""
    names = ("account_id", "reference_id", "dispute_id", "refund_reference", "amount_minor", "currency")
    return {
        "slot": _slots_of(events, slots),
        "operation_id": [_transaction(event.outcome) for event in events],
        "happened": [event.happened._value_ for event in events],
        "payment_reference": [event.name for event in events],
        **_fields(events, (*names, "occurred_at", "collected", "uncollected", "recorded_at")),
    }


def of_names(names: Sequence[PaymentName], now: datetime) -> Columns:
    """Names of payments, each with the version after this change."""
    return {
        **_fields(names, ("name", "payment_reference", "user_id", "same_as")),
        "version": [name.version + 1 for name in names],
        "named_at": [now] * len(names),
    }


def of_waiting_events(events: Sequence[PaymentEvent]) -> Columns:
    """Events that wait, with the name they wait for."""
    names = ("reference_id", "name", "user_id", "dispute_id", "refund_reference", "amount_minor", "currency")
    return {
        "happened": [event.happened._value_ for event in events],
        **_fields(events, (*names, "occurred_at", "recorded_at")),
    }


def of_usage_refunds(refunds: Sequence[UsageRefund], slots: Slots) -> Columns:
    """Refunds of usage; their outcomes have their ids."""
    return {
        "slot": _slots_of(refunds, slots),
        "operation_id": [refund.outcome.transaction_id for refund in refunds],
        "original_id": [refund.original.transaction_id for refund in refunds],
        **_fields(refunds, ("account_id", "tokens", "free_quantity", "recorded_at")),
    }


def _fields(objects: Sequence[Any], names: Iterable[str]) -> Columns:
    return {name: list(map(attrgetter(name), objects)) for name in names}


def _transaction(outcome: Outcome | None) -> int | None:
    return None if outcome is None else outcome.transaction_id
