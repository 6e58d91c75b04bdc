"""Errors as problems (RFC 9457): JSON with a status, a stable code, and a text that names the way out."""

import json
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from schemas import Malformed, ProblemCode, QueryProblem
from schemas.http import PROBLEM_TYPE, STATUS_OF, STATUS_OF_REQUEST, RequestCode

#: Seconds after which a caller may ask again, of the statuses for which that helps.
_RETRY_AFTER_S = {
    HTTPStatus.CONFLICT: 1,
    HTTPStatus.TOO_MANY_REQUESTS: 1,
    HTTPStatus.SERVICE_UNAVAILABLE: 2,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Problem of a request. ``field`` names the parameter; ``headers`` go with the response."""

    status: HTTPStatus
    code: StrEnum
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


def problem_of(code: ProblemCode, detail: str, field: str | None = None) -> Problem:
    """Return the problem of a query.

    ``sequence_not_reached`` is a conflict (409), not "unavailable" (503): what is asked for isn't there yet,
    and no other server has it. A 503 would take a good server out of a load balancer.
    """
    return Problem(HTTPStatus(STATUS_OF[code]), code, detail, field)


def request_problem(code: RequestCode, detail: str, *headers: tuple[str, str]) -> Problem:
    """Return the problem of a request, whatever it asks."""
    return Problem(HTTPStatus(STATUS_OF_REQUEST[code]), code, detail, headers=headers)


def unanswered(problem: QueryProblem) -> Problem:
    """Return the problem of a query that has no answer."""
    return problem_of(ProblemCode(problem.code), problem.message, problem.field)


def malformed(refused: Malformed) -> Problem:
    """Return the problem of parameters that are no query."""
    return problem_of(ProblemCode.MALFORMED, refused.message, refused.field)
