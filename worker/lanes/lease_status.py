"""Leases of partitions in words, for `billing-worker check`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from worker.ledger.partition_leases import Lease


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """Workers with the partitions that each takes, and the partitions that nobody takes."""

    held: dict[str, list[int]]
    free: list[int]

    @classmethod
    def of(cls, leases: Sequence[Lease], partitions: int, now: datetime) -> "LeaseStatus":
        """Return the status of the first ``partitions``: a worker that never ran has made no lease."""
        held: dict[str, list[int]] = {}
        for lease in leases:
            if lease.worker is not None and not lease.is_free(now):
                held.setdefault(lease.worker, []).append(lease.partition)
        taken = {partition for own in held.values() for partition in own}
        return cls(held, [partition for partition in range(partitions) if partition not in taken])

    @property
    def text(self) -> str:
        """Sentence for operators."""
        return "; ".join(self._parts())

    def _parts(self) -> Iterator[str]:
        for worker, partitions in sorted(self.held.items(), key=lambda one: one[1]):
            yield f"{_for_people(worker)} takes {ranges(partitions)}"
        if self.free:
            yield f"nobody takes {ranges(self.free)}: a worker takes them within seconds, start one"


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers in their order as ranges: ``0-3, 7``."""
    ordered = sorted(numbers)
    ends = [place for place, (one, other) in enumerate(pairwise(ordered), 1) if other != one + 1]
    bounds = pairwise([0, *ends, len(ordered)])
    runs = [ordered[begin:end] for begin, end in bounds if begin < end]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _for_people(worker: str) -> str:
    """Return the host and the process of a worker, without what makes its name unique."""
    return worker.rpartition(":")[0] or worker
