"""Operations as lines of CSV, for the command line and the console."""

from collections.abc import Sequence
from typing import Any

from worker.cli.csv_cells import csv_line
from worker.cli.times import stamp
from worker.ledger.queries.operations import OperationLine
from worker.runtime.shown_money import decimal_or_none

_NAMES = (
    "recorded_at",
    "occurred_at",
    "reference",
    "type",
    "user",
    "status",
    "code",
    "tokens",
    "balance_after",
    "feature",
    "quantity",
    "amount",
    "currency",
    "sender",
    "attempt",
    "description",
)

#: The line of names.
HEAD = csv_line(_NAMES)


def operation_line(one: OperationLine) -> str:
    """Return an operation as a line."""
    return csv_line(_cells(one))


def _cells(one: OperationLine) -> Sequence[Any]:
    return (
        stamp(one.recorded_at),
        stamp(one.occurred_at),
        one.reference_id,
        one.type,
        one.user_id,
        one.status,
        one.code,
        one.tokens,
        one.balance_after,
        one.feature,
        one.quantity,
        decimal_or_none(one.amount_minor, one.currency),
        one.currency,
        None if one.sender is None else str(one.sender),
        one.attempt,
        one.description,
    )
