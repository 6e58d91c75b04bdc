"""RabbitMQ through kombu's py-amqp transport.

Two connections: an alarm on the broker blocks the connection that publishes, and a consumer on the same
one would be blocked with it. A channel a queue, so that a batch taken from the front of a queue is the
whole of what is outstanding below its last tag, and one frame acknowledges it.
"""

import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from time import monotonic, sleep
from typing import Any, TypeVar

import kombu
from amqp import spec
from amqp.exceptions import AccessRefused, AMQPError, NotAllowed, NotFound, PreconditionFailed
from kombu.transport import pyamqp

from worker.broker.deliveries import (
    BATCH_MAX_BYTES,
    Delivery,
    as_bytes,
    front_of,
)
from worker.broker.frames import UNREADABLE, delivery_arguments, tolerant_frame_handler
from worker.broker.outgoing import Outgoing, PublishResult
from worker.broker.protocols import Link
from worker.broker.topology import BILLING, Queue, Topology
from worker.broker.wire import publishing, transport_for
from worker.errors import BillingError, BrokerUnavailableError, ConfigurationError

HEARTBEAT_S = 15
CONFIRM_TIMEOUT_S = 15.0
#: Prefetch counts messages; bodies far over the limit of the contract must not fill the memory before they
#: are refused. What is not read yet waits in the socket and in the broker.
_HELD_MAX_BYTES = 32 * 1024 * 1024
_CLOSE_TIMEOUT_S = 3.0

P = TypeVar("P")
_TEMPORARY_MS = 600_000

_SOCKET = {
    # kombu's default of 1 s drops the connection on one second of loss (py-amqp#186).
    getattr(socket, name): value
    for name, value in {
        "TCP_USER_TIMEOUT": 15_000,
        "TCP_KEEPIDLE": 30,
        "TCP_KEEPINTVL": 5,
        "TCP_KEEPCNT": 3,
    }.items()
    if hasattr(socket, name)  # not every system has them all
}


class AmqpLink(Link):
    """A live link to RabbitMQ: consumers on one connection, a confirming publisher on another."""

    def __init__(self, url: str, *, consume: Mapping[str, int], name: str) -> None:
        self._url, self._name = url, name
        self._inbox: _Inbox | None = None
        self._outbox: _Outbox | None = None
        try:
            with _broker_errors():
                if consume:
                    self._inbox = _built(
                        url, f"{name} consumer", lambda connection: _Inbox(connection, consume)
                    )
                self._publisher()
        except BaseException:
            self.close()
            raise

    def receive(self, most: int, timeout_s: float) -> list[Delivery]:
        with _broker_errors():
            return self._consumer().receive(most, timeout_s)

    def publish(self, messages: Sequence[Outgoing]) -> PublishResult:
        # Where it fails, what was received stays held, and is replied to again: on another connection.
        try:
            with _broker_errors():
                return self._publisher().publish(messages, while_waiting=self._keep_consumer_alive)
        except BillingError:
            self._drop_publisher()
            raise

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        with _broker_errors():
            self._consumer().acknowledge(deliveries)

    def hold_at_most(self, queue: str, most: int, *, give_back: bool = False) -> None:
        with _broker_errors():
            self._consumer().hold_at_most(queue, most, give_back=give_back)

    def keep_alive(self, wait_s: float = 0.0) -> None:
        self._keep_publisher_alive()
        if self._inbox is not None:
            with _broker_errors():
                self._inbox.keep_alive(wait_s)

    def declare(self, topology: Topology) -> None:
        with _broker_errors(), _channel(self._publisher().connection) as channel:
            for exchange in topology.exchanges:
                channel.exchange_declare(exchange, "topic", durable=True, auto_delete=False)
            for queue in topology.queues:
                _declare_queue(channel, queue)
                for key in queue.routing_keys:
                    channel.queue_bind(queue.name, topology.exchange, key)

    def differences(self, topology: Topology) -> list[str]:
        # Bindings can't be read over AMQP; `topology declare` puts them right without asking.
        found = [
            *map(self._exchange_difference, topology.exchanges),
            *map(self._queue_difference, topology.queues),
        ]
        return [line for line in found if line is not None]

    def declare_temporary(self, queue: str) -> None:
        # Not exclusive: it is declared on one connection and consumed on another.
        arguments = {"x-queue-type": "classic", "x-expires": _TEMPORARY_MS}
        with _broker_errors(), _channel(self._publisher().connection) as channel:
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)

    def listen(self, queue: str) -> None:
        self.declare_temporary(queue)
        with _broker_errors(), _channel(self._publisher().connection) as channel:
            channel.queue_bind(queue, BILLING.events, "#")

    def delete(self, queue: str) -> None:
        with _broker_errors(), _channel(self._publisher().connection) as channel:
            channel.queue_delete(queue)

    def depth(self, queue: str) -> int:
        with _broker_errors(), _channel(self._publisher().connection) as channel:
            return int(channel.queue_declare(queue, passive=True).message_count)

    def consumers(self, queue: str) -> int | None:
        with _broker_errors(), _channel(self._publisher().connection) as channel:
            return int(channel.queue_declare(queue, passive=True).consumer_count)

    def close(self) -> None:
        for part in (self._inbox, self._outbox):
            if part is not None:
                part.close()

    def _consumer(self) -> "_Inbox":
        if self._inbox is None:
            raise BrokerUnavailableError("this link consumes nothing")
        return self._inbox

    def _publisher(self) -> "_Outbox":
        if self._outbox is None:
            self._outbox = _built(self._url, f"{self._name} publisher", _Outbox)
        return self._outbox

    def _keep_publisher_alive(self) -> None:
        """Keep a publisher's connection alive; a lost one is no lost link where there is a consumer."""
        if self._outbox is None:
            return
        try:
            with _broker_errors():
                self._outbox.keep_alive()
        except BrokerUnavailableError:
            self._drop_publisher()
            if self._inbox is None:
                raise

    def _drop_publisher(self) -> None:
        if self._outbox is not None:
            self._outbox.close()
        self._outbox = None

    def _keep_consumer_alive(self) -> None:
        if self._inbox is not None:
            self._inbox.keep_alive(0.0)

    def _exchange_difference(self, name: str) -> str | None:
        return self._difference(
            f"exchange {name!r}",
            lambda channel: channel.exchange_declare(name, "topic", durable=True, passive=True),
            lambda channel: channel.exchange_declare(name, "topic", durable=True, auto_delete=False),
        )

    def _queue_difference(self, queue: Queue) -> str | None:
        return self._difference(
            f"queue {queue.name!r}",
            lambda channel: channel.queue_declare(queue.name, passive=True),
            lambda channel: _declare_queue(channel, queue),
        )

    def _difference(
        self, what: str, look: Callable[[Any], object], compare: Callable[[Any], object]
    ) -> str | None:
        """A declaration equal to what exists changes nothing, another one is refused with the difference."""
        connection = self._publisher().connection
        try:
            with _broker_errors(passing=True), _channel(connection) as channel:
                look(channel)
                compare(channel)
        except NotFound:
            return f"{what} is missing: run `billing-worker topology declare`"
        except PreconditionFailed as error:
            return f"{what} differs: {error.reply_text}; delete it when it is empty, then declare it"
        except AccessRefused as error:
            # A worker needs no right to configure; then its being there is all that can be told.
            return None if "configure" in str(error.reply_text) else f"{what}: {error.reply_text}"
        return None


