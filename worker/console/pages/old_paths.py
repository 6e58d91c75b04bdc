"""Permanent redirects from paths of earlier versions, for bookmarks."""

from urllib.parse import quote, urlencode

from flask import Blueprint, redirect, request
from flask.typing import ResponseReturnValue

page = Blueprint("old_paths", __name__)


@page.get("/letters", defaults={"rest": ""})
@page.get("/letters/<path:rest>")
def dead_letter_pages(rest: str) -> ResponseReturnValue:
    """Redirect to the pages of dead letters, whose filter calls the reason code ``code``."""
    pairs = [("code" if name == "reason" else name, text) for name, text in request.args.items(multi=True)]
    return _moved("/dead-letters" + (f"/{quote(rest)}" if rest else ""), pairs)


@page.get("/audit")
def audit() -> ResponseReturnValue:
    """Redirect to the activity log."""
    return _moved("/activity-log", list(request.args.items(multi=True)))


def _moved(path: str, pairs: list[tuple[str, str]]) -> ResponseReturnValue:
    return redirect(f"{path}?{urlencode(pairs)}" if pairs else path, 308)
