"""``dead-letters replay list``, ``show``, ``pause`` and ``cancel``."""

from collections.abc import Mapping
from typing import Any

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.dead_letters.forms import moment
from worker.cli.dead_letters.options import Number, service_of
from worker.cli.options import as_json, cursor_option, limit_option, show_next, with_actor, with_wide
from worker.cli.output import show_fields, show_json, show_table
from worker.cli.table_width import Column
from worker.deadletters.models import ItemState, Replay


@click.command("list")
@limit_option(20, "Replays")
@cursor_option(Number, aliases=["--before"])
@with_wide
@with_application("broker_url", "database_url", "catalog")
@as_json
def list_replays(application: Application, *, limit: int, cursor: int | None, as_json: bool) -> None:
    """List replays, newest first."""
    page = service_of(application).replays(limit=limit, before=cursor)
    if as_json:
        show_json(page.to_dict())
        return
    show_table(
        "Replays",
        (
            "replay",
            "state",
            "dead letters",
            Column("results", 1, text=True),
            Column("actor", 3),
            Column("started", 2),
            Column("reason", 4, text=True),
        ),
        [
            (one.number, one.state, one.total, counted(one.counts), one.actor, moment(one.at), one.reason)
            for one in page.replays
        ],
    )
    show_next(page.next)


_NOTABLE = (ItemState.FAILED_AGAIN, ItemState.CONFLICT, ItemState.UNROUTABLE, ItemState.SKIPPED)


@click.command("show")
@click.argument("number", type=Number)
@limit_option(50, "Dead letters")
@cursor_option(Number)
@with_wide
@with_application("broker_url", "database_url", "catalog")
@as_json
def show_replay(
    application: Application, *, number: int, limit: int, cursor: int | None, as_json: bool
) -> None:
    """Show a replay and its dead letters that came back, could not be sent or were skipped."""
    service = service_of(application)
    found = service.replay(number)
    states = [state.value for state in _NOTABLE]
    items = service.replay_items(number, states=states, limit=limit, after=cursor or 0)
    if as_json:
        notable = [item.to_dict() for item in items.items]
        show_json({**found.to_dict(), "notable": notable, "next": items.next})
        return
    show_fields(f"Replay {number}", _fields(found))
    if items.items:
        click.echo()
        show_table(
            "Without an outcome",
            ("dead letter", "state", Column("cause", 1, text=True)),
            [(item.number, item.state, item.detail) for item in items.items],
        )
    show_next(items.next)


def _fields(found: Replay) -> list[tuple[str, Any]]:
    fields = [
        ("state", found.state.value),
        ("cause", found.state_reason),
        ("dead letters", found.total),
        ("results", counted(found.counts)),
        ("step", f"{found.step} of {found.steps_in_all}"),
        ("rate", None if found.rate is None else f"{found.rate:g} a second"),
        ("selection", found.source),
        ("actor", found.actor),
        ("started", moment(found.at)),
        ("reason", found.reason),
        ("run by", found.leased_by),
    ]
    return [(name, value) for name, value in fields if value is not None]


@click.command()
@click.argument("number", type=Number)
@click.option("--reason", help="Why; kept with the replay.")
@with_actor
@with_application("broker_url", "database_url", "catalog")
@as_json
def pause(application: Application, *, number: int, reason: str | None, actor: str, as_json: bool) -> None:
    """Pause a replay that another process runs; that process stops within a second."""
    found = service_of(application).pause_replay(number, actor, reason)
    _show_changed(found, as_json=as_json)


@click.command()
@click.argument("number", type=Number)
@click.option("--reason", help="Why; kept with the replay.")
@with_actor
@with_application("broker_url", "database_url", "catalog")
@as_json
def cancel(application: Application, *, number: int, reason: str | None, actor: str, as_json: bool) -> None:
    """End a replay: unsent dead letters stay parked; those that were sent still get their outcomes."""
    found = service_of(application).cancel_replay(number, actor, reason)
    _show_changed(found, as_json=as_json)


def _show_changed(found: Replay, *, as_json: bool) -> None:
    if as_json:
        show_json(found.to_dict())
    else:
        click.echo(f"replay {found.number} is {found.state.value}: {counted(found.counts)}")


def counted(counts: Mapping[str, int]) -> str:
    """Return the items of a replay by state, for people."""
    shown = [f"{count:,} {state.replace('_', ' ')}" for state, count in counts.items() if count]
    return ", ".join(shown) or "nothing yet"
