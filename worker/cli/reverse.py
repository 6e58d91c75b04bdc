"""``reverse``: charges that a filter finds are given back, each once, by refunds through the queue."""

import sys
from collections.abc import Mapping
from typing import Any

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.operation_options import with_operation_filters
from worker.cli.options import as_json, cursor_option, limit_option, required_reason, with_actor, with_wide
from worker.cli.output import counted, is_terminal, progress, show_json
from worker.cli.rates import RATE
from worker.cli.reverse_runs import cancel_run, list_runs, run_as_dict, show_run
from worker.cli.reverse_survey import show_survey, survey_as_dict
from worker.cli.text import printable
from worker.errors import NotPossibleError
from worker.ledger.queries.operation_filter import OperationFilter
from worker.reversing import store
from worker.reversing.models import ChargeState, ReverseRequest, ReverseRun, ReverseState
from worker.reversing.refunds import described
from worker.reversing.run import ReverseControls, Reversing
from worker.reversing.selection import selection_text
from worker.reversing.survey import Survey, survey
from worker.runtime.stop import SignalStop

_NUMBER = click.IntRange(1, 2**63 - 1)


@click.command()
@with_operation_filters
@click.option("--yes", is_flag=True, help="Reverse them; without it nothing moves.")
@click.option("--reason", help="Why; kept with the run and every refund. Required with --yes and --cancel.")
@click.option("--rate", type=RATE, help="Max rate, in refunds per second, such as 50/s.")
@click.option(
    "--patience",
    "patience_s",
    type=click.FloatRange(0, 86_400),
    default=60.0,
    show_default=True,
    help="Seconds without any result after which the run rests.",
)
@click.option("--resume", "resumed", type=_NUMBER, metavar="RUN", help="Go on with a run.")
@click.option("--list", "lists", is_flag=True, help="List the runs, newest first.")
@click.option("--show", "shown", type=_NUMBER, metavar="RUN", help="Show a run with its charges.")
@click.option("--cancel", "cancelled", type=_NUMBER, metavar="RUN", help="Cancel what a run has not sent.")
@click.option(
    "--state",
    "states",
    type=click.Choice([state.value for state in ChargeState]),
    multiple=True,
    help="With --show: only charges in this state; more than one may be.",
)
@click.option("--csv", "as_csv", is_flag=True, help="With --show: print all charges as CSV.")
@limit_option(50, "Runs or charges")
@cursor_option()
@with_wide
@with_actor
@with_application("broker_url", "database_url", "catalog")
@as_json
def reverse(
    application: Application,
    *,
    wanted: OperationFilter,
    yes: bool,
    reason: str | None,
    rate: float | None,
    patience_s: float,
    resumed: int | None,
    lists: bool,
    shown: int | None,
    cancelled: int | None,
    states: tuple[str, ...],
    as_csv: bool,
    limit: int,
    cursor: str | None,
    actor: str,
    as_json: bool,
) -> None:
    """Give back the charges that a filter finds: tokens to the lots they came from, free units as well.

    The filters are those of `operations`. Without --yes it is a dry run: every refund is judged by today's
    ledger, and nothing moves. With --yes the set is frozen and stored; each charge that can be reversed gets
    one credit.refund through the queue, for what earlier refunds have left of it. The ledger has the result
    of each. No charge is given back twice, by however many runs. Ctrl-C lets a run rest; --resume goes on,
    also after a crash.

    \b
    Examples:
      billing-worker reverse --feature ocr --from "2026-11-26 11:00" --to "2026-11-26 12:30"
      billing-worker reverse --metadata job=17 --yes --reason "charged twice"
      billing-worker reverse --user ada --from today --yes --reason "wrong price" --rate 50/s
      billing-worker reverse --resume 3
      billing-worker reverse --show 3 --state refused

    Exit codes: 0 all is reversed, now or before; 1 some could not be reversed, or the run rests; 2 wrong use;
    4 nothing matches.
    """
    chosen = [name for name, value in _modes(resumed, shown, cancelled, lists=lists).items() if value]
    _check_use(wanted, chosen, reason, states, yes=yes, as_csv=as_csv)
    if lists:
        list_runs(application, limit, cursor, as_json=as_json)
    elif shown is not None:
        wanted_states = [ChargeState(state) for state in states]
        show_run(application, shown, wanted_states, limit, cursor, as_csv=as_csv, as_json=as_json)
    elif cancelled is not None:
        cancel_run(application, cancelled, actor, reason, as_json=as_json)
    elif resumed is not None:
        application.require_usable_schema()
        run = store.resume(application.engine, application.clock(), resumed, actor)
        _run(application, run, patience_s, _signals(), as_json=as_json)
    elif yes:
        request = ReverseRequest(reason or "", actor, selection_text(wanted), rate)
        _reverse(application, wanted, request, patience_s, as_json=as_json)
    else:
        _dry_run(application, wanted, as_json=as_json)


def _modes(resumed: int | None, shown: int | None, cancelled: int | None, *, lists: bool) -> dict[str, Any]:
    return {"--list": lists, "--show": shown, "--resume": resumed, "--cancel": cancelled}


