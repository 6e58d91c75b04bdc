"""Reader of replies that survives outages, and keeps the time of each first reply."""

import json
from collections.abc import Iterable, Mapping
from threading import Event, Lock, Thread
from time import monotonic
from types import TracebackType
from typing import Any, Self

import pika
from pika.exceptions import AMQPError

from tests.support.rabbit_client import close_quietly, patient_parameters_of
from tests.support.waiting import PATIENCE_S, eventually
from worker.broker import BILLING

Reply = Mapping[str, Any]


class ReplyCollector:
    """Reader of the reply queue, in a thread; a reply that is delivered twice is kept twice."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._enough, self._lock = Event(), Lock()
        self._replies: dict[str, list[Reply]] = {}
        self._answered_at: dict[str, float] = {}
        self._thread = Thread(target=self._run, name="collector")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._enough.set()
        self._thread.join()

    @property
    def replies(self) -> dict[str, list[Reply]]:
        """Replies so far, by correlation id."""
        with self._lock:
            return dict(self._replies)

    def unanswered(self, expected: Iterable[str]) -> set[str]:
        """Return those of ``expected`` without a reply."""
        with self._lock:
            return set(expected) - self._replies.keys()

    def first_after(self, moment: float) -> float | None:
        """Return the time of the first reply after ``moment`` (both monotonic); None without one."""
        with self._lock:
            return min((at for at in self._answered_at.values() if at >= moment), default=None)

    def answered(self, expected: Iterable[str], *, patience_s: float = PATIENCE_S) -> float:
        """Wait for the replies to all of ``expected``; return the time of the last one (monotonic)."""
        missing = set(expected)

        def none_is_missing() -> bool:
            nonlocal missing
            missing = self.unanswered(missing)
            return not missing

        wanted = frozenset(missing)
        eventually(none_is_missing, patience_s=patience_s, what=f"{len(missing)} replies")
        with self._lock:
            return max((self._answered_at[one] for one in wanted), default=monotonic())

    def _run(self) -> None:
        while not self._enough.is_set():
            try:
                self._collect()
            except (AMQPError, OSError):
                self._enough.wait(0.2)

    def _collect(self) -> None:
        connection = pika.BlockingConnection(patient_parameters_of(self._url))
        try:
            self._consume(connection.channel())
        finally:
            close_quietly(connection)

    def _consume(self, channel: Any) -> None:
        channel.basic_qos(prefetch_count=500)
        for method, properties, body in channel.consume(BILLING.replies.name, inactivity_timeout=0.1):
            if method is not None:
                self._keep(properties.correlation_id, json.loads(body))
                channel.basic_ack(method.delivery_tag)
            if self._enough.is_set():
                break

    def _keep(self, correlation_id: str, reply: Reply) -> None:
        with self._lock:
            self._replies.setdefault(correlation_id, []).append(reply)
            self._answered_at.setdefault(correlation_id, monotonic())
