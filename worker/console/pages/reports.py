"""Reports: one of five over a range of days, by time and group, as a chart, a table and CSV."""

from collections.abc import Sequence
from datetime import date, timedelta
from zoneinfo import ZoneInfo

from flask import Blueprint, g, render_template, request
from flask.typing import ResponseReturnValue

from worker.cli.report_forms import report_csv
from worker.cli.times import month_of
from worker.console.context import context
from worker.console.downloads import csv_download
from worker.console.heavy import heavy
from worker.console.parameters import day_in, text_in
from worker.console.report_charts import report_charts
from worker.ledger.queries import day_start, zone_of
from worker.ledger.queries.reports import (
    GROUPINGS,
    HELP,
    Grouping,
    ReportName,
    ReportRequest,
    report,
    report_request,
)

page = Blueprint("reports", __name__)

#: Time for one report; the command line takes the time it needs.
TIMEOUT_S = 20.0
#: Rows on the page; the download has all.
ROWS_SHOWN = 500

_TIMES = (Grouping.DAY, Grouping.MONTH)


@page.get("/reports")
@heavy
def index() -> ResponseReturnValue:
    """Show a report; with ``format=csv`` download all of it."""
    console = context()
    zone = zone_of(text_in(request.args, "timezone") or "UTC")
    start, end = _days(zone)
    wanted = _request(zone, start, end)
    found = report(console.application.engine, wanted, console.catalog.payments, timeout_s=TIMEOUT_S)
    if request.args.get("format") == "csv":
        return csv_download(report_csv(found), f"{wanted.name}_{start}_{end}.csv")
    return render_template(
        "reports.html",
        report=found,
        wanted=wanted,
        names=list(ReportName),
        meaning=HELP[wanted.name],
        groups=[one for one in GROUPINGS[wanted.name] if one not in _TIMES and one not in _always(wanted)],
        times=_TIMES,
        start=start,
        end=end,
        charts=report_charts(found),
        rows=found.rows[:ROWS_SHOWN],
        given=[("from", start.isoformat()), ("to", end.isoformat()), ("timezone", zone.key)],
    )


def _request(zone: ZoneInfo, start: date, end: date) -> ReportRequest:
    by: Sequence[str] = [name for name in request.args.getlist("by") if name]
    name = text_in(request.args, "report") or ReportName.PAYMENTS.value
    return report_request(name, day_start(start, zone), day_start(end, zone), zone, by, g.now)


def _days(zone: ZoneInfo) -> tuple[date, date]:
    """Return the days of the range; by default this month, or the month in which the range ends."""
    end = day_in(request.args, "to")
    today: date = g.now.astimezone(zone).date()
    last = today if end is None else end - timedelta(days=1)
    first = day_in(request.args, "from") or last.replace(day=1)
    return first, end or month_of(today)[1]


def _always(wanted: ReportRequest) -> Sequence[Grouping]:
    """Return the groupings that nobody chooses: the report always has them."""
    return tuple(one for one in (Grouping.CURRENCY, Grouping.SOURCE) if one in wanted.by)
