"""Looking at the ledger: ``balance``, ``can-afford``, ``history``, ``usage``, ``stats``, ``audit``."""

import sys
from collections.abc import Iterator
from datetime import datetime

import click
from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from worker.bootstrap import Application, utc_now
from worker.cli.asking import as_moment, moment, reader_of
from worker.cli.options import as_json, with_application
from worker.cli.output import console, is_terminal, printable, progress, show_fields, show_json, show_table
from worker.ledger.audit import AuditProgress, AuditReport, audit
from worker.ledger.queries import Balance, History, UsageReport

_BAR_WIDTH = 50


@click.command()
@click.argument("user")
@click.option(
    "--at", type=as_moment, metavar="TIME", help="As it stood then: a time such as 2026-11-01T00:00:00Z."
)
@with_application("database_url", "catalog")
@as_json
def balance(application: Application, *, user: str, at: datetime | None, as_json: bool) -> None:
    """A user's balance, what it is made of, the subscription, and the period's quotas.

    What has fallen due counts, booked or not. Before the account was opened there is nothing: exit 4.

    \b
    Examples:
      billing-worker balance ada
      billing-worker balance ada --at 2026-11-01T00:00:00Z
    """
    reader = reader_of(application)
    if at is None:
        view = reader.balance(user, utc_now(), application.catalog)
    else:
        view = reader.balance_at(user, at, application.catalog)
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
            ("due, not booked yet", unsettled.tokens),
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
@click.option("--limit", type=int, default=20, show_default=True, help="Entries a page, at most 1000.")
@click.option("--offset", type=int, default=0, help="Newer entries to leave out.")
@click.option("--cursor", help="Go on where the page before ended; steady while entries are written.")
@with_application("database_url")
@as_json
def history(
    application: Application, *, user: str, limit: int, offset: int, cursor: str | None, as_json: bool
) -> None:
    """A user's entries, newest first: what moved, of which lot, and for what fell due by itself, when.

    \b
    Example:
      billing-worker history ada --limit 50
    """
    page = reader_of(application).history(user, limit, offset, cursor)
    if as_json:
        show_json(page.to_dict())
    else:
        show_history(page)


def show_history(page: History) -> None:
    """Show a page of history to people."""
    first = page.offset + 1 if page.transactions else 0
    show_table(
        f"History of {page.user_id}: {first}–{page.offset + len(page.transactions)} of {page.total}",
        ("#", "time", "type", "counter", "amount", "before", "after", "lot", "due", "feature", "reference"),
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
    if page.has_more and is_terminal():
        click.echo(f"more: --cursor {page.next_cursor}")


@click.command()
@click.argument("user")
@click.option("--days", type=int, default=30, show_default=True, help="Days up to today, at most 366.")
@click.option("--timezone", default="UTC", show_default=True, help="Where the days begin and end.")
@with_application("database_url", "catalog")
@as_json
def usage(application: Application, *, user: str, days: int, timezone: str, as_json: bool) -> None:
    """A user's usage by day and feature, as a chart on a terminal.

    \b
    Example:
      billing-worker usage ada --days 7 --timezone Europe/Berlin
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
    """The whole ledger as it is booked: users, tokens, outcomes, revenue.

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
            ("uncollected", view.total_uncollected),
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

        def step(done: AuditProgress) -> None:
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
    verdict = "every balance explained" if report.is_clean else f"{sum(report.found.values())} findings"
    owed = f"{report.debtors:,} accounts owe {report.debt:,}, {report.uncollected:,} uncollected"
    click.echo(f"{verdict}, drift {report.drift} ({examined}); {owed}")