class _Inbox:
    """Consumers, one channel a queue, and what they have delivered so far."""

    def __init__(self, connection: Any, consume: Mapping[str, int]) -> None:
        self._connection = connection
        self._cancelled: str | None = None
        self._lanes = {
            queue: _Lane(connection, queue, prefetch, self._on_cancel) for queue, prefetch in consume.items()
        }
        self._heartbeat = _Heartbeat(connection)

    def receive(self, most: int, timeout_s: float) -> list[Delivery]:
        self._heartbeat.beat()
        if not self._waiting():
            self._drain(timeout_s)
        self._drain_arrived(most)
        batch: list[Delivery] = []
        room = BATCH_MAX_BYTES
        for lane in self._lanes.values():
            taken = lane.take(most - len(batch), room)
            room -= sum(len(delivery.body) for delivery in taken)
            batch += taken
        return batch

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        for queue, lane in self._lanes.items():
            if tags := [delivery.tag for delivery in deliveries if delivery.queue == queue]:
                lane.acknowledge(tags)

    def hold_at_most(self, queue: str, most: int, *, give_back: bool) -> None:
        self._heartbeat.beat()
        if give_back:
            self._lanes[queue].give_back()
        self._lanes[queue].hold_at_most(most)

    def keep_alive(self, wait_s: float) -> None:
        deadline = monotonic() + wait_s
        self._heartbeat.beat()
        self._drain(0)
        while (left := deadline - monotonic()) > 0:
            if self._waiting_bytes() < _HELD_MAX_BYTES:
                self._drain(min(left, 1.0))
            else:
                sleep(min(left, 1.0))
            self._heartbeat.beat()

    def close(self) -> None:
        _close(self._connection)

    def _waiting(self) -> int:
        return sum(len(lane.arrived) for lane in self._lanes.values())

    def _waiting_bytes(self) -> int:
        return sum(lane.arrived_bytes for lane in self._lanes.values())

    def _drain(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            self._connection.drain_events(timeout=timeout_s)
        self._raise_if_cancelled()

    def _drain_arrived(self, most: int) -> None:
        """Read what is in the socket already; the socket changes its mode once and not for every frame."""
        with suppress(TimeoutError), self._connection.transport.having_timeout(0):
            # Not drain_events, which does the same and looks after a time-out with every frame.
            read, take = self._connection.transport.read_frame, self._connection.on_inbound_frame
            while self._waiting() < most and self._waiting_bytes() < _HELD_MAX_BYTES:
                while not take(read()):
                    pass
        self._raise_if_cancelled()

    def _on_cancel(self, tag: str) -> None:
        self._cancelled = tag

    def _raise_if_cancelled(self) -> None:
        if self._cancelled is not None:
            raise BrokerUnavailableError(f"the broker cancelled the consumer of {self._cancelled}")


class _Lane:
    """One queue's channel: deliveries in their order, and which of their tags are outstanding."""

    def __init__(self, connection: Any, queue: str, prefetch: int, on_cancel: Callable[[str], None]) -> None:
        self.arrived: deque[Delivery] = deque()
        self.arrived_bytes = 0
        self._connection, self._queue, self._on_cancel = connection, queue, on_cancel
        self._outstanding: deque[int] = deque()
        self._consumers = count(1)
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
        self._channel.basic_consume(self._queue, consumer_tag=tag, on_cancel=self._on_cancel)

    def give_back(self) -> None:
        """Give back all that is held, by closing the channel.

        A nack puts messages behind all others where the queue has no delivery limit; this keeps their places.
        """
        self._channel.close()
        self.arrived.clear()
        self._outstanding.clear()
        self.arrived_bytes = self._most = 0
        self._channel = self._opened()

    def _opened(self) -> Any:
        channel = self._connection.channel()
        channel.on_delivery = self._on_delivery
        return channel

    def take(self, most: int, room: int) -> list[Delivery]:
        taken = front_of(self.arrived, most, room)
        self.arrived_bytes -= sum(len(delivery.body) for delivery in taken)
        return taken

    def acknowledge(self, tags: Sequence[Any]) -> None:
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
        self.arrived_bytes += len(body)
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


class _Outbox:
    """A channel in confirm mode: a whole batch is on its way before the first confirm is waited for."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._channel = connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_nack)
        self._channel.events["basic_return"].add(self._on_return)
        self._published = 0
        self._unconfirmed: dict[int, Outgoing] = {}
        self._returned: list[Outgoing] = []
        self._refused: list[Outgoing] = []
        self._heartbeat = _Heartbeat(connection)

    def publish(self, messages: Sequence[Outgoing], while_waiting: Callable[[], None]) -> PublishResult:
        self._heartbeat.beat()
        self._returned, self._refused = [], []
        self._send(messages)
        self._wait(while_waiting)
        return PublishResult(messages, self._returned, self._refused)

    def keep_alive(self) -> None:
        self._heartbeat.beat()
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=0)

    def close(self) -> None:
        _close(self.connection)

    def _send(self, messages: Sequence[Outgoing]) -> None:
        # All at once before any is counted: what can't be written must not have a number.
        pieces = list(publishing(messages, self._channel.channel_id, self.connection.frame_max))
        for message in messages:
            self._published += 1
            self._unconfirmed[self._published] = message
        # Not basic_publish: that reads from the socket and writes to it for every message (py-amqp#426).
        for piece in pieces:
            self.connection.transport.write(piece)
            self.connection.bytes_sent += 1  # or it would send a heartbeat: py-amqp counts frames here

    def _wait(self, while_waiting: Callable[[], None]) -> None:
        deadline = monotonic() + CONFIRM_TIMEOUT_S
        while self._unconfirmed:
            if monotonic() > deadline:
                raise BrokerUnavailableError(
                    f"no confirm within {CONFIRM_TIMEOUT_S:.0f} s; is the broker in an alarm?"
                )
            try:
                self.connection.drain_events(timeout=1.0)
            except TimeoutError:
                self._heartbeat.beat()
                while_waiting()

    def _on_ack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp calls it
        if not multiple:
            self._unconfirmed.pop(tag, None)
            return
        for done in [sent for sent in self._unconfirmed if sent <= tag]:
            del self._unconfirmed[done]

    def _on_nack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 - py-amqp calls it
        tags = [sent for sent in self._unconfirmed if sent <= tag] if multiple else [tag]
        self._refused += [self._unconfirmed.pop(sent) for sent in tags if sent in self._unconfirmed]

    def _on_return(self, _error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        # The return comes before the confirm of the same message, so it is among the unconfirmed.
        for sent in self._unconfirmed.values():
            if (
                sent.exchange == exchange
                and sent.routing_key == routing_key
                and sent.properties.get("message_id") == message.properties.get("message_id")
                and sent not in self._returned
            ):
                self._returned.append(sent)
                return
        # Its confirm would count as delivered: better to send the batch again than to lose a message.
        raise BrokerUnavailableError(f"a message for {routing_key!r} came back that nobody here sent")


class _Heartbeat:
    """py-amqp sends heartbeats only when asked (kombu#806); asks at most once a second."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._last = monotonic()

    def beat(self) -> None:
        """Raises where the connection is lost: py-amqp would open another one behind our back (kombu#220)."""
        if not self._connection.connected:
            raise BrokerUnavailableError("the connection to the broker is lost")
        now = monotonic()
        if now - self._last >= 1.0:
            self._last = now
            self._connection.heartbeat_tick()


def _connect(url: str, name: str) -> Any:
    try:
        connection = _configured(url, name)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(f"the broker URL can't be used: {error}") from None
    connection.transport.Connection = _WorkerConnection
    return connection.transport.establish_connection()


def _configured(url: str, name: str) -> Any:
    return kombu.Connection(
        url,
        # py-amqp compares the certificate with the host's name only where one is given; None is filled in.
        ssl={"server_hostname": None, "cert_reqs": ssl.CERT_REQUIRED} if url.startswith("amqps:") else False,
        heartbeat=HEARTBEAT_S,
        connect_timeout=5,
        transport_options={
            "socket_settings": _SOCKET,
            "read_timeout": 15,  # of calls that wait for an answer; deliveries have a time-out of their own
            "write_timeout": 10,
            "client_properties": {"connection_name": name},
            "frame_handler": tolerant_frame_handler,
        },
    )


class _WorkerChannel(pyamqp.Channel):  # type: ignore[misc]  # kombu ships no types
    """Hands deliveries to ``on_delivery``, where set, as they come and with their body as it was sent."""

    on_delivery: Callable[[bytes, Any], None] | None = None

    def dispatch_method(self, signature: tuple[int, int], arguments: bytes, content: Any) -> None:
        """Take a method frame, with the message that belongs to it."""
        if signature != spec.Basic.Deliver or self.on_delivery is None:
            super().dispatch_method(signature, arguments, content)
        elif not self.is_closing:  # what comes then goes back
            self.on_delivery(arguments, content)


class _WorkerConnection(pyamqp.Connection):  # type: ignore[misc]  # kombu ships no types
    """Reads wholesale, with channels that hand deliveries over.

    Closes its socket when the broker refuses it; py-amqp does so only where the network does.
    """

    Channel = _WorkerChannel

    def connect(self, callback: Callable[[], None] | None = None) -> Any:
        """Connect, or leave nothing behind."""
        try:
            return super().connect(callback)
        except BaseException:
            self.collect()
            raise

    def Transport(self, *address: Any, **settings: Any) -> Any:  # noqa: N802 - py-amqp calls it
        """Return the transport that the frames go through."""
        return transport_for(*address, **settings)


def _declare_queue(channel: Any, queue: Queue) -> None:
    channel.queue_declare(queue.name, durable=True, auto_delete=False, arguments=dict(queue.arguments))


@contextmanager
def _channel(connection: Any) -> Iterator[Any]:
    channel = connection.channel()
    try:
        yield channel
    finally:
        with suppress(AMQPError, OSError):
            channel.close()


def _built(url: str, name: str, build: Callable[[Any], P]) -> P:
    """Return the result of ``build`` on a new connection, which is closed where it fails."""
    connection = _connect(url, name)
    try:
        return build(connection)
    except BaseException:
        _close(connection)
        raise


def _close(connection: Any) -> None:
    """Close in an orderly way if the broker answers within moments, and in any case."""
    if not connection.connected:
        return
    with suppress(AMQPError, OSError):
        connection.transport.sock.settimeout(_CLOSE_TIMEOUT_S)
        connection.close()
    with suppress(AMQPError, OSError):
        connection.collect()


@contextmanager
def _broker_errors(*, passing: bool = False) -> Iterator[None]:
    """Translate the client's errors; with ``passing`` those that answer a declaration go through."""
    try:
        yield
    except (NotFound, PreconditionFailed, AccessRefused) as error:
        if passing:
            raise
        if "timed out" in str(error.reply_text):  # what was held too long: the channel is gone
            raise BrokerUnavailableError(f"the broker took its messages back: {error.reply_text}") from error
        if isinstance(error, AccessRefused | PreconditionFailed):
            raise ConfigurationError(f"the broker refuses: {error.reply_text}") from error
        raise BrokerUnavailableError(f"{error.reply_text}: run `billing-worker topology declare`") from error
    except NotAllowed as error:
        raise ConfigurationError(f"the broker refuses: {error.reply_text}") from error
    except (TimeoutError, AMQPError, OSError) as error:
        text = str(error) or type(error).__name__
        raise BrokerUnavailableError(f"the broker is not available: {text}") from error
