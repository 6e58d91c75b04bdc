"""Workers: lanes with their rates, processes, and pause, quiesce and resume."""

from flask import Blueprint, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from schemas import MESSAGE_TYPES
from worker.console.context import context, current_user
from worker.console.parameters import text_in
from worker.errors import QueryError
from worker.ledger.operator_pauses import PauseKind
from worker.steering import LANES, pause_lanes, resume_lanes

page = Blueprint("workers", __name__)


@page.get("/workers")
def index() -> ResponseReturnValue:
    """Show lanes and processes."""
    return render_template(
        "workers.html", lanes=LANES, types=sorted(MESSAGE_TYPES), status=context().status(), now=g.now
    )


@page.get("/workers/live")
def live() -> ResponseReturnValue:
    """Show the part of the page that refreshes itself."""
    return render_template("workers_live.html", status=context().status(), now=g.now)


@page.post("/workers/pause")
def pause() -> ResponseReturnValue:
    """Pause or quiesce a lane, or pause a type of it; workers obey within seconds."""
    kind, type_ = text_in(request.form, "kind") or "", text_in(request.form, "type")
    if kind not in set(PauseKind):
        raise QueryError(f"kind must be one of {', '.join(PauseKind)}")
    if kind == PauseKind.QUIESCE and type_ is not None:
        raise QueryError("a lane is quiesced as a whole: leave the type out, or pause the type")
    pause_lanes(
        context().application,
        text_in(request.form, "lane"),
        type_,
        PauseKind(kind),
        reason=text_in(request.form, "reason"),
        actor=current_user().name,
    )
    return _back("paused")


@page.post("/workers/resume")
def resume() -> ResponseReturnValue:
    """Resume a lane, or a type of it; what was held returns."""
    resume_lanes(
        context().application,
        text_in(request.form, "lane"),
        text_in(request.form, "type"),
        actor=current_user().name,
        reason=text_in(request.form, "reason"),
    )
    return _back("resumed")


def _back(done: str) -> ResponseReturnValue:
    context().forget_status()
    return redirect(url_for("workers.index", done=done), 303)
