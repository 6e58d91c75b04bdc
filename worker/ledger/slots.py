"""Slots that one statement reads: a range of all of them, or one after the other."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Engine

from schemas import SLOTS


class Slots(NamedTuple):
    """Range of slots, with both ends."""

    first: int
    last: int

    @property
    def each(self) -> range:
        """Return the slots one by one."""
        return range(self.first, self.last + 1)

    @property
    def only(self) -> int | None:
        """Return the one slot; None where there are several."""
        return self.first if self.first == self.last else None


ALL = Slots(0, SLOTS - 1)

#: Ranges that have all slots together: as one, or each slot by itself.
WHOLE = (ALL,)
SLOT_BY_SLOT = tuple(Slots(slot, slot) for slot in range(SLOTS))


def in_slots(column: ColumnElement[int], slots: Slots) -> ColumnElement[bool]:
    """Return the condition that ``column``, a slot, lies in ``slots``."""
    return column.between(*slots) if slots.only is None else column == slots.only


def slot_by_slot(engine: Engine) -> Engine:
    """Return ``engine`` for a database where a statement may touch one slot alone, with the same pool."""
    return engine.execution_options(slot_by_slot=True)


def is_slot_by_slot(connection: Connection) -> bool:
    """Return True where a statement may touch one slot alone."""
    return bool(connection.get_execution_options().get("slot_by_slot"))


def parts_of(connection: Connection) -> Sequence[Slots]:
    """Return the ranges of slots that statements over all users read, one range a statement."""
    return SLOT_BY_SLOT if is_slot_by_slot(connection) else WHOLE
