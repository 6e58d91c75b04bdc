"""Answers to queries: many at once, each query type by one function, from one snapshot of the ledger."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import assert_never

from sqlalchemy import Connection

from schemas import (
    OperationAnswer,
    ProblemCode,
    Query,
    QueryAfford,
    QueryAnswer,
    QueryBalance,
    QueryCatalog,
    QueryHistory,
    QueryOperation,
    QueryProblem,
    QueryStats,
    QueryUsage,
)
from schemas.answers import AccountAnswer
from schemas.queries import AccountQuery
from worker.catalog import Catalog
from worker.core import Outcome
from worker.core.replies import reply_about
from worker.errors import NotFoundError, QueryError, TransientError, UnsupportedStatementError
from worker.ledger.queries.balances import balance_at, balance_of
from worker.ledger.queries.outcomes import stored_outcomes
from worker.ledger.queries.posted import PostedState, posted_states, state_to_open
from worker.ledger.queries.snapshots import no_account, snapshot
from worker.queries.accounts import afford_answer, balance_answer
from worker.queries.reports import catalog_answer, history_answer, stats_answer, usage_answer
from worker.queries.sources import ReadSource, Sources

log = logging.getLogger(__name__)

#: Time that a replica has to catch up with what a query must know; then the primary is asked.
_CATCH_UP_S = 0.02

#: Queries that are answered together: a fixed number of statements for any number of them.
TOGETHER = (QueryBalance, QueryAfford, QueryOperation, QueryCatalog)


class QueryService:
    """Answers queries from ``sources`` by the rules of ``catalog``. ``sleep`` waits so many seconds."""

    def __init__(
        self,
        sources: Sources,
        catalog: Catalog,
        *,
        clock: Callable[[], datetime],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sources, self._catalog = sources, catalog
        self._clock, self._sleep = clock, sleep

    def use(self, catalog: Catalog) -> None:
        """Answer by another catalog; what is being answered from one snapshot keeps its own."""
        self._catalog = catalog

    def answer(self, queries: Sequence[Query]) -> list[QueryAnswer]:
        """Return an answer or a problem for each of ``queries``, in their order.

        Those of ``TOGETHER`` are true for one moment. Raises LedgerUnavailableError where the database
        doesn't answer.
        """
        answers = self._from(self._sources.usual(), queries)
        stale = _stale(queries, answers)
        if stale and self._sources.has_replica:
            self._sleep(_CATCH_UP_S)
            for source in (self._sources.usual, self._sources.primary):
                again = self._from(source(), [queries[place] for place in stale])
                for place, answer in zip(stale, again, strict=True):
                    answers[place] = answer
                stale = _stale(queries, answers)
        for place in stale:
            answers[place] = self._not_reached(queries[place], answers[place])
        return answers

    def close(self) -> None:
        """Close all connections."""
        self._sources.close()

    def _from(self, source: ReadSource, queries: Sequence[Query]) -> list[QueryAnswer]:
        """Answer those that read by key from one snapshot, and each report from its own."""
        together = [place for place, query in enumerate(queries) if isinstance(query, TOGETHER)]
        reports = [place for place, query in enumerate(queries) if not isinstance(query, TOGETHER)]
        answers: dict[int, QueryAnswer] = {}
        for places in (together, *([place] for place in reports)):
            found = self._together(source, [queries[place] for place in places])
            answers.update(zip(places, found, strict=True))
        return [answers[place] for place in range(len(queries))]

    def _together(self, source: ReadSource, queries: Sequence[Query]) -> list[QueryAnswer]:
        """Answer from one snapshot; where one query meets a fault of ours, each from its own."""
        if not queries:
            return []
        database = source.database
        engine = database.by_key if isinstance(queries[0], TOGETHER) else database.reports
        try:
            with snapshot(engine) as connection:
                return _Answering(connection, source.as_of, self._clock(), self._catalog).answer(queries)
        except (TransientError, UnsupportedStatementError):
            raise
        except Exception as fault:
            if len(queries) > 1:
                return [answer for query in queries for answer in self._together(source, [query])]
            log.exception("a %s met a fault (%s)", queries[0].type, type(fault).__name__)
            return [
                problem(
                    ProblemCode.UNPROCESSABLE,
                    "The reader failed on this query; operators have it in the log.",
                    self._clock(),
                    queries[0],
                )
            ]

    @staticmethod
    def _not_reached(query: Query, answer: QueryAnswer) -> QueryProblem:
        wanted = query.min_sequence if isinstance(query, AccountQuery) else None
        has = f"is at {answer.sequence}" if isinstance(answer, AccountAnswer) else "is not there yet"
        text = f"The account {has}, and minSequence is {wanted}; ask again, or with a lower one."
        return problem(ProblemCode.SEQUENCE_NOT_REACHED, text, answer.as_of, query, "minSequence")


def problem(
    code: ProblemCode, message: str, as_of: datetime, query: Query | None = None, field: str | None = None
) -> QueryProblem:
    """Return the reason why ``query`` has no answer."""
    return QueryProblem(
        as_of=as_of,
        code=code,
        message=message,
        query=None if query is None else query.type,
        user_id=query.user_id if isinstance(query, AccountQuery) else None,
        field=field,
    )


def _stale(queries: Sequence[Query], answers: Sequence[QueryAnswer]) -> list[int]:
    """Return the places of answers that don't know what their queries say they must."""
    return [
        place
        for place, (query, answer) in enumerate(zip(queries, answers, strict=True))
        if isinstance(query, AccountQuery) and query.min_sequence and not _knows(answer, query.min_sequence)
    ]


