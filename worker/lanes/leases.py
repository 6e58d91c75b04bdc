"""Share of a worker in the partitions: what it keeps, takes and gives up. Pure: no clock, no rows.

The rule, in plain words:

- Workers that live share the partitions evenly: their shares differ by one at most.
- A worker keeps what it has. It takes what nobody has, up to its share, and gives up what is above it.
- Where shares can't be equal, the larger ones are theirs who have them: nothing moves to change that.
- Workers may know different numbers of partitions, while a new number comes: those that only some of them
  know are shared by these alone.

A lease is a matter of order and of locality, never of safety: two workers that take from one queue at the
same time are slower and may reorder a user's messages, and nothing else. The ledger's locks and unique keys
apply each message once.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from worker.ledger.partition_leases import Lease, LeaseChange, SharingWorker


def change_for(
    worker: str,
    leases: Sequence[Lease],
    workers: Sequence[SharingWorker],
    now: datetime,
    leaving: Collection[int] = (),
) -> LeaseChange:
    """Return what ``worker``, which is among ``workers``, does with the leases at ``now``.

    Partitions that it is ``leaving`` are to be given up, whatever its share is by now.
    """
    live = [one for one in workers if one.expires_at > now or one.name == worker]
    parts = [_part(worker, part, live, now, leaving) for part in _parts(leases, live)]
    return LeaseChange(
        frozenset[int]().union(*(part.keep for part in parts)),
        frozenset[int]().union(*(part.take for part in parts)),
        frozenset[int]().union(*(part.give_up for part in parts)),
        sum(part.missing for part in parts),
    )


def _parts(leases: Sequence[Lease], live: Sequence[SharingWorker]) -> Iterator[list[Lease]]:
    """Yield the leases in parts that the same workers know."""
    begin = 0
    for end in sorted({one.partitions for one in live}):
        yield [lease for lease in leases if begin <= lease.partition < end]
        begin = end


def _part(
    worker: str,
    leases: Sequence[Lease],
    live: Sequence[SharingWorker],
    now: datetime,
    leaving: Collection[int],
) -> LeaseChange:
    """Return the change in one part of the leases."""
    able = {one.name for one in live if leases and one.partitions > leases[-1].partition}
    if worker not in able:
        return LeaseChange()
    own = [lease.partition for lease in leases if lease.worker == worker]
    staying = [partition for partition in own if partition not in leaving]
    most = _share(worker, leases, able, now)
    kept = frozenset(staying[:most])
    free = [lease.partition for lease in leases if lease.worker != worker and lease.is_free(now)]
    taken = frozenset(free[: most - len(kept)])
    return LeaseChange(kept, taken, frozenset(own) - kept, most - len(kept) - len(taken))


def _share(worker: str, leases: Sequence[Lease], able: Collection[str], now: datetime) -> int:
    """Return the most partitions that ``worker`` may have: the larger shares are theirs who have them."""
    least, larger_shares = divmod(len(leases), len(able))
    held = Counter(lease.worker for lease in leases if lease.worker in able and not lease.is_free(now))
    larger = sum(1 for name, count in held.items() if name != worker and count > least)
    return least + 1 if larger < larger_shares else least
