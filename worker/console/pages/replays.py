"""Replays: their progress, the result of each dead letter, and pause, resume and cancel."""

from contextlib import suppress
from dataclasses import dataclass

from flask import Blueprint, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from worker.console.asking import number_in, text_in
from worker.console.charts import share_bar
from worker.console.parts import parts, person
from worker.deadletters.models import FAILED_STATES, ItemState, Replay, ReplayState
from worker.errors import QueryError, TransientError

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
    """A replay with its derived state: whether its runner was killed, and which actions are possible."""

    replay: Replay
    was_killed: bool
    trouble: str | None

    @property
    def is_live(self) -> bool:
        """True while it changes by itself."""
        return self.replay.state is ReplayState.RUNNING and not self.was_killed

    @property
    def can_resume(self) -> bool:
        """True where somebody may resume it."""
        return self.was_killed or self.replay.state in {ReplayState.PAUSED, ReplayState.STOPPED}

    @property
    def can_cancel(self) -> bool:
        """True where the unsent dead letters may be given up."""
        return self.can_resume

    @property
    def settled(self) -> int:
        """Number of its dead letters that have come to an end."""
        return self.replay.total - self.replay.open


def standing(replay: Replay) -> ReplayView:
    """Return ``replay`` with its derived state."""
    lease = replay.leased_until
    was_killed = replay.state is ReplayState.RUNNING and (lease is None or lease < g.now)
    return ReplayView(replay, was_killed, parts().replays.troubles.get(replay.number))


@page.get("/replays")
def index() -> ResponseReturnValue:
    """All replays, newest first."""
    before = number_in(request.args, "before")
    _settle()
    found = parts().service.replays(limit=_REPLAYS, before=before)
    shown = [standing(replay) for replay in found.replays]
    return render_template("replays.html", replays=shown, next=found.next, before=before, share=_share)


@page.get("/replays/<int:number>")
def one(number: int) -> ResponseReturnValue:
    """Show one replay with its dead letters."""
    _settle()
    replay = parts().service.replay(number)
    state, after = text_in(request.args, "state"), number_in(request.args, "after") or 0
    if state is not None and state not in set(ItemState):
        raise QueryError(f"no letter of a replay is {state[:40]!r}; there are {', '.join(ItemState)}")
    states = () if state is None else (ItemState(state),)
    items = parts().service.replay_items(number, states=states, limit=_ITEMS, after=after)
    return render_template("replay.html", items=items, state=state, after=after, **_view(replay))


@page.get("/replays/<int:number>/progress")
def progress(number: int) -> ResponseReturnValue:
    """Show the part of the page that changes while a replay runs."""
    return render_template("replay_progress.html", **_view(parts().service.replay(number)))


@page.post("/replays/<int:number>/pause")
def pause(number: int) -> ResponseReturnValue:
    """Pause it, in whichever process it runs: its runner notices within a second."""
    parts().service.pause_replay(number, person().name, text_in(request.form, "why"))
    return redirect(url_for("replays.one", number=number), 303)


@page.post("/replays/<int:number>/resume")
def resume(number: int) -> ResponseReturnValue:
    """Resume it in this process."""
    console = parts()
    console.service.replay(number)
    console.replays.start(number, person().name)
    return redirect(url_for("replays.one", number=number), 303)


@page.post("/replays/<int:number>/cancel")
def cancel(number: int) -> ResponseReturnValue:
    """Cancel it: unsent dead letters wait again."""
    parts().service.cancel_replay(number, person().name, text_in(request.form, "why"))
    return redirect(url_for("replays.one", number=number), 303)


def _settle() -> None:
    """End dead letters whose outcome came after their replay had ended; mostly one query."""
    with suppress(TransientError):
        parts().service.tidy()


def _view(replay: Replay) -> dict[str, object]:
    shown = standing(replay)
    is_begun = parts().replays.is_running(replay.number)  # it may wait for the lease of one that died
    return {
        "replay": replay,
        "standing": shown,
        "is_live": shown.is_live or is_begun,
        "bar": _share(replay),
        "colours": COLOURS,
        "failed_states": FAILED_STATES,
    }


def _share(replay: Replay) -> object:
    title = ", ".join(
        f"{count:,} {state.replace('_', ' ')}" for state, count in replay.counts.items() if count
    )
    return share_bar([(COLOURS[state], replay.counts.get(state, 0)) for state in COLOURS], title)
