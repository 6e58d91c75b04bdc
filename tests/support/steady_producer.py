"""Producer at a steady pace: most messages are valid, some come twice, some are malformed."""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Event, Lock, Thread
from time import monotonic
from types import TracebackType
from typing import Any, Self

import pika
from pika.exceptions import AMQPError

from schemas.partitions import routing_key
from tests.support.mixed_messages import USERS, Message, mixed
from tests.support.rabbit_client import close_quietly, patient_parameters_of
from worker.broker import BILLING

#: A broker that is started again may take so long, with a machine that is busy.
_PATIENCE_S = 120.0
_REASON = "not_json"


@dataclass(frozen=True)
class Publication:
    """One message to publish; ``reason`` is the code of its dead letter where it is malformed."""

    correlation_id: str
    body: bytes
    routing_key: str
    message: Message | None
    reason: str | None = None


def valid(message: Message, correlation_id: str | None = None, *, partitions: int = 0) -> Publication:
    """Return a message as a publication; by default the correlation id is its reference."""
    key = routing_key(message["type"], message.get("userId"), partitions)
    return Publication(correlation_id or message["referenceId"], json.dumps(message).encode(), key, message)


def malformed(number: int) -> Publication:
    """Return a truncated body, for payments and usage in turn."""
    type_ = ("usage.deduct", "payment.succeeded")[number % 2]
    body = f'{{"type": "{type_}", "referenceId": "malformed-{number}", "userId": "user-0"'
    return Publication(f"malformed-{number}", body.encode(), type_, None, _REASON)


def assorted(
    seed: int,
    *,
    malformed_share: float = 0.01,
    duplicate_share: float = 0.03,
    users: Sequence[str] = USERS,
    partitions: int = 0,
) -> Iterator[Publication]:
    """Yield mixed messages without end, with malformed ones and duplicates between them.

    Malformed ones have no user that a producer could read: they go to queues without a partition.
    """
    rng = random.Random(seed)
    past: list[Message] = []
    extra = 0
    for message in mixed(users=users):
        yield valid(message, partitions=partitions)
        past.append(message)
        if rng.random() < malformed_share:
            extra += 1
            yield malformed(extra)
        if rng.random() < duplicate_share:
            extra += 1
            again = rng.choice(past[-2_000:])
            yield valid(again, f"{again['referenceId']}/again-{extra}", partitions=partitions)


class SteadyProducer:
    """Producer in a thread, with at most ``pace`` messages a second; it repeats unconfirmed messages.

    A message in ``published`` has reached the broker, perhaps twice. Replies go to ``billing.replies``.
    """

    def __init__(self, url: str, publications: Iterable[Publication], *, pace: float = 200.0) -> None:
        self._url, self._publications, self._pace = url, publications, pace
        self._enough, self._lock = Event(), Lock()
        self._may_publish = Event()
        self._may_publish.set()
        self._published: list[Publication] = []
        self._thread = Thread(target=self._run, name="producer")
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.end()

    @property
    def published(self) -> list[Publication]:
        """Publications that the broker has confirmed so far."""
        with self._lock:
            return list(self._published)

    def pause(self) -> None:
        """Publish no further message until ``resume``."""
        self._may_publish.clear()

    def resume(self) -> None:
        """Publish further messages."""
        self._may_publish.set()

    def end(self) -> list[Publication]:
        """End after the message under way; return everything published."""
        self._enough.set()
        self._may_publish.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self.published

    def _run(self) -> None:
        channel: Any = None
        due = monotonic()
        try:
            for publication in self._publications:
                self._may_publish.wait()
                if self._enough.is_set():
                    break
                channel = self._publish(channel, publication)
                due = max(due + 1 / self._pace, monotonic() - 1)
                self._enough.wait(max(due - monotonic(), 0))
            if channel is not None:
                channel.connection.close()
        except BaseException as failure:  # noqa: BLE001 - raised by ``end``
            self._failure = failure

    def _publish(self, channel: Any, publication: Publication) -> Any:
        """Publish until the broker confirms; return the channel of the confirm."""
        deadline = monotonic() + _PATIENCE_S
        while True:
            try:
                channel = channel or self._channel()
                channel.basic_publish(
                    BILLING.exchange,
                    publication.routing_key,
                    publication.body,
                    pika.BasicProperties(
                        correlation_id=publication.correlation_id,
                        message_id=publication.correlation_id,
                        reply_to=BILLING.replies.name,
                        delivery_mode=2,
                    ),
                    mandatory=True,
                )
            except (AMQPError, OSError):
                if channel is not None:  # a refused message leaves the connection open
                    close_quietly(channel.connection)
                if monotonic() > deadline:
                    raise
                channel = None
                Event().wait(0.1)
            else:
                with self._lock:
                    self._published.append(publication)
                return channel

    def _channel(self) -> Any:
        channel = pika.BlockingConnection(patient_parameters_of(self._url)).channel()
        channel.confirm_delivery()
        return channel
