"""Notices that the ledger keeps with its outcomes, and that the demo must therefore receive."""

from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Engine, Select, select

from worker.ledger.bulk import among
from worker.ledger.queries import snapshot
from worker.ledger.queries.snapshots import IN_FORCE
from worker.ledger.slots import Slots, in_slots, parts_of
from worker.ledger.tables import operations

_CHUNK = 500

#: A reference, and the type of one of its notices.
StoredNotice = tuple[str, str]


def stored_notices(engine: Engine, references: Collection[str]) -> list[StoredNotice]:
    """Return each notice of these references."""
    found: list[StoredNotice] = []
    left = iter(sorted(references))
    with snapshot(engine) as connection:
        while chunk := list(islice(left, _CHUNK)):
            for slots in parts_of(connection):
                for row in connection.execute(_notices(connection, chunk, slots)):
                    found += [(row.reference_id, notice["type"]) for notice in row.notices]
    return found


def _notices(connection: Connection, references: Sequence[str], slots: Slots) -> Select[Any]:
    return (
        select(operations.c.reference_id, operations.c.notices)
        .where(in_slots(operations.c.slot, slots), among(connection, operations.c.reference_id, references))
        .where(IN_FORCE, operations.c.notices.is_not(None))
    )
