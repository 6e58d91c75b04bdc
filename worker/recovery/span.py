"""Span of the journal that a recovery is about, and whether all of it is still kept."""

from dataclasses import dataclass
from datetime import datetime

from worker.broker.journal import Offsets, ReadsJournal


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets of the journal since a time, up to the last one at its start; ``kept`` is all of it."""

    since: datetime
    first: int
    last: int
    kept: Offsets

    @property
    def is_covered(self) -> bool:
        """True where the journal's limits have dropped nothing since the time.

        Where the oldest message that is kept is also the first since then, there may have been older ones;
        a journal that still has its offset 0 has dropped none.
        """
        return self.first > self.kept.first or self.kept.first == 0

    @property
    def offsets(self) -> Offsets:
        """The first and the last offset."""
        return Offsets(self.first, self.last)

    @property
    def length(self) -> int:
        """Number of offsets; a few of them may have no message."""
        return self.last - self.first + 1


def span_since(journal: ReadsJournal, since: datetime) -> Span | None:
    """Return what the journal keeps since a time; None where that is nothing."""
    kept = journal.offsets()
    if kept is None:
        return None
    first = journal.offset_at(since)
    if first is None or first > kept.last:
        return None
    return Span(since, max(first, kept.first), kept.last, kept)