def _knows(answer: QueryAnswer, sequence: int) -> bool:
    if isinstance(answer, QueryProblem):
        return answer.code != ProblemCode.ACCOUNT_NOT_FOUND
    return isinstance(answer, AccountAnswer) and answer.sequence >= sequence


class _Answering:
    """Answers from one open snapshot."""

    def __init__(self, connection: Connection, as_of: datetime, now: datetime, catalog: Catalog) -> None:
        self._connection, self._as_of, self._now, self._catalog = connection, as_of, now, catalog
        self._accounts: Mapping[str, PostedState] = {}
        self._outcomes: Mapping[str, Outcome] = {}

    def answer(self, queries: Sequence[Query]) -> list[QueryAnswer]:
        """Read what several queries need together, then answer one by one."""
        users = {
            query.user_id
            for query in queries
            if isinstance(query, QueryAfford) or (isinstance(query, QueryBalance) and query.at is None)
        }
        references = {query.reference_id for query in queries if isinstance(query, QueryOperation)}
        self._accounts = posted_states(self._connection, users, self._now)
        self._outcomes = stored_outcomes(self._connection, references)
        return [self._answered(query) for query in queries]

    def _answered(self, query: Query) -> QueryAnswer:
        try:
            return self._one(query)
        except NotFoundError as error:
            return problem(ProblemCode.ACCOUNT_NOT_FOUND, _sentence(error), self._as_of, query)
        except QueryError as error:
            return problem(ProblemCode.MALFORMED, _sentence(error), self._as_of, query, error.field)

    def _one(self, query: Query) -> QueryAnswer:
        match query:
            case QueryBalance(at=None):
                balance = balance_of(self._posted(query.user_id), self._now, self._catalog)
                return balance_answer(balance, self._as_of)
            case QueryBalance(at=at):
                assert at is not None  # noqa: S101 - the case above
                return balance_answer(
                    balance_at(self._connection, query.user_id, at, self._catalog), self._as_of
                )
            case QueryAfford():
                posted = self._to_use(query.user_id)
                return afford_answer(query, posted, self._now, self._as_of, self._catalog)
            case QueryHistory():
                return history_answer(self._connection, query, self._as_of)
            case QueryUsage():
                return usage_answer(self._connection, query, self._now, self._as_of)
            case QueryStats():
                return stats_answer(self._connection, self._as_of)
            case QueryOperation(reference_id=reference_id):
                return self._operation(reference_id)
            case QueryCatalog():
                return catalog_answer(self._catalog, self._as_of)
            case _:
                assert_never(query)

    def _posted(self, user_id: str) -> PostedState:
        found = self._accounts.get(user_id)
        if found is None:
            raise no_account(user_id)
        return found

    def _to_use(self, user_id: str) -> PostedState:
        """Return the state that a usage would find; it may open the account first."""
        if user_id in self._accounts or self._catalog.auto_open is None:
            return self._posted(user_id)
        return state_to_open(user_id, self._catalog.auto_open, self._now)

    def _operation(self, reference_id: str) -> OperationAnswer:
        outcome = self._outcomes.get(reference_id)
        return OperationAnswer(
            as_of=self._as_of,
            reference_id=reference_id,
            is_known=outcome is not None,
            reply=None if outcome is None else reply_about(outcome, duplicate=True),
        )


def _sentence(error: Exception) -> str:
    """Return the text of an error as a sentence."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
