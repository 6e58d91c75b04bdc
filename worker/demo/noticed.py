"""Notices that the demo must have received, as the ledger has them: stored with their outcomes."""

from collections.abc import Collection
from itertools import islice

from sqlalchemy import Engine, select

from worker.ledger.bulk import among
from worker.ledger.queries import snapshot
from worker.ledger.tables import operations

_CHUNK = 500

#: A reference, and the type of one of its notices.
Noticed = tuple[str, str]


def noticed_in(engine: Engine, references: Collection[str]) -> list[Noticed]:
    """Return each notice of these references."""
    found: list[Noticed] = []
    left = iter(sorted(references))
    with snapshot(engine) as connection:
        while chunk := list(islice(left, _CHUNK)):
            statement = select(operations.c.reference_id, operations.c.notices).where(
                among(connection, operations.c.reference_id, chunk), operations.c.notices.is_not(None)
            )
            for row in connection.execute(statement):
                found += [(row.reference_id, notice["type"]) for notice in row.notices]
    return found
