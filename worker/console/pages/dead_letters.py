"""Pages of dead letters: groups, lists, one with its body and history, dry runs."""

from dataclasses import dataclass
from typing import Literal, cast

from flask import Blueprint, Response, render_template, request
from flask.typing import ResponseReturnValue

from worker.console.asking import DeadLetterSet, filter_pairs, number_in, undo_entries
from worker.console.bodies import Readable, readable
from worker.console.parts import Parts, in_ledger, parts
from worker.deadletters.models import DeadLetterStatus, DryRun
from worker.deadletters.store.filters import DeadLetterFilter
from worker.errors import QueryError

page = Blueprint("letters", __name__)

GroupOrder = Literal["last", "count", "tokens"]
ORDERS: dict[str, str] = {"last": "latest", "count": "most letters", "tokens": "most tokens"}

_GROUPS, _DEAD_LETTERS, _EDITS = 50, 50, 10
#: Most dead letters in a dry run on a page; the command line has no such limit.
DRY_RUN_MAX = 5_000


@page.get("/letters")
def index() -> ResponseReturnValue:
    """Show the groups: dead letters by the way in which they failed."""
    console = parts()
    order = request.args.get("order", "last")
    everything = request.args.get("waiting") == "all"
    if order not in ORDERS:
        raise QueryError(f"there is no order {order[:40]!r}; there are {', '.join(ORDERS)}")
    found = console.service.groups(
        waiting_only=not everything,
        order=cast(GroupOrder, order),
        limit=_GROUPS,
        after=request.args.get("after") or None,
    )
    return render_template(
        "groups.html",
        page=found,
        counts=in_ledger(console.service.counts),
        orders=ORDERS,
        order=order,
        everything=everything,
        after=request.args.get("after"),
    )


@page.get("/letters/list")
def listing() -> ResponseReturnValue:
    """Show dead letters one by one, those that a filter finds."""
    # Dead letters named by number are no filter: the buttons act on just what is listed.
    filter_ = DeadLetterSet.read(request.args).filter or DeadLetterFilter()
    before = number_in(request.args, "before")
    found = parts().service.page(filter_, limit=_DEAD_LETTERS, before=before)
    return render_template(
        "dead_letters.html",
        page=found,
        filter=filter_,
        chosen=DeadLetterSet(filter=filter_),
        pairs=filter_pairs(filter_),
        before=before,
        statuses=tuple(DeadLetterStatus),
        undo=_undo(),
    )


@page.get("/groups/<fingerprint>")
def group(fingerprint: str) -> ResponseReturnValue:
    """Show one group: its common fields, one of its dead letters, and all of them a page at a time."""
    console = parts()
    found = console.service.group(fingerprint)
    status = tuple(DeadLetterStatus) if request.args.get("status") == "all" else DeadLetterFilter().status
    filter_ = DeadLetterFilter(status=status, fingerprint=found.fingerprint)
    before = number_in(request.args, "before")
    listed = console.service.page(filter_, limit=_DEAD_LETTERS, before=before)
    return render_template(
        "group.html",
        group=found,
        page=listed,
        filter=filter_,
        chosen=DeadLetterSet(filter=filter_),
        before=before,
        undo=_undo(),
    )


@page.get("/letters/<int:number>")
def one(number: int) -> ResponseReturnValue:
    """Show one dead letter whole."""
    details = parts().service.details(number)
    dead_letter = details.dead_letter
    return render_template(
        "dead_letter.html",
        dead_letter=dead_letter,
        details=details,
        body=readable(dead_letter.current_body),
        original=readable(dead_letter.body) if dead_letter.edited_body is not None else None,
        edits=[(edit, _changes(edit.before, edit.after)) for edit in details.edits[: -_EDITS - 1 : -1]],
        edits_in_all=len(details.edits),
        headers=dead_letter.properties.get("headers", {}),
        properties=dead_letter.properties.get("properties", {}),
        undo=_undo(),
    )


@page.get("/letters/<int:number>/body")
def body(number: int) -> ResponseReturnValue:
    """Download the bytes as they came; the browser never shows them."""
    dead_letter = parts().service.dead_letter(number)
    name = f"letter-{number}{'-edited' if request.args.get('edited') else ''}.bin"
    octets = dead_letter.current_body if request.args.get("edited") else dead_letter.body
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(octets, headers=headers, mimetype="application/octet-stream")


@page.get("/letters/dry-run")
def dry_run() -> ResponseReturnValue:
    """Show the effect that each dead letter of a set would have on the ledger today."""
    console = parts()
    chosen = DeadLetterSet.read(request.args)
    frozen = freeze(console, chosen, DRY_RUN_MAX)
    found = console.service.dry_run(frozen.numbers) if frozen.numbers else None
    return render_template(
        "dry_run.html",
        chosen=chosen,
        frozen=frozen,
        run=found,
        total_tokens=_moved(found),
        most=DRY_RUN_MAX,
    )


def _moved(found: DryRun | None) -> int:
    return 0 if found is None else sum(v.tokens for v in found.forecasts if v.would == "apply")


@dataclass(frozen=True, slots=True)
class Frozen:
    """Dead letters of a set as they are now; ``is_all`` says whether there are no more of them."""

    numbers: tuple[int, ...]
    is_all: bool


def freeze(console: Parts, chosen: DeadLetterSet, most: int) -> Frozen:
    """Return the first ``most`` numbers of a set of dead letters, newest first where a filter makes it."""
    if chosen.filter is None:
        return Frozen(chosen.numbers[:most], len(chosen.numbers) <= most)
    numbers: list[int] = []
    before: int | None = None
    while len(numbers) < most:
        found = console.service.page(chosen.filter, limit=min(500, most - len(numbers)), before=before)
        numbers += [line.number for line in found.dead_letters]
        before = found.next
        if before is None:
            return Frozen(tuple(numbers), is_all=True)
    more = console.service.page(chosen.filter, limit=1, before=before)
    return Frozen(tuple(numbers), is_all=not more.dead_letters)


@dataclass(frozen=True, slots=True)
class Change:
    """An edit as two bodies."""

    before: Readable
    after: Readable


def _changes(before: bytes, after: bytes) -> Change:
    return Change(readable(before), readable(after))


def _undo() -> dict[str, object] | None:
    """Return the result of a discard on the page before, for its undo button; None without one."""
    entries = undo_entries(request.args)
    if not entries:
        return None
    done, skipped = number_in(request.args, "discarded") or 0, number_in(request.args, "skipped") or 0
    text = f"Discarded {done:,} letter{'' if done == 1 else 's'}"
    text += f"; {skipped:,} could not be, because they don't wait any more" if skipped else ""
    return {"entries": ",".join(map(str, entries)), "text": text}
