"""Fakes in memory: a link to a broker, the record of trials and the record of pauses."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.fake_broker import FakeBroker
from worker.broker import BILLING, Delivery, JournalLimits, Link, Outgoing, PublishResult, Topology
from worker.broker.deliveries import front_of
from worker.broker.journal import NO_JOURNAL
from worker.broker.partitions import without_partition
from worker.broker.sharing import BatchTurns, BulkShare, Waiting
from worker.errors import BrokerUnavailableError, ConfigurationError
from worker.ledger.partition_leases import Decide, Lease, LeaseChange, SharingWorker
from worker.ledger.pauses import Pause
from worker.ledger.trials import Trial, Trying
from worker.messages.outgoing import OutgoingDeadLetter, OutgoingDirectReply, OutgoingNotice, OutgoingReply

_REPLIES = (OutgoingReply, OutgoingDirectReply)
_WORK = [queue.name for queue in BILLING.work]


class FakeLink(Link):
    """A link to ``broker``, and a record of what is published and acknowledged.

    Without ``broker`` it has one of its own, where ``arriving`` waits and all notices are heard.
    ``unroutable`` names queues that do not exist, ``refusing`` full ones. ``on_publish`` and
    ``on_keep_alive`` are called at those. For a routing key in ``closing`` the broker closes the connection
    (``on_close``), and has taken nothing.
    """

    def __init__(
        self, *arriving: Delivery, broker: FakeBroker | None = None, consume: Mapping[str, int] | None = None
    ) -> None:
        self._broker = broker or FakeBroker(listeners=["billing.heard"])
        self._most = dict(dict.fromkeys(_WORK, 1000) if consume is None else consume)
        self._broker.consuming[self] = set(self._most)
        self._turns = BatchTurns()
        for each in arriving:
            self._broker.queue(each.queue).append(each)
        self._held: list[Delivery] = []
        self.published: list[Outgoing] = []
        self.acknowledged: list[Delivery] = []
        self.unroutable: set[str] = set()
        self.on_publish: Callable[[], None] = lambda: None
        self.on_keep_alive: Callable[[], None] = lambda: None
        self.waited_s: list[float] = []
        self.closed = False
        self.holds: dict[str, int] = {}
        self.given_back: list[str] = []
        self.refusing: set[str] = set()
        self.closing: set[str] = set()
        self.on_close: Callable[[], None] = lambda: None

    @property
    def prefetch(self) -> int:
        """The most that may be held of any queue."""
        return max(self._most.values())

    @prefetch.setter
    def prefetch(self, most: int) -> None:
        self._most = dict.fromkeys(self._most, most)

    def receive(self, most: int, timeout_s: float, bulk: BulkShare | None = None) -> list[Delivery]:
        with self._broker.changed:
            if len(self._broker.consuming) > 1:  # else nobody could publish meanwhile
                self._broker.changed.wait_for(lambda: any(map(self._room, self._most)), timeout_s)
            taken = self._turns.batch_of({queue: self._waiting(queue) for queue in self._most}, most, bulk)
            self._held += taken
        return taken

    def _waiting(self, queue: str) -> Waiting:
        waiting, count = self._broker.queue(queue), self._room(queue)
        return Waiting(count, lambda most, room: front_of(waiting, min(most, count), room))

    def _room(self, queue: str) -> int:
        """Return how many of the messages that wait in ``queue`` may be taken."""
        held = sum(each.queue == queue for each in self._held)
        return max(min(self._most[queue] - held, len(self._broker.queue(queue))), 0)

    def hold_at_most(self, queue: str, most: int, *, give_back: bool = False) -> None:
        self.holds[queue] = most
        if give_back:
            self.given_back.append(queue)
            self._give_back({queue})
        self._most[queue] = most if give_back else max(most, self._most[queue])

    def _give_back(self, queues: Collection[str]) -> None:
        self._broker.give_back(each for each in self._held if each.queue in queues)
        self._held = [each for each in self._held if each.queue not in queues]

    def consume(self, queue: str, most: int) -> None:
        self._most[queue] = most
        self._broker.consuming[self].add(queue)

    def quiesce(self, queue: str) -> None:
        self._broker.consuming[self].discard(queue)
        self._most[queue] = 0

    def held_of(self, queue: str) -> int:
        return sum(each.queue == queue for each in self._held)

    def most_of(self, lane: str) -> set[int]:
        """Return what may be held of a lane's queues, with those of its partitions."""
        return {most for queue, most in self._most.items() if without_partition(queue) == lane}

    def leave(self, queue: str) -> None:
        self._give_back({queue})
        self._broker.consuming[self].discard(queue)
        del self._most[queue]

    def publish(self, messages: Sequence[Outgoing]) -> PublishResult:
        self.on_publish()
        if any(message.routing_key in self.closing for message in messages):
            self.on_close()
            raise BrokerUnavailableError("closed")
        refused = [message for message in messages if message.routing_key in self.refusing]
        others = [message for message in messages if message not in refused]
        self.published += others
        unrouted = [message for message in others if not self._is_routed(message)]
        return PublishResult(messages, [message for message in unrouted if message.mandatory], refused)

    def _is_routed(self, message: Outgoing) -> bool:
        return message.routing_key not in self.unroutable and self._broker.put(message)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self.acknowledged += deliveries
        done = set(deliveries)
        self._held = [each for each in self._held if each not in done]

    def keep_alive(self, wait_s: float = 0.0) -> None:
        self.waited_s.append(wait_s)
        self.on_keep_alive()

    def declare(self, topology: Topology) -> None:
        for queue in topology.queues:
            self._broker.queue(queue.name)

    def declare_journal(self, topology: Topology, limits: JournalLimits) -> None:
        raise ConfigurationError(NO_JOURNAL)

    def has_journal(self, topology: Topology) -> bool:
        return False

    def partitions(self, topology: Topology) -> int:
        return topology.partitions

    def differences(self, topology: Topology) -> list[str]:
        return [
            f"queue {queue.name!r} is missing"
            for queue in topology.queues
            if queue.name not in self._broker.queues
        ]

    def can_compare(self, topology: Topology) -> bool:
        return True

    def declare_temporary(self, queue: str) -> None:
        self._broker.queue(queue)

    def listen(self, queue: str) -> None:
        self._broker.queue(queue)
        self._broker.listeners.add(queue)

    def delete(self, queue: str) -> None:
        self._broker.delete(queue)

    def depth(self, queue: str) -> int:
        return len(self._broker.queue(queue))

    def consumers(self, queue: str) -> int | None:
        return sum(queue in queues for queues in self._broker.consuming.values())

    def close(self) -> None:
        self.closed = True
        self._give_back(self._most)
        self._broker.consuming.pop(self, None)

    @property
    def replies(self) -> list[dict[str, Any]]:
        """The bodies of replies."""
        return [json.loads(m.body) for m in self.published if isinstance(m, _REPLIES)]

    @property
    def dead_letters(self) -> list[OutgoingDeadLetter]:
        """The dead letters."""
        return [m for m in self.published if isinstance(m, OutgoingDeadLetter)]

    @property
    def notices(self) -> list[OutgoingNotice]:
        """The notices."""
        return [m for m in self.published if isinstance(m, OutgoingNotice)]


