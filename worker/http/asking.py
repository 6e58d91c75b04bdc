"""Asking the ledger for the threads of a server, a few at a time, through outages of the database."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Protocol

from schemas import ProblemCode, Query, QueryAnswer
from worker.errors import BillingError, LedgerUnavailableError
from worker.http.permits import NoPermitError, Permits
from worker.http.problems import Problem, ProblemError, RequestCode, problem_of
from worker.queries.service import TOGETHER
from worker.runtime.backoff import Outage

log = logging.getLogger(__name__)

#: Seconds that a request waits for others.
WAIT_S = 1.0
_UNAVAILABLE = "The ledger's database does not answer; ask again."
_TOO_MANY = "Too many reports (history, usage, statistics) are asked for at once; ask again."


class AnswersQueries(Protocol):
    """Source of answers."""

    def answer(self, queries: Sequence[Query]) -> list[QueryAnswer]:
        """Return an answer or a problem for each query. Raises BillingError."""
        ...


class Asker:
    """Asks ``service``, at most ``at_once`` queries at a time; ``on_outage`` is called once an outage.

    A database that hangs must not take all threads of the server, and reports, which may read much, must
    leave room for the others: they get half of it.
    """

    def __init__(
        self,
        service: AnswersQueries,
        at_once: int,
        on_outage: Callable[[], None],
        *,
        wait_s: float = WAIT_S,
    ) -> None:
        self._service = service
        self._permits, self._reports = Permits(at_once, wait_s), Permits(max(1, at_once // 2), wait_s)
        self._outage = Outage(
            "database", "requests are told so until it is back", on_begin=on_outage, logger=log
        )
        self._is_away = False
        self._lock = threading.Lock()

    def ask(self, query: Query) -> QueryAnswer:
        """Return the answer or the problem. Raises ProblemError where the ledger doesn't answer, or is busy.

        The text of an outage goes to the log: it may name servers, which are no caller's business.
        """
        if isinstance(query, TOGETHER):
            return self._ask(query)
        with self._a_report():
            return self._ask(query)

    @contextmanager
    def _a_report(self) -> Iterator[None]:
        try:
            with self._reports.one():
                yield
        except NoPermitError as error:
            problem = Problem(HTTPStatus.TOO_MANY_REQUESTS, RequestCode.TOO_MANY_REQUESTS, _TOO_MANY)
            raise ProblemError(problem) from error

    def _ask(self, query: Query) -> QueryAnswer:
        try:
            with self._permits.one():
                (answer,) = self._service.answer([query])
        except NoPermitError as error:
            why = LedgerUnavailableError("all requests that may ask the ledger at a time wait for it")
            raise self._unavailable(why) from error
        except BillingError as error:
            raise self._unavailable(error) from error
        if self._is_away:
            with self._lock:
                self._is_away = False
                self._outage.ended()
        return answer

    def _unavailable(self, error: BillingError) -> ProblemError:
        with self._lock:
            self._is_away = True
            self._outage.began(error)
        return ProblemError(problem_of(ProblemCode.UNAVAILABLE, _UNAVAILABLE))
