"""Access by bearer token (RFC 6750): a known token, and one whose scopes hold the route's."""

import logging
import re
from http import HTTPStatus

from schemas import ProblemCode
from schemas.http import RequestCode, TokenScope
from worker.errors import ConfigurationError
from worker.http.problems import Problem, ProblemError, problem_of, request_problem
from worker.http.tokens import Token, Tokens
from worker.runtime.limited_log import LimitedLog

log = logging.getLogger(__name__)

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.ASCII | re.IGNORECASE)
_REALM = 'Bearer realm="billing-worker"'


class Access:
    """Judges the ``Authorization`` header of requests by the ``tokens`` in a file."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._log = LimitedLog(log, logging.ERROR)

    def require(self, authorization: str | None, scope: TokenScope) -> Token:
        """Return the token of a request that may use ``scope``. Raises ProblemError: 401, 403 or 503."""
        if authorization is None:
            raise _unauthenticated("Send a token: Authorization: Bearer …", _REALM)
        given = _BEARER.fullmatch(authorization.strip(" "))
        token = None if given is None else self._find(given[1])
        if token is None:
            raise _unauthenticated(
                "The token is not known: it is misspelt, of another server, or was removed.",
                f'{_REALM}, error="invalid_token"',
            )
        if scope not in token.scopes:
            raise _forbidden(token, scope)
        return token

    def _find(self, secret: str) -> Token | None:
        """Return the token; while the file can't be used nobody gets in, and the log says why."""
        try:
            return self._tokens.find(secret)
        except ConfigurationError as error:
            self._log.add("tokens", str(error))
            raise ProblemError(
                problem_of(ProblemCode.UNAVAILABLE, "The file of tokens can't be used; operators see why.")
            ) from error


def _unauthenticated(detail: str, challenge: str) -> ProblemError:
    challenged = ("WWW-Authenticate", challenge)
    return ProblemError(request_problem(RequestCode.UNAUTHENTICATED, detail, challenged))


def _forbidden(token: Token, scope: TokenScope) -> ProblemError:
    has = ", ".join(sorted(token.scopes))
    detail = f"The token {token.name!r} has the scope {has}; this needs {scope}. Use a token that has it."
    challenge = f'{_REALM}, error="insufficient_scope", scope="{scope}"'
    headers = (("WWW-Authenticate", challenge),)
    return ProblemError(Problem(HTTPStatus.FORBIDDEN, ProblemCode.NOT_ALLOWED, detail, headers=headers))
