"""Fields of log lines: the only place that names them, and the events that a line may tell of.

Names are those of the contract where a message has the field (``referenceId``), so that one query finds a
reference in the log, in replies and in dead letters.
"""

import logging
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from schemas.trace import TraceContext

_ATTRIBUTE: Final = "billing_fields"


class LogEvent(StrEnum):
    """Event of a log line: stable, for alerts and searches; the text of the line may change."""

    OTHER = "other"
    STARTED = "started"
    STOPPED = "stopped"
    PROCESS_ENDED = "process_ended"
    OUTAGE_BEGAN = "outage_began"
    OUTAGE_ENDED = "outage_ended"
    MESSAGE = "message"
    DEAD_LETTERS = "dead_letters"
    PAYMENT_REJECTED = "payment_rejected"
    PAYMENT_OVERDUE = "payment_overdue"
    REPLIES_UNROUTABLE = "replies_unroutable"
    WEBHOOK = "webhook"
    LANE_PAUSED = "lane_paused"
    LANE_RESUMED = "lane_resumed"
    CATALOG_RELOADED = "catalog_reloaded"
    CATALOG_REFUSED = "catalog_refused"
    UNKNOWN_SETTING = "unknown_setting"


#: Fields of every line.
COMMON: Final = ("ts", "level", "logger", "message", "event", "worker", "version")
#: Fields of some lines.
OPTIONAL: Final = (
    "type",
    "referenceId",
    "userId",
    "queue",
    "status",
    "code",
    "field",
    "attempt",
    "duplicate",
    "sender",
    "count",
    "server",
    "traceId",
    "spanId",
    "traceback",
)
FIELDS: Final = frozenset({*COMMON, *OPTIONAL})


def fields(
    event: LogEvent,
    *,
    type: str | None = None,  # noqa: A002 - the contract's name
    reference_id: str | None = None,
    user_id: str | None = None,
    queue: str | None = None,
    status: str | None = None,
    code: str | None = None,
    field: str | None = None,
    attempt: int | None = None,
    duplicate: bool | None = None,
    sender: str | None = None,
    count: int | None = None,
    server: str | None = None,
    trace: TraceContext | None = None,
) -> dict[str, Any]:
    """Return the ``extra`` of a log call: the event, and the fields that are known."""
    found = {
        "event": event.value,
        "type": type,
        "referenceId": reference_id,
        "userId": user_id,
        "queue": queue,
        "status": status,
        "code": code,
        "field": field,
        "attempt": attempt,
        "duplicate": duplicate,
        "sender": sender,
        "count": count,
        "server": server,
        "traceId": None if trace is None else trace.trace_id,
        "spanId": None if trace is None else trace.span_id,
    }
    return {_ATTRIBUTE: {name: value for name, value in found.items() if value is not None}}


def fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return the fields that a log call has given its line; at least the event."""
    given: Mapping[str, Any] | None = getattr(record, _ATTRIBUTE, None)
    return {"event": LogEvent.OTHER.value} if given is None else given
