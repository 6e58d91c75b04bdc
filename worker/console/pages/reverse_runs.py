"""Charges that are reversed as a set: the dry run of a filter, and the stored runs with their results."""

from hashlib import sha256
from urllib.parse import urlencode

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from worker.console.charts import share_bar
from worker.console.context import context, current_user
from worker.console.heavy import heavy
from worker.console.pages.operations import chosen_operations
from worker.console.parameters import number_in, text_in
from worker.errors import NotPossibleError, QueryError
from worker.ledger.queries.operation_filter import OperationFilter
from worker.reversing import store
from worker.reversing.models import ChargeState, ReverseRequest, ReverseRun, ReverseState
from worker.reversing.selection import selection_text
from worker.reversing.survey import Survey, largest_first, survey
from worker.runtime.large_changes import is_large_run

page = Blueprint("reverse_runs", __name__)

#: Most charges of one page; the command line takes any number.
CHARGES_MAX = 5_000
_RUNS, _ITEMS, _GROUPS = 50, 100, 10

#: CSS class for each state of a charge.
COLOURS: dict[str, str] = {
    ChargeState.REVERSED: "good",
    ChargeState.REST_REVERSED: "good-2",
    ChargeState.GIVEN_BACK_BEFORE: "idle",
    ChargeState.REFUSED: "bad",
    ChargeState.DEAD_LETTER: "bad",
    ChargeState.CANCELLED: "warn",
    ChargeState.SENT: "busy",
    ChargeState.WAITING: "rest",
}


# -- a new one --------------------------------------------------------------------------------------------


@page.get("/reverse")
@heavy
def dry_run() -> ResponseReturnValue:
    """Show what would go back, and the form that reverses it."""
    wanted = _wanted()
    return _survey_page(wanted, _surveyed(wanted))


@page.post("/reverse")
@heavy
def start() -> ResponseReturnValue:
    """Freeze the charges that the operator has seen, and reverse them in this process."""
    wanted = _wanted()
    found = _surveyed(wanted)
    if _digest(found) != request.form.get("seen"):
        problem = "The charges have changed since you looked: these are the ones of now."
        return _survey_page(wanted, found, problem), 409
    if (reason := text_in(request.form, "reason")) is None:
        return _survey_page(wanted, found, "Enter a reason."), 400
    if is_large_run(found.sums.tokens) and request.form.get("is_meant") != "yes":
        return _survey_page(wanted, found, "Confirm the amount: it is a large one."), 400
    asked = ReverseRequest(reason, current_user().name, selection_text(wanted), _rate())
    try:
        run = store.create(context().application.engine, context().clock(), found.keys, asked)
    except (NotPossibleError, QueryError) as error:
        return _survey_page(wanted, found, str(error)), 400
    context().reverse_runs.start(run.number, current_user().name)
    return redirect(url_for("reverse_runs.one", number=run.number), 303)


def _wanted() -> OperationFilter:
    wanted = chosen_operations(text_in(request.args, "user"))
    if wanted == OperationFilter():
        raise QueryError("choose operations by a filter first: without one it would be all of the ledger")
    return wanted


def _surveyed(wanted: OperationFilter) -> Survey:
    application = context().application
    return survey(application.engine, context().clock(), wanted, application.survey_rules, most=CHARGES_MAX)


def _rate() -> float | None:
    text = text_in(request.form, "rate")
    if text is None:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise QueryError(f"rate must be a number a second, such as 50, not {text[:40]!r}", "rate") from error


def _digest(found: Survey) -> str:
    """Return a digest that differs where other charges, or other amounts, would go back."""
    return sha256(repr((sorted(found.keys), found.sums)).encode()).hexdigest()[:32]


def _survey_page(wanted: OperationFilter, found: Survey, problem: str | None = None) -> str:
    groups = {
        name: largest_first(each)[:_GROUPS]
        for name, each in (
            ("User", found.by_user),
            ("Feature", found.by_feature),
            ("Sender", found.by_sender),
        )
    }
    return render_template(
        "reverse.html",
        found=found,
        groups=groups,
        selection=selection_text(wanted),
        query=urlencode(list(request.args.items(multi=True))),
        seen=_digest(found),
        is_large=is_large_run(found.sums.tokens),
        problem=problem,
        reason=request.form.get("reason", ""),
        rate=request.form.get("rate", ""),
    )


# -- stored runs ------------------------------------------------------------------------------------------


@page.get("/reverse-runs")
def index() -> ResponseReturnValue:
    """Show a page of runs, newest first."""
    before = number_in(request.args, "before")
    found = store.page(context().application.engine, _RUNS, before)
    return render_template("reverse_runs.html", runs=found.runs, next=found.next, before=before, share=_share)


@page.get("/reverse-runs/<int:number>")
def one(number: int) -> ResponseReturnValue:
    """Show one run with its charges."""
    state, after = text_in(request.args, "state"), text_in(request.args, "after")
    if state is not None and state not in set(ChargeState):
        raise QueryError(f"no such state: {state[:40]!r}; there are {', '.join(ChargeState)}")
    states = () if state is None else (ChargeState(state),)
    items = store.items(context().application.engine, number, states, _ITEMS, after)
    return render_template("reverse_run.html", page=items, state=state, after=after, **_values_of(number))


@page.get("/reverse-runs/<int:number>/progress")
def progress(number: int) -> ResponseReturnValue:
    """Show the part of the page that changes while a run is executed."""
    return render_template("reverse_run_progress.html", **_values_of(number))


@page.post("/reverse-runs/<int:number>/resume")
def resume(number: int) -> ResponseReturnValue:
    """Resume a run in this process."""
    store.resume(context().application.engine, context().clock(), number, current_user().name)
    context().reverse_runs.start(number, current_user().name)
    return redirect(url_for("reverse_runs.one", number=number), 303)


@page.post("/reverse-runs/<int:number>/cancel")
def cancel(number: int) -> ResponseReturnValue:
    """Cancel what a run has not sent; a reason is needed."""
    reason = text_in(request.form, "reason")
    store.cancel(context().application.engine, context().clock(), number, current_user().name, reason)
    return redirect(url_for("reverse_runs.one", number=number), 303)


def _values_of(number: int) -> dict[str, object]:
    run = store.get(context().application.engine, number)
    is_running_here = context().reverse_runs.is_running(number)
    return {
        "run": run,
        "is_live": is_running_here and run.state is ReverseState.OPEN,
        "problem": context().reverse_runs.problems.get(number),
        "bar": _share(run),
        "colours": COLOURS,
    }


def _share(run: ReverseRun) -> object:
    return share_bar(run.counts, COLOURS)
