"""Edits of many dead letters alike: fields to set, rename and drop, previewed, applied and undone as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from worker.console.context import context, current_user
from worker.console.heavy import heavy, heavy_when
from worker.console.parameters import DeadLetterSet, Values, number_in, text_in
from worker.deadletters.body_diff import DiffLine, diff_of
from worker.deadletters.body_fields import BodyChanges
from worker.deadletters.models import DeadLetterForecast, DeadLetterStatus, SetEditPreview
from worker.errors import QueryError

page = Blueprint("set_edits", __name__)

#: Most dead letters of a preview on a page; the command line has no such limit.
PREVIEW_MAX = 5_000
_FIELDS = ("drop", "rename", "set")
_TEXT_MAX = 4_000


@dataclass(frozen=True, slots=True)
class ShownSample:
    """Sample of a preview with its diff."""

    forecast: DeadLetterForecast
    lines: Sequence[DiffLine]


@dataclass(frozen=True, slots=True)
class _Preview:
    """Preview of changes; ``seen`` is the state of the set before it was read."""

    found: SetEditPreview
    seen: str

    @classmethod
    def of(cls, selection: DeadLetterSet, changes: BodyChanges) -> "_Preview":
        seen = _state_of(selection)
        return cls(context().service.preview_set_edit(selection.dead_letters, changes), seen)


@page.get("/dead-letters/edit")
@heavy_when(lambda: bool(request.args.get("preview")))
def form() -> ResponseReturnValue:
    """Show the form, with a preview of its changes where it asks for one."""
    selection = DeadLetterSet.read(request.args).only(DeadLetterStatus.PARKED)
    if not request.args.get("preview"):
        return _form(selection, request.args)
    try:
        changes = changes_in(request.args)
    except QueryError as error:
        return _form(selection, request.args, problem=str(error)), 400
    if _size(selection) > PREVIEW_MAX:
        raise QueryError(
            f"more than {PREVIEW_MAX:,} dead letters: use `billing-worker dead-letters edit` (no limit)"
        )
    return _form(selection, request.args, preview=_Preview.of(selection, changes))


@page.post("/dead-letters/edit")
@heavy
def apply() -> ResponseReturnValue:
    """Edit the set; bodies that a worker would refuse stay as they are, unless the form says otherwise."""
    selection = DeadLetterSet.read(request.form).only(DeadLetterStatus.PARKED)
    try:
        changes = changes_in(request.form)
    except QueryError as error:
        return _form(selection, request.form, problem=str(error)), 400
    if (seen := request.form.get("seen")) is not None and seen != _state_of(selection):
        problem = "The dead letters have changed since you looked: these are the ones of now."
        return _form(selection, request.form, problem=problem, preview=_Preview.of(selection, changes)), 409
    if (reason := text_in(request.form, "reason")) is None:
        return _form(selection, request.form, problem="Enter a reason."), 400
    done = context().service.edit_set(
        selection.dead_letters,
        changes,
        reason,
        current_user().name,
        unchecked=request.form.get("unchecked") == "yes",
    )
    if done.number is None:
        problem = (
            "Nothing was edited: no selected dead letter has such a field, or a worker would refuse each."
        )
        return _form(selection, request.form, problem=problem), 409
    left = done.unchanged + done.skipped + sum(cause.dead_letters for cause in done.unedited)
    result = {"edited": done.number, "changed": done.changed, "left": left}
    return redirect(f"{_back_to(selection)}{urlencode(result)}", 303)


@page.post("/dead-letters/edit/undo")
@heavy
def undo() -> ResponseReturnValue:
    """Give the dead letters of an edit their bodies back."""
    number, reason = number_in(request.form, "edit"), text_in(request.form, "reason")
    if number is None or reason is None:
        raise QueryError("name the edit to undo, and a reason")
    done = context().service.undo_set_edit(number, reason, current_user().name)
    return redirect(url_for("dead_letters.listing", done=f"undone-{done.changed}"), 303)


def _state_of(selection: DeadLetterSet) -> str:
    """Return a text that differs once a filter finds others: how many, and the newest; numbers stay."""
    if selection.filter is None:
        return ""
    found = context().service.page(selection.filter, limit=1)
    newest = found.dead_letters[0].number if found.dead_letters else 0
    return f"{found.total}-{newest}"


def _size(selection: DeadLetterSet) -> int:
    """Return the number of dead letters of a set; a text is looked for in all, and counts as few."""
    if selection.filter is None:
        return len(selection.numbers)
    total = context().service.page(selection.filter, limit=1).total
    return PREVIEW_MAX + 1 if total is None and selection.filter.text is None else total or 0


def changes_in(values: Values) -> BodyChanges:
    """Return the changes of the form, one a line. Raises QueryError."""
    drops, renames, sets = (_lines(values, name) for name in _FIELDS)
    return BodyChanges.read(drops=drops, renames=renames, sets=sets)


def _lines(values: Values, name: str) -> list[str]:
    text = values.get(name, "")
    if len(text) > _TEXT_MAX:
        raise QueryError(f"{name} is too long: at most {_TEXT_MAX:,} characters")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _form(
    selection: DeadLetterSet,
    values: Values,
    *,
    problem: str | None = None,
    preview: _Preview | None = None,
) -> str:
    samples = () if preview is None else preview.found.samples
    return render_template(
        "set_edit.html",
        selection=selection,
        problem=problem,
        preview=None if preview is None else preview.found,
        seen=None if preview is None else preview.seen,
        samples=[ShownSample(one.forecast, diff_of(one.before, one.after)) for one in samples],
        changes={name: values.get(name, "") for name in _FIELDS},
        reason=values.get("reason", ""),
        unchecked=values.get("unchecked") == "yes",
    )


def _back_to(selection: DeadLetterSet) -> str:
    """Return the URL of the page that shows the set, ready for more parameters."""
    filter_ = selection.filter
    if filter_ is not None and filter_.fingerprint is not None:
        return f"{url_for('dead_letters.group', fingerprint=filter_.fingerprint)}?"
    query = "" if filter_ is None else f"{selection.query}&"
    return f"{url_for('dead_letters.listing')}?{query}"


@dataclass(frozen=True, slots=True)
class DoneEdit:
    """Edit of a set just done, for the undo button; ``left`` dead letters stay as they were."""

    number: int
    changed: int
    left: int


def edited_in(values: Values) -> DoneEdit | None:
    """Return the edit that the address names; None without one. Raises QueryError."""
    number = number_in(values, "edited")
    if number is None:
        return None
    return DoneEdit(number, number_in(values, "changed") or 0, number_in(values, "left") or 0)
