"""Rows of payments as migration 0012 must leave them, from the rows that were there before."""

from collections.abc import Mapping, Sequence
from typing import Any

from worker.ledger.identifiers import IDENTIFIERS

Row = dict[str, Any]
#: Columns that the migration adds, with what they hold.
ADDED: Mapping[str, Row] = {
    "accounts": dict.fromkeys(("granted_from", "next_tier", "next_tier_at", "frozen_at", "unfrozen_at")),
    "lots": {"ended_at": None},
    "holds": {"is_dispute": False},
    "usage_refunds": {"free_quantity": 0},
}


def moved_payments(payments: Sequence[Row], operations: Sequence[Row]) -> list[Row]:
    """Return the payments, each with its reference and time."""
    named = {row["operation_id"]: row for row in operations}
    moved = []
    for row in payments:
        own = named[row["operation_id"]]
        moved.append(
            row | {"tier": None, "reference_id": own["reference_id"], "occurred_at": own["occurred_at"]}
        )
    return moved


def moved_events(events: Sequence[Row], payments: Sequence[Row], operations: Sequence[Row]) -> list[Row]:
    """Return the events that count for a payment of their account; what came before it is the payment's."""
    named = {row["operation_id"]: row for row in operations}
    moved = []
    for event in events:
        payment = payment_of(event, payments, operations)
        if payment is None or event["currency"] not in (None, payment["currency"]):
            continue
        own = named[event["operation_id"]]
        is_early = own["code"] in ("payment_awaited", IDENTIFIERS["code"]["payment_awaited"])
        posted_by = payment["operation_id"] if is_early else event["operation_id"]
        references = {"reference_id": own["reference_id"], "refund_reference": None}
        moved.append(event | references | {"operation_id": posted_by})
    return moved


def payment_of(event: Row, payments: Sequence[Row], operations: Sequence[Row]) -> Row | None:
    """Return the payment of the event's account that it names."""
    ids = {row["operation_id"] for row in operations if row["reference_id"] == event["payment_reference"]}
    found = [
        row for row in payments if row["operation_id"] in ids and row["account_id"] == event["account_id"]
    ]
    return found[0] if found else None
