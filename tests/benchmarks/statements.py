"""What is asked of the database, by name: the verb, the table, and whether it locks."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event

_TABLE = re.compile(r"\b(?:FROM|INTO|UPDATE)\s+(\w+)", re.IGNORECASE)


def name_of(statement: str) -> str:
    """``SELECT accounts FOR UPDATE``; without a table the first words of the statement."""
    verb = statement.split(maxsplit=1)[0].upper()
    table = _TABLE.search(statement)
    if table is None:
        return " ".join(statement.split()[:3])
    lock = " FOR UPDATE" if statement.rstrip().endswith("FOR UPDATE") else ""
    return f"{verb} {table[1]}{lock}"


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    """What is asked of ``engine`` meanwhile, in order, with its commits."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
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
