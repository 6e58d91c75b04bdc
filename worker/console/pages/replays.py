"""Replays: progress, the result of each dead letter, and pause, resume and cancel."""

from dataclasses import dataclass

from flask import Blueprint, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from worker.console.charts import share_bar
from worker.console.context import context, current_user
from worker.console.parameters import number_in, text_in
from worker.deadletters.models import ItemState, Replay, ReplayState
from worker.errors import QueryError

page = Blueprint("replays", __name__)

_REPLAYS, _ITEMS = 50, 100

#: CSS class for each state of a dead letter.
COLOURS: dict[str, str] = {
    ItemState.APPLIED: "good",
    ItemState.DUPLICATE: "good-2",
    ItemState.DELIVERED: "good-2",
    ItemState.REJECTED: "warn",
    ItemState.CONFLICT: "bad",
    ItemState.FAILED_AGAIN: "bad",
    ItemState.UNROUTABLE: "bad",
    ItemState.SENT: "busy",
    ItemState.SENDING: "busy",
    ItemState.SKIPPED: "idle",
    ItemState.WAITING: "rest",
}


@dataclass(frozen=True, slots=True)
class ReplayView:
    """Replay with its derived state: killed runner, problem, possible actions."""

    replay: Replay
    was_killed: bool
    problem: str | None

    @property
    def is_live(self) -> bool:
        """True while it changes by itself."""
        return self.replay.state is ReplayState.RUNNING and not self.was_killed

    @property
    def can_resume(self) -> bool:
        """True where somebody may resume it."""
        return self.was_killed or self.replay.state in {ReplayState.PAUSED, ReplayState.STOPPED}

    @property
    def ended(self) -> int:
        """Number of its dead letters that have ended."""
        return self.replay.total - self.replay.open


def view_of(replay: Replay) -> ReplayView:
    """Return ``replay`` with its derived state."""
    lease = replay.leased_until
    was_killed = replay.state is ReplayState.RUNNING and (lease is None or lease < g.now)
    return ReplayView(replay, was_killed, context().replays.problems.get(replay.number))


@page.get("/replays")
def index() -> ResponseReturnValue:
    """Show a page of replays, newest first."""
    before = number_in(request.args, "before")
    found = context().service.replays(limit=_REPLAYS, before=before)
    views = [view_of(replay) for replay in found.replays]
    return render_template("replays.html", views=views, next=found.next, before=before, share=_share)


@page.get("/replays/<int:number>")
def one(number: int) -> ResponseReturnValue:
    """Show one replay with its dead letters."""
    replay = context().service.replay(number)
    state, after = text_in(request.args, "state"), number_in(request.args, "after") or 0
    if state is not None and state not in set(ItemState):
        raise QueryError(f"no such state: {state[:40]!r}; there are {', '.join(ItemState)}")
    states = () if state is None else (ItemState(state),)
    items = context().service.replay_items(number, states=states, limit=_ITEMS, after=after)
    return render_template("replay.html", items=items, state=state, after=after, **_template_values(replay))


@page.get("/replays/<int:number>/progress")
def progress(number: int) -> ResponseReturnValue:
    """Show the part of the page that changes while a replay runs."""
    return render_template("replay_progress.html", **_template_values(context().service.replay(number)))


@page.post("/replays/<int:number>/pause")
def pause(number: int) -> ResponseReturnValue:
    """Pause a replay of any process; its runner notices within a second."""
    context().service.pause_replay(number, current_user().name, text_in(request.form, "reason"))
    return redirect(url_for("replays.one", number=number), 303)


@page.post("/replays/<int:number>/resume")
def resume(number: int) -> ResponseReturnValue:
    """Resume a replay in this process."""
    console = context()
    console.service.replay(number)
    console.replays.start(number, current_user().name)
    return redirect(url_for("replays.one", number=number), 303)


@page.post("/replays/<int:number>/cancel")
def cancel(number: int) -> ResponseReturnValue:
    """Cancel a replay: unsent dead letters wait again."""
    context().service.cancel_replay(number, current_user().name, text_in(request.form, "reason"))
    return redirect(url_for("replays.one", number=number), 303)


def _template_values(replay: Replay) -> dict[str, object]:
    view = view_of(replay)
    is_running_here = context().replays.is_running(replay.number)  # it may wait for a dead runner's lease
    return {
        "replay": replay,
        "view": view,
        "is_live": view.is_live or is_running_here,
        "bar": _share(replay),
        "colours": COLOURS,
    }


def _share(replay: Replay) -> object:
    title = ", ".join(
        f"{count:,} {state.replace('_', ' ')}" for state, count in replay.counts.items() if count
    )
    return share_bar([(COLOURS[state], replay.counts.get(state, 0)) for state in COLOURS], title)
