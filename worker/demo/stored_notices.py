"""Notices that the ledger keeps with its outcomes, and that the demo must therefore receive."""

from collections.abc import Collection
from itertools import islice

from sqlalchemy import Engine, select

from worker.ledger.bulk import among
from worker.ledger.queries import snapshot
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
            statement = select(operations.c.reference_id, operations.c.notices).where(
                among(connection, operations.c.reference_id, chunk), operations.c.notices.is_not(None)
            )
            for row in connection.execute(statement):
                found += [(row.reference_id, notice["type"]) for notice in row.notices]
    return found
