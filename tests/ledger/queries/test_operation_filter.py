"""Filter of operations: what it refuses, and that times are in UTC."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from worker.errors import QueryError
from worker.ledger.queries.operation_filter import OperationFilter

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "type": ({"types": frozenset({"usage.deduce"})}, "types", "no such type: 'usage.deduce'; there are"),
    "code": ({"codes": frozenset({"poor"})}, "codes", "no such code: 'poor'; there are account_opened"),
    "status": ({"status": "parked"}, "status", "no such status: 'parked'; there are applied, rejected"),
    "empty user": ({"user_id": ""}, "user_id", "must not be empty: leave it out"),
    "empty sender": ({"sender": ""}, "sender", "must not be empty: leave it out"),
    "empty prefix": ({"reference_prefix": ""}, "reference_prefix", "must not be empty: leave it out"),
    "naive time": ({"since": NOON.replace(tzinfo=None)}, "since", "since must have an offset"),
    "time in the wrong order": ({"since": NOON, "until": NOON - timedelta(1)}, "since", "is after until"),
    "negative": ({"min_tokens": -1}, "min_tokens", "must not be negative"),
    "tokens in the wrong order": ({"min_tokens": 2, "max_tokens": 1}, "min_tokens", "is above max_tokens"),
}


@pytest.mark.parametrize(("fields", "field", "text"), REFUSED.values(), ids=REFUSED)
def test_refusal_names_the_field_and_the_way_out(fields: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(QueryError, match=text) as refused:
        OperationFilter(**fields)
    assert refused.value.field == field


def test_times_are_kept_in_utc() -> None:
    there = NOON.astimezone(timezone(timedelta(hours=5)))
    assert OperationFilter(since=there).since == NOON
    assert str(OperationFilter(since=there).since) == str(NOON)