def _check_use(
    wanted: OperationFilter,
    chosen: list[str],
    reason: str | None,
    states: tuple[str, ...],
    *,
    yes: bool,
    as_csv: bool,
) -> None:
    """Raise UsageError for options that don't go together."""
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other")
    if chosen and (yes or wanted != OperationFilter()):
        raise click.UsageError(f"{chosen[0]} is about a stored run: give it without filters and --yes")
    if not chosen and wanted == OperationFilter():
        raise click.UsageError(
            "say which charges, by --user, --feature, --from and others: without a filter it would be all of "
            "the ledger"
        )
    if (states or as_csv) and chosen != ["--show"]:
        raise click.UsageError(
            "--state and --csv go with --show; `operations --csv` lists what a filter finds"
        )
    if yes or chosen == ["--cancel"]:
        required_reason(reason)
    try:
        described(reason or "")
    except NotPossibleError as error:
        raise click.BadParameter(str(error), param_hint="'--reason'") from error


def _signals() -> SignalStop:
    stop = SignalStop()
    stop.install()
    return stop


def _surveyed(application: Application, wanted: OperationFilter, stop: SignalStop) -> Survey:
    application.require_usable_schema()
    with progress("judging", None) as bar:
        return survey(
            application.engine,
            application.clock(),
            wanted,
            application.survey_rules,
            on_progress=lambda judged, charges: bar.update(bar.task_ids[0], completed=judged, total=charges),
            stop=stop,
        )


def _dry_run(application: Application, wanted: OperationFilter, *, as_json: bool) -> None:
    """Show what would go back; exit 1 where some charge can't be reversed."""
    found = _surveyed(application, wanted, _signals())
    if as_json:
        show_json({"dryRun": True, "selection": selection_text(wanted), **survey_as_dict(found)})
    else:
        show_survey(found)
        charges = f"{len(found.keys):,} charge{'' if len(found.keys) == 1 else 's'}"
        click.echo(f"nothing has moved: --yes --reason TEXT reverses {charges}", err=True)
    sys.exit(0 if found.is_whole and not found.refused_in_all else 1)


def _reverse(
    application: Application,
    wanted: OperationFilter,
    request: ReverseRequest,
    patience_s: float,
    *,
    as_json: bool,
) -> None:
    """Freeze the charges that can be reversed, and reverse them."""
    stop = _signals()
    found = _surveyed(application, wanted, stop)
    if stop.requested or not found.is_whole:
        click.echo("stopped before anything was stored: nothing moves", err=True)
        sys.exit(1)
    left_out = found.refused_in_all
    if left_out:
        codes = ", ".join(f"{count:,} {code}" for code, count in found.refused.most_common())
        click.echo(f"can't be reversed, and left out: {codes}; the dry run shows them", err=True)
    if not found.keys:
        if as_json:
            show_json({"dryRun": False, "run": None, **survey_as_dict(found)})
        else:
            before = f"{found.given_back:,} of {found.charges:,} charges were given back before"
            click.echo(f"nothing to reverse: {before}")
        sys.exit(1 if left_out else 0)
    application.link().close()  # without a broker nothing is stored
    run = store.create(application.engine, application.clock(), found.keys, request)
    click.echo(f"reverse run {run.number}: {run.total:,} charges, {found.sums.tokens:,} tokens", err=True)
    _run(application, run, patience_s, stop, is_all=not left_out, as_json=as_json)


def _run(
    application: Application,
    run: ReverseRun,
    patience_s: float,
    stop: SignalStop,
    *,
    is_all: bool = True,
    as_json: bool,
) -> None:
    """Execute a run, with a bar on a terminal; exit 1 unless every charge is reversed."""
    with progress(f"reverse run {run.number}", run.total) as bar:

        def advance(counts: Mapping[str, int]) -> None:
            waiting = sum(counts.get(state.value, 0) for state in ChargeState if state.is_open)
            bar.update(bar.task_ids[0], completed=run.total - waiting)

        controls = ReverseControls(stop, advance, bar.note)
        ended = Reversing(application.reverse_resources(), run, controls, patience_s).to_its_end()
    _show_end(ended, as_json=as_json)
    sys.exit(0 if ended.is_done and is_all else 1)


def _show_end(ended: ReverseRun, *, as_json: bool) -> None:
    if as_json:
        show_json(run_as_dict(ended))
    else:
        tokens = f"{ended.tokens:,}" if is_terminal() else ended.tokens
        result = f"{counted(ended.counts)}; {tokens} tokens back"
        click.echo(f"reverse run {ended.number} is {ended.state.value}: {result}")
    if ended.state_reason and ended.state is ReverseState.OPEN:
        click.echo(printable(ended.state_reason), err=True)
    if ended.state is ReverseState.OPEN:
        click.echo(f"go on with: billing-worker reverse --resume {ended.number}", err=True)
    elif ended.not_reversed:
        click.echo(f"see what was not reversed: billing-worker reverse --show {ended.number}", err=True)
