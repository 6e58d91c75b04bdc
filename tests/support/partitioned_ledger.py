"""Stand-in for a distributed ledger: the same tables on PostgreSQL, partitioned by slot.

PostgreSQL itself refuses a key without the slot there, and a plan says which partitions are touched.
"""

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Engine, Table
from sqlalchemy.schema import CreateIndex, CreateTable

from schemas import SLOTS
from worker.ledger.form import distribute
from worker.ledger.tables import LEDGER

PARTITIONS = 4

_TRIGGERS = (
    "SELECT pg_get_triggerdef(oid) FROM pg_trigger"
    " WHERE NOT tgisinternal AND tgrelid = ANY (CAST(%s AS regclass[])) ORDER BY oid"
)


def partition_ledger(engine: Engine) -> None:
    """Make the empty tables of a migrated ledger anew, distributed and partitioned by slot."""
    names = [table.name for table in LEDGER]
    with engine.begin() as connection:
        distribute(connection)
        triggers = list(connection.exec_driver_sql(_TRIGGERS, (names,)).scalars())
        connection.exec_driver_sql(f"DROP TABLE {', '.join(names)} CASCADE")
        for table in LEDGER:
            _create(connection, table)
        for trigger in triggers:
            connection.exec_driver_sql(trigger.replace("%", "%%"))


def _create(connection: Connection, table: Table) -> None:
    dialect = connection.dialect
    text = str(CreateTable(table).compile(dialect=dialect))
    text = text.replace("UNIQUE (reference_id, is_taken)", "UNIQUE (reference_id, is_taken, slot)")
    text = text.partition("\n WITH (")[0].rstrip()  # a partitioned table has no rows of its own
    connection.exec_driver_sql(f"{text} PARTITION BY LIST (slot)")
    for number in range(PARTITIONS):
        slots = ", ".join(map(str, range(number, SLOTS, PARTITIONS)))
        connection.exec_driver_sql(
            f"CREATE TABLE {table.name}_{number} PARTITION OF {table.name} FOR VALUES IN ({slots})"
        )
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        if index._ddl_if is None or index._ddl_if.dialect == "postgresql":
            connection.exec_driver_sql(str(CreateIndex(index).compile(dialect=dialect)))


def partitions_in(plan: Any) -> dict[str, set[int]]:
    """Return the partitions that a plan, in JSON, reads or writes, by table.

    Of a plan of Citus, whose shards have numbers of their own for each table, they are its tasks.
    """
    nodes = list(_nodes(json.loads(plan) if isinstance(plan, str) else plan))
    tasks = max((node["Task Count"] for node in nodes if "Task Count" in node), default=0)
    touched: dict[str, set[int]] = {}
    for node in nodes:
        table, _, number = str(node.get("Relation Name", "")).rpartition("_")
        if number.isdecimal() and table in {table.name for table in LEDGER}:
            touched.setdefault(table, set()).update(range(tasks) if tasks else [int(number)])
    return touched


def _nodes(plan: Any) -> Iterator[dict[str, Any]]:
    """Yield all nodes of a plan."""
    if isinstance(plan, list):
        for part in plan:
            yield from _nodes(part)
    elif isinstance(plan, dict):
        yield plan
        for name, part in plan.items():
            if name != "Target Tables":  # all there are, whichever of them an update finds rows in
                yield from _nodes(part)
