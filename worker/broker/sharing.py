"""Composition of a batch from what has arrived: lanes in their order, and a share for bulk.

The rule, for every kind of link:

1. Lanes are served in their order, and the bulk lane last: it gets the room that the others leave.
2. It gets its ``least`` in every batch, whoever else waits: it is never starved.
3. It gets no more than its ``most``: a batch with little bulk ends soon, and whoever comes next goes on.
4. Partitions of a lane get equal parts, and what one doesn't need goes to the others. Each part costs an
   acknowledgement: it is a quarter of the batch at least, and those that have waited for the most batches
   come first.
5. Before them come partitions of which nothing more is taken: another worker waits for those.

All count messages, and bytes in the same proportion. ``worker.lanes.sharing`` decides on the shares.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from worker.broker.deliveries import BATCH_MAX_BYTES, Delivery
from worker.broker.partitions import partition_in, without_partition

#: Most partitions of a lane in a batch that these fill.
_PARTS_MOST = 4


@dataclass(frozen=True, slots=True)
class BulkShare:
    """Part of a batch, in messages, that the bulk lane gets at least and at most.

    ``queue`` is the lane's; those of its partitions share with it.
    """

    queue: str
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Deliveries of one queue that have arrived: their number, and a way to take the first of them.

    ``take`` gets the most messages, and the bytes after which it stops. ``is_last`` says that nothing more of
    the queue comes after them.
    """

    count: int
    take: Callable[[int, int], list[Delivery]]
    is_last: bool = False


#: What waits of a lane, by its queues.
_Lane = dict[str, Waiting]


class BatchTurns:
    """Composes the batches of a link, by the rule of this module, and remembers which queue was served when.

    With ``one_partition`` a batch is of one partition, or of the queues without one: the transactions of a
    ledger that takes one slot in each are then as large as they can be.
    """

    def __init__(self, *, one_partition: bool = False) -> None:
        self._one_partition = one_partition
        self._turns = 0
        self._served: dict[str | int | None, int] = {}

    def enough(self, most: int, queues: Iterable[str]) -> int:
        """Return how many messages of these queues must have arrived for a batch of ``most``."""
        return most * len(set(map(partition_in, queues))) if self._one_partition else most

    def batch_of(
        self, waiting: Mapping[str, Waiting], most: int, bulk: BulkShare | None = None
    ) -> list[Delivery]:
        """Take a batch of at most ``most`` from what waits in each queue.

        Where bulk may have nothing, this is to join a batch that was taken before: one of one partition is
        joined by nothing, since what comes might be of another.
        """
        if self._one_partition and bulk is not None and not bulk.most:
            return []
        lanes = self._lanes(waiting)
        of_bulk = None if bulk is None else lanes.pop(bulk.queue, None)
        if bulk is None or of_bulk is None:
            return self._in_order(lanes.values(), most, BATCH_MAX_BYTES)
        kept = min(bulk.least, sum(one.count for one in of_bulk.values()), most)
        kept_bytes = _bytes_of(kept, most)
        batch = self._in_order(lanes.values(), most - kept, BATCH_MAX_BYTES - kept_bytes)
        left = BATCH_MAX_BYTES - _size(batch)
        room = min(max(left, kept_bytes), _bytes_of(bulk.most, most))
        return batch + self._fairly(of_bulk, min(most - len(batch), bulk.most), room)

    def _lanes(self, waiting: Mapping[str, Waiting]) -> dict[str, _Lane]:
        """Return the lanes in their order, which is that of their first queues; each has what waits of it."""
        chosen = self._of_next_partition(waiting) if self._one_partition else waiting
        lanes: dict[str, _Lane] = {}
        for queue, one in waiting.items():
            lane = lanes.setdefault(without_partition(queue), {})
            if one.count and queue in chosen:
                lane[queue] = one
        return lanes

    def _of_next_partition(self, waiting: Mapping[str, Waiting]) -> Mapping[str, Waiting]:
        """Return what waits of the partition that comes first."""
        partitions = {partition_in(queue) for queue, one in waiting.items() if one.count}
        if not partitions:
            return {}
        last = {partition_in(queue) for queue, one in waiting.items() if one.count and one.is_last}
        chosen = min(last or partitions, key=self._last_served)
        self._note_served(chosen)
        return {queue: one for queue, one in waiting.items() if partition_in(queue) == chosen}

    def _in_order(self, lanes: Iterable[_Lane], most: int, room: int) -> list[Delivery]:
        batch: list[Delivery] = []
        for lane in lanes:
            taken = self._fairly(lane, most - len(batch), room)
            room -= _size(taken)
            batch += taken
        return batch

    def _fairly(self, lane: _Lane, most: int, room: int) -> list[Delivery]:
        """Take from the queues of a lane, an equal part of each; those that waited longest come first."""
        if len(lane) == 1:
            ((queue, only),) = lane.items()
            if batch := only.take(most, room):
                self._note_served(queue)
            return batch
        last = {queue: one for queue, one in lane.items() if one.is_last}
        if 0 < len(last) < len(lane):
            going_on = {queue: one for queue, one in lane.items() if not one.is_last}
            return self._in_order([last, going_on], most, room)
        batch = []
        counts = {queue: lane[queue].count for queue in sorted(lane, key=self._last_served)}
        parts = _parts(_first(counts, most), most)
        for place, (queue, part) in enumerate(parts.items()):
            taken = lane[queue].take(part, room // (len(parts) - place))
            room -= _size(taken)
            batch += taken
            if taken:
                self._note_served(queue)
        return batch

    def _note_served(self, name: str | int | None) -> None:
        self._turns += 1
        self._served[name] = self._turns

    def _last_served(self, name: str | int | None) -> int:
        return self._served.get(name, 0)


def _first(counts: Mapping[str, int], most: int) -> Mapping[str, int]:
    """Return the first of ``counts`` that fill ``most`` with no more than a quarter from each."""
    first: dict[str, int] = {}
    left, part = most, -(-most // _PARTS_MOST)
    for queue, count in counts.items():
        if left <= 0:
            break
        first[queue] = count
        left -= min(count, part)
    return first


def _parts(counts: Mapping[str, int], most: int) -> dict[str, int]:
    """Return equal parts of ``most`` in their order; what one doesn't need goes to the others."""
    parts = dict.fromkeys(counts, 0)
    for place, queue in enumerate(sorted(counts, key=counts.__getitem__)):
        parts[queue] = min(counts[queue], most // (len(counts) - place))
        most -= parts[queue]
    return parts


def _size(deliveries: Sequence[Delivery]) -> int:
    return sum(len(delivery.body) for delivery in deliveries)


def _bytes_of(messages: int, most: int) -> int:
    """Return the share of a batch's bytes for so many of its messages."""
    return BATCH_MAX_BYTES * min(messages, most) // max(most, 1)
