"""Text of a filter of operations, which a stored run keeps: which charges were meant."""

from collections.abc import Iterator

from worker.ledger.queries.operation_filter import OperationFilter
from worker.ledger.queries.views import stamp


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
        "from": None if wanted.since is None else stamp(wanted.since),
        "before": None if wanted.until is None else stamp(wanted.until),
    }
    yield from (f"{name} {value}" for name, value in named.items() if value is not None)
    yield from (f"metadata {name}={value}" for name, value in wanted.metadata)
