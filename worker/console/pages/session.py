"""Sign-in, sign-out, and the choice of light or dark."""

import logging
from collections.abc import Mapping
from math import ceil
from typing import cast

from flask import Blueprint, Response, current_app, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from worker.console.context import ConsoleContext, context
from worker.console.known_devices import KnownDevices
from worker.console.security import own_path
from worker.console.sign_in_limit import SignInAttempt
from worker.console.users import User
from worker.errors import TransientError
from worker.http.clients import Client
from worker.http.permits import NoPermitError

log = logging.getLogger(__name__)

page = Blueprint("session", __name__)

_YEAR_S = 365 * 24 * 3600
#: Actor of a failed sign-in, which is nobody we know: no user's name has a space in it.
_NOBODY = "not signed in"
_BUSY_RETRY_S = 3


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
    guard, client, devices = console.guard, _client(), _known_devices()
    attempt = SignInAttempt(name, client.network, devices.key_of(request, name))
    if wait_s := ceil(guard.sign_ins.begin(attempt)):
        guard.log_wait(attempt)
        return _refused(f"Too many sign-ins: try again in {wait_s} s.", name, target, 429, wait_s)
    try:
        user = guard.authenticate(attempt, password)
    except NoPermitError:
        guard.sign_ins.withdraw(attempt)
        busy = f"Too many sign in at the moment: try again in {_BUSY_RETRY_S} s."
        return _refused(busy, name, target, 503, _BUSY_RETRY_S)
    if user is None:
        _log("sign_in_failed", _NOBODY, f"from {client.address}", {"attempted_name": name})
        return _refused("Name or password is wrong.", name, target, 401)
    guard.sign_ins.succeeded(attempt)
    guard.sign_in(user)
    _log("sign_in", user.name, f"from {client.address}")
    response = cast(Response, redirect(target, 303))
    if attempt.device is None:
        devices.remember(response, user.name)
    return response


def _client() -> Client:
    return cast(Client, g.client)


def _known_devices() -> KnownDevices:
    return cast(KnownDevices, current_app.extensions["known_devices"])


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
        is_secure: bool = current_app.config["SESSION_COOKIE_SECURE"]
        response.set_cookie("theme", chosen, max_age=_YEAR_S, samesite="Lax", httponly=True, secure=is_secure)
    else:
        response.delete_cookie("theme")
    return response


def _log(action: str, actor: str, reason: str | None, detail: Mapping[str, str] | None = None) -> None:
    """Write into the activity log; while the database is down, into the log of the process instead."""
    try:
        context().service.record(actor, action, "console", reason, detail)
    except TransientError as error:
        log.warning("%s by %r is not in the activity log: %s", action, actor, error)
