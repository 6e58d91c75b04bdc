"""Rows as migration 0013 must leave them, from the rows that were there before."""

from typing import Any

from worker.ledger.identifiers import SYMBOLS

Row = dict[str, Any]


def narrowed_operation(row: Row) -> Row:
    """Return the operation without what its other columns say as well."""
    narrowed = dict(row)
    if row["last_entry"] == row["first_entry"]:
        narrowed["last_entry"] = None
    if row["first_entry"] is not None and row["balance_before"] == row["balance_after"] + row["amount"]:
        narrowed["balance_before"] = None
    return narrowed


def narrowed_entry(row: Row) -> Row:
    """Return the entry without its feature, and with the symbol of its counter-account."""
    kept = {name: value for name, value in row.items() if name != "feature"}
    return kept | {"counter": SYMBOLS[_NAMES[row["counter"]]]}


#: Numbers of counter-accounts before they had symbols.
COUNTERS = {
    "allocation": 1,
    "purchases": 2,
    "bonus": 3,
    "refunds": 4,
    "usage": 5,
    "expiry": 6,
    "adjustments": 7,
    "reversals": 8,
    "transfers": 9,
}
_NAMES = {number: name for name, number in COUNTERS.items()}
