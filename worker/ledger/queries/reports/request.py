"""Reports that can be asked for: their names, groupings, and range of time; refusals name the way out."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from worker.errors import QueryError
from worker.ledger.queries.days import day_start

#: Most days or months of one report: ten years of days.
PERIODS_MAX = 3_660


class ReportName(StrEnum):
    """Names of the reports."""

    PAYMENTS = "payments"
    REVENUE = "revenue"
    LIABILITY = "liability"
    BREAKAGE = "breakage"
    USAGE = "usage"


class Grouping(StrEnum):
    """Groupings of rows. The tier of a payment is the one it bought, of tokens the account's present one."""

    DAY = "day"
    MONTH = "month"
    PACKAGE = "package"
    TIER = "tier"
    GATEWAY = "gateway"
    FEATURE = "feature"
    TYPE = "type"
    SOURCE = "source"
    CURRENCY = "currency"


_TIMES = (Grouping.DAY, Grouping.MONTH)
_OF_MONEY = (*_TIMES, Grouping.PACKAGE, Grouping.TIER, Grouping.GATEWAY, Grouping.CURRENCY)
_OF_TOKENS = (*_TIMES, Grouping.TIER, Grouping.SOURCE)

#: Groupings that are meaningful for each report.
GROUPINGS: Mapping[ReportName, Sequence[Grouping]] = {
    ReportName.PAYMENTS: _OF_MONEY,
    ReportName.REVENUE: _OF_MONEY,
    ReportName.LIABILITY: _OF_TOKENS,
    ReportName.BREAKAGE: _OF_TOKENS,
    ReportName.USAGE: (*_TIMES, Grouping.FEATURE, Grouping.TYPE, Grouping.TIER),
}

#: Groupings that a report always has: money is never added over currencies, nor tokens over their sources.
_ALWAYS: Mapping[ReportName, Sequence[Grouping]] = {
    ReportName.PAYMENTS: (Grouping.CURRENCY,),
    ReportName.REVENUE: (Grouping.CURRENCY,),
    ReportName.LIABILITY: (Grouping.SOURCE,),
    ReportName.BREAKAGE: (Grouping.SOURCE,),
    ReportName.USAGE: (),
}


class Periods:
    """Consecutive parts of a range, numbered from 1; 0 is all that came before, the number behind is later.

    ``labels`` are days or months; a report that has neither has one part without a label. The first ``begun``
    parts have begun; a later one is of interest only where a clock ahead has posted something.
    """

    def __init__(self, bounds: Sequence[datetime], labels: Sequence[str | None], now: datetime) -> None:
        self.bounds, self.labels = bounds, labels
        self.begun = min(max(bisect_right(bounds, now), 1), len(labels))

    def __len__(self) -> int:
        return len(self.labels)

    def number_of(self, moment: datetime) -> int:
        """Return the number of the part that a time lies in."""
        return bisect_right(self.bounds, moment)


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """Checked request for a report: from ``start`` until before ``end``, in UTC.

    Days and months are those of ``zone``. ``by`` are the groupings of its rows, in the order of columns.
    """

    name: ReportName
    start: datetime
    end: datetime
    zone: ZoneInfo
    by: tuple[Grouping, ...]
    periods: Periods

    @property
    def groups(self) -> tuple[Grouping, ...]:
        """Groupings other than by time."""
        return tuple(grouping for grouping in self.by if grouping not in _TIMES)

    @property
    def time(self) -> Grouping | None:
        """Grouping by time; None without one."""
        return next((grouping for grouping in self.by if grouping in _TIMES), None)


def report_request(
    name: str, start: datetime, end: datetime, zone: ZoneInfo, by: Iterable[str], now: datetime
) -> ReportRequest:
    """Return the checked request; nothing is said of days and months to come.

    Raises QueryError, which names the field and what is allowed.
    """
    report = _named(name)
    groupings = _groupings(report, by)
    if start >= end:
        raise QueryError(
            f"a report ends after it begins, not from {_local(start, zone)} to {_local(end, zone)}; "
            "the end itself is left out: for one day give the next day as the end",
            "to",
        )
    time = next((grouping for grouping in groupings if grouping in _TIMES), None)
    periods = _periods(time, start, end, zone, now)
    return ReportRequest(report, start, end, zone, groupings, periods)


def _named(name: str) -> ReportName:
    try:
        return ReportName(name)
    except ValueError:
        raise QueryError(
            f"there is no report {name[:40]!r}; there are {', '.join(ReportName)}", "report"
        ) from None


def _groupings(report: ReportName, by: Iterable[str]) -> tuple[Grouping, ...]:
    allowed = GROUPINGS[report]
    asked: list[Grouping] = []
    for name in by:
        if name not in set(Grouping):
            raise QueryError(
                f"no report is grouped by {name[:40]!r}; {report} is by {', '.join(allowed)}", "by"
            )
        if Grouping(name) not in allowed:
            raise QueryError(f"{report} can't be grouped by {name}, only by {', '.join(allowed)}", "by")
        asked.append(Grouping(name))
    if set(_TIMES) <= set(asked):
        raise QueryError("group by day or by month, not by both: a day names its month", "by")
    return tuple(dict.fromkeys((*asked, *_ALWAYS[report])))


def _periods(time: Grouping | None, start: datetime, end: datetime, zone: ZoneInfo, now: datetime) -> Periods:
    if time is None:
        return Periods((start, end), (None,), now)
    last = end - timedelta(microseconds=1)
    firsts = _first_days(time, start.astimezone(zone).date(), last.astimezone(zone).date())
    borders = [day_start(day, zone) for day in firsts[1:]]
    labels = [f"{day:%Y-%m}" if time is Grouping.MONTH else day.isoformat() for day in firsts]
    return Periods((start, *borders, end), labels, now)


def _first_days(time: Grouping, first: date, last: date) -> list[date]:
    """Return the first day of each part; the first part begins inside of its day or month."""
    count = (last - first).days + 1
    if time is Grouping.MONTH:
        count = (last.year - first.year) * 12 + last.month - first.month + 1
    if count > PERIODS_MAX:
        way_out = "a shorter range, or by month" if time is Grouping.DAY else "a shorter range"
        raise QueryError(
            f"from {first} to {last} there are {count:,} {time}s, and a report has at most "
            f"{PERIODS_MAX:,}: ask for {way_out}",
            "from",
        )
    if time is Grouping.DAY:
        return [first + timedelta(days=number) for number in range(count)]
    months = range(first.year * 12 + first.month - 1, last.year * 12 + last.month)
    return [date(month // 12, month % 12 + 1, 1) for month in months]


def _local(moment: datetime, zone: ZoneInfo) -> str:
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M}"
