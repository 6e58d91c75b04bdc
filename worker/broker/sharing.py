"""Composition of a batch from what has arrived: queues in their order, and a share for bulk.

The rule, for every kind of link:

1. Queues are served in their order, and the bulk queue last: it gets the room that the others leave.
2. It gets its ``least`` in every batch, whoever else waits: it is never starved.
3. It gets no more than its ``most``: a batch with little bulk ends soon, and whoever comes next goes on.

Both count messages, and bytes in the same proportion. ``worker.lanes.sharing`` decides on the shares.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from worker.broker.deliveries import BATCH_MAX_BYTES, Delivery


@dataclass(frozen=True, slots=True)
class BulkShare:
    """Part of a batch, in messages, that the bulk ``queue`` gets at least and at most."""

    queue: str
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Deliveries of one queue that have arrived: their number, and a way to take the first of them.

    ``take`` gets the most messages, and the bytes after which it stops.
    """

    count: int
    take: Callable[[int, int], list[Delivery]]


def batch_of(waiting: Mapping[str, Waiting], most: int, bulk: BulkShare | None = None) -> list[Delivery]:
    """Take a batch of at most ``most`` from what waits in each queue, by the rule of this module."""
    if bulk is None or bulk.queue not in waiting:
        return _in_order(waiting.values(), most, BATCH_MAX_BYTES)
    of_bulk = waiting[bulk.queue]
    kept = min(bulk.least, of_bulk.count, most)
    kept_bytes = _bytes_of(kept, most)
    others = [one for queue, one in waiting.items() if queue != bulk.queue]
    batch = _in_order(others, most - kept, BATCH_MAX_BYTES - kept_bytes)
    left = BATCH_MAX_BYTES - sum(len(delivery.body) for delivery in batch)
    room = min(max(left, kept_bytes), _bytes_of(bulk.most, most))
    return batch + of_bulk.take(min(most - len(batch), bulk.most), room)


def _in_order(waiting: Iterable[Waiting], most: int, room: int) -> list[Delivery]:
    batch: list[Delivery] = []
    for one in waiting:
        taken = one.take(most - len(batch), room)
        room -= sum(len(delivery.body) for delivery in taken)
        batch += taken
    return batch


def _bytes_of(messages: int, most: int) -> int:
    """Return the share of a batch's bytes for so many of its messages."""
    return BATCH_MAX_BYTES * min(messages, most) // max(most, 1)
