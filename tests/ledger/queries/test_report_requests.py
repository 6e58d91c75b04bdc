"""Requests for reports: what is refused, with the way out, and where days and months begin."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from worker.errors import QueryError
from worker.ledger.queries.reports import ReportRequest, report_request

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def asked(
    name: str, *by: str, start: datetime = START, end: datetime = END, zone: ZoneInfo = BERLIN
) -> ReportRequest:
    return report_request(name, start, end, zone, by, NOW)


@pytest.mark.parametrize(
    ("name", "by", "text"),
    [
        ("sales", (), "no report 'sales'; there are payments, revenue, liability, breakage, usage"),
        ("usage", ("user",), "no report is grouped by 'user'; usage is by day, month, feature, type, tier"),
        ("usage", ("package",), "usage can't be grouped by package, only by day, month, feature, type, tier"),
        ("payments", ("feature",), "only by day, month, package, tier, gateway, currency"),
        ("liability", ("currency",), "only by day, month, tier, source"),
        ("payments", ("day", "month"), "group by day or by month, not by both"),
    ],
)
def test_meaningless_grouping_is_refused_with_those_that_are_meant(
    name: str, by: tuple[str, ...], text: str
) -> None:
    with pytest.raises(QueryError) as refused:
        asked(name, *by)
    assert text in str(refused.value)
    assert refused.value.field in ("by", "report")


@pytest.mark.parametrize("length", [timedelta(0), -timedelta(days=30)])
def test_range_that_ends_before_it_begins_is_refused(length: timedelta) -> None:
    with pytest.raises(QueryError, match="a report ends after it begins, not from 2026-11-01 01:00 to"):
        asked("usage", end=START + length)


def test_million_days_are_refused_with_a_way_out() -> None:
    ages = datetime(1, 2, 1, tzinfo=UTC), datetime(2739, 1, 1, tzinfo=UTC)
    with pytest.raises(QueryError, match=r"there are 1,000,\d{3} days, .* at most 3,660: .*by month"):
        asked("usage", "day", start=ages[0], end=ages[1])
    with pytest.raises(QueryError, match="ask for a shorter range"):
        asked("usage", "month", start=ages[0], end=ages[1])
    assert len(asked("usage", start=ages[0], end=ages[1]).periods) == 1


def test_days_are_those_of_the_zone_also_where_its_clock_changes() -> None:
    start, end = datetime(2026, 10, 23, 22, tzinfo=UTC), datetime(2026, 10, 26, 23, tzinfo=UTC)
    periods = asked("usage", "day", start=start, end=end).periods
    assert periods.labels == ["2026-10-24", "2026-10-25", "2026-10-26"]
    lengths = [after - before for before, after in zip(periods.bounds, periods.bounds[1:], strict=False)]
    assert lengths == [timedelta(hours=hours) for hours in (24, 25, 24)]


def test_range_is_half_open_and_its_ends_cut_days_and_months() -> None:
    start, end = datetime(2026, 10, 31, 12, tzinfo=UTC), datetime(2026, 12, 2, tzinfo=UTC)
    periods = asked("payments", "month", start=start, end=end, zone=ZoneInfo("UTC")).periods
    assert periods.labels == ["2026-10", "2026-11", "2026-12"]
    assert [periods.number_of(at) for at in (start - timedelta(microseconds=1), start)] == [0, 1]
    assert [periods.number_of(at) for at in (START, end - timedelta(microseconds=1), end)] == [2, 3, 4]


def test_currency_and_source_are_always_there() -> None:
    assert [grouping.value for grouping in asked("payments", "month", "package").by] == [
        *("month", "package", "currency")
    ]
    assert [grouping.value for grouping in asked("liability", "source", "month").by] == ["source", "month"]
