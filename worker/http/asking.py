"""Asking the ledger for the threads of a server: together where that pays, and through outages."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from schemas import ProblemCode, Query, QueryAnswer, QueryBalance
from schemas.http import RequestCode
from worker.errors import BillingError, LedgerUnavailableError
from worker.http.permits import NoPermitError, Permits
from worker.http.problems import ProblemError, problem_of, request_problem
from worker.http.together import NoTurnError, Together
from worker.queries.service import TOGETHER
from worker.runtime.backoff import Outage

log = logging.getLogger(__name__)

#: Seconds that a request waits for others.
WAIT_S = 3.0
_UNAVAILABLE = "The ledger's database does not answer; ask again."
_TOO_MANY = "Too many reports (history, usage, statistics, the past) are asked for at once; ask again."


class AnswersQueries(Protocol):
    """Source of answers."""

    def answer(self, queries: Sequence[Query]) -> list[QueryAnswer]:
        """Return an answer or a problem for each query. Raises BillingError."""
        ...


class Asker:
    """Asks ``service`` for the threads of a server; ``on_outage`` is called once an outage.

    Queries that read by key go together. Reports, which may read much, are asked one by one, ``reports`` at a
    time. So a database that hangs, or a caller of many reports, leaves threads to say so.
    """

    def __init__(
        self,
        service: AnswersQueries,
        reports: int,
        on_outage: Callable[[], None],
        *,
        wait_s: float = WAIT_S,
    ) -> None:
        self._service = service
        self._together, self._reports = Together(self._answers, wait_s), Permits(reports, wait_s)
        self._outage = Outage(
            "database", "requests are told so until it is back", on_begin=on_outage, logger=log
        )
        self._is_away = False
        self._lock = threading.Lock()

    def ask(self, query: Query) -> QueryAnswer:
        """Return the answer or the problem. Raises ProblemError where the ledger doesn't answer, or is busy.

        The text of an outage goes to the log: it may name servers, which are no caller's business.
        """
        return self._ask_report(query) if _is_report(query) else self._ask_together(query)

    def _ask_report(self, query: Query) -> QueryAnswer:
        try:
            with self._reports.one():
                (answer,) = self._answers([query])
        except NoPermitError as error:
            problem = request_problem(RequestCode.TOO_MANY_REQUESTS, _TOO_MANY)
            raise ProblemError(problem) from error
        return answer

    def _ask_together(self, query: Query) -> QueryAnswer:
        try:
            return self._together.ask(query)
        except NoTurnError as error:
            why = LedgerUnavailableError("requests wait in vain for the one that asks the ledger")
            raise self._unavailable(why) from error

    def _answers(self, queries: Sequence[Query]) -> Sequence[QueryAnswer]:
        try:
            answers = self._service.answer(queries)
        except BillingError as error:
            raise self._unavailable(error) from error
        if self._is_away:
            with self._lock:
                self._is_away = False
                self._outage.ended()
        return answers

    def _unavailable(self, error: BillingError) -> ProblemError:
        with self._lock:
            self._is_away = True
            self._outage.began(error)
        return ProblemError(problem_of(ProblemCode.UNAVAILABLE, _UNAVAILABLE))


def _is_report(query: Query) -> bool:
    """Return True where the answer may read much: a past balance goes through the entries since then."""
    is_past = isinstance(query, QueryBalance) and query.at is not None
    return is_past or not isinstance(query, TOGETHER)
