"""Partitions that statements touch, by their plans on the stand-in of a distributed ledger."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event

from tests.support.partitioned_ledger import partitions_in
from tests.support.query_plans import one_by_one
from worker.deadletters.store.tables import dead_letters
from worker.ledger.tables import LEDGER

_OF_LEDGER = {table.name for table in LEDGER}
_BESIDE = dead_letters.metadata.tables.keys() - _OF_LEDGER
_NAMES = "|".join([*_OF_LEDGER, *_BESIDE])
_TABLE = re.compile(rf"\b(?:FROM|JOIN|INTO|UPDATE|,)\s+({_NAMES})\b(?!\s*\.)")
_VERBS = ("EXECUTE", "SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


class Touched:
    """Statements, and those that no node of a cluster could run alone.

    ``of_several`` touch several partitions, ``mixed`` name a table of the ledger and one beside it. Where
    ``once``, a statement that has been seen, with as many values in its arrays, is not planned again.
    """

    def __init__(self, *, once: bool = False) -> None:
        self.statements = 0
        self.of_several: dict[str, dict[str, set[int]]] = {}
        self.mixed: list[str] = []
        self._seen: set[Any] | None = set() if once else None

    def look(self, connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        """Plan a statement before it is executed."""
        named = set(_TABLE.findall(statement))
        if named & _OF_LEDGER and named & _BESIDE:
            self.mixed.append(statement)
        if not statement.startswith(_VERBS) or self._is_seen(statement, parameters):
            return
        driver: Any = connection.connection.driver_connection
        for one, own in one_by_one(statement, parameters):
            with driver.cursor() as cursor:
                cursor.execute(f"EXPLAIN (FORMAT JSON) {one}", own or None)
                (plan,) = cursor.fetchone()
            partitions = partitions_in(plan)
            self.statements += 1
            if len(set().union(*partitions.values())) > 1:
                self.of_several[one] = partitions

    def _is_seen(self, statement: str, parameters: Any) -> bool:
        if self._seen is None:
            return False
        values = parameters.values() if isinstance(parameters, dict) else parameters or ()
        key = (statement, tuple(_length_of(value) for value in values))
        if key in self._seen:
            return True
        self._seen.add(key)
        return False


def _length_of(value: Any) -> int | None:
    """Return the number of values of an array, which prepared statements get as a text."""
    if isinstance(value, str) and value.startswith("{"):
        return value.count(",")
    return len(value) if isinstance(value, list) else None


@contextmanager
def touched(engine: Engine, *, once: bool = False) -> Iterator[Touched]:
    """Look at all statements of ``engine`` during the block."""
    found = Touched(once=once)
    event.listen(engine, "before_cursor_execute", found.look)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", found.look)
