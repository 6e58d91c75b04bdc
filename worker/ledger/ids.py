"""Ids of accounts and operations, taken in blocks before they are needed: they say nothing about time.

A block belongs to the connection that took it: one to a server that was restored or replaced takes another.
Ids that it doesn't use are never used. All users share one counter. Where each transaction is of one slot,
each slot has its own. An id leaves the number of its counter as the remainder when divided by 65: no two
counters give the same id, whatever the form of the ledger was or is, and no slot waits for another.
"""

from collections.abc import Iterator
from itertools import islice

from sqlalchemy import Connection, text

from schemas import SLOTS

#: Number of the counter that all slots share.
SHARED = SLOTS
_COUNTERS = SLOTS + 1
_BLOCK = 10_000

# A slot's counter begins above the ids that a ledger had before it had counters.
_TAKE = text(
    "INSERT INTO id_counters (counter, next_id) VALUES (:counter, :size + coalesce("
    "(SELECT next_id FROM id_counters WHERE counter = :shared AND counter <> :counter), 1))"
    " ON CONFLICT (counter) DO UPDATE SET next_id = id_counters.next_id + :size RETURNING next_id"
)


class Ids:
    """Ids of one counter that a connection may give."""

    def __init__(self, connection: Connection, counter: int) -> None:
        self._connection, self._counter = connection, counter
        self._left: dict[int, range] = connection.info.setdefault("ids", {})

    def provide(self, count: int) -> None:
        """Make sure that ``count`` ids are there, in a transaction of its own where needed."""
        if len(self._left.get(self._counter, ())) < count:
            self._left[self._counter] = self._block(max(count, _BLOCK))

    def take(self, count: int) -> Iterator[int]:
        """Return the next ``count`` ids, in order; ``provide`` has them ready."""
        left = self._left[self._counter]
        self._left[self._counter] = left[count:]
        return islice(iter(left), count)

    def _block(self, size: int) -> range:
        values = {"counter": self._counter, "size": size, "shared": SHARED}
        with self._connection.begin():
            end: int = self._connection.execute(_TAKE, values).scalar_one()
        return range((end - size) * _COUNTERS + self._counter, end * _COUNTERS + self._counter, _COUNTERS)
