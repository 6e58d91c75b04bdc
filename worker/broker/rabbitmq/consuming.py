"""A connection that consumes queues of RabbitMQ.

A channel a queue, so that a batch taken from the front of a queue is the whole of what is outstanding below
its last tag, and one frame acknowledges it.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from time import monotonic, sleep
from typing import Any

from amqp.exceptions import AccessRefused, AMQPError, NotFound

from worker.broker.deliveries import Delivery, as_bytes, front_of
from worker.broker.partitions import without_partition
from worker.broker.protocols import Consumes
from worker.broker.rabbitmq.connection import Heartbeat, close_connection
from worker.broker.rabbitmq.frames import UNREADABLE, delivery_arguments
from worker.broker.sharing import BatchTurns, BulkShare, Waiting
from worker.errors import BrokerUnavailableError

log = logging.getLogger(__name__)

#: Prefetch counts messages; bodies far over the limit of the contract must not fill the memory before they
#: are refused. What is not read yet waits in the socket and in the broker.
HELD_MAX_BYTES = 32 * 1024 * 1024
#: Longest wait on one of two connections without a look at the other.
_KEEP_ALIVE_EVERY_S = 1.0
#: Time between two looks for an optional queue that is missing.
_LOOK_EVERY_S = 10.0


@dataclass(slots=True)
class ArrivedTotal:
    """Messages that have arrived on all channels of a connection and are not taken yet, and their bytes."""

    messages: int = 0
    size: int = 0


class ConsumingConnection(Consumes):
    """A connection with one channel a queue, and the deliveries that have arrived on them.

    Where they are ``optional``, queues may be missing, or forbidden to this user: they are tried again every
    ten seconds. So are those that are consumed later. ``turns`` composes the batches.
    """

    def __init__(
        self,
        connection: Any,
        consume: Mapping[str, int],
        *,
        optional: bool = False,
        turns: BatchTurns | None = None,
    ) -> None:
        self._connection = connection
        self._cancelled: str | None = None
        self._arrived = ArrivedTotal()
        self._turns = turns or BatchTurns()
        kind = OptionalQueueChannel if optional else QueueChannel
        self._channels: dict[str, QueueChannel] = {}
        for queue, prefetch in consume.items():
            self._add(kind, queue, prefetch)
        self._heartbeat = Heartbeat(connection)

    def _add(self, kind: "type[QueueChannel]", queue: str, prefetch: int) -> None:
        self._channels[queue] = kind(self._connection, queue, prefetch, self._on_cancel, total=self._arrived)

    def receive(self, most: int, timeout_s: float, bulk: BulkShare | None = None) -> list[Delivery]:
        self.fetch(most, timeout_s)
        return self._turns.batch_of(self.waiting(), most, bulk)

    def fetch(self, most: int, timeout_s: float) -> None:
        """Read what has arrived, until a batch of ``most`` waits here; wait for one where none does."""
        self._heartbeat.beat()
        if not self._arrived.messages:
            self._drain(timeout_s)
        self._drain_arrived(self._turns.enough(most, self._channels))

    def waiting(self) -> dict[str, Waiting]:
        """Return what waits here of each queue."""
        return {
            queue: Waiting(len(channel.arrived), channel.take, is_last=not channel.is_consumed)
            for queue, channel in self._channels.items()
        }

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        tags: dict[str, list[Any]] = {}
        for delivery in deliveries:
            tags.setdefault(delivery.queue, []).append(delivery.tag)
        for queue in tags.keys() & self._channels.keys():
            self._channels[queue].acknowledge(tags[queue])

    def hold_at_most(self, queue: str, most: int, *, give_back: bool = False) -> None:
        self._heartbeat.beat()
        if give_back:
            self._channels[queue].give_back()
        self._channels[queue].hold_at_most(most)

    def consume(self, queue: str, most: int) -> None:
        self._heartbeat.beat()
        self._add(OptionalQueueChannel, queue, most)

    def quiesce(self, queue: str) -> None:
        self._heartbeat.beat()
        self._channels[queue].quiesce()

    def arrived(self, queue: str) -> int:
        return len(self._channels[queue].arrived)

    def held_of(self, queue: str) -> int:
        return self._channels[queue].held

    def leave(self, queue: str) -> None:
        self._heartbeat.beat()
        self._channels.pop(queue).leave()

    def keep_alive(self, wait_s: float = 0.0) -> None:
        deadline = monotonic() + wait_s
        self._heartbeat.beat()
        for channel in self._channels.values():
            channel.look_again()
        self._drain(0)
        while (left := deadline - monotonic()) > 0:
            if self._arrived.size < HELD_MAX_BYTES:
                self._drain(min(left, 1.0))
            else:
                sleep(min(left, 1.0))
            self._heartbeat.beat()

    def close(self) -> None:
        close_connection(self._connection)

    def _drain(self, timeout_s: float) -> None:
        """Wait for one message, or an answer, and read it."""
        with suppress(TimeoutError), self._connection.transport.having_timeout(timeout_s):
            read_one(self._connection)
        self._raise_if_cancelled()

    def _drain_arrived(self, most: int) -> None:
        """Read what is in the socket already."""
        arrived = self._arrived
        drain_arrived(self._connection, lambda: arrived.messages >= most or arrived.size >= HELD_MAX_BYTES)
        self._raise_if_cancelled()

    def _on_cancel(self, tag: str) -> None:
        self._cancelled = tag

    def _raise_if_cancelled(self) -> None:
        if self._cancelled is not None:
            raise BrokerUnavailableError(f"the broker cancelled the consumer of {self._cancelled}")


def drain_arrived(connection: Any, is_enough: Callable[[], bool]) -> None:
    """Read what is in the socket already; the socket changes its mode once and not for every frame."""
    with suppress(TimeoutError), connection.transport.having_timeout(0):
        while not is_enough():
            read_one(connection)


def read_one(connection: Any) -> None:
    """Read frames until they complete a method.

    Not drain_events, which does the same and changes the mode of the socket, and looks after a time-out, with
    every frame.
    """
    read, take = connection.transport.read_frame, connection.on_inbound_frame
    while not take(read()):
        pass


class SplitConnection(Consumes):
    """Two connections: bulk has a socket of its own.

    Deliveries stand in a socket in the order in which the broker sent them. On one socket a prefetch full of
    bulk, which may be hundreds of megabytes, would stand before a message that goes first. ``bulk_lane`` is
    the queue of bulk, whose partitions are consumed beside it.
    """

    def __init__(
        self, others: ConsumingConnection, bulk: ConsumingConnection, bulk_lane: str, turns: BatchTurns
    ) -> None:
        self._others, self._bulk, self._bulk_lane, self._turns = others, bulk, bulk_lane, turns

    def receive(self, most: int, timeout_s: float, bulk: BulkShare | None = None) -> list[Delivery]:
        self._bulk.fetch(most, 0)
        has_bulk = any(one.count for one in self._bulk.waiting().values())
        takes_bulk = has_bulk and (bulk is None or bulk.most > 0)
        self._others.fetch(most, 0 if takes_bulk else timeout_s)
        if not takes_bulk and not any(one.count for one in self._others.waiting().values()):
            self._bulk.fetch(most, 0)  # what came meanwhile
        return self._turns.batch_of({**self._others.waiting(), **self._bulk.waiting()}, most, bulk)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self._others.acknowledge(deliveries)
        self._bulk.acknowledge(deliveries)

    def hold_at_most(self, queue: str, most: int, *, give_back: bool = False) -> None:
        self._of(queue).hold_at_most(queue, most, give_back=give_back)

    def consume(self, queue: str, most: int) -> None:
        self._of(queue).consume(queue, most)

    def quiesce(self, queue: str) -> None:
        self._of(queue).quiesce(queue)

    def arrived(self, queue: str) -> int:
        return self._of(queue).arrived(queue)

    def held_of(self, queue: str) -> int:
        return self._of(queue).held_of(queue)

    def leave(self, queue: str) -> None:
        self._of(queue).leave(queue)

    def _of(self, queue: str) -> ConsumingConnection:
        return self._bulk if without_partition(queue) == self._bulk_lane else self._others

    def keep_alive(self, wait_s: float = 0.0) -> None:
        left = wait_s
        while True:
            self._bulk.keep_alive()
            self._others.keep_alive(min(left, _KEEP_ALIVE_EVERY_S))
            left -= _KEEP_ALIVE_EVERY_S
            if left <= 0:
                return

    def close(self) -> None:
        self._others.close()
        self._bulk.close()


class QueueChannel:
    """A channel that consumes one queue: its deliveries in their order, and the tags outstanding.

    ``arguments`` are those of its consumers, and ``total`` that of all channels beside it.
    """

    def __init__(
        self,
        connection: Any,
        queue: str,
        prefetch: int,
        on_cancel: Callable[[str], None],
        arguments: Mapping[str, Any] | None = None,
        total: ArrivedTotal | None = None,
    ) -> None:
        self.arrived: deque[Delivery] = deque()
        self.arrived_bytes = 0
        self._total = total or ArrivedTotal()
        self._connection, self._queue, self._on_cancel = connection, queue, on_cancel
        self._outstanding: deque[int] = deque()
        self._consumers = count(1)
        self._tags: list[str] = []
        self._arguments = arguments
        self._most = 0
        self._channel = self._opened()
        self.hold_at_most(prefetch)

    def hold_at_most(self, most: int) -> None:
        """Hold more: a consumer's prefetch is fixed, so another one beside it takes what may be held more.

        It is not cancelled: what is on its way to a consumer that cancels is never delivered by a quorum
        queue of RabbitMQ 3.10, and stays checked out until the channel is closed.
        """
        more = most - self._most
        if more <= 0:
            return
        self._most = most
        self._channel.basic_qos(0, more, a_global=False)
        tag = f"{self._queue} {next(self._consumers)}"
        self._channel.basic_consume(
            self._queue, consumer_tag=tag, on_cancel=self._on_cancel, arguments=self._arguments
        )
        self._tags.append(tag)

    @property
    def held(self) -> int:
        """Number of messages that are delivered and not acknowledged."""
        return len(self._outstanding)

    @property
    def is_consumed(self) -> bool:
        """True while more messages come: neither quiesced nor held at none."""
        return bool(self._tags)

    def look_again(self) -> None:
        """Try again to consume a queue that was missing; this one never is."""

    def quiesce(self) -> None:
        """Take nothing more. What has arrived goes on; what is on its way comes back when it is left."""
        tags, self._tags, self._most = self._tags, [], 0
        for tag in tags:
            self._channel.basic_cancel(tag)

    def leave(self) -> None:
        """Close the channel for good: what is not acknowledged goes back to its place."""
        self._channel.close()
        self._forget()

    def close(self) -> None:
        """Close the channel, and with it the consumers."""
        with suppress(AMQPError, OSError):
            self._channel.close()

    def give_back(self) -> None:
        """Give back all that is held, by closing the channel.

        A nack puts messages behind all others where the queue has no delivery limit; this keeps their places.
        """
        self._channel.close()
        self._forget()
        self._channel = self._opened()

    def _forget(self) -> None:
        self._total.messages -= len(self.arrived)
        self._total.size -= self.arrived_bytes
        self.arrived.clear()
        self._outstanding.clear()
        self._tags.clear()
        self.arrived_bytes = self._most = 0

    def _opened(self) -> Any:
        channel = self._connection.channel()
        channel.on_delivery = self._on_delivery
        return channel

    def take(self, most: int, room: int) -> list[Delivery]:
        """Take the first of what has arrived: at most so many, until ``room`` bytes are full."""
        taken = front_of(self.arrived, most, room)
        size = sum(len(delivery.body) for delivery in taken)
        self.arrived_bytes -= size
        self._total.messages -= len(taken)
        self._total.size -= size
        return taken

    def acknowledge(self, tags: Sequence[Any]) -> None:
        """Acknowledge ``tags``: with one frame where they are the front of what is outstanding."""
        done = set(tags)
        last = None
        while self._outstanding and self._outstanding[0] in done:
            last = self._outstanding.popleft()
            done.discard(last)
        if last is not None:
            self._channel.basic_ack(last, multiple=True)
        if done:  # these stand behind others that are not done yet
            self._outstanding = deque(tag for tag in self._outstanding if tag not in done)
            for tag in sorted(done):
                self._channel.basic_ack(tag)

    def _on_delivery(self, arguments: bytes, message: Any) -> None:
        tag, redelivered, exchange, routing_key = delivery_arguments(arguments)
        properties = message.properties
        body = as_bytes(message.body)
        self._outstanding.append(tag)
        size = len(body)
        self.arrived_bytes += size
        self._total.messages += 1
        self._total.size += size
        self.arrived.append(
            Delivery(
                body,
                self._queue,
                exchange,
                routing_key,
                tag,
                redelivered,
                properties,
                properties.get("application_headers") or {},
                properties.get(UNREADABLE),
            )
        )


class OptionalQueueChannel(QueueChannel):
    """A channel of a queue that may be missing: then it has no deliveries, and is tried again later."""

    _look_at: float | None = None  #: time of the next look; None while the queue is not missing
    _wanted = 0

    def hold_at_most(self, most: int) -> None:
        """Hold more, or remember how many to hold once the queue is there."""
        self._wanted, before = most, self._most
        try:
            super().hold_at_most(most)
        except (NotFound, AccessRefused) as error:
            if before:
                raise  # it was there: what it has delivered is lost with the channel
            self._most = 0  # the client has opened the channel anew
            if self._look_at is None:
                log.warning("%s is not consumed: %s; the other queues are", self._queue, error.reply_text)
            self._look_at = monotonic() + _LOOK_EVERY_S
        else:
            if self._most and self._look_at is not None:
                self._look_at = None
                log.info("%s is there and consumed now", self._queue)

    def quiesce(self) -> None:
        """Take nothing more, nor look again."""
        self._look_at, self._wanted = None, 0
        super().quiesce()

    def look_again(self) -> None:
        """Try again to consume a queue that was missing."""
        if self._look_at is not None and monotonic() >= self._look_at:
            self.hold_at_most(self._wanted)
