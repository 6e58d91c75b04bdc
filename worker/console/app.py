"""WSGI application of the console: access, error pages, and the pages."""

import json
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, current_app, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError, CSRFProtect
from werkzeug.exceptions import HTTPException
from werkzeug.routing import IntegerConverter, ValidationError

from schemas.fields import INT64_MAX
from worker import __version__
from worker.catalog import short_digest
from worker.console import formats
from worker.console.context import ConsoleContext, context
from worker.console.known_devices import KnownDevices
from worker.console.pages import PAGES, health
from worker.console.security import has_unstorable_text, secure
from worker.errors import BillingError, ConfigurationError, NotFoundError, QueryError, TransientError
from worker.runtime.cached_value import KnownValue, Unknown
from worker.runtime.durations import lasting

#: Endpoints that need no sign-in.
_OPEN = {"static", "session.sign_in"}
#: Endpoints of forms that viewers may send: they change nothing of the ledger.
_FOR_VIEWERS = {"session.sign_in", "session.sign_out", "session.theme"}
#: Prefixes of the endpoints that only operators may use; viewers don't see them.
_FOR_OPERATORS = ("dead_letter_actions.", "set_edits.")
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
THEMES = ("auto", "light", "dark")


class _RowNumber(IntegerConverter):
    """Number in a path that a row may have; a larger one is not found, without a query."""

    regex = r"[0-9]{1,19}"

    def to_python(self, value: str) -> int:
        """Parse the number. Raises ValidationError above 2^63−1."""
        number = int(value)
        if number > INT64_MAX:
            raise ValidationError
        return number


def create_app(console: ConsoleContext, secret: bytes, *, through_https: bool = False) -> Flask:
    """Return the WSGI application over ``console``; ``secret`` signs the sessions."""
    app = Flask("worker.console")
    app.extensions["billing"] = console
    app.extensions["known_devices"] = KnownDevices(secret, through_https=through_https)
    app.url_map.converters["int"] = _RowNumber
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    secure(app, secret, through_https=through_https)
    app.before_request(_check_access)
    CSRFProtect(app)
    for page in PAGES:
        app.register_blueprint(page)
    _add_template_helpers(app)
    app.register_error_handler(BillingError, _on_billing_error)
    app.register_error_handler(CSRFError, _on_csrf_error)
    app.register_error_handler(HTTPException, _on_http_error)
    app.register_error_handler(Exception, _on_fault)
    return app


def _check_access() -> ResponseReturnValue | None:
    """Return an error page for a request from elsewhere, without a sign-in, or without permission."""
    if request.endpoint == health.ENDPOINT:
        return None  # a probe comes without a name of ours, a proxy and TLS
    guard = context().guard
    g.now = context().clock().astimezone(UTC)
    g.current_user = None
    g.client = guard.client(request)
    if (why := guard.refusal(request, g.client)) is not None:
        return _error_page(403, "Not allowed from here", why)
    if has_unstorable_text(request):
        return _error_page(400, "Invalid request", "A parameter has a character that no database stores.")
    g.current_user = guard.current_user()
    if g.current_user is None:
        if request.endpoint in _OPEN:
            return None
        here = request.full_path if request.method in _SAFE_METHODS else "/"
        return redirect(url_for("session.sign_in", next=here.rstrip("?")), 303)
    if _is_for_operators(request.method, request.endpoint) and not g.current_user.is_operator:
        return _error_page(403, "Only for operators", "Viewers can see everything and change nothing.")
    return None


def _is_for_operators(method: str, endpoint: str | None) -> bool:
    changes = method not in _SAFE_METHODS and endpoint not in _FOR_VIEWERS
    return changes or (endpoint or "").startswith(_FOR_OPERATORS)


def _add_template_helpers(app: Flask) -> None:
    app.jinja_env.filters.update(
        number=formats.number,
        signed=formats.signed,
        balance=formats.balance,
        money=formats.money,
        moment=formats.moment,
        ago=lambda value: formats.ago(value, g.now),
        lasting=lasting,
        digest=short_digest,
        size=formats.size,
        visible=formats.visible,
        short=formats.shortened,
        id=formats.shown_id,
        words=formats.words,
        json_text=lambda value: json.dumps(value, ensure_ascii=False),
        action=formats.action,
        subject=formats.subject,
    )
    app.jinja_env.tests.update(
        unknown=lambda value: isinstance(value, Unknown), known=lambda value: isinstance(value, KnownValue)
    )

    @app.context_processor
    def _common() -> dict[str, Any]:
        theme = request.cookies.get("theme")
        now: datetime = g.get("now") or datetime.now(UTC)
        return {
            "current_user": g.get("current_user"),
            "requires_sign_in": context().guard.requires_sign_in,
            "theme": theme if theme in THEMES else "auto",
            "version": __version__,
            "now": now,
            "incidents": context().incidents() if g.get("current_user") else None,
            "unknown": formats.unknown,
        }


# -- errors -----------------------------------------------------------------------------------------------


def _error_page(status: int, title: str, text: str) -> Response:
    page = render_template("error.html", status=status, title=title, text=text)
    return Response(page, status, mimetype="text/html")


def _on_billing_error(error: BillingError) -> ResponseReturnValue:
    match error:
        case NotFoundError():
            return _error_page(404, "Not found", str(error))
        case QueryError():
            return _error_page(400, "Invalid request", str(error))
        case TransientError():
            return _error_page(503, "Unknown at the moment", str(error))
        case ConfigurationError():
            return _error_page(500, "Wrong configuration", str(error))
        case _:
            return _error_page(409, "Not possible", str(error))


def _on_csrf_error(_error: CSRFError) -> ResponseReturnValue:
    return _error_page(
        400,
        "Form expired",
        "The form is of another session or of another site. Go back, reload the page and send it again.",
    )


def _on_http_error(error: HTTPException) -> ResponseReturnValue:
    if error.code is None or error.code < 400:
        return error
    response = _error_page(error.code, error.name, error.description or "")
    response.headers.extend(
        {name: value for name, value in error.get_headers() if name in {"Allow", "Retry-After"}}
    )
    return response


def _on_fault(error: Exception) -> ResponseReturnValue:
    current_app.logger.error("page failed: %r", request.path, exc_info=error)
    return _error_page(500, "Error of the console", f"{type(error).__name__}: see the console's log.")
