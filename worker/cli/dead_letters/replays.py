"""``dead-letters replay list``, ``show``, ``pause`` and ``cancel``."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import click

from worker.bootstrap import Application, utc_now
from worker.cli.application import with_application
from worker.cli.csv_cells import csv_line
from worker.cli.dead_letters.forms import moment
from worker.cli.dead_letters.options import Number, service_of
from worker.cli.options import (
    as_json,
    cursor_option,
    limit_option,
    require_one_form,
    show_next,
    with_actor,
    with_wide,
)
from worker.cli.output import counted, show_fields, show_json, show_table
from worker.cli.table_width import Column
from worker.cli.times import stamp
from worker.deadletters.models import ItemState, RejectedTokens, Replay, ReplayItem, ReplayLook
from worker.deadletters.service import DeadLetters
from worker.runtime.durations import lasting


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
    now = utc_now()
    show_table(
        "Replays",
        (
            "replay",
            "state",
            "dead letters",
            Column("results", 1, text=True),
            Column("ran for", 5),
            Column("done in", 6),
            Column("actor", 3),
            Column("started", 2),
            Column("reason", 4, text=True),
        ),
        [
            (
                one.number,
                one.state,
                one.total,
                counted(one.counts),
                _lasting(one.elapsed(now)),
                _lasting(one.remaining(now)),
                one.actor,
                moment(one.at),
                one.reason,
            )
            for one in page.replays
        ],
    )
    show_next(page.next)


def _lasting(length: timedelta | None) -> str | None:
    return None if length is None else lasting(length)


_NOTABLE = (
    ItemState.REJECTED,
    ItemState.FAILED_AGAIN,
    ItemState.CONFLICT,
    ItemState.UNROUTABLE,
    ItemState.SKIPPED,
)
_PAGE = 1_000


@click.command("show")
@click.argument("number", type=Number)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in ItemState]),
    metavar="STATE",
    help="Only dead letters in this state, such as rejected or failed_again; may be given several times.",
)
@click.option(
    "--csv", "as_csv", is_flag=True, help="Print all of these dead letters as CSV, for spreadsheets."
)
@limit_option(50, "Dead letters")
@cursor_option(Number)
@with_wide
@with_application("broker_url", "database_url", "catalog")
@as_json
def show_replay(
    application: Application,
    *,
    number: int,
    states: tuple[str, ...],
    as_csv: bool,
    limit: int,
    cursor: int | None,
    as_json: bool,
) -> None:
    """Show a replay, and its dead letters that were rejected, came back, could not be sent or were skipped.

    \b
    Examples:
      billing-worker dead-letters replay show 3 --state rejected
      billing-worker dead-letters replay show 3 --state rejected --csv > rejected.csv
    """
    require_one_form(as_csv=as_csv, as_json=as_json)
    service = service_of(application)
    wanted = states or tuple(state.value for state in _NOTABLE)
    look = service.look_at_replay(number, states=wanted, limit=limit, after=cursor or 0)
    if as_csv:
        for line in csv_of(every_item(service, number, wanted)):
            click.echo(line, nl=False)
        return
    if as_json:
        show_json(_as_dict(look))
        return
    show_fields(f"Replay {number}", _fields(look))
    if look.items.items:
        click.echo()
        _show_items(", ".join(states).replace("_", " ") or "Without success", look.items.items)
    show_next(look.items.next)


def every_item(service: DeadLetters, number: int, states: Sequence[str]) -> Iterator[ReplayItem]:
    """Yield the items of a replay in these states, in their order, a page at a time. Raises NotFoundError."""
    after: int | None = 0
    while after is not None:
        page = service.replay_items(number, states=states, limit=_PAGE, after=after)
        yield from page.items
        after = page.next


_CSV = (
    "position",
    "deadLetter",
    "state",
    "type",
    "reference",
    "user",
    "tokens",
    "result",
    "sentAt",
    "endedAt",
)


def csv_of(items: Iterable[ReplayItem]) -> Iterator[str]:
    """Yield items as lines of CSV, with their line ends."""
    yield csv_line(_CSV)
    for item in items:
        yield csv_line(
            (
                item.position,
                item.number,
                item.state,
                item.type,
                item.reference_id,
                item.user_id,
                item.tokens,
                item.detail,
                stamp(item.sent_at),
                stamp(item.settled_at),
            )
        )


def _as_dict(look: ReplayLook) -> dict[str, Any]:
    replay, now = look.replay, utc_now()
    elapsed, remaining = replay.elapsed(now), replay.remaining(now)
    return {
        **replay.to_dict(),
        "elapsedSeconds": None if elapsed is None else int(elapsed.total_seconds()),
        "etaSeconds": None if remaining is None else int(remaining.total_seconds()),
        "rejected": look.rejected.to_dict(),
        "notable": [item.to_dict() for item in look.items.items],
        "next": look.items.next,
    }


def _show_items(title: str, items: Iterable[ReplayItem]) -> None:
    show_table(
        title,
        (
            "dead letter",
            "state",
            Column("cause", 1, text=True),
            Column("reference", 2),
            Column("user", 3),
            Column("tokens", 4),
        ),
        [
            (item.number, item.state, item.detail, item.reference_id, item.user_id, item.tokens)
            for item in items
        ],
    )


def _fields(look: ReplayLook) -> list[tuple[str, Any]]:
    found, now = look.replay, utc_now()
    elapsed, remaining = found.elapsed(now), found.remaining(now)
    fields = [
        ("state", found.state.value),
        ("cause", found.state_reason),
        ("dead letters", found.total),
        ("results", counted(found.counts)),
        ("tokens rejected", _tokens(look.rejected) if found.counts[ItemState.REJECTED] else None),
        ("step", f"{found.step} of {found.steps_in_all}"),
        ("stops on", ", ".join(found.stop_on) or None),
        ("rate", None if found.rate is None else f"{found.rate:g} a second"),
        ("selection", found.source),
        ("actor", found.actor),
        ("started", moment(found.at)),
        ("ran for", "unknown" if elapsed is None else lasting(elapsed)),
        ("done in", None if remaining is None else f"about {lasting(remaining)}"),
        ("reason", found.reason),
        ("run by", found.leased_by),
    ]
    return [(name, value) for name, value in fields if value is not None]


def _tokens(rejected: RejectedTokens) -> str:
    known = f"{'at least ' if rejected.is_least else ''}{rejected.tokens:,}"
    return known + (f", unknown of {rejected.unknown:,}" if rejected.unknown else "")


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
