"""Activity log: actions of operators, with actor, time and reason."""

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from worker.console.context import context
from worker.console.parameters import number_in, text_in

page = Blueprint("activity_log", __name__)

_LIMIT = 50


@page.get("/activity-log")
def index() -> ResponseReturnValue:
    """Show a page of the activity log, newest first."""
    filters = {name: text_in(request.args, name) for name in ("actor", "action", "subject")}
    found = context().service.activity_log(
        limit=_LIMIT,
        before=number_in(request.args, "before"),
        actor=filters["actor"],
        action=_stored_action(filters["action"]),
        subject=_stored_subject(filters["subject"]),
    )
    return render_template("activity_log.html", page=found, filters=filters)


def _stored_action(shown: str | None) -> str | None:
    """Return the stored form of what ``formats.action`` shows."""
    return "park" if shown == "drain" else shown


def _stored_subject(shown: str | None) -> str | None:
    """Return the stored form of what ``formats.subject`` shows."""
    return None if shown is None else shown.removeprefix("dead ")