class FakeRecord:
    """The record of trials, in memory."""

    def __init__(self, trials: dict[str, Trial] | None = None) -> None:
        self.trials = {} if trials is None else trials
        self.errors: list[Exception] = []

    def of(self, keys: Sequence[str]) -> dict[str, Trial]:
        return {key: self.trials[key] for key in keys if key in self.trials}

    def begin(self, messages: Mapping[str, Trying], known: Mapping[str, Trial], now: datetime) -> None:
        del now
        for key, message in messages.items():
            alone = known[key].alone if key in known else 0
            self.trials[key] = Trial(len(messages), alone + (len(messages) == 1), message.delivery_count)
        if self.errors:
            raise self.errors.pop(0)

    def end(self, keys: Sequence[str]) -> None:
        for key in keys:
            del self.trials[key]

    def withdraw(self, messages: Mapping[str, Trying], known: Mapping[str, Trial], now: datetime) -> None:
        del now
        for key in messages:
            self.trials.pop(key, None)
            if key in known:
                self.trials[key] = known[key]

    def smallest(self, now: datetime) -> int | None:
        del now
        return min((trial.together for trial in self.trials.values()), default=None)


class FakePauses:
    """The record of pauses, in memory; ``resumed`` holds the ids that an operator has ended."""

    def __init__(self) -> None:
        self.lasting: dict[int, Pause] = {}
        self.resumed: set[int] = set()
        self.accepted: list[str] = []
        self.new: set[str] = set()
        self.suspicions: dict[str, str] = {}

    def begin(self, pause: Pause, config: str) -> int:
        del config
        self.lasting[len(self.lasting) + 1] = pause
        return len(self.lasting)

    def see(self, ids: Collection[int], now: datetime) -> set[int]:
        del now
        return self.resumed & set(ids)

    def end(self, ids: Collection[int], now: datetime) -> None:
        del now
        for pause_id in ids:
            del self.lasting[pause_id]

    def suspected(self, config: str) -> dict[str, str]:
        del config
        return self.suspicions

    def is_new(self, config: str) -> bool:
        return (config in self.new or bool(self.suspicions)) and config not in self.accepted

    def accept(self, config: str, by: str, now: datetime) -> None:
        del by, now
        self.accepted.append(config)


