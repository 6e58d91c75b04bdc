"""``usage``: a user's usage by day and feature."""

import click
from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from worker.bootstrap import Application, utc_now
from worker.cli.application import reader_of, with_application
from worker.cli.options import as_json, with_timezone
from worker.cli.output import console, is_terminal, show_json, show_table
from worker.cli.text import shown_id
from worker.ledger.queries import UsageReport

_BAR_WIDTH = 50


@click.command()
@click.argument("user")
@click.option("--days", type=int, default=30, show_default=True, help="Days up to today, at most 366.")
@with_timezone
@with_application("database_url", "catalog")
@as_json
def usage(application: Application, *, user: str, days: int, timezone: str, as_json: bool) -> None:
    """Show a user's usage by day and feature, as a chart on a terminal.

    \b
    Example:
      billing-worker usage ada --days 7 --tz Europe/Berlin
    """
    view = reader_of(application).usage(user, utc_now(), application.catalog, days, timezone)
    if as_json:
        show_json(view.to_dict())
    else:
        show_usage(view)


def show_usage(view: UsageReport) -> None:
    """Show usage by day: a chart on a terminal, lines in a pipe. The days add up to the total."""
    if not is_terminal():
        show_table("", ("day", "used", "entries"), [(d.day, d.used, d.entries) for d in view.by_day])
        return
    most = max((day.used for day in view.by_day), default=0)
    table = Table(box=None, show_header=False, title_justify="left", title_style="bold")
    table.title = f"Usage of {shown_id(view.user_id)}, {view.first_day} to {view.last_day} ({view.timezone})"
    for day in view.by_day:
        table.add_row(
            Text(f"{day.day:%a %d %b}"),
            Bar(max(most, 1), 0, day.used, width=_BAR_WIDTH, color="cyan"),
            Text(f"{day.used:,}", justify="right"),
        )
    console().print(table)
    shares = ", ".join(f"{feature} {used:,}" for feature, used in view.by_feature.items())
    left = view.projection.days_to_empty
    click.echo(f"total {view.total_used:,}, {view.average_per_day:,} a day; {shares or 'no usage'}")
    click.echo(
        f"balance {view.balance:,}" + ("" if left is None else f", lasts {left} more days at this rate")
    )
