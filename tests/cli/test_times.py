"""Times as people write them."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from worker.cli.times import FORMS, month_of, parse_time

NOW = datetime(2026, 11, 26, 23, 30, 15, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")  # 00:30 on the 27th there


@pytest.mark.parametrize(
    ("text", "in_utc", "in_berlin"),
    [
        ("30s", "2026-11-26T23:29:45", "2026-11-26T23:29:45"),
        ("15m", "2026-11-26T23:15:15", "2026-11-26T23:15:15"),
        ("2h", "2026-11-26T21:30:15", "2026-11-26T21:30:15"),
        ("3d", "2026-11-23T23:30:15", "2026-11-23T23:30:15"),
        ("1w", "2026-11-19T23:30:15", "2026-11-19T23:30:15"),
        ("today", "2026-11-26T00:00:00", "2026-11-26T23:00:00"),
        ("yesterday", "2026-11-25T00:00:00", "2026-11-25T23:00:00"),
        ("14:05", "2026-11-26T14:05:00", "2026-11-27T13:05:00"),
        ("14:05:09", "2026-11-26T14:05:09", "2026-11-27T13:05:09"),
        ("2026-11-26", "2026-11-26T00:00:00", "2026-11-25T23:00:00"),
        ("2026-11-26 11:03", "2026-11-26T11:03:00", "2026-11-26T10:03:00"),
        ("2026-11-26 11:03:07", "2026-11-26T11:03:07", "2026-11-26T10:03:07"),
        (" 2026-11-26 ", "2026-11-26T00:00:00", "2026-11-25T23:00:00"),
        ("2026-11-26T11:03:00Z", "2026-11-26T11:03:00", "2026-11-26T11:03:00"),
        ("2026-11-26T11:03:00+05:30", "2026-11-26T05:33:00", "2026-11-26T05:33:00"),
    ],
)
def test_every_form_is_a_time_in_the_zone_of_the_command(text: str, in_utc: str, in_berlin: str) -> None:
    assert parse_time(text, NOW, UTC) == datetime.fromisoformat(in_utc + "Z")
    assert parse_time(text, NOW, BERLIN) == datetime.fromisoformat(in_berlin + "Z")
    assert parse_time(text, NOW, BERLIN).utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "last week",
        "15",
        "15 m",
        "-15m",
        "1.5h",
        "999999999w",
        "24:00",
        "14:65",
        "9:05",
        "2026-13-01",
        "2026-02-30 11:03",
        "2026-11-26 25:00",
        "2026-11-26T11:03:00",
        "2026-11-26T11:03:00+99:00",
        "26.11.2026",
        "0001-01-01T00:00:00+01:00",
        "１５m",
    ],
)
def test_text_that_is_no_time_names_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match="is no time; write 15m, 2h or 3d") as raised:
        parse_time(text, NOW, UTC)
    assert FORMS in str(raised.value)


def test_midnight_that_the_clocks_skip_is_the_instant_of_the_jump() -> None:
    zone = ZoneInfo("America/Sao_Paulo")  # 2018-11-04: from 23:59:59 to 01:00:00
    assert parse_time("2018-11-04", NOW, zone) == datetime(2018, 11, 4, 3, tzinfo=UTC)


def test_month_ends_where_the_next_begins() -> None:
    first, next_first = month_of(date(2026, 12, 31))
    assert (first.isoformat(), next_first.isoformat()) == ("2026-12-01", "2027-01-01")
