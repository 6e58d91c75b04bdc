"""Fake client for the unit tests of a Python producer: a ledger in memory, a clock to set.

It decides by the worker's own rules, on SQLite: what it replies and answers is what a worker would.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from uuid import uuid4

from schemas import Message, Query, QueryAnswer, Reply, commands_of
from schemas.trace import TRACEPARENT
from worker.broker import Delivery
from worker.catalog import Catalog, load_catalog
from worker.client import Lane, exchange_of, require_reply, trace_headers
from worker.core import Answer, decide
from worker.errors import BrokerUnavailableError
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.ledger.store import Ledger
from worker.messages.policy import Policy
from worker.messages.replies import Replies
from worker.queries import QueryService
from worker.queries.sources import Database, Sources


class FakeBillingClient:
    """Stands in for ``worker.client.BillingClient``: the same methods, without a broker.

    For one thread, like the client. ``now`` is the time of its ledger and may be set; ``sent`` has every
    message, in order. While ``is_unavailable`` every call raises BrokerUnavailableError and does nothing.
    """

    def __init__(self, catalog: Catalog | None = None, now: datetime | None = None) -> None:
        self.now = now or datetime(2026, 1, 1, tzinfo=UTC)
        self.sent: list[Message] = []
        self.is_unavailable = False
        self._reply_trace: str | None = None
        self._catalog = catalog or load_catalog()
        self._engine = ledger_engine("sqlite://")
        migrate(self._engine)
        self._ledger = Ledger(self._engine)
        self._replies = Replies(Policy())
        self._queries = QueryService(
            Sources(Database(self._engine, self._engine), clock=lambda: self.now),
            self._catalog,
            clock=lambda: self.now,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._engine.dispose()

    @property
    def reply_traceparent(self) -> str | None:
        """Trace context of the latest reply or answer."""
        return self._reply_trace

    def send(self, message: Message, *, lane: Lane = "interactive", traceparent: str | None = None) -> str:
        """Apply ``message``; return a correlation id. Raises ValueError as the client does."""
        exchange_of(lane, message)
        trace_headers(traceparent)
        self._apply(message)
        return uuid4().hex

    def request(self, message: Message, timeout_s: float = 10.0, *, traceparent: str | None = None) -> Reply:
        """Apply ``message`` and return its reply."""
        del timeout_s
        require_reply(message)
        headers = trace_headers(traceparent)
        delivery = Delivery(message.to_json(), "fake", "billing", message.type, 0, headers=headers)
        outgoing = self._replies.for_answers(delivery, message, self._apply(message), self.now)
        self._reply_trace = outgoing[0].headers.get(TRACEPARENT)
        return Reply.model_validate_json(outgoing[0].body)

    def ask(self, query: Query, timeout_s: float = 5.0, *, traceparent: str | None = None) -> QueryAnswer:
        """Return the answer to ``query``."""
        del timeout_s
        self._reply_trace = trace_headers(traceparent).get(TRACEPARENT)
        self._require_broker()
        (answer,) = self._queries.answer([query])
        return answer

    def _apply(self, message: Message) -> Sequence[Answer]:
        self._require_broker()
        self.sent.append(message)
        commands = commands_of(message)
        auto_open = self._catalog.auto_open
        with self._ledger.begin(commands, self.now, auto_open=auto_open) as transaction:
            plan = decide(commands, transaction.known, self.now, self._catalog)
            transaction.write(plan)
        return plan.answers

    def _require_broker(self) -> None:
        if self.is_unavailable:
            raise BrokerUnavailableError("the fake broker is set to be unavailable")
