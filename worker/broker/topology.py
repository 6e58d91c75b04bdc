"""The exchanges and the queues, as data.

Only what can never change is an argument of a queue (its type); everything else is a policy, which an
operator can change without deleting the queue.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from schemas.partitions import require_partitions, suffix_of
from worker.broker.partitions import SUFFIX_PATTERN, queue_of, without_partition

#: From 4.0 on RabbitMQ drops a message after 20 returns, unless a limit is set.
WORK_DELIVERY_LIMIT = 1_000
#: A query that waited so long has no caller any more; more of them than that are not worth keeping.
QUERY_TTL_MS, QUERIES_MAX = 30_000, 10_000
KEPT_DELIVERY_LIMIT = 1_000_000
#: It matters when a queue is made and never again: it keeps the leaders of the partitions on all nodes.
#: Source: https://www.rabbitmq.com/docs/clustering#replica-placement
_BALANCED = {"x-queue-type": "quorum", "x-queue-leader-locator": "balanced"}


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue and the routing keys of the exchange that lead to it.

    Without ``exchange`` it is the topology's exchange of commands. ``readers`` are the roles of broker users
    that may read it, see ``worker.broker.roles``.
    """

    name: str
    routing_keys: tuple[str, ...] = ()
    arguments: Mapping[str, str | int] = field(default_factory=lambda: {"x-queue-type": "quorum"})
    exchange: str | None = None
    readers: tuple[str, ...] = ()

    def takes(self, type_: str) -> bool:
        """Return True for a type that a routing key of this queue matches."""
        return any(fnmatchcase(type_, key) for key in self.routing_keys)

    def of_partition(self, partition: int) -> "Queue":
        """Return the queue of ``partition`` in this lane: its keys end in the partition."""
        suffix = suffix_of(partition)
        keys = tuple(key + suffix for key in self.routing_keys)
        return replace(self, name=queue_of(self.name, partition), routing_keys=keys, arguments=_BALANCED)


#: One consumer at a time returns what is held, so that it returns in its order.
_HELD = Queue(
    "billing.held",
    arguments={"x-queue-type": "quorum", "x-single-active-consumer": True},
    readers=("worker",),
)


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """Limits of the journal: the broker drops whole segments that are older, or beyond the size.

    Source: https://www.rabbitmq.com/docs/streams#retention
    """

    max_age_s: int = 7 * 86_400
    max_bytes: int = 20 * 10**9
    segment_bytes: int = 100 * 10**6

    @property
    def arguments(self) -> Mapping[str, str | int]:
        """Arguments of the queue. The same limits have the same arguments, however they were written."""
        return {
            "x-queue-type": "stream",
            "x-max-age": self._max_age,
            "x-max-length-bytes": self.max_bytes,
            "x-stream-max-segment-size-bytes": self.segment_bytes,
        }

    @property
    def _max_age(self) -> str:
        unit, seconds = next((unit, each) for unit, each in _AGES.items() if self.max_age_s % each == 0)
        return f"{self.max_age_s // seconds}{unit}"


#: Units of an age, as RabbitMQ writes them, with their seconds.
_AGES = {"D": 86_400, "h": 3_600, "m": 60, "s": 1}


