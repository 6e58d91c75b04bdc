"""Reading of a stream of RabbitMQ: like a queue, but each consumer says where it begins.

Deliveries name their offset in a header. Acknowledgements take nothing out of a stream; they ask for more.
Source: https://www.rabbitmq.com/docs/streams#consuming
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from time import monotonic, sleep
from typing import Any

from worker.broker.deliveries import Delivery
from worker.broker.journal import OFFSET_HEADER, JournalMessage, Offsets, ReadsJournal
from worker.broker.rabbitmq.connection import Heartbeat, broker_errors, close_connection, opened
from worker.broker.rabbitmq.consuming import HELD_MAX_BYTES, QueueChannel, drain_arrived
from worker.broker.rabbitmq.declaring import is_there
from worker.errors import BrokerUnavailableError, ConfigurationError

_PREFETCH = 500
_CHUNK_MAX_BYTES = 4 * 1024 * 1024
#: Time without a delivery after which a consumer at the end of a stream has got all of it.
_QUIET_S = 1.0
#: Time without any delivery after which nothing is taken to be there: what is overlooked would be lost.
_NOTHING_S = 5.0
#: Time for the first delivery of a place that has one.
_PATIENCE_S = 15.0
#: No journal is kept for longer.
_OLDEST = timedelta(days=3_660)

#: A place to begin at: an offset, a time, or one of the broker's words (first, last, next).
_Start = int | datetime | str


class StreamReader(ReadsJournal):
    """A connection that reads one stream, each read on a channel of its own."""

    def __init__(self, url: str, stream: str, *, name: str) -> None:
        self._stream = stream
        with broker_errors():
            self._connection = opened(url, f"{name} journal", self._with_stream)
        self._heartbeat = Heartbeat(self._connection)
        self._reading: QueueChannel | None = None

    def _with_stream(self, connection: Any) -> Any:
        """Return the connection where the stream is there. Raises ConfigurationError."""
        if not is_there(connection, self._stream):
            raise ConfigurationError(
                f"there is no journal {self._stream!r}: `billing-worker topology declare --journal` makes "
                "one, which keeps what is sent from then on"
            )
        return connection

    def offsets(self) -> Offsets | None:
        with broker_errors():
            last = self._last_offset()
            if last is None:
                return None
            first = self._offset_from("first", _PATIENCE_S)
            return None if first is None else Offsets(first, last)

    def _last_offset(self) -> int | None:
        """Return the offset of the newest message at this moment; None for an empty stream.

        The broker's count of messages is some seconds old. A consumer of the last chunk gets that, and all
        that comes meanwhile; one of what is new says where that begins.
        """
        with self._consumer("next", 1) as newer, self._consumer("last", _PREFETCH) as newest:
            last: int | None = None
            quiet_since = monotonic()
            while monotonic() - quiet_since < (_NOTHING_S if last is None else _QUIET_S):
                self._drain(0.05, newer, newest)
                if newer.arrived:
                    return _after_none(_offset_of(newer.arrived[0]) - 1)
                if arrived := self._take(newest):
                    last, quiet_since = _offset_of(arrived[-1]), monotonic()
        return last

    def offset_at(self, moment: datetime) -> int | None:
        with broker_errors():
            return self._offset_from(moment, _NOTHING_S)

    def begins_at(self, kept: Offsets, now: datetime) -> datetime | None:
        # No delivery says when it was kept: a time that leads to the first one is not later than that.
        low, high = int((now - _OLDEST).timestamp()), int(now.timestamp()) + 1
        with broker_errors():
            while high - low > 1:
                middle = (low + high) // 2
                found = self._offset_from(datetime.fromtimestamp(middle, UTC), _QUIET_S)
                if found is not None and found <= kept.first:
                    low = middle
                else:
                    high = middle
        return datetime.fromtimestamp(low, UTC)

    def read(self, start: int, last: int) -> Iterator[Sequence[JournalMessage]]:
        with broker_errors():
            yield from self._read(start, last)

    def _read(self, start: int, last: int) -> Iterator[Sequence[JournalMessage]]:
        before = start - 1
        with self._consumer(start, _PREFETCH) as consumer:
            self._reading = consumer  # its deliveries arrive in any wait
            waiting_since = monotonic()
            while before < last:
                self._drain(0 if consumer.arrived else 0.5, consumer)
                arrived = consumer.take(_PREFETCH, _CHUNK_MAX_BYTES)
                if not arrived:
                    self._raise_if_late(waiting_since, before)
                    continue
                chunk: list[JournalMessage] = []
                for delivery in arrived:
                    before = _offset_of(delivery)
                    chunk.append(JournalMessage(before, delivery))
                yield [message for message in chunk if message.offset <= last]
                consumer.acknowledge([delivery.tag for delivery in arrived])
                waiting_since = monotonic()
        self._reading = None

    def keep_alive(self, wait_s: float = 0.0) -> None:
        deadline = monotonic() + wait_s
        reading = [] if self._reading is None else [self._reading]
        with broker_errors():
            self._drain(0, *reading)
            while (left := deadline - monotonic()) > 0:
                self._drain(min(left, 1.0), *reading)

    def close(self) -> None:
        close_connection(self._connection)

    def _offset_from(self, start: _Start, patience_s: float) -> int | None:
        """Return the first offset that a consumer at ``start`` gets; None where none comes in time."""
        deadline = monotonic() + patience_s
        with self._consumer(start, 1) as consumer:
            while monotonic() < deadline:
                self._drain(0.05, consumer)
                if consumer.arrived:
                    return _offset_of(consumer.arrived[0])
        return None

    @contextmanager
    def _consumer(self, start: _Start, prefetch: int) -> Iterator[QueueChannel]:
        channel = QueueChannel(
            self._connection, self._stream, prefetch, _on_cancel, arguments={OFFSET_HEADER: start}
        )
        try:
            yield channel
        finally:
            channel.close()

    def _take(self, channel: QueueChannel) -> list[Delivery]:
        """Take what has arrived, and ask for more."""
        arrived = channel.take(_PREFETCH, _CHUNK_MAX_BYTES)
        if arrived:
            channel.acknowledge([delivery.tag for delivery in arrived])
        return arrived

    def _drain(self, timeout_s: float, *consumers: QueueChannel) -> None:
        """Read what has arrived for ``consumers``; wait for something where nothing has."""
        self._heartbeat.beat()
        if any(consumer.arrived_bytes >= HELD_MAX_BYTES for consumer in consumers):
            sleep(timeout_s)  # what is not read yet waits in the broker
            return
        with suppress(TimeoutError):
            self._connection.drain_events(timeout=timeout_s)
        drain_arrived(self._connection, lambda: any(len(one.arrived) >= _PREFETCH for one in consumers))

    @staticmethod
    def _raise_if_late(since: float, before: int) -> None:
        if monotonic() - since > _PATIENCE_S:
            raise BrokerUnavailableError(
                f"the journal delivers nothing behind offset {before} for {_PATIENCE_S:g} s; "
                "was it deleted and declared anew?"
            )


def _on_cancel(tag: str) -> None:
    raise BrokerUnavailableError(f"the broker cancelled the consumer of {tag}: is the journal deleted?")


def _offset_of(delivery: Delivery) -> int:
    """Return the offset of a delivery. Raises BrokerUnavailableError for one that has none."""
    offset = delivery.headers.get(OFFSET_HEADER)
    if not isinstance(offset, int):
        raise BrokerUnavailableError("the broker delivers a message of the journal without its offset")
    return offset


def _after_none(offset: int) -> int | None:
    return offset if offset >= 0 else None
