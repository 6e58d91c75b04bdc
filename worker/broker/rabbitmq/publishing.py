"""A connection that publishes to RabbitMQ, with confirms.

A channel that refuses messages is followed by another one. Before 3.11 RabbitMQ looks once for the leader of
a quorum queue, with the first message of a channel; where that node has just died, the channel refuses all
for this queue until the node is back. A new channel finds the new leader.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from worker.broker.outgoing import Outgoing, PublishResult
from worker.broker.rabbitmq.connection import Heartbeat, close_connection
from worker.broker.rabbitmq.wire import publishing
from worker.errors import BrokerUnavailableError

CONFIRM_TIMEOUT_S = 15.0
#: Shortest time with one channel: a full queue refuses on every one.
_RENEW_AFTER_S = 0.5
#: Longest wait for another channel: where the broker is in an alarm, it doesn't answer.
_RENEWED_WITHIN_S = 1.0


class PublishingConnection:
    """A connection in confirm mode: a batch is on its way before the first confirm is waited for."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._channel = self._opened()
        self._unconfirmed: dict[int, Outgoing] = {}
        self._returned: list[Outgoing] = []
        self._refused: list[Outgoing] = []
        self._heartbeat = Heartbeat(connection)

    def publish(self, messages: Sequence[Outgoing], while_waiting: Callable[[], None]) -> PublishResult:
        """Send ``messages`` and wait for the confirms; ``while_waiting`` is called about once a second."""
        self._heartbeat.beat()
        if self._refused and monotonic() - self._opened_at > _RENEW_AFTER_S:
            with self.connection.transport.having_timeout(_RENEWED_WITHIN_S):
                self._channel.close()
                self._channel = self._opened()
        self._returned, self._refused = [], []
        self._send(messages)
        self._wait(while_waiting)
        return PublishResult(messages, self._returned, self._refused)

    def keep_alive(self) -> None:
        """Answer heartbeats and read what the broker has sent."""
        self._heartbeat.beat()
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=0)

    def close(self) -> None:
        """Close the connection."""
        close_connection(self.connection)

    def _opened(self) -> Any:
        channel = self.connection.channel()
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)
        self._published, self._opened_at = 0, monotonic()  # tags count from one on each channel
        return channel

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
