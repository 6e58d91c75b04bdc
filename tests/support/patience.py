"""Bounded waits for a condition; nothing in the tests sleeps for a while and hopes."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.support.witness import PATIENCE_S

POLL_S = 0.02

T = TypeVar("T")


def eventually(condition: Callable[[], T], *, patience_s: float = PATIENCE_S, what: str = "") -> T:
    """The first true value of ``condition``; fails the test when there is none within ``patience_s``."""
    deadline = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {patience_s:.0f} s: {what or condition}"
        time.sleep(POLL_S)
    return value


def past(seconds: float) -> Callable[[], bool]:
    """A condition that comes true so many seconds from now: for how long an outage lasts."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end
