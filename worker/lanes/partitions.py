"""Partitions that one worker takes: it renews their leases, begins to consume, and hands over.

A hand-over has an order: take nothing more; apply, reply and acknowledge what is held; close the channels;
free the lease. The next worker begins where this one ended, and so a user's messages keep their order. What
does not end in time goes back to its place in the queue, and comes to the next worker.

In an outage of the database the worker keeps what it has and takes nothing new: each message is still
delivered to one consumer. A worker that finds its lease with another one (it was paused, or cut off for
long) stops at once and gives back what it holds.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Protocol

from worker.batches import Batches
from worker.errors import TransientError
from worker.lanes.leases import change_for
from worker.lanes.pausing import Lanes
from worker.ledger.partition_leases import Decide, LeaseChange
from worker.metrics import Metrics
from worker.runtime.session import LedgerCall

log = logging.getLogger(__name__)

#: Time of a lease without renewal: a dead worker's partitions are taken after it, and a look more.
LEASE_S = 10.0
#: Looks in the time of a lease; where something is to come, there are more.
_LOOKS, _EAGER_LOOKS = 5, 50
#: Prefetch of all queues of a lane together, in times of that of one queue; and the least of a queue.
_SPREAD, _PREFETCH_LEAST = 4, 100
#: Part of a lease's time for what is held when a partition is handed over, and the most seconds of it.
_HAND_OVER, _HAND_OVER_MOST_S = 0.5, 5.0


def prefetch_of(partitions: int, prefetch: int) -> int:
    """Return the prefetch of a partition's queue, where a queue without one has ``prefetch``.

    A worker may have all partitions, or one of them alone may be busy: a lane's queues hold together no more
    than four times as much (64 partitions: somewhat more), and one by itself still makes large batches.
    """
    if not partitions:
        return prefetch
    return min(prefetch, max(_SPREAD * prefetch // partitions, _PREFETCH_LEAST))


class LeaseRecord(Protocol):
    """Durable record of the leases; see ``worker.ledger.partition_leases``."""

    def renew(
        self, worker: str, partitions: int, decide: Decide, *, left: Collection[int] = ()
    ) -> LeaseChange:
        """Free what is ``left``, renew, and take what ``decide`` says."""
        ...

    def leave(self, worker: str) -> None:
        """Free all that ``worker`` has; it takes part no more."""
        ...


@dataclass(frozen=True, slots=True)
class SharePace:
    """Times of a share, in seconds: of a lease, between two looks, and for a hand-over."""

    lease_s: float = LEASE_S

    @property
    def look_s(self) -> float:
        """Time between two looks."""
        return self.lease_s / _LOOKS

    @property
    def eager_look_s(self) -> float:
        """Time between two looks while something is to come to this worker."""
        return self.lease_s / _EAGER_LOOKS

    @property
    def hand_over_s(self) -> float:
        """Longest time for what is held: a stop must not last longer, whatever the lease."""
        return min(self.lease_s * _HAND_OVER, _HAND_OVER_MOST_S)


class PartitionShare:
    """Share of one worker in ``partitions`` (0: there are none), over one link after the other.

    ``worker`` is a name that no other has. ``prefetch`` is that of each queue of a partition.
    """

    def __init__(
        self,
        record: LeaseRecord,
        lanes: Lanes,
        *,
        worker: str,
        partitions: int,
        prefetch: int,
        metrics: Metrics,
        pace: SharePace | None = None,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._record, self._lanes, self._worker = record, lanes, worker
        self._partitions, self._prefetch, self._metrics = partitions, prefetch, metrics
        self._pace, self._seconds = pace or SharePace(), seconds
        self._taken: set[int] = set()
        self._leaving: dict[int, float] = {}  # what is handed over, each with its deadline
        self._left: set[int] = set()
        self._freeing: frozenset[int] = frozenset()
        self._looking: LedgerCall[LeaseChange | None] | None = None
        self._look_at = seconds()
        self._has_share = not partitions
        self._has_joined = self._is_ending = False

    def begin(self) -> None:
        """Begin with a new link, on which nothing of a partition is consumed; look at once."""
        self._taken.clear()
        self._leaving.clear()
        self._left.clear()
        self._looking, self._look_at = None, self._seconds()
        self._has_share, self._is_ending = not self._partitions, False

    @property
    def is_due(self) -> bool:
        """True where there is something to do; asked with every batch."""
        if not self._partitions:
            return False
        return bool(self._leaving) or self._looking is not None or self._seconds() >= self._look_at

    @property
    def takes_any(self) -> bool:
        """True while queues of a partition are consumed."""
        return bool(self._taken)

    @property
    def is_settled(self) -> bool:
        """True while the worker has its share, and has had it for a look: messages of it have come."""
        return self._has_share and not self._leaving and not self._left

    def wait_s(self, most: float) -> float:
        """Return how long an idle worker may wait for messages: until its next look, and at most ``most``."""
        if not self._partitions or self._is_ending:
            return most
        return min(most, max(self._look_at - self._seconds(), 0.0))

    def attend(self, batches: Batches) -> None:
        """Hand over what is to be handed over, look at the leases, and do what they say.

        An idle worker waits for what the leases say; others go on meanwhile, and do it between two batches.
        """
        self._hand_over(batches)
        if self._looking is None and self._seconds() >= self._look_at and not self._is_ending:
            self._begin_look(batches)
        if self._looking is not None and (self._looking.has_ended or batches.is_idle):
            self._end_look(batches, self._looking)

    def has_handed_over_all(self, batches: Batches) -> bool:
        """Hand over everything, as the worker stops; True once nothing is held any more."""
        if not self._is_ending:
            self._is_ending = True
            self._quiesce(batches, sorted(self._taken - self._leaving.keys()))
        self._hand_over(batches)
        return not self._leaving

    def end(self) -> None:
        """Free all leases: the link is closed. In an outage they end by themselves."""
        self._metrics.partitions.set(0)
        if self._has_joined:
            try:
                self._record.leave(self._worker)
            except TransientError as error:
                log.debug("the leases of partitions are not freed: %s", error)

    # -- looks --------------------------------------------------------------------------------------------

    def _begin_look(self, batches: Batches) -> None:
        left = self._freeing = frozenset(self._left)
        decide = partial(change_for, self._worker, leaving=frozenset(self._leaving))
        self._has_joined = True
        self._looking = batches.session.begin(lambda: self._look(decide, left))

    def _look(self, decide: Decide, left: Collection[int]) -> LeaseChange | None:
        """Return what the leases say; None in an outage. Runs in the ledger's thread."""
        try:
            return self._record.renew(self._worker, self._partitions, decide, left=left)
        except TransientError as error:
            log.debug("the leases of partitions can't be renewed: %s", error)
            return None

    def _end_look(self, batches: Batches, looking: LedgerCall[LeaseChange | None]) -> None:
        """Do what the look says."""
        change = batches.session.result(looking)
        self._looking = None
        if change is not None and not self._is_ending:
            self._left -= self._freeing
            self._follow(batches, change)
        is_eager = not self.is_settled
        self._look_at = self._seconds() + (self._pace.eager_look_s if is_eager else self._pace.look_s)

    def _follow(self, batches: Batches, change: LeaseChange) -> None:
        self._lose(batches, self._taken - change.keep - change.take - change.give_up)
        self._left |= change.give_up - self._taken
        self._quiesce(batches, sorted((change.give_up & self._taken) - self._leaving.keys()))
        new = (change.keep | change.take) - self._taken
        for partition in sorted(new):
            self._lanes.take_partition(batches.link, partition, self._prefetch)
            self._taken.add(partition)
        self._has_share = not change.missing and not new
        self._metrics.partitions.set(len(self._taken))

    # -- hand over ----------------------------------------------------------------------------------------

    def _lose(self, batches: Batches, lost: Collection[int]) -> None:
        """Stop at once with partitions that are another worker's by now."""
        if not lost:
            return
        log.warning("partitions %s are another worker's by now", ", ".join(map(str, sorted(lost))))
        batches.finish()
        for partition in lost:
            self._leave(batches, partition)

    def _quiesce(self, batches: Batches, partitions: Collection[int]) -> None:
        for partition in partitions:
            self._lanes.quiesce_partition(batches.link, partition)
            self._leaving[partition] = self._seconds() + self._pace.hand_over_s

    def _hand_over(self, batches: Batches) -> None:
        """Leave the partitions of which nothing is held any more, or whose time is over."""
        for partition, deadline in list(self._leaving.items()):
            is_held = self._lanes.holds_partition(batches.link, partition)
            if is_held and self._seconds() < deadline:
                continue
            if is_held:
                batches.finish()
            self._leave(batches, partition)
            self._left.add(partition)
            self._look_at = self._seconds()

    def _leave(self, batches: Batches, partition: int) -> None:
        self._lanes.leave_partition(batches.link, partition)
        self._taken.discard(partition)
        self._leaving.pop(partition, None)
