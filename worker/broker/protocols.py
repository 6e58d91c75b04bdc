"""The interface to a broker, whichever it is, in the parts that a caller may need."""

from collections.abc import Sequence
from typing import Protocol

from worker.broker.deliveries import Delivery
from worker.broker.outgoing import Outgoing, PublishResult
from worker.broker.sharing import BulkShare
from worker.broker.topology import JournalLimits, Topology


class Connected(Protocol):
    """A live connection. Any method raises BrokerUnavailableError once it is lost: open another.

    What was received and not acknowledged is then delivered again.
    """

    def keep_alive(self, wait_s: float = 0.0) -> None:
        """Answer the broker's heartbeats, for ``wait_s`` at least; to be called once a second or so."""
        ...

    def close(self) -> None:
        """Close; deliveries that are not acknowledged go back to their queues."""
        ...


class Consumes(Connected, Protocol):
    """A connection that receives deliveries from its queues and acknowledges them."""

    def receive(self, most: int, timeout_s: float, bulk: BulkShare | None = None) -> list[Delivery]:
        """Return the deliveries that have arrived, up to ``most``, those of the first queue first.

        ``bulk`` is the share of the bulk queue (see ``worker.broker.sharing``); without it queues are alike.
        Large ones come fewer at a time, until ``BATCH_MAX_BYTES`` are full; the others come with the next
        call. Waits up to ``timeout_s`` for the first one and not for a second.
        """
        ...

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge ``deliveries``, each once: the broker then forgets them."""
        ...

    def hold_at_most(self, queue: str, most: int, *, give_back: bool = False) -> None:
        """Hold at most ``most`` messages of ``queue`` from now on; to hold fewer takes ``give_back``.

        With ``give_back`` all that is held goes back to its place in the queue: that counts as a delivery of
        each, and none of it may be acknowledged any more. At 0 nothing is taken then.
        """
        ...

    def consume(self, queue: str, most: int) -> None:
        """Begin to consume one more queue, which may be missing for now, and hold at most ``most`` of it."""
        ...

    def quiesce(self, queue: str) -> None:
        """Take nothing more of ``queue``; what is held is received and acknowledged as before."""
        ...

    def held_of(self, queue: str) -> int:
        """Return the number of messages of ``queue`` that are held: delivered and not acknowledged."""
        ...

    def leave(self, queue: str) -> None:
        """Consume ``queue`` no more; what is held of it goes back, and may not be acknowledged any more."""
        ...


class Publishes(Connected, Protocol):
    """A connection that publishes messages, each confirmed by the broker."""

    def publish(self, messages: Sequence[Outgoing]) -> PublishResult:
        """Send ``messages``, wait until the broker has answered for each, and return its answers.

        Raises BrokerUnavailableError where the connection is lost or the answers don't come in time: any of
        the messages may be published then.
        """
        ...


class Administers(Connected, Protocol):
    """A connection that declares, deletes and inspects queues."""

    def declare(self, topology: Topology) -> None:
        """Make what is missing; raises ConfigurationError where something exists and differs.

        A journal that is there is bound like the queues of work; none is made.
        """
        ...

    def declare_journal(self, topology: Topology, limits: JournalLimits) -> None:
        """Make the journal where it is missing.

        Raises ConfigurationError where it has other limits, and on a broker that keeps none.
        """
        ...

    def has_journal(self, topology: Topology) -> bool:
        """Return True where the journal is there; its bindings and limits are not looked at."""
        ...

    def partitions(self, topology: Topology) -> int:
        """Return the number of partitions that are there, be it more than ``topology`` has; 0: none."""
        ...

    def differences(self, topology: Topology) -> list[str]:
        """Return the parts of ``topology`` that are missing or differ, one line each, with the way out."""
        ...

    def can_compare(self, topology: Topology) -> bool:
        """Return True where ``differences`` compares what is there; without the right it finds what isn't."""
        ...

    def declare_temporary(self, queue: str) -> None:
        """Make a queue for replies to one caller; the broker deletes it after ten minutes without use."""
        ...

    def listen(self, queue: str) -> None:
        """Make a queue, as ``declare_temporary`` does, that gets every notice from now on.

        On the embedded transport links that are open already don't know of it.
        """
        ...

    def delete(self, queue: str) -> None:
        """Remove ``queue`` with what is in it; one that is not there is no error."""
        ...

    def depth(self, queue: str) -> int:
        """Return the number of messages that wait in ``queue``, without those under way."""
        ...

    def consumers(self, queue: str) -> int | None:
        """Return the number of consumers of ``queue``; None where the broker can't tell."""
        ...


class Link(Consumes, Publishes, Administers, Protocol):
    """A connection that consumes, publishes and administers; ``open_link`` returns one."""
