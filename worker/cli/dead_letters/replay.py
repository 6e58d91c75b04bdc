"""``dead-letters replay``: dead letters sent again through the queue, watched until the ledger shows them."""

import re
import sys
from collections.abc import Mapping
from typing import Any

import click
from rich.progress import Progress

from worker.bootstrap import Application
from worker.cli.dead_letters.common import (
    Number,
    chosen,
    service_of,
    with_actor,
    with_filters,
    with_numbers,
    with_yes,
)
from worker.cli.dead_letters.looking import moment
from worker.cli.options import as_json, with_application
from worker.cli.output import is_terminal, printable, progress, show_fields, show_json, show_table
from worker.deadletters.models import DryRun, ItemState, Replay, ReplayState
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.filters import DeadLetterFilter, DeadLetterSelection
from worker.runtime.stop import SignalStop

_SHOWN = 50
_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|min|m|h))?")
_SECONDS = {None: 1, "s": 1, "min": 60, "m": 60, "h": 3600}


class _ReplayGroup(click.Group):
    """``replay 7`` and ``replay --group …`` send dead letters; ``replay resume 3`` is about a replay."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["start", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[NUMBERS… | FILTERS] [OPTIONS]")
        formatter.write_usage(ctx.command_path, "resume|pause|cancel|list|show …")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the options of ``start``, which runs where no command is named."""
        self.commands["start"].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group("replay", cls=_ReplayGroup)
def replay() -> None:
    """Send letters again, to where they first came from, and watch what comes of it.

    What the ledger knows of a reference holds: nothing is applied twice. The set of letters is frozen when it
    is asked for. A letter is resolved when the ledger shows its outcome, and not because it was sent; one
    that fails again is the same letter with one more try. Ctrl-C lets the replay rest; `replay resume` goes
    on, also after a crash.

    \b
    Examples:
      billing-worker dead-letters replay 7 --reason "mended by hand"
      billing-worker dead-letters replay --group 3f2a91c0 --dry-run
      billing-worker dead-letters replay --group 3f2a --canary 1,5,25 --rate 50/s --reason "fixed"
      billing-worker dead-letters replay resume 3

    Exit codes: 0 all letters have their outcome; 1 some came back or were left out, or the replay rests;
    of a dry run, 1 where some would come back.
    """


class _Rate(click.ParamType[float, str]):
    name = "rate"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = _RATE.fullmatch(value.strip())
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r} must be like 50/s, 600/min or 0.5", param, ctx)
        return float(match[1]) / _SECONDS[match[2]]


class _Steps(click.ParamType[tuple[int, ...], str]):
    name = "steps"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            steps = tuple(int(step) for step in value.split(","))
        except ValueError:
            steps = ()
        if not steps or any(step < 1 for step in steps):
            self.fail(f"{value!r} must be numbers of letters from 1, such as 1,5,25", param, ctx)
        return steps


with_patience = click.option(
    "--patience",
    "patience_s",
    type=click.FloatRange(0, 86_400),
    default=60.0,
    show_default=True,
    help="Rest where no outcome comes for so many seconds: is a worker running?",
)


@replay.command("start", hidden=True)
@with_numbers
@click.option("--reason", help="Why; required unless it is a dry run.")
@click.option(
    "--dry-run", "dry", is_flag=True, help="Only say what each letter would do to the ledger today."
)
@click.option("--canary", "steps", type=_Steps(), help="Go in steps, such as 1,5,25, and stop if one fails.")
@click.option("--rate", type=_Rate(), help="DeadLetterSelection a second at most, such as 50/s.")
@with_patience
@with_yes
@with_actor
@with_filters
@with_application("broker_url", "database_url", "catalog")
@as_json
def start(
    application: Application,
    *,
    numbers: tuple[int, ...],
    reason: str | None,
    dry: bool,
    steps: tuple[int, ...] | None,
    rate: float | None,
    patience_s: float,
    yes: bool,
    actor: str,
    asked: DeadLetterFilter | None,
    as_json: bool,
) -> None:
    """Send letters again."""
    if not dry and not reason:
        raise click.UsageError("Missing option '--reason': say why, others will want to know")
    dead_letters = chosen(numbers, asked, yes=yes or dry, doing="replay")
    with service_of(application) as service:
        if dry:
            _dry_run(service, dead_letters, as_json=as_json)
            return
        created = service.create_replay(dead_letters, reason or "", actor, rate=rate, steps=steps or ())
    click.echo(f"replay {created.number}: {created.total} letter{'s'[: created.total > 1]}", err=True)
    _run(application, created, actor, patience_s, as_json=as_json)


