"""WSGI application of the bridge: webhooks in, and 2xx once the broker has the commands.

A status tells the gateway what to do: 2xx is done, 4xx is looked at by a person, 5xx is sent again.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from http import HTTPStatus

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from schemas import ProblemCode
from schemas.http import RequestCode
from worker.errors import ConfigurationError, TransientError
from worker.gateways.bridge import WEBHOOK_MAX_BYTES, Bridge, Endpoint, Received, UnreadableBodyError
from worker.gateways.mapped import Reason
from worker.gateways.signatures import SignatureError
from worker.http.app import LIVE_PATH, READY_PATH, MeasuredRequests, response_of
from worker.http.problems import Problem
from worker.metrics import Metrics
from worker.runtime import log_fields
from worker.runtime.cached_value import CachedValue, Unknown
from worker.runtime.limited_log import LimitedLog
from worker.runtime.log_fields import LogEvent

log = logging.getLogger(__name__)

_JSON = "application/json"
_PUBLISHED, _UNAVAILABLE = "published", "unavailable"


@dataclass(frozen=True, slots=True)
class WebhookDoor:
    """Parts that the application works with; ``readiness`` is known while the broker answers."""

    bridge: Bridge
    endpoints: Sequence[Endpoint]
    readiness: CachedValue[None]
    metrics: Metrics
    is_stopping: Callable[[], bool]

    def paths(self) -> Mapping[str, Endpoint]:
        """Return the endpoints by their paths."""
        return {f"/webhooks/{endpoint.gateway}": endpoint for endpoint in self.endpoints}


def create_webhooks_app(door: WebhookDoor) -> Flask:
    """Return the WSGI application: a POST for each gateway, and the health of the process."""
    app = Flask("worker.http.webhooks", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = WEBHOOK_MAX_BYTES
    app.url_map.merge_slashes = False
    MeasuredRequests(door.metrics).follow(app)
    refusals = LimitedLog(log, logging.WARNING)
    for path, endpoint in door.paths().items():
        _add(app, "POST", path, partial(_receive, door, endpoint, refusals))
    _add(app, "GET", LIVE_PATH, lambda: _health(HTTPStatus.OK, "live"))
    _add(app, "GET", READY_PATH, partial(_ready, door))
    app.register_error_handler(HTTPException, partial(_on_http_error, sorted(door.paths())))
    app.register_error_handler(Exception, _on_fault)
    return app


def _add(app: Flask, method: str, path: str, view: Callable[[], Response]) -> None:
    app.add_url_rule(path, path, view, methods=[method], provide_automatic_options=False)


# -- webhooks ---------------------------------------------------------------------------------------------


def _receive(door: WebhookDoor, endpoint: Endpoint, refusals: LimitedLog) -> Response:
    count = partial(_count, door.metrics, endpoint)
    body = request.get_data(cache=False)
    try:
        received = door.bridge.receive(endpoint, request.headers.get(endpoint.scheme.header), body)
    except SignatureError as error:
        count("unverified", error.code)
        refusals.add(error.code, f"{endpoint.gateway}: a webhook is refused: {error}")
        return _refused(error.code, str(error), endpoint.scheme.header)
    except UnreadableBodyError as error:
        count("other", Reason.MALFORMED)
        log.warning("%s: a webhook is refused: %s", endpoint.gateway, error)
        return _refused(ProblemCode.MALFORMED, str(error))
    if (reason := received.mapped.reason) is not None:
        return _without_commands(endpoint, received, reason, count)
    return _publish(door.bridge, endpoint, received, count)


def _publish(
    bridge: Bridge, endpoint: Endpoint, received: Received, count: Callable[[str, str], None]
) -> Response:
    commands = received.mapped.commands
    try:
        bridge.publish(commands)
    except (TransientError, ConfigurationError) as error:
        count(received.type, _UNAVAILABLE)
        log.warning("%s: %s is not published and must come again: %s", endpoint.gateway, received.type, error)
        detail = "The broker has not taken the commands of this event; send it again."
        return response_of(Problem(HTTPStatus.SERVICE_UNAVAILABLE, ProblemCode.UNAVAILABLE, detail))
    count(received.type, _PUBLISHED)
    published = [{"type": command.type, "referenceId": command.reference_id} for command in commands]
    for command in commands:
        extra = log_fields.fields(LogEvent.WEBHOOK, type=command.type, reference_id=command.reference_id)
        text = "%s: %s published %s"
        log.info(text, endpoint.gateway, received.type, command.reference_id, extra=extra)
    return _answer({"result": _PUBLISHED, "commands": published})


def _without_commands(
    endpoint: Endpoint, received: Received, reason: Reason, count: Callable[[str, str], None]
) -> Response:
    detail = received.mapped.detail
    count(received.type, reason)
    level = logging.WARNING if reason.needs_attention else logging.INFO
    extra = log_fields.fields(LogEvent.WEBHOOK, code=reason)
    text = "%s: %s gives no command (%s): %s"
    log.log(level, text, endpoint.gateway, received.type, reason, detail, extra=extra)
    if reason is Reason.MALFORMED:
        return response_of(Problem(HTTPStatus.UNPROCESSABLE_ENTITY, ProblemCode.MALFORMED, detail))
    return _answer({"result": "ignored", "reason": reason, "detail": detail})


def _count(metrics: Metrics, endpoint: Endpoint, type_: str, result: str) -> None:
    metrics.webhooks.labels(endpoint.gateway, type_, result).inc()


def _refused(code: StrEnum, detail: str, field: str | None = None) -> Response:
    return response_of(Problem(HTTPStatus.BAD_REQUEST, code, detail, field))


def _answer(fields: Mapping[str, object]) -> Response:
    response = Response(json.dumps(fields), mimetype=_JSON)
    response.headers["Cache-Control"] = "no-store"
    return response


# -- beside the webhooks ----------------------------------------------------------------------------------


def _ready(door: WebhookDoor) -> Response:
    """Say whether webhooks should come here: not while the broker doesn't answer, nor while it stops."""
    if door.is_stopping():
        return _health(HTTPStatus.SERVICE_UNAVAILABLE, "stopping")
    if isinstance(door.readiness.get(), Unknown):
        return _health(HTTPStatus.SERVICE_UNAVAILABLE, "the broker doesn't answer")
    return _health(HTTPStatus.OK, "ready")


def _health(status: HTTPStatus, state: str) -> Response:
    response = _answer({"state": state})
    response.status_code = status
    return response


def _on_http_error(paths: Sequence[str], error: HTTPException) -> Response:
    match error:
        case NotFound():
            known = ", ".join(paths)
            detail = (
                f"There is no such path; there are {known}. A gateway needs its table in the configuration."
            )
            return response_of(Problem(HTTPStatus.NOT_FOUND, RequestCode.NOT_FOUND, detail))
        case MethodNotAllowed():
            allowed = ", ".join(sorted(error.valid_methods or ()))
            detail = f"Only {allowed} here."
            return response_of(
                Problem(
                    HTTPStatus.METHOD_NOT_ALLOWED,
                    RequestCode.METHOD_NOT_ALLOWED,
                    detail,
                    headers=(("Allow", allowed),),
                )
            )
        case _:
            status = HTTPStatus(error.code or HTTPStatus.BAD_REQUEST)
            return response_of(Problem(status, ProblemCode.MALFORMED, error.description or status.phrase))


def _on_fault(error: Exception) -> Response:
    log.error("%s met a fault", request.path, exc_info=error)
    detail = "The bridge failed on this webhook; operators have it in the log. Send it again."
    return response_of(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, ProblemCode.UNPROCESSABLE, detail))
