"""The console's application: access, error pages, and the pages."""

from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, current_app, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError, CSRFProtect
from werkzeug.exceptions import HTTPException
from werkzeug.routing import IntegerConverter, ValidationError

from schemas.fields import INT64_MAX
from worker import __version__
from worker.console import formats
from worker.console.pages import PAGES
from worker.console.parts import Parts, parts
from worker.console.security import has_unstorable_text, secure
from worker.console.watching import TimedValue, Unknown
from worker.errors import BillingError, ConfigurationError, NotFoundError, QueryError, TransientError

#: Endpoints that may be asked for without signing in.
_OPEN = {"static", "entrance.sign_in"}
#: Endpoints that change nothing of the ledger, so that viewers may send them.
_FOR_VIEWERS = {"entrance.sign_in", "entrance.sign_out", "entrance.theme"}
#: Endpoints of forms that only operators may send; viewers don't see them either.
_FOR_OPERATORS = "acting."
_READING = {"GET", "HEAD", "OPTIONS"}
THEMES = ("auto", "light", "dark")


class _Number(IntegerConverter):
    """A number in a path that a row may have; another one is not found, without a query to the database."""

    regex = r"[0-9]{1,19}"

    def to_python(self, value: str) -> int:
        """Parse the number. Raises ValidationError above 2^63−1."""
        number = int(value)
        if number > INT64_MAX:
            raise ValidationError
        return number


def create_app(console: Parts, secret: bytes, *, through_https: bool = False) -> Flask:
    """The WSGI application over ``console``; ``secret`` signs the sessions."""
    app = Flask("worker.console")
    app.extensions["billing"] = console
    app.url_map.converters["int"] = _Number
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    secure(app, secret, through_https=through_https)
    app.before_request(_let_in)
    CSRFProtect(app)
    for page in PAGES:
        app.register_blueprint(page)
    _teach_templates(app)
    app.register_error_handler(BillingError, _on_billing_error)
    app.register_error_handler(CSRFError, _on_csrf_error)
    app.register_error_handler(HTTPException, _on_http_error)
    app.register_error_handler(Exception, _on_fault)
    return app


def _let_in() -> ResponseReturnValue | None:
    """Return an error page for a request from elsewhere, without a sign-in, or without permission."""
    guard = parts().guard
    g.now = parts().clock().astimezone(UTC)
    g.person = None
    if (why := guard.refusal(request)) is not None:
        return _problem(403, "Not from here", why)
    if has_unstorable_text(request):
        return _problem(400, "That can't be asked", "A parameter holds a character that no database stores.")
    g.person = guard.person()
    if g.person is None:
        if request.endpoint in _OPEN:
            return None
        here = request.full_path if request.method in _READING else "/"
        return redirect(url_for("entrance.sign_in", next=here.rstrip("?")), 303)
    if _is_for_operators(request.method, request.endpoint) and not g.person.is_operator:
        return _problem(403, "Only for operators", "You may look at everything here and change nothing.")
    return None


def _is_for_operators(method: str, endpoint: str | None) -> bool:
    changes = method not in _READING and endpoint not in _FOR_VIEWERS
    return changes or (endpoint or "").startswith(_FOR_OPERATORS)


def _teach_templates(app: Flask) -> None:
    app.jinja_env.filters.update(
        number=formats.number,
        signed=formats.signed,
        moment=formats.moment,
        ago=lambda value: formats.ago(value, g.now),
        lasting=formats.lasting,
        size=formats.size,
        visible=formats.visible,
        lines=formats.lines,
        short=formats.shortened,
        words=formats.words,
        compact=formats.compact,
    )
    app.jinja_env.tests.update(
        unknown=lambda value: isinstance(value, Unknown), known=lambda value: isinstance(value, TimedValue)
    )

    @app.context_processor
    def _common() -> dict[str, Any]:
        theme = request.cookies.get("theme")
        now: datetime = g.get("now") or datetime.now(UTC)
        return {
            "person": g.get("person"),
            "asks_for_passwords": parts().guard.asks_for_passwords,
            "theme": theme if theme in THEMES else "auto",
            "version": __version__,
            "now": now,
            "not_known": formats.unknown,
        }


# -- errors -----------------------------------------------------------------------------------------------


def _problem(status: int, title: str, text: str) -> Response:
    page = render_template("problem.html", status=status, title=title, text=text)
    return Response(page, status, mimetype="text/html")


def _on_billing_error(error: BillingError) -> ResponseReturnValue:
    match error:
        case NotFoundError():
            return _problem(404, "Not found", str(error))
        case QueryError():
            return _problem(400, "That can't be asked", str(error))
        case TransientError():
            return _problem(503, "Not known at the moment", str(error))
        case ConfigurationError():
            return _problem(500, "Something has to be set right", str(error))
        case _:
            return _problem(409, "That could not be done", str(error))


def _on_csrf_error(_error: CSRFError) -> ResponseReturnValue:
    return _problem(
        400,
        "The form was too old",
        "It is of another session, or came from elsewhere. Go back, reload the page and send it again.",
    )


def _on_http_error(error: HTTPException) -> ResponseReturnValue:
    if error.code is None or error.code < 400:
        return error
    response = _problem(error.code, error.name, error.description or "")
    response.headers.extend(
        {name: value for name, value in error.get_headers() if name in {"Allow", "Retry-After"}}
    )
    return response


def _on_fault(error: Exception) -> ResponseReturnValue:
    current_app.logger.error("a page failed: %r", request.path, exc_info=error)
    return _problem(500, "A fault of the console", f"{type(error).__name__}; the console's log has it.")
