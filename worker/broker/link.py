"""Opening of a link to the broker that a URL names."""

from collections.abc import Mapping, Sequence

from worker.broker.protocols import Link
from worker.errors import ConfigurationError


def broker_is_embedded(url: str) -> bool:
    """Return True where ``url`` names kombu's embedded transport (a SQLite file) and not a broker."""
    return _scheme(url) == "sqla+sqlite"


def _scheme(url: str) -> str:
    return url.strip().partition("://")[0]


def open_link(
    url: str,
    *,
    consume: Sequence[str] = (),
    prefetch: int | Mapping[str, int] = 1000,
    bulk: str | None = None,
    name: str = "billing-worker",
    one_partition: bool = False,
) -> Link:
    """Connect to ``amqp://…``, ``amqps://…`` or ``sqla+sqlite:///file`` and consume the queues named.

    Of several nodes the first that is well is used, see ``BrokerAddress``.

    ``prefetch`` counts messages a queue; at 0 the queue waits until ``hold_at_most`` says more. The queue
    ``bulk`` may be missing: the others are consumed, and it is consumed once it is there. With
    ``one_partition`` each batch is of the queues of one partition (see ``BatchTurns``). Raises
    BrokerUnavailableError, or ConfigurationError where the broker refuses the credentials or the URL can't be
    used.
    """
    held = dict.fromkeys(consume, prefetch) if isinstance(prefetch, int) else dict(prefetch)
    # The transports are imported when they are used: the embedded one brings an ORM along.
    match _scheme(url):
        case "amqp" | "amqps" | "pyamqp":
            from worker.broker.rabbitmq.link import AmqpLink

            return AmqpLink(url, consume=held, name=name, bulk=bulk, one_partition=one_partition)
        case "sqla+sqlite":
            from worker.broker.embedded import EmbeddedLink

            return EmbeddedLink(url, consume=held)
        case other:
            raise ConfigurationError(
                f"the broker URL begins with {other!r}; use amqp://, amqps:// or sqla+sqlite:///"
            )