class FakeLeases:
    """Leases in memory, which never end by themselves; ``errors`` are raised first."""

    def __init__(self) -> None:
        self.held: dict[int, str] = {}
        self.members: dict[str, int] = {}
        self.errors: list[Exception] = []

    def renew(
        self, worker: str, partitions: int, decide: Decide, *, left: Collection[int] = ()
    ) -> LeaseChange:
        if self.errors:
            raise self.errors.pop(0)
        self._free(worker, left)
        self.members[worker] = partitions
        leases = [
            Lease(one, self.held.get(one), _NEVER if one in self.held else None) for one in range(partitions)
        ]
        members = [SharingWorker(name, known, _NEVER) for name, known in self.members.items()]
        change = decide(leases, members, _NEVER - timedelta(days=1))
        self.held.update(dict.fromkeys(change.take, worker))
        return change

    def leave(self, worker: str) -> None:
        self._free(worker, list(self.held))
        self.members.pop(worker, None)

    def _free(self, worker: str, partitions: Collection[int]) -> None:
        for one in partitions:
            if self.held.get(one) == worker:
                del self.held[one]


_NEVER = datetime(9999, 1, 1, tzinfo=UTC)


def lost() -> None:
    """Raise BrokerUnavailableError; for ``on_publish``."""
    raise BrokerUnavailableError("gone")


_tags = iter(range(1, 1_000_000))


def delivery(
    message: Mapping[str, Any] | bytes,
    *,
    exchange: str = "billing",
    routing_key: str | None = None,
    queue: str = "billing.usage",
    delivery_count: int = 0,
    unreadable: bytes | None = None,
    **properties: Any,
) -> Delivery:
    """A delivery of ``message``, with the routing key of its type unless said otherwise."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    key = str(message.get("type")) if isinstance(message, Mapping) else "usage.deduct"
    return Delivery(
        body=body,
        queue=queue,
        exchange=exchange,
        routing_key=key if routing_key is None else routing_key,
        tag=next(_tags),
        redelivered=delivery_count > 0,
        properties=properties,
        headers={"x-delivery-count": delivery_count} if delivery_count else {},
        unreadable=unreadable,
    )
