"""Scope of a check's statements: each ledger table and each join names the slots of one share."""

from sqlalchemy import ColumnElement, FromClause, SmallInteger, and_, bindparam

from worker.ledger.slots import Slots


class Scope:
    """Slots of a share, as parameters of a statement: one slot, or a range of them."""

    def __init__(self, *, is_one: bool) -> None:
        self._is_one = is_one

    def of(self, table: FromClause) -> ColumnElement[bool]:
        """Return the condition that a row of ``table`` belongs to the share."""
        slot: ColumnElement[int] = table.c.slot
        return slot == _FIRST if self._is_one else slot.between(_FIRST, _LAST)

    def on(self, table: FromClause, other: FromClause, **columns: str) -> ColumnElement[bool]:
        """Return the condition that joins ``table``, a table of the ledger, to ``other``: see ``agree``."""
        return and_(self.of(table), agree(table, other, **columns))


_FIRST, _LAST = (bindparam(name, type_=SmallInteger()) for name in ("first", "last"))
_ONE_SLOT, _RANGE = Scope(is_one=True), Scope(is_one=False)


def scope_of(slots: Slots) -> Scope:
    """Return the scope for statements on ``slots``, which are then parameters (``Slots._asdict``)."""
    return _ONE_SLOT if slots.first == slots.last else _RANGE


def agree(table: FromClause, other: FromClause, **columns: str) -> ColumnElement[bool]:
    """Return the condition that two rows have the same slot and values.

    ``columns`` has names of columns of ``table``, each with its name in ``other``.
    """
    equal = (table.c[name] == other.c[of_other] for name, of_other in columns.items())
    return and_(table.c.slot == other.c.slot, *equal)
