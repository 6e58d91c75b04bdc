"""Names of the statements that go to the database: the verb and the table."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event

_TABLE = re.compile(r"\b(?:FROM|INTO|UPDATE)\s+(\w+)", re.IGNORECASE)
#: The worker's names of prepared statements, see ``worker.ledger.bulk``.
_PREPARED = re.compile(r"(?:PREPARE|EXECUTE) ([a-z]+)_(\w+)_\d+\(")


def name_of(statement: str) -> str:
    """``SELECT accounts``, or ``LOCK accounts``; without a table the first words of the statement."""
    if prepared := _PREPARED.match(statement):
        return f"{prepared[1].upper()} {prepared[2]}"
    table = _TABLE.search(statement)
    if table is None:
        return " ".join(statement.split()[:3])
    verb = "LOCK" if statement.rstrip().endswith("FOR UPDATE") else statement.split(maxsplit=1)[0].upper()
    return f"{verb} {table[1]}"


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    """Collect the names of the statements on ``engine`` during the block, in order, with its commits."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not (statement.startswith("PREPARE") or "pg_attribute" in statement):  # once a connection
            seen.append(name_of(statement))

    def commit(_connection: Any) -> None:
        seen.append("COMMIT")

    event.listen(engine, "before_cursor_execute", note)
    event.listen(engine, "commit", commit)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)
        event.remove(engine, "commit", commit)
