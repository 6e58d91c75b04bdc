"""Replays: progress, the result of each dead letter, and pause, resume and cancel."""

import json
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

from flask import Blueprint, Response, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from worker.cli.dead_letters.replays import csv_of, every_item
from worker.console.charts import share_bar
from worker.console.context import context, current_user
from worker.console.heavy import heavy
from worker.console.parameters import number_in, text_in
from worker.deadletters.models import ItemState, Replay, ReplayState
from worker.errors import QueryError

page = Blueprint("replays", __name__)

_REPLAYS, _ITEMS = 50, 100
_EXPORT_MAX = 50_000
_FORMS = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}

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
    def elapsed(self) -> timedelta | None:
        """Time that it ran, without its pauses; None where unknown."""
        return self.replay.elapsed(g.now)

    @property
    def remaining(self) -> timedelta | None:
        """Time that it has still to run; None where unknown, or where it rests."""
        return self.replay.remaining(g.now) if self.is_live else None

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
    return render_template("replay.html", **_template_values(number))


@page.get("/replays/<int:number>/progress")
def progress(number: int) -> ResponseReturnValue:
    """Show the part of the page that changes while a replay runs: head and table, as of one moment."""
    return render_template("replay_progress.html", **_template_values(number))


@page.get("/replays/<int:number>/items.<form>")
@heavy
def export(number: int, form: str) -> ResponseReturnValue:
    """Download the dead letters of a replay, all or those in one state, as CSV or as JSON lines."""
    if form not in _FORMS:
        raise QueryError(f"there are {', '.join(_FORMS)}, and not {form[:20]!r}")
    service, state = context().service, _state(number)
    service.replay(number)
    every = every_item(service, number, () if state is None else (state,))
    items = list(islice(every, _EXPORT_MAX + 1))
    if len(items) > _EXPORT_MAX:
        raise QueryError(
            f"more than {_EXPORT_MAX:,} dead letters: "
            f"use `billing-worker dead-letters replay show {number} --csv` (no limit)"
        )
    lines = csv_of(items) if form == "csv" else (f"{json.dumps(item.to_dict())}\n" for item in items)
    name = f"replay-{number}{'' if state is None else f'-{state}'}.{form}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response("".join(lines), headers=headers, mimetype=_FORMS[form])


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


def _state(number: int) -> str | None:
    """Return the state that the request asks for. Raises QueryError; NotFoundError without the replay."""
    state = text_in(request.args, "state")
    if state is not None and state not in set(ItemState):
        context().service.replay(number)
        raise QueryError(f"no such state: {state[:40]!r}; there are {', '.join(ItemState)}")
    return state


def _template_values(number: int) -> dict[str, object]:
    state, after = _state(number), number_in(request.args, "after") or 0
    states = () if state is None else (ItemState(state),)
    look = context().service.look_at_replay(number, states=states, limit=_ITEMS, after=after)
    replay = look.replay
    view = view_of(replay)
    is_running_here = context().replays.is_running(replay.number)  # it may wait for a dead runner's lease
    return {
        "replay": replay,
        "items": look.items,
        "rejected": look.rejected,
        "state": state,
        "after": after,
        "view": view,
        "is_live": view.is_live or is_running_here,
        "bar": _share(replay),
        "colours": COLOURS,
    }


def _share(replay: Replay) -> object:
    return share_bar(replay.counts, COLOURS)
