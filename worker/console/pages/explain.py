"""Page about one reference, and the search field."""

import json
import re
from typing import Any

from flask import Blueprint, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from worker.console.context import context
from worker.console.heavy import heavy
from worker.console.parameters import text_in
from worker.errors import NotFoundError
from worker.ledger.queries import snapshot
from worker.ledger.queries.search import accounts_by_prefix

page = Blueprint("explain", __name__)

ENTRIES_SHOWN, DEAD_LETTERS_SHOWN = 200, 100
_DEAD_LETTER = re.compile(r"#([0-9]{1,18})")


@page.get("/explain")
@heavy
def index() -> ResponseReturnValue:
    """Show everything about a reference; without one, an empty form."""
    reference = text_in(request.args, "reference")
    if reference is None:
        return render_template("explain.html", reference="", view=None)
    console = context()
    try:
        view = console.service.explain(reference, g.now)
    except NotFoundError as error:
        return render_template("explain.html", reference=reference, view=None, missing=str(error)), 404
    return render_template(
        "explain.html",
        reference=reference,
        view=view,
        dead_letters=view.dead_letters[: -DEAD_LETTERS_SHOWN - 1 : -1],
        entries_shown=ENTRIES_SHOWN,
        as_json=_as_json,
    )


@page.get("/find")
@heavy
def find() -> ResponseReturnValue:
    """Redirect to the dead letter ``#7``, the user of that name, the users that begin so, or a reference."""
    text = text_in(request.args, "q")
    if text is None:
        return redirect(url_for("accounts.index"), 303)
    if (numbered := _DEAD_LETTER.fullmatch(text)) is not None:
        return redirect(url_for("dead_letters.one", number=int(numbered[1])), 303)
    console = context()
    with snapshot(console.application.engine) as connection:
        found = accounts_by_prefix(connection, text, limit=2).accounts
    if found and found[0].user_id == text:
        return redirect(url_for("accounts.one", user=text), 303)
    if not found or _is_reference(text):
        return redirect(url_for("explain.index", reference=text), 303)
    if len(found) == 1:
        return redirect(url_for("accounts.one", user=found[0].user_id), 303)
    return redirect(url_for("accounts.index", prefix=text), 303)


def _is_reference(text: str) -> bool:
    try:
        context().service.explain(text, g.now)
    except NotFoundError:
        return False
    return True


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
