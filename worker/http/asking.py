"""Asking the ledger one query, a few at a time, through outages of the database."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from schemas import ProblemCode, Query, QueryAnswer
from worker.errors import BillingError
from worker.http.permits import Permits
from worker.http.problems import ProblemError, problem_of
from worker.runtime.backoff import Outage

log = logging.getLogger(__name__)

_UNAVAILABLE = "The ledger's database does not answer; ask again."


class AnswersQueries(Protocol):
    """Source of answers."""

    def answer(self, queries: Sequence[Query]) -> list[QueryAnswer]:
        """Return an answer or a problem for each query. Raises BillingError."""
        ...


class Asker:
    """Asks ``service`` for the threads of a server. ``on_outage`` is called once an outage."""

    def __init__(self, service: AnswersQueries, permits: Permits, on_outage: Callable[[], None]) -> None:
        self._service, self._permits = service, permits
        self._outage = Outage(
            "database", "requests are told so until it is back", on_begin=on_outage, logger=log
        )
        self._is_away = False
        self._lock = threading.Lock()

    def ask(self, query: Query) -> QueryAnswer:
        """Return the answer or the problem. Raises ProblemError where the ledger doesn't answer.

        The error's own text goes to the log: it may name servers, which are no caller's business.
        """
        try:
            with self._permits.one():
                (answer,) = self._service.answer([query])
        except BillingError as error:
            with self._lock:
                self._is_away = True
                self._outage.began(error)
            raise ProblemError(problem_of(ProblemCode.UNAVAILABLE, _UNAVAILABLE)) from error
        if self._is_away:
            with self._lock:
                self._is_away = False
                self._outage.ended()
        return answer
