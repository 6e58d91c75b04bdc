"""WSGI application of the HTTP door: routes, access, answers, problems, and the health of the process."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from http import HTTPStatus
from importlib.resources import files
from time import perf_counter

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from schemas import Limits, Malformed, ProblemCode, QueryAnswer, QueryProblem
from schemas.http import DESCRIPTION_PATH, ROUTES, RequestCode, Route
from worker.http.access import Access
from worker.http.asking import Asker
from worker.http.caching import entity_tag
from worker.http.parameters import Parameters
from worker.http.problems import (
    Problem,
    ProblemError,
    malformed,
    problem_of,
    request_problem,
    unanswered,
)
from worker.metrics import Metrics
from worker.runtime.cached_value import CachedValue, Unknown

log = logging.getLogger(__name__)

LIVE_PATH, READY_PATH = "/healthz", "/readyz"

#: Longest target of a request, in bytes. The longest query with every character encoded has about 5,000.
TARGET_MAX = 8_000
_JSON = "application/json"
#: A cache may keep an answer for its caller alone, and must ask before each use.
_REVALIDATED = "private, no-cache"


@dataclass(frozen=True, slots=True)
class Door:
    """Parts that the application works with; ``readiness`` is known while the ledger answers."""

    access: Access
    asker: Asker
    limits: Limits
    readiness: CachedValue[None]
    metrics: Metrics
    is_stopping: Callable[[], bool]


def create_app(door: Door) -> Flask:
    """Return the WSGI application. It takes GET and HEAD alone, and every error is a problem."""
    app = Flask("worker.http", static_folder=None)
    app.url_map.merge_slashes = False
    MeasuredRequests(door.metrics).follow(app)
    app.before_request(_refuse_long_target)
    app.after_request(_forbid_guessing)
    for path, route in ROUTES.items():
        _add(app, path, partial(_answer, door, route, Parameters(route.query)))
    _add(app, DESCRIPTION_PATH, _describe)
    _add(app, LIVE_PATH, _live)
    _add(app, READY_PATH, partial(_ready, door))
    app.register_error_handler(ProblemError, lambda error: response_of(error.problem))
    app.register_error_handler(HTTPException, _on_http_error)
    app.register_error_handler(Exception, _on_fault)
    return app


def _add(app: Flask, path: str, view: Callable[[], Response]) -> None:
    app.add_url_rule(path, path, view, methods=["GET"], provide_automatic_options=False)


# -- queries ----------------------------------------------------------------------------------------------


def _answer(door: Door, route: Route, parameters: Parameters) -> Response:
    door.access.require(request.headers.get("Authorization"), route.scope)
    query = parameters.query_in(request.query_string, door.limits)
    if isinstance(query, Malformed):
        return response_of(malformed(query))
    answer = door.asker.ask(query)
    return response_of(unanswered(answer)) if isinstance(answer, QueryProblem) else _answered(answer)


def _answered(answer: QueryAnswer) -> Response:
    """Return the answer, or only that it is the one that the caller has."""
    tag = entity_tag(answer)
    if request.if_none_match.contains_weak(tag):
        response = Response(status=HTTPStatus.NOT_MODIFIED)
    else:
        response = Response(answer.to_json(), mimetype=_JSON)
    response.set_etag(tag, weak=True)
    response.headers["Cache-Control"] = _REVALIDATED
    return response


# -- beside the queries -----------------------------------------------------------------------------------


def _describe() -> Response:
    """Return the description of this door (OpenAPI 3.1), which needs no token."""
    body = description()
    if body is None:
        raise NotFound
    response = Response(body, mimetype=_JSON)
    response.set_etag(hashlib.sha256(body).hexdigest())
    response.headers["Cache-Control"] = "no-cache"
    response.make_conditional(request)
    return response


@cache
def description() -> bytes | None:
    """Return the packaged OpenAPI document; None where the package was built without it."""
    path = files("schemas") / "contract" / "openapi.json"
    return path.read_bytes() if path.is_file() else None


def _live() -> Response:
    """Say that this process answers; it says nothing of the ledger, which a restart doesn't mend."""
    return _health(HTTPStatus.OK, "live")


def _ready(door: Door) -> Response:
    """Say whether requests should come here: not while the ledger doesn't answer, nor while it stops."""
    if door.is_stopping():
        return _health(HTTPStatus.SERVICE_UNAVAILABLE, "stopping")
    if isinstance(door.readiness.get(), Unknown):
        return _health(HTTPStatus.SERVICE_UNAVAILABLE, "the ledger doesn't answer")
    return _health(HTTPStatus.OK, "ready")


def _health(status: HTTPStatus, state: str) -> Response:
    response = Response(json.dumps({"state": state}), status=status, mimetype=_JSON)
    response.headers["Cache-Control"] = "no-store"
    return response


# -- errors -----------------------------------------------------------------------------------------------


def response_of(problem: Problem) -> Response:
    """Return the response that tells ``problem``."""
    return Response(problem.to_json(), problem.status, problem.all_headers())


def _forbid_guessing(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _refuse_long_target() -> Response | None:
    if len(request.query_string) <= TARGET_MAX:
        return None
    detail = f"The query string is longer than {TARGET_MAX} bytes; no query needs so many."
    return response_of(Problem(HTTPStatus.REQUEST_URI_TOO_LONG, ProblemCode.MALFORMED, detail))


def _on_http_error(error: HTTPException) -> Response:
    match error:
        case NotFound():
            known = ", ".join(sorted([*ROUTES, DESCRIPTION_PATH]))
            text = f"There is no such path; there are {known}."
            return response_of(request_problem(RequestCode.NOT_FOUND, text))
        case MethodNotAllowed():
            text = "Only GET and HEAD: this door reads. Commands go through the broker."
            return response_of(request_problem(RequestCode.METHOD_NOT_ALLOWED, text, ("Allow", "GET, HEAD")))
        case _:
            status = HTTPStatus(error.code or HTTPStatus.BAD_REQUEST)
            return response_of(Problem(status, ProblemCode.MALFORMED, error.description or status.phrase))


def _on_fault(error: Exception) -> Response:
    log.error("%s met a fault", request.path, exc_info=error)
    detail = "The server failed on this request; operators have it in the log."
    return response_of(problem_of(ProblemCode.UNPROCESSABLE, detail))


# -- measuring --------------------------------------------------------------------------------------------


class MeasuredRequests:
    """Counts requests by route and status, and the seconds that they take."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def follow(self, app: Flask) -> None:
        """Measure all requests of ``app``."""
        app.before_request(self._begin)
        app.after_request(self._end)

    def _begin(self) -> None:
        g.began = perf_counter()

    def _end(self, response: Response) -> Response:
        route = "other" if request.url_rule is None else request.url_rule.rule
        seconds = perf_counter() - g.began
        self._metrics.count_request(route, response.status_code, seconds)
        log.debug("%s %s %d %.1f ms", request.method, route, response.status_code, seconds * 1000)
        return response
