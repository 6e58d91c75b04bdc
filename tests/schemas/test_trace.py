"""Trace context: W3C's form, and nothing else."""

import pytest

from schemas.trace import require_traceparent, trace_in

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    "text",
    [f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-ff", f"01-{TRACE}-{SPAN}-01-more"],
)
def test_traceparent_has_its_ids(text: str) -> None:
    found = trace_in(text)
    assert found is not None
    assert (found.traceparent, found.trace_id, found.span_id) == (text, TRACE, SPAN)


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        b"bytes",
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
        f"01-{TRACE}-{SPAN}-01-{'x' * 600}",
        {"traceparent": "nested"},
    ],
)
def test_other_value_is_no_traceparent(value: object) -> None:
    assert trace_in(value) is None


def test_caller_learns_the_form() -> None:
    with pytest.raises(ValueError, match="00-TRACE-SPAN-FLAGS"):
        require_traceparent("nonsense")
