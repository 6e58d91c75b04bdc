"""Forms of a dead letter: its times for people, and all of it as JSON for scripts."""

from datetime import datetime
from typing import Any

from pydantic.alias_generators import to_camel

from worker.cli import times
from worker.deadletters.models import DeadLetterDetails, StoredDeadLetter

#: What a replay does about a time until which usage was valid.
DROPPED = "a replay drops it, so that the usage is applied all the same"


def moment(at: datetime | None) -> str:
    """Return a time in UTC, to the second."""
    return times.moment(at) or "unknown"


def details_as_dict(details: DeadLetterDetails) -> dict[str, Any]:
    """Return a dead letter and its history for scripts."""
    problem = details.problem
    return {
        **dead_letter_as_dict(details.dead_letter),
        "events": [event.to_dict() for event in details.events],
        "edits": [
            {
                "number": edit.number,
                "at": edit.at.isoformat(),
                "actor": edit.actor,
                "reason": edit.reason,
                "setEdit": edit.set_edit,
                **body_as_dict("before", edit.before),
                **body_as_dict("after", edit.after),
            }
            for edit in details.edits
        ],
        "ledger": [line.to_dict() for line in details.ledger],
        "conflicts": [conflict.to_dict() for conflict in details.conflicts],
        "problem": None
        if problem is None
        else {"code": problem.code, "field": problem.field, "message": problem.way_out},
        "isApplied": details.is_applied,
        "pastDeadline": None if details.past_deadline is None else details.past_deadline.isoformat(),
    }


def dead_letter_as_dict(dead_letter: StoredDeadLetter) -> dict[str, Any]:
    """Return a dead letter for scripts; bytes that are no text are hexadecimal."""
    fields: dict[str, Any] = {}
    for name in StoredDeadLetter.__slots__:
        value = getattr(dead_letter, name)
        if name in {"body", "edited_body"}:
            fields |= {} if value is None else body_as_dict(to_camel(name), value)
        else:
            fields[to_camel(name)] = value.isoformat() if isinstance(value, datetime) else value
    return fields


def body_as_dict(name: str, body: bytes) -> dict[str, str]:
    """Return a body under its name as text, or under another one as hexadecimal."""
    try:
        return {name: body.decode()}
    except UnicodeDecodeError:
        return {f"{name}Hex": body.hex()}
