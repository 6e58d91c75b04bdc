"""Signing in and out, and the choice of light or dark."""

from math import ceil

from flask import Blueprint, Response, current_app, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from worker.console.parts import Parts, parts
from worker.console.people import Person
from worker.console.security import own_path
from worker.errors import TransientError

page = Blueprint("entrance", __name__)

_YEAR_S = 365 * 24 * 3600


@page.route("/sign-in", methods=["GET", "POST"])
def sign_in() -> ResponseReturnValue:
    """Ask for name and password; after the right ones, go on to the page that was asked for."""
    target = own_path(request.values.get("next")) or url_for("overview.index")
    if g.person is not None:
        return redirect(target, 303)
    if request.method == "GET":
        return render_template("sign_in.html", target=target)
    name, password = request.form.get("name", "").strip()[:100], request.form.get("password", "")
    return _tried(parts(), name, password, target)


def _tried(console: Parts, name: str, password: str, target: str) -> ResponseReturnValue:
    guard, address = console.guard, request.remote_addr or "?"
    if wait_s := max(guard.by_name.wait_s(name), guard.by_address.wait_s(address)):
        return _refused(f"Too many attempts: try again in {ceil(wait_s)} s.", name, target, 429, ceil(wait_s))
    guard.by_name.count(name)
    guard.by_address.count(address)
    person = None if guard.people is None else guard.people.signed_in(name, password)
    if person is None:
        _log("sign_in_failed", name or "(nobody)", f"from {address}")
        return _refused("That name and password don't belong together.", name, target, 401)
    guard.by_name.forget(name)
    guard.sign_in(person)
    _log("sign_in", person.name, f"from {address}")
    return redirect(target, 303)


def _refused(why: str, name: str, target: str, status: int, wait_s: int = 0) -> Response:
    body = render_template("sign_in.html", target=target, why=why, name=name)
    return Response(body, status, {"Retry-After": str(wait_s)} if wait_s else None, mimetype="text/html")


@page.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """Sign out."""
    person: Person = g.person
    parts().guard.sign_out()
    _log("sign_out", person.name, None)
    return redirect(url_for("entrance.sign_in"), 303)


@page.post("/theme")
def theme() -> ResponseReturnValue:
    """Set light, dark, or the system's choice; kept in a cookie of this browser."""
    chosen = request.form.get("theme", "auto")
    response = redirect(own_path(request.form.get("next")) or url_for("overview.index"), 303)
    if chosen in {"light", "dark"}:
        response.set_cookie("theme", chosen, max_age=_YEAR_S, samesite="Lax", httponly=True)
    else:
        response.delete_cookie("theme")
    return response


def _log(action: str, actor: str, reason: str | None) -> None:
    """Write into the activity log. A sign-in works even while the database is down, to see that it is."""
    try:
        parts().service.record(actor, action, "console", reason)
    except TransientError as error:
        current_app.logger.warning("%s by %r is not in the audit log: %s", action, actor, error)
