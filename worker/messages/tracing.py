"""Trace context of a delivery, and the headers that hand it on; a malformed one is as good as none."""

from collections.abc import Mapping

from schemas.trace import TRACEPARENT, TraceContext, trace_in
from worker.broker import Delivery

_NONE: Mapping[str, str] = {}


def trace_of(delivery: Delivery) -> TraceContext | None:
    """Return the trace context of a delivery; None without one."""
    value = delivery.headers.get(TRACEPARENT)
    return None if value is None else trace_in(value)


def trace_headers(delivery: Delivery) -> Mapping[str, str]:
    """Return the headers of a message that is sent in response to a delivery."""
    trace = trace_of(delivery)
    return _NONE if trace is None else {TRACEPARENT: trace.traceparent}
