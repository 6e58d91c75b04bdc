"""Shares of the ledger: ranges of slots that are checked one after the other, or side by side."""

from collections.abc import Sequence
from itertools import pairwise

from schemas.slots import SLOTS
from worker.ledger.slots import Slots

#: Entries of a ledger that is too small to be divided.
SMALL = 250_000
#: Entries that are checked at once: the sorts of more would be mostly on the disk.
ENTRIES_A_SHARE = 1_000_000
#: Most shares for that reason: the rows of a slot are spread over a whole table, and each share reads it.
SHARES = 5

#: All slots that a column can hold: the first share and the last also have rows whose slot is none.
WHOLE = Slots(-(2**15), 2**15 - 1)
SLOT_BY_SLOT = tuple(Slots(slot, slot) for slot in range(SLOTS))


def shares_of(entries_in_all: int, jobs: int) -> Sequence[Slots]:
    """Return the shares of a ledger: one where it is small, else some for each job."""
    if entries_in_all <= SMALL:
        return divided(1)
    least = min(SHARES, -(-entries_in_all // ENTRIES_A_SHARE))
    return divided(min(SLOTS, -(-least // jobs) * jobs))


def divided(number: int) -> Sequence[Slots]:
    """Return ``number`` shares of about as many slots, with all possible slots."""
    bounds = [SLOTS * place // number for place in range(number + 1)]
    bounds[0], bounds[-1] = WHOLE.first, WHOLE.last + 1
    return [Slots(first, following - 1) for first, following in pairwise(bounds)]
