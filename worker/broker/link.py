"""The interface to a broker, whichever it is."""

from collections.abc import Mapping, Sequence
from typing import Protocol
from urllib.parse import urlsplit

from worker.broker.deliveries import Delivery, Outgoing
from worker.broker.topology import Topology
from worker.errors import ConfigurationError


class Link(Protocol):
    """A live connection. Any method raises BrokerUnavailableError once the link is lost: open another.

    What was received and not acknowledged is then delivered again.
    """

    def receive(self, most: int, timeout_s: float) -> list[Delivery]:
        """Return the deliveries that have arrived, up to ``most``, those of the first queue first.

        Large ones come fewer at a time, until ``BATCH_MAX_BYTES`` are full; the others come with the next
        call. Waits up to ``timeout_s`` for the first one and not for a second.
        """
        ...

    def publish(self, messages: Sequence[Outgoing]) -> list[Outgoing]:
        """Send ``messages`` and wait until the broker has them; returns those that reached no queue.

        Raises RefusedError where the broker refuses some of them.
        """
        ...

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Tell the broker that ``deliveries`` are done. Each once."""
        ...

    def hold_at_most(self, queue: str, most: int, *, give_back: bool = False) -> None:
        """Hold at most ``most`` messages of ``queue`` from now on; to hold fewer takes ``give_back``.

        With ``give_back`` all that is held goes back to its place in the queue: that counts as a delivery of
        each, and none of it may be acknowledged any more. At 0 nothing is taken then.
        """
        ...

    def keep_alive(self, wait_s: float = 0.0) -> None:
        """Answer the broker's heartbeats, for ``wait_s`` at least; to be called once a second or so."""
        ...

    def declare(self, topology: Topology) -> None:
        """Make what is missing; raises ConfigurationError where something exists and differs."""
        ...

    def differences(self, topology: Topology) -> list[str]:
        """Return the parts of ``topology`` that are missing or differ, one line each, with the way out."""
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

    def close(self) -> None:
        """Close; deliveries that are not acknowledged go back to their queues."""
        ...


def broker_is_embedded(url: str) -> bool:
    """Return True where ``url`` names kombu's embedded transport (a SQLite file) and not a broker."""
    return urlsplit(url).scheme == "sqla+sqlite"


def open_link(
    url: str,
    *,
    consume: Sequence[str] = (),
    prefetch: int | Mapping[str, int] = 1000,
    name: str = "billing-worker",
) -> Link:
    """Connect to ``amqp://…``, ``amqps://…`` or ``sqla+sqlite:///file`` and consume the queues named.

    ``prefetch`` counts messages a queue; at 0 the queue waits until ``hold_at_most`` says more. Raises
    BrokerUnavailableError, or ConfigurationError where the broker refuses the credentials or the URL can't be
    used.
    """
    held = dict.fromkeys(consume, prefetch) if isinstance(prefetch, int) else dict(prefetch)
    # The transports are imported when they are used: the embedded one brings an ORM along.
    match urlsplit(url).scheme:
        case "amqp" | "amqps" | "pyamqp":
            from worker.broker.amqp import AmqpLink

            return AmqpLink(url, consume=held, name=name)
        case "sqla+sqlite":
            from worker.broker.embedded import EmbeddedLink

            return EmbeddedLink(url, consume=held)
        case other:
            raise ConfigurationError(
                f"the broker URL begins with {other!r}; use amqp://, amqps:// or sqla+sqlite:///"
            )
