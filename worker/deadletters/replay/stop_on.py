"""Limits at which a replay stops by itself: ``rejected=2%``, ``conflict=5``.

A number stops it as soon as so many have ended so. A share is one of those that have ended; it is judged at
the end of each step, and from the hundredth on. What an operator accepted by resuming counts no more.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from worker.deadletters.models import FAILED_STATES, ItemState
from worker.errors import QueryError

#: Dead letters from which on a share is judged before the end of a step.
JUDGED_FROM: Final = 100
#: States that a limit may name; ``failed`` are all that came back or could not be sent.
FAILED: Final = "failed"
NAMES: Final = (ItemState.REJECTED.value, *(state.value for state in FAILED_STATES), FAILED)

_FORM = re.compile(r"([a-z_]+)=(\d{1,9})(?:(\.\d{1,3})?(%))?")


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """Items of a replay by state since an operator accepted the earlier ones, and the number that ended."""

    counts: Mapping[str, int]
    ended: int
    is_at_end_of_step: bool

    def of(self, name: str) -> int:
        """Return the number that a limit of this name counts."""
        names = FAILED_STATES if name == FAILED else (name,)
        return sum(self.counts.get(state, 0) for state in names)


@dataclass(frozen=True, slots=True)
class StopLimit:
    """One limit: a number of dead letters in a state, or their share in per cent."""

    name: str
    most: Decimal
    is_share: bool

    @classmethod
    def read(cls, text: str) -> "StopLimit":
        """Return the limit that ``text`` writes. Raises QueryError."""
        match = _FORM.fullmatch(text.strip())
        if match is None or match[1] not in NAMES:
            raise QueryError(
                f"{text[:60]!r} is no limit: write a state and a number or a share, such as rejected=2% or "
                f"conflict=5; there are {', '.join(NAMES)}"
            )
        most = Decimal(match[2] + (match[3] or ""))
        is_share = match[4] is not None
        if not most or (is_share and most > 100):
            raise QueryError(f"{text[:60]!r}: a limit is a number from 1, or a share above 0% up to 100%")
        return cls(match[1], most, is_share)

    def __str__(self) -> str:
        return f"{self.name}={self.most}{'%' if self.is_share else ''}"

    def is_reached(self, progress: ReplayProgress) -> bool:
        """Return True where the replay has to stop."""
        count = progress.of(self.name)
        if not self.is_share:
            return count >= self.most
        is_judged = progress.is_at_end_of_step or progress.ended >= JUDGED_FROM
        return is_judged and count > 0 and count * 100 >= self.most * progress.ended


def limits_in(texts: Sequence[str]) -> tuple[StopLimit, ...]:
    """Return the limits that ``texts`` write, one for each state. Raises QueryError."""
    limits = tuple(map(StopLimit.read, texts))
    if len({limit.name for limit in limits}) < len(limits):
        raise QueryError("a state has one limit: give each once")
    return limits


def reached(limits: Sequence[StopLimit], progress: ReplayProgress) -> str | None:
    """Return why the replay has to stop; None where it goes on."""
    for limit in limits:
        if limit.is_reached(progress):
            name = limit.name.replace("_", " ")
            return f"{progress.of(limit.name):,} of {progress.ended:,} {name}: the limit is {limit}"
    return None
