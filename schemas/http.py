"""Routes of the HTTP door.

Each is a query by its path, with its answer and the scope of a token that may ask it. Nothing is served here.
The routes follow from the queries: a new query is a new route.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, get_args

from schemas.answers import BaseAnswer, ProblemCode, QueryAnswer
from schemas.queries import QUERY_TYPES, Query

#: Content type of an error (RFC 9457), and the path of this door's own description.
PROBLEM_TYPE: Final = "application/problem+json"
DESCRIPTION_PATH: Final = "/openapi.json"


class TokenScope(StrEnum):
    """Right of a bearer token."""

    ACCOUNTS = "accounts"  #: everything about single accounts, their operations and the catalog
    STATS = "stats"  #: totals of all accounts


@dataclass(frozen=True, slots=True)
class Route:
    """One ``GET`` of the door. Its parameters are the query's fields as on the wire, without ``type``."""

    path: str
    query: type[Query]
    answer: type[BaseAnswer]
    scope: TokenScope


#: Status of each problem; a problem of a later version is a 500.
STATUS_OF: Final[Mapping[ProblemCode, int]] = {
    ProblemCode.MALFORMED: 400,
    ProblemCode.NOT_ALLOWED: 403,
    ProblemCode.ACCOUNT_NOT_FOUND: 404,
    ProblemCode.SEQUENCE_NOT_REACHED: 409,
    ProblemCode.UNPROCESSABLE: 500,
    ProblemCode.UNAVAILABLE: 503,
}


class RequestCode(StrEnum):
    """Codes of problems that only a request over HTTP can have; those of queries are ``ProblemCode``."""

    UNAUTHENTICATED = "unauthenticated"  #: no token, or none that is known
    NOT_FOUND = "not_found"  #: no such path
    METHOD_NOT_ALLOWED = "method_not_allowed"  #: anything but GET and HEAD
    TOO_MANY_REQUESTS = "too_many_requests"  #: too many that read much, at once


#: Status of each problem of a request.
STATUS_OF_REQUEST: Final[Mapping[RequestCode, int]] = {
    RequestCode.UNAUTHENTICATED: 401,
    RequestCode.NOT_FOUND: 404,
    RequestCode.METHOD_NOT_ALLOWED: 405,
    RequestCode.TOO_MANY_REQUESTS: 429,
}

_ANSWERS: Final = {model.model_fields["type"].default: model for model in get_args(QueryAnswer)}
_SCOPES: Final = {"stats": TokenScope.STATS}


def _route(type_: str, query: type[Query]) -> Route:
    name = type_.removeprefix("query.")
    return Route(f"/v1/{name}", query, _ANSWERS[f"answer.{name}"], _SCOPES.get(name, TokenScope.ACCOUNTS))


#: Every route by its path.
ROUTES: Final[Mapping[str, Route]] = {
    route.path: route for route in (_route(type_, query) for type_, query in QUERY_TYPES.items())
}
