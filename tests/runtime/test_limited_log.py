"""Log lines limited in number."""

import logging

import pytest

from worker.runtime.limited_log import LimitedLog


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_first_event_is_logged_at_once_and_the_rest_once_an_interval(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    limited = LimitedLog(logging.getLogger("t"), logging.WARNING, every_s=60, seconds=clock)
    for _ in range(700):
        limited.add("app", "refused")
    clock.now = 60.0
    limited.add("app", "refused")
    assert lines(caplog) == ["refused", "refused (700 times since the last such line)"]


def test_kinds_have_lines_of_their_own_up_to_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    limited = LimitedLog(logging.getLogger("t"), logging.WARNING, kinds_max=3, seconds=Clock())
    for number in range(1_000):
        limited.add(f"sender {number}", f"refused {number}")
    assert lines(caplog) == ["refused 0", "refused 1", "refused 2", "refused 3"]


def test_kind_that_has_not_happened_for_long_makes_room(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    limited = LimitedLog(logging.getLogger("t"), logging.WARNING, every_s=60, kinds_max=2, seconds=clock)
    for kind in ("a", "b", "b"):
        limited.add(kind, kind)
    clock.now = 60.0
    for kind in ("c", "d", "b"):
        limited.add(kind, kind)
    assert lines(caplog) == ["a", "b", "c", "d", "b (2 times since the last such line)"]
