"""Client of RabbitMQ for tests, through pika: a producer and a reader of replies.

The worker speaks through kombu and py-amqp; what both clients agree on is not one client's
misunderstanding.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import pika
from pika.exceptions import AMQPError

from tests.support.waiting import PATIENCE_S, eventually
from worker.addresses import BrokerAddress
from worker.settings import Settings

Message = Mapping[str, Any] | bytes


def parameters_of(url: str) -> list[pika.URLParameters]:
    """Return the parameters of each node of an AMQP URL; pika tries them in turn."""
    address = BrokerAddress.parse(url)
    return [pika.URLParameters(address.url_of(node)) for node in address.nodes]


def patient_parameters_of(url: str) -> list[pika.URLParameters]:
    """Return the parameters for a client that outlives outages: no wait is longer than five seconds."""
    found = parameters_of(url)
    for each in found:
        each.socket_timeout = each.stack_timeout = each.blocked_connection_timeout = 5
    return found


def close_quietly(connection: Any) -> None:
    """Close a connection of pika that may be gone: one that is dropped leaves its sockets open."""
    with suppress(AMQPError, OSError):
        connection.close()


def user_of(url: str) -> str:
    """Return the broker user of an AMQP URL."""
    return BrokerAddress.parse(url).user


def vhost_of(settings: Settings) -> str:
    """Return the virtual host of the settings."""
    return unquote(urlsplit(settings.broker_url.get_secret_value()).path.removeprefix("/"))


class RabbitClient:
    """Connection with a reply queue of its own; waits last at most ``PATIENCE_S`` seconds."""

    def __init__(self, url: str) -> None:
        self._connection = pika.BlockingConnection(parameters_of(url))
        self.channel = self._connection.channel()
        self.channel.confirm_delivery()
        self.user = user_of(url)
        self.reply_queue = f"billing.replies.{self.user}.{uuid4().hex}"
        self.channel.queue_declare(self.reply_queue, exclusive=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._connection.is_open:
            self._connection.close()

    def publish(
        self,
        message: Message,
        *,
        routing_key: str | None = None,
        exchange: str = "billing",
        **properties: Any,
    ) -> str:
        """Publish a persistent message, mandatory and confirmed; return the correlation id.

        A message that names a reply queue of our user says who it is, unless ``user_id=None`` is said.
        """
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        key = routing_key or ("" if isinstance(message, bytes) else str(message.get("type")))
        correlation_id: str = properties.setdefault("correlation_id", uuid4().hex)
        properties.setdefault("reply_to", self.reply_queue)
        properties.setdefault("delivery_mode", 2)
        if (properties["reply_to"] or "").startswith(f"billing.replies.{self.user}."):
            properties.setdefault("user_id", self.user)
        self.channel.basic_publish(exchange, key, body, pika.BasicProperties(**properties), mandatory=True)
        return correlation_id

    def publish_all(self, messages: Iterable[Message], **properties: Any) -> list[str]:
        """Publish messages; return their correlation ids, in order."""
        return [self.publish(message, **dict(properties)) for message in messages]

    def request(self, message: Message, **properties: Any) -> dict[str, Any]:
        """Publish a message and wait for its reply."""
        correlation_id = self.publish(message, **properties)
        return self.replies({correlation_id})[correlation_id][0]

    def replies(
        self, expected: Iterable[str], *, patience_s: float = PATIENCE_S
    ) -> dict[str, list[dict[str, Any]]]:
        """Return replies by correlation id, once each of ``expected`` has one."""
        missing = set(expected)
        replies: dict[str, list[dict[str, Any]]] = {}
        for correlation_id, reply in self._consume(self.reply_queue, missing, patience_s):
            replies.setdefault(correlation_id, []).append(reply)
            missing.discard(correlation_id)
        assert not missing, f"{len(missing)} replies did not come within {patience_s} s"
        return replies

    def take(self, queue: str, count: int, *, patience_s: float = PATIENCE_S) -> list[tuple[Any, bytes]]:
        """Take the next ``count`` messages of ``queue``, as (properties, body)."""
        taken: list[tuple[Any, bytes]] = []
        deadline = monotonic() + patience_s
        while len(taken) < count:
            method, properties, body = self.channel.basic_get(queue)
            if method is not None:
                self.channel.basic_ack(method.delivery_tag)
                taken.append((properties, body))
                continue
            assert monotonic() < deadline, f"{len(taken)} of {count} messages in {queue} after {patience_s} s"
            self._connection.process_data_events(0.01)
        return taken

    def depth(self, queue: str) -> int:
        """Return the number of messages ready in ``queue``."""
        return int(self.channel.queue_declare(queue, passive=True).method.message_count)

    def _consume(
        self, queue: str, missing: set[str], patience_s: float
    ) -> Iterable[tuple[str, dict[str, Any]]]:
        deadline = monotonic() + patience_s
        while missing and monotonic() < deadline:
            for method, properties, body in self.channel.consume(queue, inactivity_timeout=0.1):
                if method is None:
                    break
                self.channel.basic_ack(method.delivery_tag)
                yield properties.correlation_id, json.loads(body)
                if not missing:
                    break
        given_back = self.channel.cancel()
        # They are in the queue again before anybody counts it; the broker takes its moment.
        eventually(lambda: self.depth(queue) >= given_back, what=f"{given_back} messages back in {queue}")
