"""Looking at the ledger: ``balance``, ``can-afford``, ``history``, ``usage``, ``stats``, ``audit``."""

import sys
from datetime import datetime

import click
from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from worker.bootstrap import Application, utc_now
from worker.cli.options import as_json, with_application
from worker.cli.output import console, is_terminal, progress, show_fields, show_json, show_table
from worker.ledger.audit import AuditReport, Progress, audit
from worker.ledger.queries import History, Reader, Usage

_BAR_WIDTH = 50


@click.command()
@click.argument("user")
@with_application("database_url", "catalog")
@as_json
def balance(application: Application, *, user: str, as_json: bool) -> None:
    """A user's balance, the sums behind it, and the month's free uploads."""
    view = _reader(application).balance(user, utc_now(), application.catalog)
    if as_json:
        show_json(view.to_dict())
        return
    upload = view.free_upload
    show_fields(
        f"Balance of {user}",
        [
            ("tier", view.tier),
            ("balance", view.balance),
            ("available", view.available),
            ("allocated", view.allocated),
            ("purchased", view.purchased),
            ("bonus", view.bonus),
            ("refunded", view.refunded),
            ("used", view.used),
            ("entries", view.sequence),
            ("free upload bytes used", upload.used_bytes),
            ("free upload bytes left", upload.remaining_bytes),
            ("opened", _moment(view.opened_at)),
            ("updated", _moment(view.updated_at)),
        ],
    )


@click.command("can-afford")
@click.argument("user")
@click.argument("tokens", type=int)
@with_application("database_url", "catalog")
@as_json
def can_afford(application: Application, *, user: str, tokens: int, as_json: bool) -> None:
    """Whether a deduction of TOKENS would be applied now. Exit 0 for yes, 1 for no."""
    view = _reader(application).can_afford(user, tokens, utc_now(), application.catalog)
    if as_json:
        show_json(view.to_dict())
    else:
        answer = "yes" if view.can_afford else f"no, {view.shortfall} short"
        click.echo(f"{answer}: {view.required} required, {view.available} available")
    sys.exit(0 if view.can_afford else 1)


@click.command()
@click.argument("user")
@click.option("--limit", type=int, default=20, show_default=True, help="Entries a page, at most 1000.")
@click.option("--offset", type=int, default=0, help="Newer entries to leave out.")
@click.option("--cursor", help="Go on where the page before ended; steady while entries are written.")
@with_application("database_url")
@as_json
def history(
    application: Application, *, user: str, limit: int, offset: int, cursor: str | None, as_json: bool
) -> None:
    """A user's entries, newest first."""
    page = _reader(application).history(user, limit, offset, cursor)
    if as_json:
        show_json(page.to_dict())
    else:
        show_history(page)


def show_history(page: History) -> None:
    """A page of history for people."""
    first = page.offset + 1 if page.transactions else 0
    show_table(
        f"History of {page.user_id}: {first}–{page.offset + len(page.transactions)} of {page.total}",
        ("#", "time", "type", "counter", "amount", "before", "after", "feature", "reference"),
        [
            (
                entry.sequence,
                _moment(entry.occurred_at),
                entry.type,
                entry.counter,
                entry.amount,
                entry.balance_before,
                entry.balance_after,
                entry.feature,
                entry.reference_id,
            )
            for entry in page.transactions
        ],
    )
    if page.has_more and is_terminal():
        click.echo(f"more: --cursor {page.next_cursor}")


@click.command()
@click.argument("user")
@click.option("--days", type=int, default=30, show_default=True, help="Days up to today, at most 366.")
@click.option("--timezone", default="UTC", show_default=True, help="Where the days begin and end.")
@with_application("database_url")
@as_json
def usage(application: Application, *, user: str, days: int, timezone: str, as_json: bool) -> None:
    """A user's usage by day and feature, as a chart on a terminal."""
    view = _reader(application).usage(user, utc_now(), days, timezone)
    if as_json:
        show_json(view.to_dict())
    else:
        show_usage(view)


def show_usage(view: Usage) -> None:
    """Usage by day: a chart on a terminal, lines in a pipe; the days add up to the total."""
    if not is_terminal():
        show_table("", ("day", "used", "entries"), [(d.day, d.used, d.entries) for d in view.by_day])
        return
    most = max((day.used for day in view.by_day), default=0)
    table = Table(box=None, show_header=False, title_justify="left", title_style="bold")
    table.title = f"Usage of {view.user_id}, {view.first_day} to {view.last_day} ({view.timezone})"
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


@click.command()
@with_application("database_url")
@as_json
def stats(application: Application, *, as_json: bool) -> None:
    """The whole ledger: users, tokens, outcomes, revenue."""
    view = _reader(application).stats()
    if as_json:
        show_json(view.to_dict())
        return
    show_fields(
        "Ledger",
        [
            ("users", view.users),
            *((f"users on {tier}", count) for tier, count in view.accounts_by_tier.items()),
            ("balance", view.total_balance),
            ("average balance", view.average_balance),
            ("allocated", view.total_allocated),
            ("purchased", view.total_purchased),
            ("bonus", view.total_bonus),
            ("refunded", view.total_refunded),
            ("used", view.total_used),
            ("payments", view.payments),
            *((f"revenue {sum_.currency} (minor units)", sum_.amount_minor) for sum_ in view.revenue),
        ],
    )
    show_table(
        "References by outcome",
        ("type", "status", "code", "count"),
        [(row.type, row.status, row.code, row.count) for row in view.operations],
    )


@click.command("audit")
@with_application("database_url")
@as_json
def audit_command(application: Application, *, as_json: bool) -> None:
    """Prove that every balance is explained by its entries. Exit 1 on any finding.

    Reads one state of the ledger while workers go on.
    """
    application.require_newest_schema()
    with progress("audit", None) as bar:

        def step(done: Progress) -> None:
            bar.update(bar.task_ids[0], description=done.step, completed=done.done, total=done.total)

        report = audit(application.engine, step)
    if as_json:
        show_json(report.to_dict())
    else:
        show_audit(report)
    sys.exit(0 if report.is_clean else 1)


def show_audit(report: AuditReport) -> None:
    """The verdict, and each finding with its account and reference."""
    examined = ", ".join(f"{count:,} {table}" for table, count in report.examined.items())
    for finding in report.findings:
        click.echo(f"{click.style('finding', fg='red')}: {finding}")
    if report.unlisted:
        click.echo(f"and {report.unlisted} more")
    verdict = "every balance explained" if report.is_clean else f"{sum(report.found.values())} findings"
    click.echo(f"{verdict}, drift {report.drift} ({examined})")


def _reader(application: Application) -> Reader:
    application.require_newest_schema()
    return Reader(application.engine)


def _moment(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S}Z"
