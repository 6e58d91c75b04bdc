"""The exchanges and the queues, as data.

Only what can never change is an argument of a queue (its type); everything else is a policy, which an
operator can change without deleting the queue.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue and the routing keys of the exchange that lead to it."""

    name: str
    routing_keys: tuple[str, ...] = ()
    arguments: Mapping[str, str] = field(default_factory=lambda: {"x-queue-type": "quorum"})


@dataclass(frozen=True, slots=True)
class Topology:
    """All that must exist on the broker before a worker runs. ``work`` is served in its order.

    ``exchange`` takes commands. Notices go to ``events``, to which whoever wants to hear them binds a queue.
    """

    exchange: str
    work: tuple[Queue, ...]
    replies: Queue
    dead: Queue
    events: str = "billing.events"

    @property
    def exchanges(self) -> tuple[str, ...]:
        """Every exchange; all of type topic."""
        return (self.exchange, self.events)

    @property
    def queues(self) -> tuple[Queue, ...]:
        """Every queue."""
        return (*self.work, self.replies, self.dead)

    def queue_of(self, type_: str) -> Queue:
        """The queue of work that commands of ``type_`` wait in."""
        return next(
            queue for queue in self.work if any(fnmatchcase(type_, key) for key in queue.routing_keys)
        )

    def policies(self) -> Mapping[str, tuple[str, Mapping[str, str | int]]]:
        """Policies an operator should set, by name: the pattern of queue names and the definition.

        A message that brings worker after worker down is then dead-lettered by the broker itself, and kept
        until the dead-letter queue has confirmed it. The worker parks it earlier, see ``consumer``.
        """
        pattern = "^(" + "|".join(queue.name.replace(".", r"\.") for queue in self.work) + ")$"
        definition: dict[str, str | int] = {
            "delivery-limit": 50,  # 4.0 and later drop after 20 where nothing is said
            "dead-letter-exchange": "",
            "dead-letter-routing-key": self.dead.name,
            "dead-letter-strategy": "at-least-once",
            "overflow": "reject-publish",  # at-least-once dead-lettering falls back silently without it
        }
        kept = "^(" + "|".join(queue.name.replace(".", r"\.") for queue in (self.replies, self.dead)) + ")$"
        # To look and give back counts as a delivery; nothing of these may be dropped for being looked at.
        return {"billing-work": (pattern, definition), "billing-kept": (kept, {"delivery-limit": 1000})}


#: Payments are served first, so that a top-up isn't beaten by the usage it pays for.
BILLING = Topology(
    exchange="billing",
    work=(
        Queue("billing.payments", ("payment.*", "credit.*", "account.*", "subscription.*")),
        Queue("billing.usage", ("usage.*",)),
    ),
    replies=Queue("billing.replies"),
    dead=Queue("billing.dead"),
)
