"""The activity log: what operators did, when and why."""

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from worker.console.asking import number_in, text_in
from worker.console.parts import parts

page = Blueprint("audit", __name__)

_LIMIT = 50


@page.get("/audit")
def index() -> ResponseReturnValue:
    """Show a page of the activity log, newest first."""
    filters = {name: text_in(request.args, name) for name in ("actor", "action", "subject")}
    found = parts().service.activity_log(limit=_LIMIT, before=number_in(request.args, "before"), **filters)
    return render_template("audit.html", page=found, filters=filters)
