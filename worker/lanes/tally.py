"""Tally of what one worker has done of each lane: one thread counts, another one reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

from worker.broker import Delivery
from worker.ledger.workers import LaneProgress
from worker.messages.ages import published_at
from worker.pipeline import Item, by_lane

#: Shortest time over which a rate means something, in seconds.
_RATE_OVER_S = 4.0


@dataclass(slots=True)
class _Rate:
    """Rate since the count ``before``, which was read at ``read_at``; unknown until some time has passed."""

    read_at: float
    before: int = 0
    per_second: float | None = None

    def read(self, count: int, now: float) -> float | None:
        """Return the rate; it is measured anew once enough time has passed."""
        elapsed = now - self.read_at
        if elapsed >= _RATE_OVER_S:
            self.per_second = (count - self.before) / elapsed
            self.read_at, self.before = now, count
        return self.per_second


class LaneTally:
    """Counts the messages that a worker has acknowledged, by lane, and keeps the last batch."""

    def __init__(
        self,
        queues: Sequence[str],
        clock: Callable[[], datetime],
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._clock, self._seconds = clock, seconds
        self._counts = dict.fromkeys(queues, 0)
        self._newest: dict[str, Delivery | None] = dict.fromkeys(queues)
        self._rates = {queue: _Rate(seconds()) for queue in queues}
        self.last_batch: tuple[datetime, int] | None = None

    def note(self, items: Sequence[Item]) -> None:
        """Count a batch that is acknowledged; kept items are not."""
        for queue, done in by_lane(item for item in items if not item.kept).items():
            self._counts[queue] += len(done)
            self._newest[queue] = done[-1].delivery
        self.last_batch = (self._clock(), len(items))

    def progress(self, paused: Mapping[str, str]) -> dict[str, LaneProgress]:
        """Return the progress of each lane; ``paused`` says why some take nothing."""
        now = self._seconds()
        return {
            queue: LaneProgress(
                count, self._rates[queue].read(count, now), _sent_at(self._newest[queue]), paused.get(queue)
            )
            for queue, count in list(self._counts.items())
        }


def _sent_at(delivery: Delivery | None) -> datetime | None:
    """Return when a message was sent, as its sender says; None without it."""
    seconds = None if delivery is None else published_at(delivery)
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
