"""Look-up of dead letters by what their messages say, for many at once."""

from collections.abc import Collection

from sqlalchemy import Connection

from worker.deadletters.models import DeadLetterStatus
from worker.deadletters.store import tables
from worker.ledger.bulk import Keys, select_rows


def known_statuses(connection: Connection, ids: Collection[str]) -> dict[str, DeadLetterStatus]:
    """Return the status of the dead letter that each of ``ids`` names; none for an id that names none."""
    columns = ("letter_id", "status")
    rows = select_rows(connection, tables.dead_letters, columns, "letter_id", Keys(sorted(ids)))
    return {row.letter_id: DeadLetterStatus(row.status) for row in rows}


def numbers_by_reference(connection: Connection, references: Collection[str]) -> dict[str, int]:
    """Return the number of the latest dead letter with each of ``references``."""
    columns = ("reference_id", "number")
    rows = select_rows(connection, tables.dead_letters, columns, "reference_id", Keys(sorted(references)))
    return {row.reference_id: row.number for row in sorted(rows, key=lambda row: int(row.number))}
