"""Query plans of PostgreSQL: they show whole-table reads, and no times."""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from sqlalchemy import Engine, event

from worker.ledger.round_trips import COMMIT

Statement = tuple[str, Any]


@contextmanager
def recorded_statements(engine: Engine) -> Iterator[list[Statement]]:
    """Collect the statements that go to the database during the block, with their parameters.

    Settings of the transaction are among them, because plans depend on them.
    """
    statements: list[Statement] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        # EXPLAIN takes the execution of a prepared statement.
        if not statement.startswith("PREPARE") and "pg_attribute" not in statement:
            statements.extend(one_by_one(statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


def one_by_one(text: str, parameters: Any) -> Iterator[Statement]:
    """Yield the statements of one text that is sent in one round trip, without its COMMIT."""
    parts = text.removesuffix(COMMIT).split("; ") if text.startswith("EXECUTE") else [text]
    if len(parts) == 1:
        yield parts[0], parameters
        return
    rest = iter(parameters)
    for part in parts:
        yield part, tuple(islice(rest, part.count("%s")))


def scanned(engine: Engine, statements: Sequence[Statement], large: Collection[str]) -> list[tuple[str, str]]:
    """Return each ``large`` table that a statement would read whole, with the statement."""
    found = []
    with engine.connect() as connection:
        for statement, parameters in statements:
            if statement.startswith("SET LOCAL"):
                connection.exec_driver_sql(statement)
            if not statement.lstrip().upper().startswith(("SELECT", "EXECUTE", "WITH")):
                continue
            plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
            (root,) = json.loads(plan) if isinstance(plan, str) else plan
            found += [(table, statement) for table in _read_whole(root["Plan"]) if table in large]
        connection.rollback()
    return found


def keyless(engine: Engine, statements: Sequence[Statement], table: str) -> list[str]:
    """Return the prepared statements that would read ``table`` without a key."""
    found = []
    with engine.connect() as connection:
        for statement, parameters in statements:
            plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
            (root,) = plan
            reads = [node for node in _nodes(root["Plan"]) if node.get("Relation Name") == table]
            if any("Scan" in node["Node Type"] and "Index Cond" not in node for node in reads):
                found.append(statement)
        connection.rollback()
    return found


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for part in node.get("Plans", ()):
        yield from _nodes(part)


def _read_whole(node: dict[str, Any]) -> Iterator[str]:
    return (each["Relation Name"] for each in _nodes(node) if each["Node Type"] == "Seq Scan")
