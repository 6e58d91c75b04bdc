"""Bounded waits for a condition, instead of sleeps."""

from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 60.0


def eventually(condition: Callable[[], T], *, patience_s: float = PATIENCE_S, what: str = "") -> T:
    """Return the first truthy value of ``condition``; fail the test after ``patience_s`` seconds."""
    deadline = monotonic() + patience_s
    while not (value := condition()):
        assert monotonic() < deadline, f"not within {patience_s} s: {what or condition}"
        sleep(0.01)
    return value


def past(seconds: float) -> Callable[[], bool]:
    """Return a condition that is true after some seconds, such as the length of an outage."""
    end = monotonic() + seconds
    return lambda: monotonic() >= end
