"""Operators' actions on dead letters: edit, note, discard, restore, replay, export.

Each is one transaction with the dead letter's history and the activity log. Each form asks for a reason.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from flask import Blueprint, Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from worker.broker import BILLING
from worker.console.asking import DeadLetterSet, Values, text_in, undo_entries
from worker.console.bodies import Readable, from_form, readable
from worker.console.pages.dead_letters import freeze
from worker.console.parts import parts, person
from worker.deadletters.body_text import editable
from worker.deadletters.models import DeadLetterStatus, StoredDeadLetter
from worker.errors import NotPossibleError, QueryError, RefusedBodyError

page = Blueprint("acting", __name__)


# -- one dead letter --------------------------------------------------------------------------------------


@page.route("/letters/<int:number>/edit", methods=["GET", "POST"])
def edit(number: int) -> ResponseReturnValue:
    """Edit the body. A body that a worker would refuse is not saved; the page names its field."""
    dead_letter = parts().service.dead_letter(number)
    if request.method == "GET":
        return _editor(dead_letter, editable(dead_letter.current_body))
    text = request.form.get("body", "")
    if request.form.get("instead_of") != _mark(dead_letter):
        why = "Somebody else has edited this letter meanwhile, as is shown below. Yours would replace it."
        return _editor(dead_letter, text, problem=why, theirs=readable(dead_letter.current_body)), 409
    if request.form.get("do") == "check":
        return _checked(dead_letter, text)
    if (reason := text_in(request.form, "why")) is None:
        return _editor(dead_letter, text, problem="Say why, for those who look at this letter later."), 400
    return _saved(dead_letter, text, reason)


def _saved(dead_letter: StoredDeadLetter, text: str, reason: str) -> ResponseReturnValue:
    try:
        parts().service.edit(
            dead_letter.number,
            _as_edited(dead_letter, text),
            reason,
            person().name,
            instead_of=dead_letter.current_body,
            unchecked=request.form.get("unchecked") == "yes",
        )
    except RefusedBodyError as error:
        return _editor(dead_letter, text, refused=error), 422
    except NotPossibleError as error:
        return _editor(dead_letter, text, problem=str(error)), 409
    return redirect(url_for("letters.one", number=dead_letter.number, done="edited"), 303)


def _checked(dead_letter: StoredDeadLetter, text: str) -> ResponseReturnValue:
    refused = parts().service.problem_with(dead_letter.number, _as_edited(dead_letter, text))
    return _editor(
        dead_letter, text, refused=refused, is_fine=refused is None
    ), 200 if refused is None else 422


def _editor(
    dead_letter: StoredDeadLetter,
    text: str | None,
    *,
    problem: str | None = None,
    refused: RefusedBodyError | None = None,
    is_fine: bool = False,
    theirs: Readable | None = None,
) -> str:
    return render_template(
        "edit.html",
        dead_letter=dead_letter,
        text=text,
        mark=_mark(dead_letter),
        problem=problem,
        refused=refused,
        is_fine=is_fine,
        reason=request.form.get("why", ""),
        original=readable(dead_letter.body),
        theirs=theirs,
    )


def _as_edited(dead_letter: StoredDeadLetter, text: str) -> bytes:
    """Return the body in the form, or the very bytes that were there where the form changed nothing."""
    edited = from_form(text)
    for kept in (dead_letter.body, dead_letter.current_body):
        shown = editable(kept)
        if shown is not None and from_form(shown) == edited:
            return kept
    return edited


def _mark(dead_letter: StoredDeadLetter) -> str:
    """Return a digest that tells one state of the body from another."""
    return sha256(dead_letter.current_body).hexdigest()[:32]


@page.post("/letters/<int:number>/note")
def note(number: int) -> ResponseReturnValue:
    """Save a note with a dead letter."""
    if (text := text_in(request.form, "text")) is None:
        raise QueryError("the note is empty")
    parts().service.note(number, text, person().name)
    return redirect(url_for("letters.one", number=number, done="noted"), 303)


@page.post("/letters/park")
def park() -> ResponseReturnValue:
    """Drain the dead-letter queue, as the scheduler does by itself."""
    application = parts().application
    parts().service.probe()  # what is taken and not kept counts as a delivery
    link = application.link(consume=[BILLING.dead.name])
    try:
        count = parts().service.drain(link, expected=link.depth(BILLING.dead.name))
    finally:
        link.close()
    parts().service.record(person().name, "park", BILLING.dead.name, None, {"letters": count})
    return redirect(url_for("letters.index", done=f"parked-{count}"), 303)


# -- many dead letters ------------------------------------------------------------------------------------


@page.route("/letters/discard", methods=["GET", "POST"])
def discard() -> ResponseReturnValue:
    """Discard dead letters, with a reason; they are kept and can be restored."""
    chosen = DeadLetterSet.read(_values()).only(DeadLetterStatus.PARKED)
    if request.method == "GET":
        return _discard_form(chosen)
    if (reason := text_in(request.form, "why")) is None:
        return _discard_form(chosen, problem="Say why."), 400
    done = parts().service.discard(chosen.dead_letters, reason, person().name)
    taken: dict[str, Any] = {
        "undo": ",".join(map(str, done.entries)),
        "discarded": done.done,
        "skipped": done.skipped,
    }
    if not done.done:
        return _nothing_done(chosen, "discarded-0")
    if chosen.filter is None and done.done == 1:
        return redirect(url_for("letters.one", number=done.numbers[0], **taken), 303)
    return redirect(url_for("letters.listing", **taken), 303)


def _discard_form(chosen: DeadLetterSet, problem: str | None = None) -> str:
    many = _many(chosen)
    return render_template("discard.html", chosen=chosen, many=many, problem=problem)


def _nothing_done(chosen: DeadLetterSet, done: str) -> ResponseReturnValue:
    """Go back to the list: somebody else was faster, and no dead letter was changed."""
    if len(chosen.numbers) == 1:
        return redirect(url_for("letters.one", number=chosen.numbers[0], done=done), 303)
    return redirect(url_for("letters.listing", done=done), 303)


@page.post("/letters/undo")
def undo() -> ResponseReturnValue:
    """Restore the dead letters that a discard named, as the activity log has it."""
    entries = undo_entries(request.form)
    if not entries:
        raise QueryError("nothing is named that could be undone")
    done = parts().service.undo_discard(entries, person().name)
    if done.done == 1:
        return redirect(url_for("letters.one", number=done.numbers[0], done="restored"), 303)
    return redirect(url_for("letters.listing", done=f"restored-{done.done}"), 303)


@page.post("/letters/restore")
def restore() -> ResponseReturnValue:
    """Restore discarded dead letters, so that they wait again."""
    chosen = DeadLetterSet.read(request.form).only(DeadLetterStatus.DISCARDED)
    done = parts().service.restore(chosen.dead_letters, text_in(request.form, "why"), person().name)
    if not done.done:
        return _nothing_done(chosen, "restored-0")
    if len(chosen.numbers) == 1:
        return redirect(url_for("letters.one", number=chosen.numbers[0], done="restored"), 303)
    return redirect(url_for("letters.listing", done=f"restored-{done.done}"), 303)


@page.post("/letters/export")
def export() -> ResponseReturnValue:
    """Download dead letters as JSON lines; the activity log says who did."""
    chosen = DeadLetterSet.read(request.form)
    lines = "".join(line if line.endswith("\n") else f"{line}\n" for line in _few(chosen))
    headers = {"Content-Disposition": 'attachment; filename="dead-letters.jsonl"'}
    return Response(lines, headers=headers, mimetype="application/x-ndjson")


EXPORT_MAX = 2_000


def _few(chosen: DeadLetterSet) -> list[str]:
    console = parts()
    frozen = freeze(console, chosen, EXPORT_MAX)
    if not frozen.is_all:
        raise QueryError(
            f"more than {EXPORT_MAX:,} letters: use `billing-worker dead-letters export`, which has no limit"
        )
    return list(console.service.export(frozen.numbers, person().name))


# -- replay -----------------------------------------------------------------------------------------------

CANARY = "1, 5, 25"


@page.route("/letters/replay", methods=["GET", "POST"])
def replay() -> ResponseReturnValue:
    """Start a replay: the set is frozen when the form is sent, and the run begins at once."""
    chosen = DeadLetterSet.read(_values()).only(DeadLetterStatus.PARKED)
    if request.method == "GET":
        return _replay_form(chosen)
    reason = text_in(request.form, "why")
    if reason is None:
        return _replay_form(chosen, problem="Say why, for those who look at this replay later."), 400
    try:
        steps, rate = _steps(request.form), _rate(request.form)
    except QueryError as error:
        return _replay_form(chosen, problem=str(error)), 400
    console = parts()
    made = console.service.create_replay(chosen.dead_letters, reason, person().name, rate=rate, steps=steps)
    console.replays.start(made.number, person().name)
    return redirect(url_for("replays.one", number=made.number), 303)


def _replay_form(chosen: DeadLetterSet, problem: str | None = None) -> str:
    form = request.form
    return render_template(
        "replay_form.html",
        chosen=chosen,
        many=_many(chosen),
        problem=problem,
        reason=form.get("why", ""),
        how=form.get("how", "canary"),
        steps=form.get("steps", CANARY),
        rate=form.get("rate", ""),
    )


def _steps(form: Values) -> tuple[int, ...]:
    """Return the steps of a canary: ``1, 5, 25``; none where all go at once. Raises QueryError."""
    if form.get("how") != "canary":
        return ()
    pieces = [piece.strip() for piece in form.get("steps", "").split(",") if piece.strip()]
    if not pieces or not all(piece.isascii() and piece.isdigit() and 0 < len(piece) < 8 for piece in pieces):
        raise QueryError("the steps must be whole numbers with commas between them, such as 1, 5, 25")
    steps = tuple(int(piece) for piece in pieces)
    if not all(steps):
        raise QueryError("a step has at least one letter")
    return steps


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
        raise QueryError("the rate must be a number of letters a second, such as 50; empty for no limit")
    return rate


@dataclass(frozen=True, slots=True)
class Many:
    """Number of dead letters that an action would touch now, as far as they are counted."""

    count: int | None
    text: str


def _many(chosen: DeadLetterSet) -> Many:
    if chosen.filter is None:
        count: int | None = len(chosen.numbers)
    elif chosen.filter.text is not None:
        return Many(None, "All letters with the text, which are not counted beforehand,")
    else:
        count = parts().service.page(chosen.filter, limit=1).total
    if count is None:
        return Many(None, "More than 10,000 letters")
    return Many(count, f"{count:,} letter{'' if count == 1 else 's'}")


def _values() -> Values:
    return request.args if request.method == "GET" else request.form