@replay.command()
@click.argument("number", type=Number)
@with_patience
@with_actor
@with_application("broker_url", "database_url", "catalog")
@as_json
def resume(application: Application, *, number: int, patience_s: float, actor: str, as_json: bool) -> None:
    """Go on with a replay that rests, that stopped by itself, or whose process was killed."""
    with service_of(application) as service:
        found = service.replay(number)
    _run(application, found, actor, patience_s, as_json=as_json)


@replay.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Replays a page.")
@click.option("--before", type=Number, help="Only replays with smaller numbers: the next page.")
@with_application("broker_url", "database_url", "catalog")
@as_json
def list_replays(application: Application, *, limit: int, before: int | None, as_json: bool) -> None:
    """The replays, newest first."""
    with service_of(application, looking=True) as service:
        page = service.replays(limit=limit, before=before)
    if as_json:
        show_json(page.to_dict())
        return
    show_table(
        "Replays",
        ("replay", "state", "letters", "came of it", "who", "when", "why"),
        [
            (one.number, one.state, one.total, _counted(one.counts), one.actor, moment(one.at), one.reason)
            for one in page.replays
        ],
    )
    if page.next is not None:
        click.echo(f"more with --before {page.next}", err=True)


@replay.command("show")
@click.argument("number", type=Number)
@with_application("broker_url", "database_url", "catalog")
@as_json
def show_replay(application: Application, *, number: int, as_json: bool) -> None:
    """Show a replay and its dead letters that came back, could not be sent or were left out."""
    notable = (ItemState.FAILED_AGAIN, ItemState.CONFLICT, ItemState.UNROUTABLE, ItemState.SKIPPED)
    with service_of(application, looking=True) as service:
        found = service.replay(number)
        items = service.replay_items(number, states=[state.value for state in notable], limit=_SHOWN)
    if as_json:
        show_json({**found.to_dict(), "notable": [item.to_dict() for item in items.items]})
        return
    show_fields(f"Replay {number}", _fields(found))
    if items.items:
        click.echo()
        more = "" if items.next is None else ", the first ones"
        show_table(
            f"Not through{more}",
            ("letter", "state", "why"),
            [(item.number, item.state, item.detail) for item in items.items],
        )


def _fields(found: Replay) -> list[tuple[str, Any]]:
    fields = [
        ("state", found.state.value),
        ("because", found.state_reason),
        ("letters", found.total),
        ("came of it", _counted(found.counts)),
        ("step", f"{found.step} of {found.steps_in_all}"),
        ("rate", None if found.rate is None else f"{found.rate:g} a second"),
        ("asked for", found.source),
        ("who", found.actor),
        ("when", moment(found.at)),
        ("why", found.reason),
        ("run by", found.leased_by),
    ]
    return [(name, value) for name, value in fields if value is not None]


@replay.command()
@click.argument("number", type=Number)
@click.option("--reason", help="Why; kept with the replay.")
@with_actor
@with_application("broker_url", "database_url", "catalog")
@as_json
def pause(application: Application, *, number: int, reason: str | None, actor: str, as_json: bool) -> None:
    """Let a replay rest that another process runs; it notices within a second."""
    with service_of(application, looking=True) as service:
        found = service.pause_replay(number, actor, reason)
    _show_changed(found, as_json=as_json)


