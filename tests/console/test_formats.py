"""Formats of values on a page."""

from datetime import UTC, datetime, timedelta

import pytest

from worker.console.formats import action, ago, compact, moment, shortened, subject, visible
from worker.messages.dead_letters import EPOCH
from worker.runtime.durations import lasting

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


def test_invisible_characters_are_escaped() -> None:
    assert visible("a\u202eb\x00\x1b[0m\tc\nd") == "a\\u202eb\\x00\\x1b[0m\tc\nd"
    assert shortened("a\n b" + "c" * 200, 10) == "a bcccccc…"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (600, "10 min"), (90_000, "1 d 1 h")]
)
def test_duration_has_its_largest_units(seconds: int, text: str) -> None:
    assert lasting(timedelta(seconds=seconds)) == text


def test_future_time_differs_from_past_time() -> None:
    assert ">in 1 h 30 min<" in ago(NOW + timedelta(minutes=90), NOW)
    assert ">1 h 30 min ago<" in ago(NOW - timedelta(minutes=90), NOW)
    assert "unknown" in ago(None, NOW)


def test_missing_time_of_a_dead_letter_is_unknown() -> None:
    assert "unknown" in ago(EPOCH, NOW)
    assert "unknown" in moment(EPOCH)


def test_axis_numbers_are_short() -> None:
    assert [compact(value) for value in (7, 1_200, 30_000, 4_500_000)] == ["7", "1.2k", "30k", "4.5M"]


def test_stored_words_of_the_first_version_are_shown_as_todays() -> None:
    assert [action(stored) for stored in ("park", "replay.pause")] == ["drain", "replay pause"]
    assert [subject(stored) for stored in ("letter 7", "letters 7, 8", "replay 1")] == [
        "dead letter 7",
        "dead letters 7, 8",
        "replay 1",
    ]
