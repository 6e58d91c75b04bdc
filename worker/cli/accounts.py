"""Views of the ledger: ``balance``, ``can-afford``, ``history``, ``usage``, ``stats``, ``audit``."""

import sys
from collections.abc import Iterator

import click
from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from worker.bootstrap import Application, utc_now
from worker.cli.columns import Column
from worker.cli.options import (
    as_json,
    cursor_option,
    limit_option,
    reader_of,
    show_next,
    time_option,
    with_application,
    with_timezone,
    with_wide,
)
from worker.cli.output import console, is_terminal, progress, show_fields, show_json, show_table
from worker.cli.text import printable
from worker.cli.times import TimeText, moment
from worker.ledger.audit import AuditReport, Progress, audit
from worker.ledger.queries import Balance, History, Usage

_BAR_WIDTH = 50


@click.command()
@click.argument("user")
@time_option("--at", "at", "Show the balance of that time: yesterday, 2h, 2026-11-26 11:03 (UTC).")
@with_application("database_url", "catalog")
@as_json
def balance(application: Application, *, user: str, at: TimeText | None, as_json: bool) -> None:
    """Show a user's balance, its parts, the subscription, and the period's quotas.

    Everything that has fallen due counts, posted or not. Before the account was opened there is no balance:
    exit 4.

    \b
    Examples:
      billing-worker balance ada
      billing-worker balance ada --at 2026-11-01
      billing-worker balance ada --at 2h
    """
    reader, now = reader_of(application), utc_now()
    if at is None:
        view = reader.balance(user, now, application.catalog)
    else:
        view = reader.balance_at(user, at.at(now), application.catalog)
    if as_json:
        show_json(view.to_dict())
    else:
        show_balance(view)


def show_balance(view: Balance) -> None:
    """Show a balance to people."""
    subscription, unsettled = view.subscription, view.unsettled
    show_fields(
        f"Balance of {view.user_id} at {moment(view.at)}",
        [
            ("balance", view.balance),
            ("held", view.held),
            ("available", view.available),
            ("debt", view.debt),
            *((f"of {source.replace('_', ' ')}", tokens) for source, tokens in view.lots.items()),
            ("takes effect later", view.pending),
            ("allocated", view.allocated),
            ("purchased", view.purchased),
            ("bonus", view.bonus),
            ("refunded", view.refunded),
            ("adjusted", view.adjusted),
            ("used", view.used),
            ("expired", view.expired),
            ("reversed", view.reversed),
            ("tier", subscription.tier),
            ("period", f"{moment(subscription.period_start)} to {moment(subscription.period_end)}"),
            ("granted until", moment(subscription.granted_until)),
            ("ends", moment(subscription.ends_at)),
            *_quota_fields(view),
            ("due, not posted yet", unsettled.tokens),
            ("entries", view.sequence),
            ("opened", moment(view.opened_at)),
            ("updated", moment(view.updated_at)),
        ],
    )


def _quota_fields(view: Balance) -> Iterator[tuple[str, int | None]]:
    for quota in view.quotas:
        name = quota.name.replace("_", " ")
        yield f"{name} used ({quota.unit})", quota.used
        yield f"{name} left ({quota.unit})", quota.remaining


@click.command("can-afford")
@click.argument("user")
@click.argument("tokens", type=int)
@with_application("database_url", "catalog")
@as_json
def can_afford(application: Application, *, user: str, tokens: int, as_json: bool) -> None:
    """Tell whether a deduction of TOKENS would be applied now. Exit 0 for yes, 1 for no.

    \b
    Example:
      billing-worker can-afford ada 5000 && ./start-the-job
    """
    view = reader_of(application).can_afford(user, tokens, utc_now(), application.catalog)
    if as_json:
        show_json(view.to_dict())
    else:
        answer = "yes" if view.can_afford else f"no, {view.shortfall} short"
        click.echo(f"{answer}: {view.required} required, {view.available} available")
    sys.exit(0 if view.can_afford else 1)


@click.command()
@click.argument("user")
@limit_option(20, "Entries")
@cursor_option()
@click.option("--offset", type=int, default=0, hidden=True, help="Newer entries to leave out.")
@with_wide
@with_application("database_url")
@as_json
def history(
    application: Application, *, user: str, limit: int, offset: int, cursor: str | None, as_json: bool
) -> None:
    """List a user's entries, newest first.

    An entry says which tokens moved and of which lot, and when they fell due, where time brought it about.
    Pages stay in order while entries are written.

    \b
    Example:
      billing-worker history ada --limit 50
    """
    page = reader_of(application).history(user, limit, offset, cursor)
    if as_json:
        show_json({**page.to_dict(), "next": page.next_cursor})
        return
    show_history(page)
    show_next(page.next_cursor)


_HISTORY = (
    Column("#"),
    Column("time", 1),
    Column("type", 3),
    Column("counter", 2),
    Column("amount"),
    Column("before", 5),
    Column("after", 1),
    Column("lot", 6),
    Column("due", 8),
    Column("feature", 7, text=True),
    Column("reference"),
)


def show_history(page: History) -> None:
    """Show a page of history to people."""
    first = page.offset + 1 if page.transactions else 0
    show_table(
        f"History of {page.user_id}: {first}–{page.offset + len(page.transactions)} of {page.total}",
        _HISTORY,
        [
            (
                entry.sequence,
                moment(entry.occurred_at),
                entry.type,
                entry.counter,
                entry.amount,
                entry.balance_before,
                entry.balance_after,
                entry.lot,
                moment(entry.due_at),
                entry.feature,
                entry.reference_id,
            )
            for entry in page.transactions
        ],
    )


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


def show_usage(view: Usage) -> None:
    """Show usage by day: a chart on a terminal, lines in a pipe. The days add up to the total."""
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
@with_wide
@with_application("database_url")
@as_json
def stats(application: Application, *, as_json: bool) -> None:
    """Sum up the whole ledger as it is posted: users, tokens, outcomes, revenue.

    \b
    Example:
      billing-worker stats --json | jq .totalDebt
    """
    view = reader_of(application).stats()
    if as_json:
        show_json(view.to_dict())
        return
    show_fields(
        "Ledger",
        [
            ("users", view.users),
            *((f"users on {tier}", count) for tier, count in view.accounts_by_tier.items()),
            ("balance", view.total_balance),
            ("held", view.total_held),
            ("debt", view.total_debt),
            ("average balance", view.average_balance),
            ("allocated", view.total_allocated),
            ("purchased", view.total_purchased),
            ("bonus", view.total_bonus),
            ("refunded", view.total_refunded),
            ("adjusted", view.total_adjusted),
            ("used", view.total_used),
            ("expired", view.total_expired),
            ("reversed", view.total_reversed),
            ("written off", view.total_uncollected),
            ("payments", view.payments),
            *((f"revenue {sum_.currency} (minor units)", sum_.amount_minor) for sum_ in view.revenue),
        ],
    )
    show_table(
        "References by outcome",
        ("type", "status", Column("code", text=True), "count"),
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
    """Show the result, and each finding with its account and reference."""
    examined = ", ".join(f"{count:,} {table}" for table, count in report.examined.items())
    for finding in report.findings:
        click.echo(f"{click.style('finding', fg='red')}: {printable(str(finding))}")
    if report.unlisted:
        click.echo(f"and {report.unlisted} more")
    result = "every balance explained" if report.is_clean else f"{sum(report.found.values())} findings"
    owed = f"{report.debtors:,} accounts owe {report.debt:,}, {report.uncollected:,} written off"
    click.echo(f"{result}, drift {report.drift} ({examined}); {owed}")
