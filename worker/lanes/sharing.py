"""Share of the bulk lane in the next batch, so that bulk delays nobody and nobody starves bulk.

The rule, in plain words:

- Payments come first, then usage; bulk gets the room that they leave.
- A tenth of a batch is kept for bulk while any of it waits, so that it is never starved. A tenth is kept for
  the others, so that whoever comes finds room.
- For five seconds after a message of another lane, batches with bulk are short: bulk gets as many messages as
  went through in 20 ms lately, and never less than its tenth. The next such message waits for short batches.
- Messages of the other lanes that arrive while the batch before is in the ledger join the one that waits to
  begin, ahead of bulk: they wait for one batch and not for two.

While no others come, bulk runs at nearly the full rate. ``worker.broker.sharing`` composes a batch by these
shares.
"""

from collections.abc import Callable, Sequence
from time import monotonic

from worker.broker import BulkShare, Delivery
from worker.broker.partitions import without_partition
from worker.pipeline import Item

#: Time for which batches with bulk are short after a message of another lane.
SHORT_FOR_S = 5.0
#: Time that a short batch may take.
SHORT_S = 0.020
#: Part of a batch that is kept for bulk, and the part that is kept for the others.
KEPT = 10


class LaneShares:
    """Shares of the lane ``bulk`` in batches of at most ``batch_size`` messages.

    ``next`` is asked once a batch, and ``note`` is told what came. Without a bulk lane nothing is shared.
    """

    def __init__(self, bulk: str | None, batch_size: int, seconds: Callable[[], float] = monotonic) -> None:
        self._bulk, self._batch_size, self._seconds = bulk, batch_size, seconds
        self._kept = max(batch_size // KEPT, 1)
        self._short_until = self._asked_at = seconds()
        self._short = float(self._kept)
        self._noted = 0

    def next(self) -> BulkShare | None:
        """Return the share of bulk in the next batch."""
        if self._bulk is None:
            return None
        now = self._seconds()
        self._measure(now)
        most = max(self._batch_size - self._kept, 1)
        if now < self._short_until:
            most = min(max(round(self._short), self._kept), most)
        return BulkShare(self._bulk, self._kept, most)

    def of_late(self) -> BulkShare | None:
        """Return the share of bulk in what joins a batch that waits to begin: nothing."""
        return None if self._bulk is None else BulkShare(self._bulk, 0, 0)

    def room_for_late(self, deliveries: Sequence[Delivery]) -> int:
        """Return how many messages may join the batch of ``deliveries``; none where it has no bulk."""
        return max(self._batch_size - len(deliveries), 0) if self._has_bulk(deliveries) else 0

    def note(self, deliveries: Sequence[Delivery]) -> None:
        """Note a batch: messages of other lanes make those with bulk short for a while."""
        # Bulk stands last in a batch.
        if deliveries and not self._is_bulk(deliveries[0]):
            self._short_until = self._seconds() + SHORT_FOR_S
        if self._has_bulk(deliveries):
            self._noted = len(deliveries)

    def joined(self, items: Sequence[Item], late: Sequence[Item]) -> Sequence[Item]:
        """Return the items of a batch with those that come late ahead of its bulk."""
        others = [item for item in items if item.queue != self._bulk]
        return [*others, *late, *(item for item in items if item.queue == self._bulk)]

    def _has_bulk(self, deliveries: Sequence[Delivery]) -> bool:
        return bool(deliveries) and self._is_bulk(deliveries[-1])

    def _is_bulk(self, delivery: Delivery) -> bool:
        return without_partition(delivery.queue) == self._bulk

    def _measure(self, now: float) -> None:
        """Learn from the time since the last batch with bulk how many messages a short one may have."""
        elapsed, self._asked_at = now - self._asked_at, now
        if self._noted and elapsed > 0:
            in_time = self._noted * SHORT_S / elapsed
            self._short = (self._short + min(in_time, self._batch_size)) / 2
        self._noted = 0
