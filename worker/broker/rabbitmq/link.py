"""A link to RabbitMQ, over connections of their own for publishing, for consuming, and for bulk.

An alarm on the broker blocks the connection that publishes, and a consumer on the same one would be blocked
with it. Bulk on the same one as other messages would stand before them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from amqp.exceptions import AccessRefused, PreconditionFailed

from worker.broker.deliveries import Delivery
from worker.broker.outgoing import Outgoing, PublishResult
from worker.broker.protocols import Consumes, Link
from worker.broker.rabbitmq import declaring
from worker.broker.rabbitmq.connection import broker_errors, channel_of, opened
from worker.broker.rabbitmq.consuming import ConsumingConnection, SplitConnection
from worker.broker.rabbitmq.publishing import PublishingConnection
from worker.broker.sharing import BatchTurns, BulkShare
from worker.broker.topology import BILLING, JournalLimits, Topology
from worker.errors import BillingError, BrokerUnavailableError, ConfigurationError

_TEMPORARY_MS = 600_000


class AmqpLink(Link):
    """A live link to RabbitMQ: consumers on one connection, a confirming publisher on another.

    The queue ``bulk`` is consumed on a third one, see ``SplitConnection``, and may be missing. With
    ``one_partition`` each batch is of one.
    """

    def __init__(
        self,
        url: str,
        *,
        consume: Mapping[str, int],
        name: str,
        bulk: str | None = None,
        one_partition: bool = False,
    ) -> None:
        self._url, self._name = url, name
        self._turns = BatchTurns(one_partition=one_partition)
        self._consuming: Consumes | None = None
        self._publishing: PublishingConnection | None = None
        try:
            with broker_errors():
                self._consume(consume, bulk)
                self._publisher()
        except BaseException:
            self.close()
            raise

    def _consume(self, consume: Mapping[str, int], bulk: str | None) -> None:
        others: ConsumingConnection | None = None
        in_turn = {queue: prefetch for queue, prefetch in consume.items() if queue != bulk}
        if in_turn:
            self._consuming = others = self._consumer_of(in_turn, "consumer")
        if bulk is not None and bulk in consume:
            last = self._consumer_of({bulk: consume[bulk]}, "bulk consumer", optional=True)
            self._consuming = last if others is None else SplitConnection(others, last, bulk, self._turns)

    def _consumer_of(
        self, consume: Mapping[str, int], what: str, *, optional: bool = False
    ) -> ConsumingConnection:
        return opened(
            self._url,
            f"{self._name} {what}",
            lambda connection: ConsumingConnection(connection, consume, optional=optional, turns=self._turns),
        )

    def receive(self, most: int, timeout_s: float, bulk: BulkShare | None = None) -> list[Delivery]:
        with broker_errors():
            return self._consumer().receive(most, timeout_s, bulk)

    def publish(self, messages: Sequence[Outgoing]) -> PublishResult:
        # Where it fails, what was received stays held, and is replied to again: on another connection.
        try:
            with broker_errors():
                return self._publisher().publish(messages, while_waiting=self._keep_consumer_alive)
        except BillingError:
            self._drop_publisher()
            raise

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        with broker_errors():
            self._consumer().acknowledge(deliveries)

    def hold_at_most(self, queue: str, most: int, *, give_back: bool = False) -> None:
        with broker_errors():
            self._consumer().hold_at_most(queue, most, give_back=give_back)

    def consume(self, queue: str, most: int) -> None:
        with broker_errors():
            self._consumer().consume(queue, most)

    def quiesce(self, queue: str) -> None:
        with broker_errors():
            self._consumer().quiesce(queue)

    def held_of(self, queue: str) -> int:
        return self._consumer().held_of(queue)

    def leave(self, queue: str) -> None:
        with broker_errors():
            self._consumer().leave(queue)

    def keep_alive(self, wait_s: float = 0.0) -> None:
        self._keep_publisher_alive()
        if self._consuming is not None:
            with broker_errors():
                self._consuming.keep_alive(wait_s)

    def declare(self, topology: Topology) -> None:
        with self._channel() as channel:
            declaring.declare(channel, topology)
        if self.has_journal(topology):  # a later version may have more keys
            with self._channel() as channel:
                declaring.bind_journal(channel, topology)

    def declare_journal(self, topology: Topology, limits: JournalLimits) -> None:
        try:
            with broker_errors(passing=True), channel_of(self._publisher().connection) as channel:
                declaring.declare_journal(channel, topology, limits)
        except PreconditionFailed as error:
            raise ConfigurationError(
                f"queue {topology.journal!r} differs: {error.reply_text}; name the limits that it has, or "
                "delete it, with all that it keeps, and declare it again"
            ) from error
        except AccessRefused as error:
            raise ConfigurationError(f"the broker refuses: {error.reply_text}") from error

    def has_journal(self, topology: Topology) -> bool:
        return declaring.is_there(self._publisher().connection, topology.journal)

    def partitions(self, topology: Topology) -> int:
        return declaring.partitions(self._publisher().connection, topology)

    def differences(self, topology: Topology) -> list[str]:
        return declaring.differences(self._publisher().connection, topology)

    def can_compare(self, topology: Topology) -> bool:
        return declaring.can_compare(self._publisher().connection, topology)

    def declare_temporary(self, queue: str) -> None:
        # Not exclusive: it is declared on one connection and consumed on another.
        arguments = {"x-queue-type": "classic", "x-expires": _TEMPORARY_MS}
        with self._channel() as channel:
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)

    def listen(self, queue: str) -> None:
        self.declare_temporary(queue)
        with self._channel() as channel:
            channel.queue_bind(queue, BILLING.events, "#")

    def delete(self, queue: str) -> None:
        with self._channel() as channel:
            channel.queue_delete(queue)

    def depth(self, queue: str) -> int:
        with self._channel() as channel:
            return int(channel.queue_declare(queue, passive=True).message_count)

    def consumers(self, queue: str) -> int | None:
        with self._channel() as channel:
            return int(channel.queue_declare(queue, passive=True).consumer_count)

    def close(self) -> None:
        for part in (self._consuming, self._publishing):
            if part is not None:
                part.close()

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        with broker_errors(), channel_of(self._publisher().connection) as channel:
            yield channel

    def _consumer(self) -> Consumes:
        if self._consuming is None:
            raise BrokerUnavailableError("this link consumes nothing")
        return self._consuming

    def _publisher(self) -> PublishingConnection:
        if self._publishing is None:
            self._publishing = opened(self._url, f"{self._name} publisher", PublishingConnection)
        return self._publishing

    def _keep_publisher_alive(self) -> None:
        """Keep a publisher's connection alive; a lost one is no lost link where there is a consumer."""
        if self._publishing is None:
            return
        try:
            with broker_errors():
                self._publishing.keep_alive()
        except BrokerUnavailableError:
            self._drop_publisher()
            if self._consuming is None:
                raise

    def _drop_publisher(self) -> None:
        if self._publishing is not None:
            self._publishing.close()
        self._publishing = None

    def _keep_consumer_alive(self) -> None:
        if self._consuming is not None:
            self._consuming.keep_alive(0.0)
