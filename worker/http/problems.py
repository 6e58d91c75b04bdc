"""Errors as problems (RFC 9457): JSON with a status, a stable code, and a text that names the way out."""

import json
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from schemas import Malformed, ProblemCode, QueryProblem
from schemas.http import PROBLEM_TYPE, STATUS_OF

#: Seconds after which a caller may ask again, of the statuses for which that helps.
_RETRY_AFTER_S = {
    HTTPStatus.CONFLICT: 1,
    HTTPStatus.TOO_MANY_REQUESTS: 1,
    HTTPStatus.SERVICE_UNAVAILABLE: 2,
}


class RequestCode(StrEnum):
    """Codes of problems that only a request can have; those of queries are ``ProblemCode``."""

    UNAUTHENTICATED = "unauthenticated"  #: no token, or none that is known
    NOT_FOUND = "not_found"  #: no such path
    METHOD_NOT_ALLOWED = "method_not_allowed"  #: anything but GET and HEAD
    TOO_MANY_REQUESTS = "too_many_requests"  #: too many that read much, at once


@dataclass(frozen=True, slots=True)
class Problem:
    """Problem of a request. ``field`` names the parameter; ``headers`` go with the response."""

    status: HTTPStatus
    code: str
    detail: str
    field: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> bytes:
        """Return the body. It has no ``type``: that is "about:blank", and ``code`` says more."""
        fields: dict[str, Any] = {
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": self.detail,
            "code": self.code,
            "field": self.field,
        }
        present = {name: value for name, value in fields.items() if value is not None}
        return json.dumps(present, ensure_ascii=False).encode()

    def all_headers(self) -> dict[str, str]:
        """Return the headers of the response; a problem is never stored by a cache."""
        headers = {"Content-Type": PROBLEM_TYPE, "Cache-Control": "no-store", **dict(self.headers)}
        if (seconds := _RETRY_AFTER_S.get(self.status)) is not None:
            headers["Retry-After"] = str(seconds)
        return headers


class ProblemError(Exception):
    """Carries a problem to where it becomes the response."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def problem_of(code: ProblemCode | str, detail: str, field: str | None = None) -> Problem:
    """Return the problem of a query.

    ``sequence_not_reached`` is a conflict (409), not "unavailable" (503): what is asked for isn't there yet,
    and no other server has it. A 503 would take a good server out of a load balancer.
    """
    known = code in set(ProblemCode)
    status = STATUS_OF[ProblemCode(code)] if known else HTTPStatus.INTERNAL_SERVER_ERROR
    return Problem(HTTPStatus(status), str(code), detail, field)


def unanswered(problem: QueryProblem) -> Problem:
    """Return the problem of a query that has no answer."""
    return problem_of(problem.code, problem.message, problem.field)


def malformed(refused: Malformed) -> Problem:
    """Return the problem of parameters that are no query."""
    return problem_of(ProblemCode.MALFORMED, refused.message, refused.field)
