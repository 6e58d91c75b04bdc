"""``dead-letters replay``: dead letters sent again, and watched until the ledger shows them."""

import sys

import click
from rich.progress import Progress

from worker.bootstrap import Application, utc_now
from worker.cli.application import with_application
from worker.cli.dead_letters.dry_run import show_dry_run
from worker.cli.dead_letters.options import (
    Number,
    chosen,
    service_of,
    with_filters,
    with_numbers,
    with_yes,
)
from worker.cli.dead_letters.replays import cancel, list_replays, pause, show_replay
from worker.cli.options import as_json, required_reason, with_actor
from worker.cli.output import counted, progress, show_json
from worker.cli.rates import RATE
from worker.cli.text import printable
from worker.deadletters.models import ItemState, Replay, ReplayState
from worker.deadletters.replay.stop_on import limits_in
from worker.deadletters.store.filters import DeadLetterFilter
from worker.errors import QueryError
from worker.runtime.durations import lasting
from worker.runtime.stop import SignalStop


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
    """Send dead letters again, and watch for their outcomes.

    Each goes to the exchange of its type, as its first sender's. The ledger's outcome of a reference holds:
    nothing is applied twice. The set of dead letters is frozen at the start. A dead letter is resolved when
    the ledger shows its outcome, not when it was sent; one that fails again is the same dead letter with one
    more try.

    --stop-on stops it at a number of dead letters in a state, or at their share of those that have ended; a
    share is judged at the end of each step, and from the hundredth on. Up to a hundred more may be under way
    then. States are rejected, conflict, failed_again, unroutable, and failed for the last three together.

    Ctrl-C pauses the replay; `replay resume` goes on, also after a crash.

    \b
    Examples:
      billing-worker dead-letters replay 7 --reason "edited by hand"
      billing-worker dead-letters replay --group 3f2a91c0 --dry-run
      billing-worker dead-letters replay --group 3f2a --canary 1,5,25 --rate 50/s --reason "fixed"
      billing-worker dead-letters replay --group 3f2a --stop-on rejected=2% --yes --reason "fixed"
      billing-worker dead-letters replay resume 3

    Exit codes: 0 all dead letters have their outcome; 1 some came back or were skipped, or the replay is
    paused; of a dry run, 1 where some would come back.
    """


for command in (list_replays, show_replay, pause, cancel):
    replay.add_command(command)


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
            self.fail(f"{value!r} must be numbers of dead letters from 1, such as 1,5,25", param, ctx)
        return steps


def _limits(ctx: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    try:
        limits_in(texts)
    except QueryError as error:
        raise click.BadParameter(str(error), ctx, parameter) from error
    return texts


with_patience = click.option(
    "--patience",
    "patience_s",
    type=click.FloatRange(0, 86_400),
    default=60.0,
    show_default=True,
    help="Seconds without any outcome after which the replay is paused.",
)


@replay.command("start", hidden=True)
@with_numbers
@click.option("--reason", help="Why; required unless it is a dry run.")
@click.option(
    "--dry-run", "dry", is_flag=True, help="Only show what each dead letter would do to the ledger today."
)
@click.option("--canary", "steps", type=_Steps(), help="Go in steps, such as 1,5,25, and stop if one fails.")
@click.option(
    "--stop-on",
    "stop_on",
    multiple=True,
    metavar="STATE=LIMIT",
    callback=_limits,
    help="Stop by itself at a number or a share of those that ended, such as rejected=2% or conflict=5.",
)
@click.option("--rate", type=RATE, help="Max rate, in dead letters per second, such as 50/s.")
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
    stop_on: tuple[str, ...],
    rate: float | None,
    patience_s: float,
    yes: bool,
    actor: str,
    asked: DeadLetterFilter | None,
    as_json: bool,
) -> None:
    """Send dead letters again."""
    if not dry:
        required_reason(reason)
    dead_letters = chosen(numbers, asked, yes=yes or dry, doing="replay")
    service = service_of(application)
    if dry:
        show_dry_run(service, dead_letters, as_json=as_json)
    application.link().close()  # without a broker nothing is created
    created = service.create_replay(
        dead_letters, reason or "", actor, rate=rate, steps=steps or (), stop_on=stop_on
    )
    click.echo(
        f"replay {created.number}: {created.total} dead letter{'' if created.total == 1 else 's'}", err=True
    )
    _run(application, created, actor, patience_s, as_json=as_json)


@replay.command()
@click.argument("number", type=Number)
@with_patience
@with_actor
@with_application("broker_url", "database_url", "catalog")
@as_json
def resume(application: Application, *, number: int, patience_s: float, actor: str, as_json: bool) -> None:
    """Go on with a replay that is paused, that stopped by itself, or whose process was killed."""
    found = service_of(application).replay(number)
    _run(application, found, actor, patience_s, as_json=as_json)


# -- running ----------------------------------------------------------------------------------------------


def _run(application: Application, found: Replay, actor: str, patience_s: float, *, as_json: bool) -> None:
    """Run a replay to its end, with a bar on a terminal; exit 1 unless everything has its outcome."""
    stop = SignalStop()
    stop.install()
    with progress(f"replay {found.number}", found.total) as bar:
        ended = application.replayer().run(
            found.number,
            actor,
            stop=stop,
            on_progress=lambda now: _advance(bar, now),
            on_trouble=bar.note,
            patience_s=patience_s,
        )
    if as_json:
        show_json(ended.to_dict())
    else:
        click.echo(f"replay {ended.number} is {ended.state.value}: {counted(ended.counts)}")
        if (elapsed := ended.elapsed(utc_now())) is not None:
            click.echo(f"it ran for {lasting(elapsed)}", err=True)
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
        description=f"replay {now.number}{step}: {counted(now.counts)}",
    )
