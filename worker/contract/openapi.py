"""Description of the HTTP door: ``openapi.json`` (OpenAPI 3.1)."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from schemas import SCHEMA_VERSION, ProblemCode
from schemas.http import (
    DESCRIPTION_PATH,
    PROBLEM_TYPE,
    ROUTES,
    STATUS_OF,
    STATUS_OF_REQUEST,
    RequestCode,
    Route,
)
from worker.contract.bundle import definitions, reachable
from worker.contract.codes import PROBLEM_CODES, REQUEST_CODES
from worker.contract.schema import DEFINITIONS, Schema, enum_of, ref, without_null

_COMPONENTS: Final = "#/components/schemas/"
_PROBLEM: Final = "Problem"
_BEARER: Final = "bearer"

#: Statuses that name a time after which it helps to ask again.
_PASSING: Final = (HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


def openapi() -> dict[str, Any]:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "billing-worker, queries over HTTP",
            "version": str(SCHEMA_VERSION),
            "description": (
                "Reads what the ledger knows; the same questions and answers go over the broker. A parameter "
                "is given at most once, and an unknown one is refused. Amounts are whole numbers that may "
                "exceed 2^53. Pass over fields and codes that you don't know. Any other path is a 404 "
                f"(`{RequestCode.NOT_FOUND}`), any other method than GET and HEAD a 405 "
                f"(`{RequestCode.METHOD_NOT_ALLOWED}`). A request that is too long, or none of HTTP/1.1, is "
                f"`{ProblemCode.MALFORMED}` with a status of its own."
            ),
        },
        "paths": {route.path: {"get": _operation(route)} for route in ROUTES.values()}
        | {DESCRIPTION_PATH: {"get": _description()}},
        "components": {
            "securitySchemes": {
                _BEARER: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Token of an operator, with the scopes that an operation names.",
                }
            },
            "headers": {
                "ETag": {"description": "Tag of this answer.", "schema": {"type": "string"}},
                "Retry-After": {
                    "description": "Seconds after which to ask again.",
                    "schema": {"type": "integer"},
                },
            },
            "responses": {
                _name_of(status): _problem_response(status)
                for status in sorted({*_statuses(), HTTPStatus.METHOD_NOT_ALLOWED})
            },
            "schemas": _schemas(),
        },
    }


def moved(document: Any) -> Any:
    """Return a document whose references to definitions lead to the components of this one."""
    if isinstance(document, list):
        return [moved(one) for one in document]
    if not isinstance(document, dict):
        return document
    here = {"$ref": document["$ref"].replace(DEFINITIONS, _COMPONENTS)} if "$ref" in document else {}
    return {name: moved(value) for name, value in document.items()} | here


def _operation(route: Route) -> dict[str, Any]:
    schema = definitions()[route.query.__name__]
    summary, _, rest = schema["description"].partition("\n\n")
    return {
        "operationId": route.path.rpartition("/")[2],
        "summary": summary,
        **({"description": rest} if rest else {}),
        "security": [{_BEARER: [route.scope.value]}],
        "parameters": list(_parameters(schema)),
        "responses": {
            "200": {
                "description": "The answer.",
                "headers": {"ETag": _header("ETag")},
                "content": {"application/json": {"schema": moved(ref(route.answer.__name__))}},
            },
            "304": {"description": "The answer is the one whose tag `If-None-Match` gives."},
            **{
                str(status.value): {"$ref": f"#/components/responses/{_name_of(status)}"}
                for status in _statuses()
            },
        },
    }


def _parameters(schema: Schema) -> Iterable[dict[str, Any]]:
    for name, value in schema["properties"].items():
        if name == "type":
            continue
        yield {
            "name": name,
            "in": "query",
            "required": name in schema["required"],
            "schema": moved(without_null(value)),
        }
    yield {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "description": "The `ETag` of the answer that the caller has.",
        "schema": {"type": "string"},
    }


def _description() -> dict[str, Any]:
    return {
        "operationId": "openapi",
        "summary": "Returns this document.",
        "security": [],
        "responses": {
            "200": {
                "description": "This document.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            }
        },
    }


# -- problems ---------------------------------------------------------------------------------------------


def _statuses() -> list[HTTPStatus]:
    """Return the statuses of problems that a ``GET`` of a route can have."""
    found = {*STATUS_OF.values(), *STATUS_OF_REQUEST.values()} - {HTTPStatus.METHOD_NOT_ALLOWED}
    return sorted(map(HTTPStatus, found))


def _name_of(status: HTTPStatus) -> str:
    return status.phrase.replace(" ", "")


def _header(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/headers/{name}"}


def _problem_response(status: HTTPStatus) -> dict[str, Any]:
    of_queries = [(code, PROBLEM_CODES[code]) for code in ProblemCode if STATUS_OF[code] == status]
    of_requests = [(code, REQUEST_CODES[code]) for code in RequestCode if STATUS_OF_REQUEST[code] == status]
    texts = [f"`{code}`: {entry.means}." for code, entry in (*of_queries, *of_requests)]
    return {
        "description": " ".join(texts),
        **({"headers": {"Retry-After": _header("Retry-After")}} if status in _PASSING else {}),
        "content": {PROBLEM_TYPE: {"schema": {"$ref": _COMPONENTS + _PROBLEM}}},
    }


def _problem() -> Schema:
    return {
        "description": "Error of a request (RFC 9457). `detail` is for people, `code` for programs.",
        "type": "object",
        "properties": {
            "type": {"type": "string", "format": "uri-reference", "default": "about:blank"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"anyOf": [ref(ProblemCode.__name__), enum_of(RequestCode), {"type": "string"}]},
            "field": {"description": "Parameter that is meant.", "type": "string"},
        },
        "required": ["title", "status", "detail", "code"],
        "additionalProperties": True,
    }


def _schemas() -> dict[str, Schema]:
    roots = [
        definitions()[model.__name__] for route in ROUTES.values() for model in (route.query, route.answer)
    ]
    used = set().union(*map(reachable, (*roots, _problem())))
    answers = {route.answer.__name__ for route in ROUTES.values()}
    found = {name: definitions()[name] for name in sorted(used | answers)}
    return dict(sorted(moved({**found, _PROBLEM: _problem()}).items()))
