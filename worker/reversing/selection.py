"""Text of a filter of operations, which a stored run keeps: which charges were meant."""

from collections.abc import Iterator
from datetime import datetime

from worker.ledger.queries.operation_filter import OperationFilter


def selection_text(wanted: OperationFilter) -> str:
    """Return the filter for people: "feature chat, from 2026-11-01T00:00:00Z"; "everything" without one."""
    return ", ".join(_parts(wanted)) or "everything"


def _parts(wanted: OperationFilter) -> Iterator[str]:
    named = {
        "user": wanted.user_id,
        "type": " or ".join(sorted(wanted.types)) or None,
        "status": wanted.status,
        "code": " or ".join(sorted(wanted.codes)) or None,
        "sender": wanted.sender,
        "feature": wanted.feature,
        "reference prefix": wanted.reference_prefix,
        "at least tokens": wanted.min_tokens,
        "at most tokens": wanted.max_tokens,
        "from": _stamp(wanted.since),
        "before": _stamp(wanted.until),
    }
    yield from (f"{name} {value}" for name, value in named.items() if value is not None)
    yield from (f"metadata {name}={value}" for name, value in wanted.metadata)


def _stamp(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
