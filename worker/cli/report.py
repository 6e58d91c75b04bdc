"""``report``: the whole ledger over a range of time, for people, spreadsheets and programs."""

from collections.abc import Sequence
from datetime import timedelta, tzinfo

import click

from worker.bootstrap import Application, utc_now
from worker.cli.application import with_application
from worker.cli.options import as_json, require_one_form, time_option, with_timezone, with_wide
from worker.cli.output import is_terminal, show_json, show_table, show_text, waiting_for
from worker.cli.report_forms import plain_cells, report_csv, shown_cells
from worker.cli.table_width import Column
from worker.cli.times import TimeText, month_of, time_range
from worker.ledger.queries import day_start, zone_of
from worker.ledger.queries.reports import HELP, Report, ReportName, Unit, report_request
from worker.ledger.queries.reports import report as read_report


def _split(_ctx: click.Context, _parameter: click.Parameter, given: Sequence[str]) -> list[str]:
    return [name.strip() for text in given for name in text.split(",") if name.strip()]


@click.command()
@click.argument("name", metavar="REPORT", type=click.Choice([name.value for name in ReportName]))
@time_option("--from", "start", "Beginning: a day, a time, 3d ago; by default the first of the month.")
@time_option("--to", "end", "End, itself left out; by default the first of the next month.")
@click.option(
    "--by",
    multiple=True,
    callback=_split,
    metavar="GROUPING[,…]",
    help="Rows by day or month, and by package, currency, gateway, tier, feature, type, source.",
)
@with_timezone
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets.")
@with_wide
@with_application("database_url", "catalog")
@as_json
def report(
    application: Application,
    *,
    name: str,
    start: TimeText | None,
    end: TimeText | None,
    by: list[str],
    timezone: str,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Report on the whole ledger over a range of time.

    \b
    payments   money taken, refunded, disputed and failed, and what is left
               by day or month, package, tier, gateway; always by currency
    revenue    money of sold tokens: deferred, recognised when they are used,
               and breakage when they expire unused; groups as payments
    liability  tokens outstanding when the range begins and ends, what moved
               them, debt and holds; by day or month, tier; always by source
    breakage   tokens that expired unused; groups as liability
    usage      tokens used; by day or month, feature, type of command, tier

    Everything counts when it was posted, so that a month that is over stays as it was; what is due and not
    posted yet is in no report. Days and months are those of --timezone. The tier of tokens is the one that
    the account has today. Accounts that came from another system have a column of their own.

    \b
    Examples:
      billing-worker report payments --by month --from 2026-01-01 --to 2027-01-01
      billing-worker report revenue --by month,package --csv > revenue.csv
      billing-worker report liability --to 2026-11-01        # what was owed to users then
      billing-worker report usage --by day,feature --from 7d --tz Europe/Berlin
      billing-worker report payments --json | jq -r '.totals[] | .net + " " + .currency'
    """
    require_one_form(as_csv=as_csv, as_json=as_json)
    application.require_readable_schema()
    zone, now = zone_of(timezone), utc_now()
    begin, until = time_range(start, end, now, zone)
    first, next_first = month_of(now.astimezone(zone).date())
    until = until or day_start(next_first, zone)
    if begin is None:
        last = (until - timedelta(microseconds=1)).astimezone(zone).date()
        begin = day_start(first if end is None else month_of(last)[0], zone)
    request = report_request(name, begin, until, zone, by, now)
    with waiting_for(f"reading {name}"):
        found = read_report(application.engine, request, application.catalog.payments)
    if as_json:
        show_json(found.to_dict())
    elif as_csv:
        for line in report_csv(found):
            click.echo(line, nl=False)
    else:
        show_report(found, zone)


def show_report(found: Report, zone: tzinfo) -> None:
    """Show a report: with totals and its meaning on a terminal, its rows alone in a pipe."""
    columns = [
        Column(column.title, 0 if column.unit is Unit.GROUP else column.rank) for column in found.columns
    ]
    if not is_terminal():
        show_table("", columns, [plain_cells(found, row) for row in found.rows])
        return
    request = found.request
    title = f"{request.name.capitalize()} from {_local(found, zone)}"
    if not found.rows:
        click.echo(f"{title}: nothing was posted")
    else:
        rows = [shown_cells(found, row) for row in found.rows]
        if len(rows) > len(found.totals):
            rows += [["total", *shown_cells(found, row)[1:]] for row in found.totals]
        show_table(title, columns, rows)
    show_text(HELP[request.name])


def _local(found: Report, zone: tzinfo) -> str:
    start, end = (f"{at.astimezone(zone):%Y-%m-%d %H:%M}" for at in (found.request.start, found.request.end))
    return f"{start} until before {end} ({found.request.zone.key})"
