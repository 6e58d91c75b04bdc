"""Stored runs that reverse charges: listed, shown charge by charge, and cancelled."""

from collections.abc import Iterator, Sequence
from typing import Any

import click

from worker.bootstrap import Application
from worker.cli.csv_cells import csv_line
from worker.cli.options import require_one_form, show_next
from worker.cli.output import counted, show_fields, show_json, show_table
from worker.cli.table_width import Column
from worker.cli.times import moment, stamp
from worker.reversing import store
from worker.reversing.models import ChargeState, ReverseItem, ReverseRun

_RUNS = (
    "run",
    "state",
    "charges",
    "tokens back",
    Column("results", 1, text=True),
    Column("actor", 3),
    Column("started", 2),
    Column("selection", 4, text=True),
    Column("reason", 5, text=True),
)


def run_as_dict(run: ReverseRun) -> dict[str, Any]:
    """Return a run for scripts."""
    return {**run.to_dict(), "notReversed": run.not_reversed, "isDone": run.is_done}


def list_runs(application: Application, limit: int, cursor: str | None, *, as_json: bool) -> None:
    """List the runs, newest first."""
    application.require_readable_schema()
    page = store.page(application.engine, limit, _number(cursor))
    if as_json:
        show_json({"runs": [run_as_dict(run) for run in page.runs], "next": page.next})
        return
    show_table("Runs that reverse charges", _RUNS, map(_row, page.runs))
    show_next(page.next)


def _number(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if cursor.isascii() and cursor.isdecimal() and len(cursor) < len(str(2**63)):
        return int(cursor)
    raise click.BadParameter(f"{cursor!r} is no number of a run", param_hint="'--cursor'")


def _row(run: ReverseRun) -> tuple[Any, ...]:
    return (
        run.number,
        run.state.value,
        run.total,
        run.tokens,
        counted(run.counts),
        run.actor,
        moment(run.at),
        run.source,
        run.reason,
    )


def show_run(
    application: Application,
    number: int,
    states: Sequence[ChargeState],
    limit: int,
    cursor: str | None,
    *,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Show a run with a page of its charges, or print all of them as CSV."""
    require_one_form(as_csv=as_csv, as_json=as_json)
    application.require_readable_schema()
    run = store.get(application.engine, number)
    if as_csv:
        click.echo(csv_line(_CSV), nl=False)
        for item in _every_item(application, number, states):
            click.echo(csv_line(_cells(item)), nl=False)
        return
    page = store.items(application.engine, number, states, limit, cursor)
    if as_json:
        show_json({**run_as_dict(run), "items": [item.to_dict() for item in page.items], "next": page.next})
        return
    show_fields(f"Reverse run {number}", _fields(run))
    if page.items:
        click.echo()
        show_table("Charges", _CHARGES, [_charge(item) for item in page.items])
    show_next(page.next)


def _fields(run: ReverseRun) -> list[tuple[str, Any]]:
    fields = [
        ("state", run.state.value),
        ("cause", run.state_reason),
        ("charges", run.total),
        ("results", counted(run.counts)),
        ("tokens back", run.tokens),
        ("rate", None if run.rate is None else f"{run.rate:g} a second"),
        ("selection", run.source),
        ("actor", run.actor),
        ("started", moment(run.at)),
        ("ended", None if run.ended_at is None else moment(run.ended_at)),
        ("reason", run.reason),
    ]
    return [(name, value) for name, value in fields if value is not None]


_CHARGES = (
    "reference",
    Column("user", 2),
    "state",
    "tokens",
    Column("free units", 3),
    Column("refund", 4),
    Column("cause", 1, text=True),
)


def _charge(item: ReverseItem) -> tuple[Any, ...]:
    return (
        item.reference_id,
        item.user_id,
        item.state.value.replace("_", " "),
        item.tokens,
        item.free_quantity,
        item.refund,
        item.detail,
    )


_CSV = (
    "reference",
    "user",
    "state",
    "tokens",
    "free_quantity",
    "refund",
    "detail",
    "sent_at",
    "ended_at",
)


def _cells(item: ReverseItem) -> Sequence[Any]:
    return (
        item.reference_id,
        item.user_id,
        item.state.value,
        item.tokens,
        item.free_quantity,
        item.refund,
        item.detail,
        stamp(item.sent_at),
        stamp(item.ended_at),
    )


def _every_item(
    application: Application, number: int, states: Sequence[ChargeState]
) -> Iterator[ReverseItem]:
    cursor: str | None = None
    while True:
        page = store.items(application.engine, number, states, store.PAGE_MAX, cursor)
        yield from page.items
        if (cursor := page.next) is None:
            return


def cancel_run(
    application: Application, number: int, actor: str, reason: str | None, *, as_json: bool
) -> None:
    """Cancel what a run has not sent."""
    application.require_usable_schema()
    run = store.cancel(application.engine, application.clock(), number, actor, reason)
    if as_json:
        show_json(run_as_dict(run))
        return
    click.echo(f"reverse run {number} is {run.state.value}: {counted(run.counts)}")
    if run.open:
        click.echo(f"see the rest through: billing-worker reverse --resume {number}", err=True)
