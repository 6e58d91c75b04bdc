"""Look-up of dead letters by what their messages say, for many at once."""

from collections.abc import Collection

from sqlalchemy import Connection

from worker.deadletters.store import tables
from worker.ledger.bulk import Keys, select_rows


def known_ids(connection: Connection, ids: Collection[str]) -> set[str]:
    """Return those of ``ids`` that name a dead letter, whatever has become of it."""
    rows = select_rows(connection, tables.dead_letters, ("letter_id",), "letter_id", Keys(sorted(ids)))
    return {row.letter_id for row in rows}


def numbers_by_reference(connection: Connection, references: Collection[str]) -> dict[str, int]:
    """Return the number of the latest dead letter with each of ``references``."""
    columns = ("reference_id", "number")
    rows = select_rows(connection, tables.dead_letters, columns, "reference_id", Keys(sorted(references)))
    return {row.reference_id: row.number for row in sorted(rows, key=lambda row: int(row.number))}
