"""Purge of old dead letters, and of old entries of the activity log: exported first, and nothing else goes.

The numbers that are purged are read from the file that was written, after its lines and its digest have been
compared. Nothing runs by itself: a purge is a command, by hand or by cron.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Table, func, select, text

from worker.deadletters.models import DeadLetterStatus
from worker.deadletters.store import activity_log, queries
from worker.deadletters.store.export import line_of
from worker.deadletters.store.filters import DeadLetterFilter, matching
from worker.deadletters.store.tables import audit_log, dead_letter_edits, dead_letter_events, dead_letters
from worker.ledger.engine import translated_errors
from worker.ledger.queries import snapshot
from worker.ledger.session_settings import AS_ASKED, as_local
from worker.privacy.account_export import plain_row
from worker.privacy.export_file import WrittenFile, proven_lines, write_new
from worker.privacy.rights import require_right

#: Dead letters with which everybody is done.
DONE = (DeadLetterStatus.RESOLVED, DeadLetterStatus.DISCARDED)
ACTIVITY_FORMAT = "billing-activity/1"
_CHUNK = 500

OnPurged = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Purge:
    """Result of a purge: rows that were exported, and those among them that are gone."""

    exported: int
    purged: int
    file: WrittenFile


# -- dead letters -----------------------------------------------------------------------------------------


def old_dead_letters(older_than: datetime, *, with_parked: bool) -> DeadLetterFilter:
    """Return the filter of dead letters that last failed before a time; an unknown time is never old."""
    statuses = (*DONE, DeadLetterStatus.PARKED) if with_parked else DONE
    return DeadLetterFilter(status=statuses, until=older_than)


def count_dead_letters(engine: Engine, filter_: DeadLetterFilter) -> int:
    """Return the number of dead letters that a purge would take."""
    with snapshot(engine) as connection:
        return _count(connection, dead_letters, matching(connection, filter_))


def purge_dead_letters(
    engine: Engine, now: datetime, filter_: DeadLetterFilter, target: Path, actor: str, on_purged: OnPurged
) -> Purge:
    """Export the dead letters that match to a new file, with their histories, then purge them.

    One that changed since it was exported may stay. Raises ConfigurationError, NotPossibleError.
    """
    _require(engine, "purge_dead_letters")
    with snapshot(engine) as connection:
        written = write_new(target, _dead_letter_lines(connection, filter_))
    with_parked = DeadLetterStatus.PARKED in filter_.status

    def purge(connection: Connection, numbers: Sequence[int]) -> int:
        values = {"numbers": list(numbers), "with_parked": with_parked}
        statement = text("SELECT purge_dead_letters(CAST(:numbers AS bigint[]), :with_parked)")
        return int(connection.execute(statement, values).scalar_one())

    return _purged(engine, now, written, "dead letters", actor, purge, on_purged)


def _dead_letter_lines(connection: Connection, filter_: DeadLetterFilter) -> Iterator[str]:
    """Yield a line for each, as ``dead-letters import`` reads it, with its history and its edits."""
    for dead_letter in queries.every_dead_letter(connection, filter_):
        line = json.loads(line_of(dead_letter))
        line["history"] = _rows_of(connection, dead_letter_events, dead_letter.number)
        line["edits"] = _rows_of(connection, dead_letter_edits, dead_letter.number)
        yield f"{json.dumps(line, ensure_ascii=False)}\n"


def _rows_of(connection: Connection, table: Table, number: int) -> list[dict[str, Any]]:
    statement = select(table).where(table.c.number == number).order_by(*table.primary_key.columns)
    return [plain_row(row) for row in connection.execute(statement).mappings()]


# -- activity log -----------------------------------------------------------------------------------------


def count_activity(engine: Engine, older_than: datetime) -> int:
    """Return the number of entries that a purge would take."""
    with snapshot(engine) as connection:
        return _count(connection, audit_log, [audit_log.c.at < older_than])


def purge_activity(
    engine: Engine, now: datetime, older_than: datetime, target: Path, actor: str, on_purged: OnPurged
) -> Purge:
    """Export the entries before a time to a new file, then purge them. Raises as ``purge_dead_letters``."""
    _require(engine, "purge_activity")
    with snapshot(engine) as connection:
        written = write_new(target, _activity_lines(connection, older_than))

    def purge(connection: Connection, numbers: Sequence[int]) -> int:
        statement = text("SELECT purge_activity(CAST(:numbers AS bigint[]))")
        return int(connection.execute(statement, {"numbers": list(numbers)}).scalar_one())

    return _purged(engine, now, written, "activity log", actor, purge, on_purged)


def _activity_lines(connection: Connection, older_than: datetime) -> Iterator[str]:
    statement = select(audit_log).where(audit_log.c.at < older_than).order_by(audit_log.c.entry_id)
    streamed = connection.execute(statement, execution_options={"yield_per": _CHUNK})
    for row in streamed.mappings():
        line = {"format": ACTIVITY_FORMAT, "number": row["entry_id"], **plain_row(row)}
        yield f"{json.dumps(line, ensure_ascii=False)}\n"


# -- both -------------------------------------------------------------------------------------------------


def _require(engine: Engine, function: str) -> None:
    with translated_errors(), engine.connect() as connection:
        require_right(connection.execution_options(read_only=True), function)


def _count(connection: Connection, table: Table, where: Iterable[ColumnElement[bool]]) -> int:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(as_local(AS_ASKED))
    return connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one()


def _purged(
    engine: Engine,
    now: datetime,
    written: WrittenFile,
    subject: str,
    actor: str,
    purge: Callable[[Connection, Sequence[int]], int],
    on_purged: OnPurged,
) -> Purge:
    """Purge what a file holds, some hundred rows a transaction; the activity log has it before the first."""
    numbers = [_number_in(line) for line in proven_lines(written)]
    purged = 0
    if numbers:
        detail: Mapping[str, Any] = {
            "count": len(numbers),
            "file": written.path.name,
            "sha256": written.digest,
        }
        with translated_errors(), engine.begin() as connection:
            activity_log.write(connection, now, actor, "purge", subject, None, detail)
    left = iter(numbers)
    while chunk := list(islice(left, _CHUNK)):
        with translated_errors(), engine.begin() as connection:
            purged += purge(connection, chunk)
        on_purged(len(chunk))
    return Purge(len(numbers), purged, written)


def _number_in(line: str) -> int:
    return int(json.loads(line)["number"])
