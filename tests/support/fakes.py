"""A broker in memory, for what the pipeline and the loop do with one; tests/broker holds the real ones."""

import json
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from worker.broker import Delivery, Outgoing, RefusedError, Topology
from worker.errors import BrokerUnavailableError
from worker.ledger.pauses import Pause
from worker.ledger.trials import Trial, Trying


class FakeLink:
    """Delivers what is put into ``arriving`` and remembers what is published and acknowledged.

    ``unroutable`` names queues that do not exist, ``refusing`` full ones. ``on_publish`` and
    ``on_keep_alive`` are called at those. For a routing key in ``closing`` the broker closes the connection
    (``on_close``), and has taken nothing.
    """

    def __init__(self, *arriving: Delivery) -> None:
        self.arriving = deque(arriving)
        self.published: list[Outgoing] = []
        self.acknowledged: list[Delivery] = []
        self.unroutable: set[str] = set()
        self.on_publish: Callable[[], None] = lambda: None
        self.on_keep_alive: Callable[[], None] = lambda: None
        self.waited_s: list[float] = []
        self.closed = False
        self.prefetch = 1000
        self.holds: dict[str, int] = {}
        self.given_back: list[str] = []
        self.refusing: set[str] = set()
        self.closing: set[str] = set()
        self.on_close: Callable[[], None] = lambda: None

    def receive(self, most: int, timeout_s: float) -> list[Delivery]:
        del timeout_s
        return [self.arriving.popleft() for _ in range(min(most, self.prefetch, len(self.arriving)))]

    def hold_at_most(self, queue: str, most: int, *, give_back: bool = False) -> None:
        self.holds[queue] = self.prefetch = most
        if give_back:
            self.given_back.append(queue)

    def publish(self, messages: Sequence[Outgoing]) -> list[Outgoing]:
        self.on_publish()
        if any(message.routing_key in self.closing for message in messages):
            self.on_close()
            raise BrokerUnavailableError("closed")
        refused = [message for message in messages if message.routing_key in self.refusing]
        returned = [
            message for message in messages if message.mandatory and message.routing_key in self.unroutable
        ]
        self.published += [message for message in messages if message not in refused]
        if refused:
            raise RefusedError(refused, returned)
        return returned

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self.acknowledged += deliveries

    def keep_alive(self, wait_s: float = 0.0) -> None:
        self.waited_s.append(wait_s)
        self.on_keep_alive()

    def declare(self, topology: Topology) -> None:
        raise NotImplementedError

    def differences(self, topology: Topology) -> list[str]:
        raise NotImplementedError

    def declare_temporary(self, queue: str) -> None:
        raise NotImplementedError

    def listen(self, queue: str) -> None:
        raise NotImplementedError

    def delete(self, queue: str) -> None:
        raise NotImplementedError

    def depth(self, queue: str) -> int:
        raise NotImplementedError

    def consumers(self, queue: str) -> int | None:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True

    @property
    def replies(self) -> list[dict[str, Any]]:
        """The bodies that were not sent to the dead-letter queue."""
        return [json.loads(m.body) for m in self.published if m.routing_key != "billing.dead"]

    @property
    def dead_letters(self) -> list[Outgoing]:
        """Messages that were sent to the dead-letter queue."""
        return [m for m in self.published if m.routing_key == "billing.dead"]


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
        return config in self.new

    def accept(self, config: str, by: str, now: datetime) -> None:
        del by, now
        self.accepted.append(config)


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