@dataclass(frozen=True, slots=True)
class Topology:
    """All that must exist on the broker before a worker runs.

    ``work`` has a queue for each lane, in the order in which they are served. Where there are ``partitions``
    (0: none), ``partition_queues`` are beside them: as many for each lane. What has no partition behind its
    type waits in the queue of its lane all the same.

    ``exchange`` takes commands and queries, ``bulk_exchange`` those of the bulk lane, which is served last.
    Notices go to ``events``, to which a listener binds its queue. ``journal`` may exist beside them: a stream
    that keeps every command for some days, for the roles of ``journal_readers`` alone. Messages of a type
    that an operator has paused wait in ``held``.
    """

    exchange: str
    work: tuple[Queue, ...]
    replies: Queue
    dead: Queue
    queries: Queue
    held: Queue = field(default_factory=lambda: _HELD)
    events: str = "billing.events"
    bulk_exchange: str = "billing.bulk"
    journal: str = "billing.journal"
    journal_readers: tuple[str, ...] = ("ops",)
    partitions: int = 0
    _bulk: Queue | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Looked up once: every message is compared with it.
        bulk = next((queue for queue in self.work if queue.exchange == self.bulk_exchange), None)
        object.__setattr__(self, "_bulk", bulk)

    def partitioned(self, partitions: int) -> "Topology":
        """Return this topology with so many partitions; 0: with none. Raises ValueError."""
        return replace(self, partitions=require_partitions(partitions))

    @property
    def partition_queues(self) -> tuple[Queue, ...]:
        """The queues of the partitions, partition by partition, lanes in their order."""
        return tuple(
            lane.of_partition(partition) for partition in range(self.partitions) for lane in self.work
        )

    @property
    def work_queues(self) -> tuple[Queue, ...]:
        """Every queue of work: those of the lanes first, then those of the partitions."""
        return (*self.work, *self.partition_queues)

    @property
    def names_by_lane(self) -> Mapping[str, Sequence[str]]:
        """The names of each lane's queues: its own, and those of its partitions."""
        return {lane.name: [queue.name for queue in self.queues_in(lane)] for lane in self.work}

    @property
    def exchanges(self) -> tuple[str, ...]:
        """Every exchange; all of type topic."""
        return (*self.command_exchanges, self.events)

    @property
    def command_exchanges(self) -> tuple[str, ...]:
        """The exchanges that take commands."""
        return (self.exchange, self.bulk_exchange)

    @property
    def queues(self) -> tuple[Queue, ...]:
        """Every queue."""
        return (*self.work_queues, *self.queues_apart)

    @property
    def queues_apart(self) -> tuple[Queue, ...]:
        """Every queue that holds no work."""
        return (self.queries, self.replies, self.dead, self.held)

    @property
    def bulk(self) -> Queue:
        """The queue of work of the bulk lane. Raises LookupError where there is none."""
        if self._bulk is None:
            raise LookupError("this topology has no bulk lane")
        return self._bulk

    @property
    def journal_bindings(self) -> tuple[tuple[str, str], ...]:
        """Exchanges and keys that lead to the journal: those of the queues of work, and no other.

        A wider key would take misspelled types, whose senders then learn nothing of it.
        """
        return tuple(
            (queue.exchange or self.exchange, key) for queue in self.work_queues for key in queue.routing_keys
        )

    def queue_of(self, type_: str) -> Queue:
        """The queue of work that commands of ``type_`` wait in, those of the bulk lane apart."""
        return next(queue for queue in self.work if queue.exchange is None and queue.takes(type_))

    def queues_of(self, type_: str) -> tuple[Queue, ...]:
        """The queues that commands of ``type_`` wait in, of its lane and its partitions; bulk apart."""
        return self.queues_in(self.queue_of(type_))

    def queues_in(self, lane: Queue) -> tuple[Queue, ...]:
        """Return the queues of a lane: its own, and those of its partitions."""
        return (lane, *(lane.of_partition(partition) for partition in range(self.partitions)))

    def lane_of(self, queue: str) -> str:
        """Return the name of the lane that a queue is of: its own, but for a partition's queue."""
        lane = without_partition(queue)
        return lane if any(lane == one.name for one in self.work) else queue

    def is_bulk(self, queue: str) -> bool:
        """Return True for a queue of the bulk lane, with a partition or without."""
        name = self.bulk.name
        return queue.startswith(name) and self.lane_of(queue) == name  # nearly every message is asked

    def policies(self) -> Mapping[str, tuple[str, Mapping[str, str | int]]]:
        """Policies an operator should set, by name: the pattern of queue names and the definition.

        The delivery limits are high. A worker finds poison messages by a record of its own (see
        ``worker.lanes.poison``); a broker that counts restarts and lost connections must not drop innocent
        ones. The limit of the queues of work is for a message that a worker can't even receive.
        """
        definition: dict[str, str | int] = {
            "delivery-limit": WORK_DELIVERY_LIMIT,
            "dead-letter-exchange": "",
            "dead-letter-routing-key": self.dead.name,
            "dead-letter-strategy": "at-least-once",
            "overflow": "reject-publish",  # at-least-once dead-lettering falls back silently without it
        }
        # A query holds nothing worth keeping: its caller asks again.
        passing: dict[str, str | int] = {
            "message-ttl": QUERY_TTL_MS,
            "max-length": QUERIES_MAX,
            "overflow": "drop-head",
        }
        # Here the broker drops a message over the limit: none may be lost for being looked at.
        kept: dict[str, str | int] = {"delivery-limit": KEPT_DELIVERY_LIMIT}
        return {
            "billing-work": (_any_of(self.work, f"({SUFFIX_PATTERN})?"), definition),
            "billing-queries": (_any_of((self.queries,)), passing),
            "billing-kept": (_any_of((self.replies, self.dead, self.held)), kept),
        }

    def least_delivery_limits(self) -> Mapping[str, int]:
        """The lowest delivery limit of each queue's policy that loses nothing."""
        return {
            **{queue.name: WORK_DELIVERY_LIMIT for queue in self.work_queues},
            **{queue.name: KEPT_DELIVERY_LIMIT for queue in (self.replies, self.dead, self.held)},
        }


def _any_of(queues: Sequence[Queue], suffix: str = "") -> str:
    return "^(" + "|".join(queue.name.replace(".", r"\.") for queue in queues) + f"){suffix}$"


#: Payments are served first, so that a top-up isn't beaten by the usage it pays for; bulk is served last.
BILLING = Topology(
    exchange="billing",
    work=(
        Queue(
            "billing.payments", ("payment.*", "credit.*", "account.*", "subscription.*"), readers=("worker",)
        ),
        Queue("billing.usage", ("usage.*",), readers=("worker",)),
        Queue("billing.bulk", ("usage.*",), exchange="billing.bulk", readers=("worker",)),
    ),
    replies=Queue("billing.replies", readers=("app", "ops")),
    dead=Queue("billing.dead", readers=("worker", "ops")),
    queries=Queue("billing.queries", ("query.*",), {"x-queue-type": "classic"}, readers=("worker", "reader")),
)
