"""Trace context of a message: the header of W3C that ties it to the request which caused it.

Source: https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from dataclasses import dataclass

#: Header of a message, and of its reply, dead letter and replay.
TRACEPARENT = "traceparent"

_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_FIRST_VERSION, _LONGEST = "00", 512


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Trace of a message: the header as it came, and the two ids in it."""

    traceparent: str
    trace_id: str
    span_id: str


def trace_in(value: object) -> TraceContext | None:
    """Return the trace context in the value of a header; None where it is no traceparent.

    A later version may say more behind the four fields that are known.
    """
    if not isinstance(value, str) or len(value) > _LONGEST:
        return None
    found = _FORM.fullmatch(value)
    if found is None or (found[1] == _FIRST_VERSION and found[4]):
        return None
    return TraceContext(value, found[2], found[3])


def require_traceparent(value: str) -> str:
    """Return ``value``. Raises ValueError where it is no traceparent."""
    if trace_in(value) is None:
        raise ValueError(
            f"traceparent={value[:60]!r}: W3C's form is 00-TRACE-SPAN-FLAGS, with 32, 16 and 2 hexadecimal "
            "digits in lower case; leave it out where there is no trace"
        )
    return value
