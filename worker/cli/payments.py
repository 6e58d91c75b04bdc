"""``payments``: incidents about money, newest first."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from worker.bootstrap import Application, utc_now
from worker.cli.application import with_application
from worker.cli.csv_cells import csv_line
from worker.cli.options import (
    as_json,
    cursor_option,
    limit_option,
    require_one_form,
    show_next,
    time_option,
    with_wide,
)
from worker.cli.output import is_terminal, show_json, show_table
from worker.cli.table_width import Column
from worker.cli.times import TimeText, stamp, time_range
from worker.ledger.queries import snapshot
from worker.ledger.queries.incidents import (
    Incident,
    IncidentFilter,
    IncidentKind,
    IncidentPage,
    incidents,
    overdue_before,
)
from worker.runtime.durations import lasting
from worker.runtime.shown_money import decimal_or_none


@click.command("payments")
@click.option("--rejected", is_flag=True, help="Rejected payments, and rejected events of payments.")
@click.option("--waiting", is_flag=True, help="Events that wait for their payment, from the first minute on.")
@click.option("--flagged", is_flag=True, help="Applied, but the price or the style of refunds is odd.")
@time_option("--from", "start", "Only recorded from this time on: 2h, today, 2026-11-26 11:03 (UTC).")
@time_option("--to", "end", "Only recorded before this time.")
@click.option("--user", help="Only of this user.")
@click.option(
    "--gateway", help="Only of this gateway: the provider, or what is before the reference's colon."
)
@limit_option(50, "Incidents")
@cursor_option()
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets.")
@with_wide
@with_application("database_url", "catalog")
@as_json
def list_incidents(
    application: Application,
    *,
    rejected: bool,
    waiting: bool,
    flagged: bool,
    start: TimeText | None,
    end: TimeText | None,
    user: str | None,
    gateway: str | None,
    limit: int,
    cursor: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """List payments that need somebody: money without tokens. Newest first, page by page.

    Without --rejected, --waiting or --flagged these are all rejected and flagged ones, and of what waits for
    its payment what waits longer than the catalog's waiting_days, or can't count. With --waiting, all that
    waits. Mend the cause, then `billing-worker retry`: what is applied leaves the list.

    \b
    Examples:
      billing-worker payments
      billing-worker payments --rejected --from today --gateway stripe
      billing-worker payments --json | jq -r '.incidents[].referenceId'
    """
    require_one_form(as_csv=as_csv, as_json=as_json)
    application.require_usable_schema()
    now = utc_now()
    since, until = time_range(start, end, now)
    kinds = {
        IncidentKind.REJECTED: rejected,
        IncidentKind.WAITING: waiting,
        IncidentKind.FLAGGED: flagged,
    }
    chosen = frozenset(kind for kind, is_asked in kinds.items() if is_asked)
    filter_ = IncidentFilter(chosen, since, until, user, gateway)
    before = overdue_before(now, application.catalog.payments.waiting_days)
    with snapshot(application.engine) as connection:
        page = incidents(connection, filter_, before, limit, cursor)
    if as_json:
        show_json(page.to_dict())
        return
    if as_csv:
        click.echo(_csv(page), nl=False)
    else:
        show_incidents(page, now)
    show_next(page.next)


_COLUMNS = (
    Column("age"),
    Column("reference"),
    Column("type", 3),
    Column("user", 4),
    Column("gateway", 5),
    Column("amount", 1),
    Column("currency", 2),
    Column("code"),
    Column("what to do", 6, text=True),
)


def show_incidents(page: IncidentPage, now: datetime) -> None:
    """Show a page of incidents to people."""
    if not page.incidents and is_terminal():
        click.secho("no payment needs anybody", fg="green")
        return
    show_table(
        f"Payments that need somebody: {len(page.incidents)}",
        _COLUMNS,
        [
            (
                lasting(now - incident.recorded_at),
                incident.reference_id,
                incident.type,
                incident.user_id,
                incident.gateway,
                decimal_or_none(incident.amount_minor, incident.currency, grouped=is_terminal()),
                incident.currency,
                _code(incident),
                incident.what_to_do,
            )
            for incident in page.incidents
        ],
    )


def _code(incident: Incident) -> str:
    return f"{incident.code} (overdue)" if incident.is_overdue else incident.code


_CSV = (
    "kind",
    "recorded_at",
    "reference",
    "type",
    "user",
    "gateway",
    "amount",
    "currency",
    "code",
    "overdue",
    "payment",
    "attempt",
    "what_to_do",
)


def _csv(page: IncidentPage) -> str:
    return "".join(map(csv_line, (_CSV, *map(_row, page.incidents))))


def _row(incident: Incident) -> Sequence[Any]:
    return (
        incident.kind.value,
        stamp(incident.recorded_at),
        incident.reference_id,
        incident.type,
        incident.user_id,
        incident.gateway,
        decimal_or_none(incident.amount_minor, incident.currency),
        incident.currency,
        incident.code,
        "yes" if incident.is_overdue else "no",
        incident.original_reference_id,
        incident.attempt,
        incident.what_to_do,
    )
