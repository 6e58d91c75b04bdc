"""Operators' actions on dead letters: edit, note, discard, restore, replay, export.

Each is one transaction with the dead letter's history and the activity log. Each form asks for a reason.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from flask import Blueprint, Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from worker.broker import BILLING
from worker.console.bodies import Readable, from_form, readable
from worker.console.context import context, current_user
from worker.console.heavy import heavy
from worker.console.pages.dead_letters import numbers_of
from worker.console.parameters import DeadLetterSet, Values, text_in, undo_entries
from worker.deadletters.body_text import editable
from worker.deadletters.models import DeadLetterStatus, StoredDeadLetter
from worker.deadletters.replay.stop_on import limits_in
from worker.errors import NotPossibleError, QueryError, RefusedBodyError

page = Blueprint("dead_letter_actions", __name__)


# -- one dead letter --------------------------------------------------------------------------------------


@page.route("/dead-letters/<int:number>/edit", methods=["GET", "POST"])
def edit(number: int) -> ResponseReturnValue:
    """Edit the body, or check it; a body that a worker would refuse is not saved."""
    dead_letter = context().service.dead_letter(number)
    if request.method == "GET":
        return _editor(dead_letter, editable(dead_letter.current_body))
    text = request.form.get("body", "")
    if request.form.get("instead_of") != _digest(dead_letter):
        problem = "Somebody else has edited this dead letter since. Saving replaces their edit, shown below."
        return _editor(dead_letter, text, problem=problem, other_edit=readable(dead_letter.current_body)), 409
    if request.form.get("action") == "check":
        return _checked(dead_letter, text)
    if (reason := text_in(request.form, "reason")) is None:
        return _editor(dead_letter, text, problem="Enter a reason."), 400
    return _saved(dead_letter, text, reason)


def _saved(dead_letter: StoredDeadLetter, text: str, reason: str) -> ResponseReturnValue:
    try:
        context().service.edit(
            dead_letter.number,
            _as_edited(dead_letter, text),
            reason,
            current_user().name,
            instead_of=dead_letter.current_body,
            unchecked=request.form.get("unchecked") == "yes",
        )
    except RefusedBodyError as error:
        return _editor(dead_letter, text, refused=error), 422
    except NotPossibleError as error:
        return _editor(dead_letter, text, problem=str(error)), 409
    return redirect(url_for("dead_letters.one", number=dead_letter.number, done="edited"), 303)


def _checked(dead_letter: StoredDeadLetter, text: str) -> ResponseReturnValue:
    refused = context().service.problem_with(dead_letter.number, _as_edited(dead_letter, text))
    page = _editor(dead_letter, text, refused=refused, is_accepted=refused is None)
    return page, 200 if refused is None else 422


def _editor(
    dead_letter: StoredDeadLetter,
    text: str | None,
    *,
    problem: str | None = None,
    refused: RefusedBodyError | None = None,
    is_accepted: bool = False,
    other_edit: Readable | None = None,
) -> str:
    return render_template(
        "edit.html",
        dead_letter=dead_letter,
        text=text,
        body_digest=_digest(dead_letter),
        problem=problem,
        refused=refused,
        is_accepted=is_accepted,
        reason=request.form.get("reason", ""),
        original=readable(dead_letter.body),
        other_edit=other_edit,
    )


def _as_edited(dead_letter: StoredDeadLetter, text: str) -> bytes:
    """Return the body of the form, or the stored bytes where the form changed nothing."""
    edited = from_form(text)
    for kept in (dead_letter.body, dead_letter.current_body):
        shown = editable(kept)
        if shown is not None and from_form(shown) == edited:
            return kept
    return edited


def _digest(dead_letter: StoredDeadLetter) -> str:
    """Return a digest that tells one state of the body from another."""
    return sha256(dead_letter.current_body).hexdigest()[:32]


@page.post("/dead-letters/<int:number>/note")
def note(number: int) -> ResponseReturnValue:
    """Save a note with a dead letter."""
    if (text := text_in(request.form, "text")) is None:
        raise QueryError("the note is empty")
    context().service.note(number, text, current_user().name)
    return redirect(url_for("dead_letters.one", number=number, done="noted"), 303)


@page.post("/dead-letters/drain")
def drain() -> ResponseReturnValue:
    """Drain the dead-letter queue, which ends the items of replays that have no runner, too."""
    service = context().service
    service.probe()  # a message taken and not kept counts as a delivery
    link = context().application.link(consume=[BILLING.dead.name])
    try:
        count = service.drain(link, expected=link.depth(BILLING.dead.name))
    finally:
        link.close()
    service.record(current_user().name, "park", BILLING.dead.name, None, {"letters": count})
    return redirect(url_for("dead_letters.index", done=f"drained-{count}"), 303)


# -- many dead letters ------------------------------------------------------------------------------------


@page.route("/dead-letters/discard", methods=["GET", "POST"])
def discard() -> ResponseReturnValue:
    """Discard dead letters, with a reason; they are kept and can be restored."""
    selection = DeadLetterSet.read(_values()).only(DeadLetterStatus.PARKED)
    if request.method == "GET":
        return _discard_form(selection)
    if (reason := text_in(request.form, "reason")) is None:
        return _discard_form(selection, problem="Enter a reason."), 400
    done = context().service.discard(selection.dead_letters, reason, current_user().name)
    taken: dict[str, Any] = {
        "undo": ",".join(map(str, done.entries)),
        "discarded": done.done,
        "skipped": done.skipped,
    }
    if not done.done:
        return _nothing_done(selection, "discarded-0")
    if selection.filter is None and done.done == 1:
        return redirect(url_for("dead_letters.one", number=done.numbers[0], **taken), 303)
    return redirect(url_for("dead_letters.listing", **taken), 303)


def _discard_form(selection: DeadLetterSet, problem: str | None = None) -> str:
    size = _size_of(selection)
    return render_template("discard.html", selection=selection, size=size, problem=problem)


def _nothing_done(selection: DeadLetterSet, done: str) -> ResponseReturnValue:
    """Redirect to the list, which says that no dead letter was changed."""
    if len(selection.numbers) == 1:
        return redirect(url_for("dead_letters.one", number=selection.numbers[0], done=done), 303)
    return redirect(url_for("dead_letters.listing", done=done), 303)


@page.post("/dead-letters/undo")
def undo() -> ResponseReturnValue:
    """Restore the dead letters of these discards in the activity log."""
    entries = undo_entries(request.form)
    if not entries:
        raise QueryError("no entry to undo is named")
    done = context().service.undo_discard(entries, current_user().name)
    if done.done == 1:
        return redirect(url_for("dead_letters.one", number=done.numbers[0], done="restored"), 303)
    return redirect(url_for("dead_letters.listing", done=f"restored-{done.done}"), 303)


@page.post("/dead-letters/restore")
def restore() -> ResponseReturnValue:
    """Restore discarded dead letters, so that they wait again."""
    selection = DeadLetterSet.read(request.form).only(DeadLetterStatus.DISCARDED)
    done = context().service.restore(
        selection.dead_letters, text_in(request.form, "reason"), current_user().name
    )
    if not done.done:
        return _nothing_done(selection, "restored-0")
    if len(selection.numbers) == 1:
        return redirect(url_for("dead_letters.one", number=selection.numbers[0], done="restored"), 303)
    return redirect(url_for("dead_letters.listing", done=f"restored-{done.done}"), 303)


@page.post("/dead-letters/resolve")
@heavy
def resolve() -> ResponseReturnValue:
    """Resolve the dead letters of a set that the ledger has applied; others stay as they are."""
    selection = DeadLetterSet.read(request.form)
    if (reason := text_in(request.form, "reason")) is None:
        raise QueryError("say why: the reason is empty")
    done = context().service.resolve_applied(selection.dead_letters, reason, current_user().name)
    if len(selection.numbers) == 1:
        text = "resolved" if done.done else "resolved-0"
        return redirect(url_for("dead_letters.one", number=selection.numbers[0], done=text), 303)
    return redirect(url_for("dead_letters.listing", done=f"resolved-{done.done}"), 303)


@page.post("/dead-letters/export")
@heavy
def export() -> ResponseReturnValue:
    """Download dead letters as JSON lines; the activity log records it."""
    selection = DeadLetterSet.read(request.form)
    lines = "".join(line if line.endswith("\n") else f"{line}\n" for line in _lines_of(selection))
    headers = {"Content-Disposition": 'attachment; filename="dead-letters.jsonl"'}
    return Response(lines, headers=headers, mimetype="application/x-ndjson")


EXPORT_MAX = 2_000


def _lines_of(selection: DeadLetterSet) -> list[str]:
    console = context()
    selected = numbers_of(console, selection, EXPORT_MAX)
    if not selected.is_all:
        raise QueryError(
            f"more than {EXPORT_MAX:,} dead letters: use `billing-worker dead-letters export` (no limit)"
        )
    return list(console.service.export(selected.numbers, current_user().name))


# -- replay -----------------------------------------------------------------------------------------------

CANARY = "1, 5, 25"


@page.route("/dead-letters/replay", methods=["GET", "POST"])
def replay() -> ResponseReturnValue:
    """Start a replay; the form, once sent, freezes the set."""
    selection = DeadLetterSet.read(_values()).only(DeadLetterStatus.PARKED)
    if request.method == "GET":
        return _replay_form(selection)
    reason = text_in(request.form, "reason")
    if reason is None:
        return _replay_form(selection, problem="Enter a reason."), 400
    try:
        steps, rate, stop_on = _steps(request.form), _rate(request.form), _stop_on(request.form)
    except QueryError as error:
        return _replay_form(selection, problem=str(error)), 400
    console = context()
    made = console.service.create_replay(
        selection.dead_letters, reason, current_user().name, rate=rate, steps=steps, stop_on=stop_on
    )
    console.replays.start(made.number, current_user().name)
    return redirect(url_for("replays.one", number=made.number), 303)


def _replay_form(selection: DeadLetterSet, problem: str | None = None) -> str:
    form = request.form
    return render_template(
        "replay_form.html",
        selection=selection,
        size=_size_of(selection),
        problem=problem,
        reason=form.get("reason", ""),
        mode=form.get("mode", "canary"),
        steps=form.get("steps", CANARY),
        rate=form.get("rate", ""),
        stop_on=form.get("stop_on", ""),
    )


def _steps(form: Values) -> tuple[int, ...]:
    """Return the steps of a canary: ``1, 5, 25``; none for a replay in one go. Raises QueryError."""
    if form.get("mode") != "canary":
        return ()
    pieces = [piece.strip() for piece in form.get("steps", "").split(",") if piece.strip()]
    if not pieces or not all(piece.isascii() and piece.isdigit() and 0 < len(piece) < 8 for piece in pieces):
        raise QueryError("steps must be whole numbers separated by commas, such as 1, 5, 25")
    steps = tuple(int(piece) for piece in pieces)
    if not all(steps):
        raise QueryError("each step needs at least one dead letter")
    return steps


def _stop_on(form: Values) -> tuple[str, ...]:
    """Return the limits at which it stops: ``rejected=2%, conflict=5``. Raises QueryError."""
    texts = [piece.strip() for piece in form.get("stop_on", "").split(",") if piece.strip()]
    return tuple(str(limit) for limit in limits_in(texts))


def _rate(form: Values) -> float | None:
    """Return the dead letters a second; None for no limit. Raises QueryError."""
    text = form.get("rate", "").strip()
    if not text:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.01 <= rate <= 100_000:
        raise QueryError(
            "the rate must be a number of dead letters per second, such as 50; empty for no limit"
        )
    return rate


@dataclass(frozen=True, slots=True)
class SelectionSize:
    """Size of a set of dead letters; ``count`` is None where it is not counted."""

    count: int | None
    text: str


def _size_of(selection: DeadLetterSet) -> SelectionSize:
    if selection.filter is None:
        count: int | None = len(selection.numbers)
    elif selection.filter.text is not None:
        return SelectionSize(None, "all dead letters with this text (not counted)")
    else:
        count = context().service.page(selection.filter, limit=1).total
    if count is None:
        return SelectionSize(None, "more than 10,000 dead letters")
    return SelectionSize(count, f"{count:,} dead letter{'' if count == 1 else 's'}")


def _values() -> Values:
    return request.args if request.method == "GET" else request.form
