"""Reader: the loop that answers the queries of the broker, as many at once as have arrived.

A query moves nothing and is kept nowhere. What can't be answered gets a problem; what nobody can be told is
dropped. So a reader that dies loses nothing that its callers don't ask for again.
"""

import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from time import monotonic

from schemas import (
    QUERY_TYPES,
    Malformed,
    ProblemCode,
    Query,
    QueryAnswer,
    QueryOperation,
    QueryProblem,
    decode_query,
)
from worker.broker import BILLING, DIRECT_REPLY_TO, Delivery, Link
from worker.errors import BillingError
from worker.messages.origin import Origin, is_key_of, wrong_way
from worker.messages.outgoing import OutgoingAnswer, OutgoingDirectAnswer
from worker.messages.policy import Policy
from worker.messages.publishing import publish_direct
from worker.messages.tracing import trace_headers
from worker.metrics import Metrics, ProcessRole
from worker.queries.service import TOGETHER, QueryService, problem
from worker.runtime.backoff import Backoff, Outage
from worker.runtime.stop import Stop

log = logging.getLogger(__name__)

#: Most queries that are answered together, and the longest wait for the first of them.
_MOST, _LISTEN_S = 200, 0.5
#: Queries that a reader holds: two rounds.
PREFETCH = 2 * _MOST
_RETRY_FIRST_S, _RETRY_MOST_S = 0.2, 10.0


