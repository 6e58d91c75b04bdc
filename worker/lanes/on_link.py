"""The lanes as one link consumes them: each is its own queue, and one in each partition that is taken."""

from collections.abc import Collection, Iterator, Mapping

from worker.broker import Consumes
from worker.broker.partitions import queue_of


class LanesOnLink:
    """Lanes over a link; what is said of one holds for its queues in all partitions.

    ``taken`` are the partitions with the most that is held of each of their queues, ``leaving`` those of
    which nothing more is taken and something may still be held.
    """

    def __init__(self, link: Consumes, taken: Mapping[int, int], leaving: Collection[int]) -> None:
        self._link, self._taken, self._leaving = link, taken, leaving

    def hold_at_most(self, lane: str, most: int, *, give_back: bool = False) -> None:
        """Hold at most so many messages of each queue; those of partitions may hold less, or nothing more."""
        self._link.hold_at_most(lane, most, give_back=give_back)
        for partition, limit in self._taken.items():
            self._link.hold_at_most(queue_of(lane, partition), min(most, limit), give_back=give_back)
        if give_back:
            for partition in self._leaving:
                self._link.hold_at_most(queue_of(lane, partition), 0, give_back=True)

    def quiesce(self, lane: str) -> None:
        """Take nothing more of a lane; what is held of it goes on."""
        for queue in (lane, *self._queues_in(lane, self._taken)):
            self._link.quiesce(queue)

    def arrived(self, lane: str) -> int:
        """Return how many messages of a lane have arrived and wait to be received."""
        partitions = (*self._taken, *self._leaving)
        return sum(self._link.arrived(queue) for queue in (lane, *self._queues_in(lane, partitions)))

    @staticmethod
    def _queues_in(lane: str, partitions: Collection[int]) -> Iterator[str]:
        return (queue_of(lane, partition) for partition in partitions)
