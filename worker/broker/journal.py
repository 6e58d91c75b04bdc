"""The journal: a stream that keeps every command for some days, read from any place and any number of times.

Reading takes nothing out of it. A place is an *offset*: the broker numbers the messages of a stream from 0
on, and leaves out a number where it begins a segment.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from worker.broker.deliveries import Delivery
from worker.broker.link import broker_is_embedded
from worker.errors import ConfigurationError

#: Header in which the broker names the offset of a delivery.
OFFSET_HEADER = "x-stream-offset"
#: Refusal of the embedded broker.
NO_JOURNAL = "the embedded broker keeps no journal: use RabbitMQ for what must come back after a restore"


class Offsets(NamedTuple):
    """The first and the last offset that a journal keeps, both included; the last one may have no message."""

    first: int
    last: int


class JournalMessage(NamedTuple):
    """A message with its place in the journal. Its headers are those that the stream keeps: plain values."""

    offset: int
    delivery: Delivery


class ReadsJournal(Protocol):
    """A connection that reads the journal. Methods raise BrokerUnavailableError once it is lost."""

    def offsets(self) -> Offsets | None:
        """Return what the journal keeps at this moment; None where it is empty."""
        ...

    def offset_at(self, moment: datetime) -> int | None:
        """Return an offset before which nothing was kept at or after ``moment``; None: nothing was since.

        Messages from shortly before may follow there: the broker stores them in chunks.
        """
        ...

    def begins_at(self, kept: Offsets, now: datetime) -> datetime | None:
        """Return the time, to the second, at which the oldest message was kept; None where it isn't known."""
        ...

    def read(self, start: int, last: int) -> Iterator[Sequence[JournalMessage]]:
        """Yield what is kept from ``start`` to ``last``, some hundreds at a time, in order."""
        ...

    def keep_alive(self, wait_s: float = 0.0) -> None:
        """Answer the broker's heartbeats, for ``wait_s`` at least; needed where a reader takes its time."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


def open_journal(url: str, stream: str, *, name: str = "billing-worker") -> ReadsJournal:
    """Connect to the broker and read the journal ``stream``.

    Raises ConfigurationError where there is none, where this user may not read it, and for the embedded
    broker; BrokerUnavailableError where the broker is away.
    """
    if broker_is_embedded(url):
        raise ConfigurationError(NO_JOURNAL)
    from worker.broker.rabbitmq.streams import StreamReader

    return StreamReader(url, stream, name=name)