class QueryReader:
    """Answers what the links of ``connect`` receive. Several may run.

    ``turned`` is called with each group of queries: a slow ledger may take long for many.
    """

    def __init__(
        self,
        connect: Callable[[], Link],
        service: QueryService,
        policy: Policy,
        *,
        clock: Callable[[], datetime],
        rng: random.Random,
        metrics: Metrics,
        turned: Callable[[], None] = lambda: None,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._connect, self._service, self._policy = connect, service, policy
        self._clock, self._metrics, self._seconds = clock, metrics, seconds
        self._backoff = Backoff(_RETRY_FIRST_S, _RETRY_MOST_S, rng)
        self._broker = self._outage("broker", "queries wait until it is back, or expire")
        self._database = self._outage("database", "queries are told so until it is back")
        self._turned = turned
        self._link: Link | None = None

    @property
    def obstacle(self) -> str | None:
        """Reason why it answers nothing now; None while it does. Any thread may ask."""
        if away := [outage.server for outage in (self._broker, self._database) if outage.lasts]:
            return f"the {' and the '.join(away)} is away"
        return "it consumes nothing yet" if self._link is None else None

    def run(self, stop: Stop) -> None:
        """Answer until ``stop``, through outages of either server."""
        try:
            while not stop.requested:
                try:
                    self._round()
                except BillingError as error:
                    self._broker.began(error)
                    self._close()
                    stop.wait(self._backoff.next())
                else:
                    self._broker.ended()
                    self._backoff.reset()
        finally:
            self._close()
            self._service.close()

    def _round(self) -> None:
        """Answer what has arrived: first all that one snapshot answers, then the others one by one."""
        if self._link is None:
            self._link = self._connect()
        link, deliveries = self._link, self._link.receive(_MOST, _LISTEN_S)
        if not deliveries:
            return
        asked = [(delivery, query_in(delivery, self._policy, self._clock())) for delivery in deliveries]
        quick = [pair for pair in asked if isinstance(pair[1], (QueryProblem, *TOGETHER))]
        slow = [pair for pair in asked if not isinstance(pair[1], (QueryProblem, *TOGETHER))]
        for group in (quick, *([pair] for pair in slow)):
            if group:
                self._turned()
                self._answer(link, group)

    def _answer(self, link: Link, asked: Sequence[tuple[Delivery, Query | QueryProblem]]) -> None:
        began = self._seconds()
        answers = iter(self._answers([query for _, query in asked if not isinstance(query, QueryProblem)]))
        sent: list[OutgoingAnswer] = []
        for delivery, query in asked:
            answer = query if isinstance(query, QueryProblem) else next(answers)
            outgoing = answer_to(delivery, answer, self._policy)
            self._count(query, answer, is_sent=outgoing is not None)
            if outgoing is not None:
                sent.append(outgoing)
        direct = [one for one in sent if isinstance(one, OutgoingDirectAnswer)]
        publish_direct(link, direct)
        if len(sent) > len(direct):
            link.publish([one for one in sent if one.mandatory])
        link.acknowledge([delivery for delivery, _ in asked])
        self._metrics.query_seconds.observe(self._seconds() - began)

    def _answers(self, queries: Sequence[Query]) -> Sequence[QueryAnswer]:
        """Return the answers; in an outage of the database, problems at once: a caller doesn't wait."""
        if not queries:
            return ()
        try:
            answers = self._service.answer(queries)
        except BillingError as error:
            self._database.began(error)
            text = "The ledger's database does not answer; ask again."
            now = self._clock()
            return [problem(ProblemCode.UNAVAILABLE, text, now, query) for query in queries]
        self._database.ended()
        return answers

    def _count(self, query: Query | QueryProblem, answer: QueryAnswer, *, is_sent: bool) -> None:
        named = query.query if isinstance(query, QueryProblem) else query.type
        type_ = named if named in QUERY_TYPES else "unknown"  # any sender may invent one
        outcome = str(answer.code) if isinstance(answer, QueryProblem) else "answered"
        self._metrics.queries.labels(type_, outcome if is_sent else "unaddressed").inc()

    def _outage(self, server: str, while_away: str) -> Outage:
        return Outage(server, while_away, **self._metrics.notes(ProcessRole.READER, server), logger=log)

    def _close(self) -> None:
        if self._link is not None:
            with suppress(BillingError):
                self._link.close()
        self._link = None


def query_in(delivery: Delivery, policy: Policy, now: datetime) -> Query | QueryProblem:
    """Return the query in ``delivery``, or the problem that refuses it; never raises."""
    if delivery.unreadable is not None:
        return problem(ProblemCode.MALFORMED, "The query's properties can't be parsed.", now)
    decoded = decode_query(delivery.body, limits=policy.limits)
    if isinstance(decoded, Malformed):
        return QueryProblem(
            as_of=now,
            code=ProblemCode.MALFORMED,
            message=decoded.message,
            query=decoded.type,
            user_id=decoded.user_id,
            field=decoded.field,
        )
    refused = _refused_way(delivery, decoded, policy, now) or _refused_sender(delivery, decoded, policy, now)
    return refused or decoded


def _refused_way(delivery: Delivery, query: Query, policy: Policy, now: datetime) -> QueryProblem | None:
    """Return the problem of a query that walked past the rights on the exchange and its routing keys."""
    way = wrong_way(delivery, Origin(None, None), policy.topology)
    if way is not None:
        text = f"A {query.type} came {way}; publish it to the exchange {policy.topology.exchange!r}."
        return problem(ProblemCode.NOT_ALLOWED, text, now, query)
    if not is_key_of(delivery.routing_key, query.type):
        text = f"A {query.type} came with the routing key {delivery.routing_key!r}; they must be equal."
        return problem(ProblemCode.MALFORMED, text, now, query, "type")
    return None


def _refused_sender(delivery: Delivery, query: Query, policy: Policy, now: datetime) -> QueryProblem | None:
    """Return the problem of a sender that may not ask this, or not about this reference.

    Nobody publishes a query again: who asks is who published it.
    """
    sender = delivery.text("user_id")
    prefix = policy.prefix_of_references(query.type, sender)
    who = "An anonymous user" if sender is None else repr(sender)
    if prefix is None:
        return problem(ProblemCode.NOT_ALLOWED, f"{who} may not send {query.type}.", now, query, "type")
    if isinstance(query, QueryOperation) and not query.reference_id.startswith(prefix):
        text = f"{who} may ask about references that begin with {prefix!r} only."
        return problem(ProblemCode.NOT_ALLOWED, text, now, query, "referenceId")
    return None


def answer_to(delivery: Delivery, answer: QueryAnswer, policy: Policy) -> OutgoingAnswer | None:
    """Return ``answer`` addressed as the query asks; None where it names no address that it may.

    An answer never goes to the default queue: its reader waits for replies.
    """
    address = delivery.text("reply_to")
    if address is None or not policy.allows_reply_to(address, delivery.text("user_id")):
        return None
    if address == policy.reply_queue:
        return None
    kind = OutgoingDirectAnswer if address.startswith(DIRECT_REPLY_TO) else OutgoingAnswer
    correlation = delivery.text("correlation_id") or delivery.text("message_id")
    return kind(
        body=answer.to_json(),
        exchange="",
        routing_key=address,
        properties={
            "content_type": "application/json",
            "type": "billing.answer",
            "app_id": "billing-worker",
            "correlation_id": correlation,
            "message_id": correlation,
        },
        headers=trace_headers(delivery),
    )


#: The queue that readers consume.
QUEUE = BILLING.queries.name
