"""Sign-in, sign-out, and the choice of light or dark."""

from math import ceil

from flask import Blueprint, Response, current_app, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from worker.console.context import ConsoleContext, context
from worker.console.security import own_path
from worker.console.users import User
from worker.errors import TransientError

page = Blueprint("session", __name__)

_YEAR_S = 365 * 24 * 3600


@page.route("/sign-in", methods=["GET", "POST"])
def sign_in() -> ResponseReturnValue:
    """Show the form, or sign in and redirect to the page in ``next``."""
    target = own_path(request.values.get("next")) or url_for("overview.index")
    if g.current_user is not None:
        return redirect(target, 303)
    if request.method == "GET":
        return render_template("sign_in.html", target=target)
    name, password = request.form.get("name", "").strip()[:100], request.form.get("password", "")
    return _try_sign_in(context(), name, password, target)


def _try_sign_in(console: ConsoleContext, name: str, password: str, target: str) -> ResponseReturnValue:
    guard, address = console.guard, request.remote_addr or "?"
    if wait_s := max(guard.by_name.wait_s(name), guard.by_address.wait_s(address)):
        return _refused(f"Too many sign-ins: try again in {ceil(wait_s)} s.", name, target, 429, ceil(wait_s))
    guard.by_name.count(name)
    guard.by_address.count(address)
    user = None if guard.users is None else guard.users.authenticate(name, password)
    if user is None:
        _log("sign_in_failed", name or "(nobody)", f"from {address}")
        return _refused("Name or password is wrong.", name, target, 401)
    guard.by_name.forget(name)
    guard.sign_in(user)
    _log("sign_in", user.name, f"from {address}")
    return redirect(target, 303)


def _refused(why: str, name: str, target: str, status: int, wait_s: int = 0) -> Response:
    body = render_template("sign_in.html", target=target, why=why, name=name)
    return Response(body, status, {"Retry-After": str(wait_s)} if wait_s else None, mimetype="text/html")


@page.post("/sign-out")
def sign_out() -> ResponseReturnValue:
    """Sign out."""
    user: User = g.current_user
    context().guard.sign_out()
    _log("sign_out", user.name, None)
    return redirect(url_for("session.sign_in"), 303)


@page.post("/theme")
def theme() -> ResponseReturnValue:
    """Set light, dark, or the system's choice, in a cookie of this browser."""
    chosen = request.form.get("theme", "auto")
    response = redirect(own_path(request.form.get("next")) or url_for("overview.index"), 303)
    if chosen in {"light", "dark"}:
        response.set_cookie("theme", chosen, max_age=_YEAR_S, samesite="Lax", httponly=True)
    else:
        response.delete_cookie("theme")
    return response


def _log(action: str, actor: str, reason: str | None) -> None:
    """Write into the activity log; while the database is down, into the log of the process instead."""
    try:
        context().service.record(actor, action, "console", reason)
    except TransientError as error:
        current_app.logger.warning("%s by %r is not in the activity log: %s", action, actor, error)
