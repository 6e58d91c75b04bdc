"""Opening of a link to the broker that a URL names."""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from worker.broker.protocols import Link
from worker.errors import ConfigurationError


def broker_is_embedded(url: str) -> bool:
    """Return True where ``url`` names kombu's embedded transport (a SQLite file) and not a broker."""
    return urlsplit(url).scheme == "sqla+sqlite"


def open_link(
    url: str,
    *,
    consume: Sequence[str] = (),
    prefetch: int | Mapping[str, int] = 1000,
    bulk: str | None = None,
    name: str = "billing-worker",
) -> Link:
    """Connect to ``amqp://…``, ``amqps://…`` or ``sqla+sqlite:///file`` and consume the queues named.

    ``prefetch`` counts messages a queue; at 0 the queue waits until ``hold_at_most`` says more. The queue
    ``bulk`` may be missing: the others are consumed, and it is consumed once it is there. Raises
    BrokerUnavailableError, or ConfigurationError where the broker refuses the credentials or the URL can't be
    used.
    """
    held = dict.fromkeys(consume, prefetch) if isinstance(prefetch, int) else dict(prefetch)
    # The transports are imported when they are used: the embedded one brings an ORM along.
    match urlsplit(url).scheme:
        case "amqp" | "amqps" | "pyamqp":
            from worker.broker.rabbitmq.link import AmqpLink

            return AmqpLink(url, consume=held, name=name, bulk=bulk)
        case "sqla+sqlite":
            from worker.broker.embedded import EmbeddedLink

            return EmbeddedLink(url, consume=held)
        case other:
            raise ConfigurationError(
                f"the broker URL begins with {other!r}; use amqp://, amqps:// or sqla+sqlite:///"
            )
