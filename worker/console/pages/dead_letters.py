"""Pages of dead letters: groups, lists, one with its body and history, dry runs."""

from dataclasses import dataclass
from typing import cast

from flask import Blueprint, Response, render_template, request
from flask.typing import ResponseReturnValue

from worker.console.bodies import Readable, readable
from worker.console.context import ConsoleContext, context, or_unknown
from worker.console.heavy import heavy, heavy_when
from worker.console.pages.set_edits import edited_in
from worker.console.parameters import DeadLetterSet, filter_pairs, number_in, undo_entries
from worker.deadletters.models import DeadLetterStatus, DryRun, GroupOrder
from worker.deadletters.store.filters import DeadLetterFilter
from worker.errors import QueryError

page = Blueprint("dead_letters", __name__)

ORDERS: dict[str, str] = {
    "tokens": "most tokens affected",
    "users": "most users waiting",
    "count": "most dead letters waiting",
    "last": "newest first",
}

_GROUPS, _DEAD_LETTERS, _EDITS = 50, 50, 10
#: Most dead letters in a dry run on a page; the command line has no such limit.
DRY_RUN_MAX = 5_000


@page.get("/dead-letters")
def index() -> ResponseReturnValue:
    """Show the groups of dead letters with the same cause."""
    console = context()
    order = request.args.get("order", "tokens")
    all_groups = request.args.get("waiting") == "all"
    if order not in ORDERS:
        raise QueryError(f"no such order: {order[:40]!r}; there are {', '.join(ORDERS)}")
    found = console.service.groups(
        waiting_only=not all_groups,
        order=cast(GroupOrder, order),
        limit=_GROUPS,
        after=request.args.get("after") or None,
    )
    return render_template(
        "dead_letter_groups.html",
        page=found,
        counts=or_unknown(console.service.counts),
        orders=ORDERS,
        order=order,
        all_groups=all_groups,
        after=request.args.get("after"),
    )


@page.get("/dead-letters/list")
@heavy_when(lambda: bool(request.args.get("text")))
def listing() -> ResponseReturnValue:
    """Show a page of the dead letters that a filter finds."""
    # Numbers are no filter: the buttons must act on exactly the listed dead letters.
    filter_ = DeadLetterSet.read(request.args).filter or DeadLetterFilter()
    before = number_in(request.args, "before")
    found = context().service.page(filter_, limit=_DEAD_LETTERS, before=before)
    return render_template(
        "dead_letters.html",
        page=found,
        filter=filter_,
        selection=DeadLetterSet(filter=filter_),
        pairs=filter_pairs(filter_),
        before=before,
        statuses=tuple(DeadLetterStatus),
        undo=_undo(),
        edited=edited_in(request.args),
    )


@page.get("/groups/<fingerprint>")
def group(fingerprint: str) -> ResponseReturnValue:
    """Show a group with a page of its dead letters."""
    console = context()
    found = console.service.group(fingerprint)
    status = tuple(DeadLetterStatus) if request.args.get("status") == "all" else DeadLetterFilter().status
    filter_ = DeadLetterFilter(status=status, fingerprint=found.fingerprint)
    before = number_in(request.args, "before")
    listed = console.service.page(filter_, limit=_DEAD_LETTERS, before=before)
    return render_template(
        "dead_letter_group.html",
        group=found,
        parts=console.service.group_parts(found.fingerprint),
        page=listed,
        filter=filter_,
        selection=DeadLetterSet(filter=filter_),
        before=before,
        undo=_undo(),
        edited=edited_in(request.args),
    )


@page.get("/dead-letters/<int:number>")
def one(number: int) -> ResponseReturnValue:
    """Show one dead letter with body, ledger rows and history."""
    details = context().service.details(number)
    dead_letter = details.dead_letter
    return render_template(
        "dead_letter.html",
        dead_letter=dead_letter,
        details=details,
        body=readable(dead_letter.current_body),
        original=readable(dead_letter.body) if dead_letter.edited_body is not None else None,
        edits=[(edit, _body_change(edit.before, edit.after)) for edit in details.edits[: -_EDITS - 1 : -1]],
        edits_total=len(details.edits),
        headers=dead_letter.properties.get("headers", {}),
        properties=dead_letter.properties.get("properties", {}),
        undo=_undo(),
    )


@page.get("/dead-letters/<int:number>/body")
def body(number: int) -> ResponseReturnValue:
    """Download the original or the edited bytes; the browser never shows them."""
    dead_letter = context().service.dead_letter(number)
    name = f"dead-letter-{number}{'-edited' if request.args.get('edited') else ''}.bin"
    octets = dead_letter.current_body if request.args.get("edited") else dead_letter.body
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(octets, headers=headers, mimetype="application/octet-stream")


@page.get("/dead-letters/dry-run")
@heavy
def dry_run() -> ResponseReturnValue:
    """Show the effect that a replay of each dead letter would have today."""
    console = context()
    selection = DeadLetterSet.read(request.args)
    selected = numbers_of(console, selection, DRY_RUN_MAX)
    found = console.service.dry_run(selected.numbers) if selected.numbers else None
    return render_template(
        "dry_run.html",
        selection=selection,
        selected=selected,
        run=found,
        total_tokens=_moved(found),
        limit=DRY_RUN_MAX,
    )


def _moved(found: DryRun | None) -> int:
    forecasts = () if found is None else found.forecasts
    return sum(forecast.tokens for forecast in forecasts if forecast.would == "apply")


@dataclass(frozen=True, slots=True)
class SelectedNumbers:
    """Numbers of a set's dead letters as it is now; ``is_all`` is false where there are more."""

    numbers: tuple[int, ...]
    is_all: bool


def numbers_of(console: ConsoleContext, selection: DeadLetterSet, limit: int) -> SelectedNumbers:
    """Return the first ``limit`` numbers of a set, newest first for a filter."""
    if selection.filter is None:
        return SelectedNumbers(selection.numbers[:limit], len(selection.numbers) <= limit)
    numbers: list[int] = []
    before: int | None = None
    while len(numbers) < limit:
        found = console.service.page(selection.filter, limit=min(500, limit - len(numbers)), before=before)
        numbers += [line.number for line in found.dead_letters]
        before = found.next
        if before is None:
            return SelectedNumbers(tuple(numbers), is_all=True)
    more = console.service.page(selection.filter, limit=1, before=before)
    return SelectedNumbers(tuple(numbers), is_all=not more.dead_letters)


@dataclass(frozen=True, slots=True)
class BodyComparison:
    """Bodies before and after an edit."""

    before: Readable
    after: Readable


def _body_change(before: bytes, after: bytes) -> BodyComparison:
    return BodyComparison(readable(before), readable(after))


def _undo() -> dict[str, object] | None:
    """Return text and entries for the undo button after a discard; None without one."""
    entries = undo_entries(request.args)
    if not entries:
        return None
    done, skipped = number_in(request.args, "discarded") or 0, number_in(request.args, "skipped") or 0
    text = f"Discarded {done:,} dead letter{'' if done == 1 else 's'}"
    text += f"; skipped {skipped:,} that no longer wait" if skipped else ""
    return {"entries": ",".join(map(str, entries)), "text": text}
