"""What several outages have delivered again and again is settled, and not counted on to the limit."""

import random
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

from tests.support.fakes import FakeLink
from worker.broker import Delivery, Link
from worker.consumer import Consumer, Pace
from worker.flood import Flood
from worker.metrics import Metrics
from worker.policy import SUSPECT_AFTER


class Queue:
    """What waits in it, with its delivery counts: what is given back counts, and stands in front again."""

    def __init__(self, name: str, counts: Sequence[int]) -> None:
        self.name = name
        self.ready = deque((f"{name}-{number}", count) for number, count in enumerate(counts))


class Counting(FakeLink):
    """A link to two such queues; with a prefetch of 1 the first one's next is late every other time."""

    def __init__(self, queues: Sequence[Queue], prefetch: int) -> None:
        super().__init__()
        self._queues, self.prefetch = queues, prefetch
        self._held: dict[str, dict[Any, int]] = {queue.name: {} for queue in queues}
        self._turn = 0

    def receive(self, most: int, timeout_s: float) -> list[Delivery]:
        deliveries: list[Delivery] = []
        self._turn += 1
        late = self._queues[0].name if self.prefetch == 1 and self._turn % 2 == 0 else None
        for queue in self._queues:
            held = self._held[queue.name]
            while queue.name != late and queue.ready and len(held) < self.prefetch and len(deliveries) < most:
                name, count = queue.ready.popleft()
                held[name] = count
                headers = {"x-delivery-count": count}
                deliveries.append(Delivery(b"", queue.name, "", "", name, redelivered=True, headers=headers))
        return deliveries

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            del self._held[delivery.queue][delivery.tag]

    def close(self) -> None:
        for queue in self._queues:
            back = [(name, count + 1) for name, count in self._held[queue.name].items()]
            queue.ready.extendleft(reversed(back))


class Settled:
    """A pipeline in which nothing ever fails; remembers how often each delivery had come before."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.flood = Flood()

    def receive(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return list(deliveries)

    def apply(self, deliveries: Sequence[Delivery]) -> None:
        self.counts += [delivery.delivery_count for delivery in deliveries]

    def tell(self, link: Link, deliveries: Sequence[Delivery]) -> None:
        link.acknowledge(deliveries)


class Until:
    """Asks for the end when nothing of a queue waits any more."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    @property
    def requested(self) -> bool:
        return not self._queue.ready

    def wait(self, seconds: float) -> None:
        raise AssertionError("nothing fails here")


class Answering:
    def probe(self) -> None:
        return


def test_messages_that_outages_have_returned_are_worked_off_and_not_counted_on() -> None:
    suspects, others = Queue("billing.payments", [SUSPECT_AFTER] * 40), Queue("billing.usage", [0] * 4_000)
    pipeline, links = Settled(), list[Counting]()

    def connect(prefetch: int) -> Link:
        links.append(Counting([suspects, others], prefetch))
        return links[-1]

    Consumer(
        connect,
        cast(Any, Answering()),
        cast(Any, pipeline),
        pace=Pace(batch_size=50, prefetch=100),
        stop=Until(suspects),
        rng=random.Random(1),
        metrics=Metrics(),
    ).run()

    assert max(pipeline.counts) <= SUSPECT_AFTER + 1
    assert len(links) <= 3