@replay.command()
@click.argument("number", type=Number)
@click.option("--reason", help="Why; kept with the replay.")
@with_actor
@with_application("broker_url", "database_url", "catalog")
@as_json
def cancel(application: Application, *, number: int, reason: str | None, actor: str, as_json: bool) -> None:
    """End a replay: what was not sent stays parked, what was sent ends as it ends."""
    with service_of(application, looking=True) as service:
        found = service.cancel_replay(number, actor, reason)
    _show_changed(found, as_json=as_json)


def _show_changed(found: Replay, *, as_json: bool) -> None:
    if as_json:
        show_json(found.to_dict())
    else:
        click.echo(f"replay {found.number} is {found.state.value}: {_counted(found.counts)}")


# -- running ----------------------------------------------------------------------------------------------


def _run(application: Application, found: Replay, actor: str, patience_s: float, *, as_json: bool) -> None:
    """Run it to its end, with a bar on a terminal; exit 1 unless everything has its outcome."""
    stop = SignalStop()
    stop.install()
    with progress(f"replay {found.number}", found.total) as bar:
        ended = application.replayer().run(
            found.number,
            actor,
            stop=stop,
            on_progress=lambda now: _advance(bar, now),
            on_trouble=lambda text: (
                bar.console.print(printable(text), markup=False, highlight=False)
                if sys.stderr.isatty()
                else click.echo(printable(text), err=True)
            ),
            patience_s=patience_s,
        )
    if as_json:
        show_json(ended.to_dict())
    else:
        click.echo(f"replay {ended.number} is {ended.state.value}: {_counted(ended.counts)}")
        if ended.state_reason:
            click.echo(printable(ended.state_reason), err=True)
        if ended.state is ReplayState.PAUSED:
            click.echo(f"go on with: billing-worker dead-letters replay resume {ended.number}", err=True)
    is_through = ended.state is ReplayState.FINISHED and not ended.failed
    sys.exit(0 if is_through and not ended.counts[ItemState.SKIPPED] else 1)


def _advance(bar: Progress, now: Replay) -> None:
    step = "" if now.steps_in_all == 1 else f", step {now.step} of {now.steps_in_all}"
    bar.update(
        bar.task_ids[0],
        completed=now.total - now.open,
        description=f"replay {now.number}{step}: {_counted(now.counts)}",
    )


def _counted(counts: Mapping[str, int]) -> str:
    shown = [f"{count:,} {state.replace('_', ' ')}" for state, count in counts.items() if count]
    return ", ".join(shown) or "nothing yet"


# -- dry runs ---------------------------------------------------------------------------------------------


def _dry_run(service: DeadLetters, dead_letters: DeadLetterSelection, *, as_json: bool) -> None:
    with progress("judging", None) as bar:
        judged = service.dry_run(
            dead_letters,
            on_progress=lambda done, total: bar.update(bar.task_ids[0], completed=done, total=total),
        )
    if as_json:
        show_json(judged.to_dict())
    else:
        _show_dry_run(judged)
    sys.exit(1 if any(forecast.would in _COMES_BACK for forecast in judged.forecasts) else 0)


_COMES_BACK = frozenset(("conflict", "fault", "malformed"))
_WOULD = {
    "apply": "would be applied",
    "reject": "would be rejected",
    "duplicate": "would change nothing",
    "conflict": "would come back",
    "fault": "would come back",
    "malformed": "would come back",
    "deliver": "would be delivered",
}


def _show_dry_run(judged: DryRun) -> None:
    show_table(
        f"Dry run of {judged.total} letters; nothing was sent",
        ("letters", "what", "code", "field", "tokens", "such as", "text"),
        [
            (
                forecast.dead_letters,
                _WOULD[forecast.would] if is_terminal() else forecast.would,
                forecast.code,
                forecast.field,
                forecast.tokens,
                forecast.sample,
                forecast.text,
            )
            for forecast in judged.forecasts
        ],
    )
