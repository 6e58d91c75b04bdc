"""What the console asks all the time is looked up: no such statement reads a whole table on PostgreSQL."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, event

from tests.benchmarks.filling import Filling, fill
from tests.support.provision import PostgresServer
from worker.ledger.engine import ledger_engine
from worker.ledger.queries import snapshot
from worker.ledger.queries.kinds import usage_kinds
from worker.ledger.queries.pace import pace
from worker.ledger.queries.search import accounts_by_prefix

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
FILLING = Filling(entries=40_000, accounts=6_000, until=NOW, heavy=2, heavy_entries=4_000)
HEAVY = FILLING.user(1)

QUESTIONS: dict[str, Callable[[Connection], Any]] = {
    "the rate of an hour": lambda connection: pace(connection, NOW, timedelta(minutes=1), 60),
    "the rate of a year": lambda connection: pace(connection, NOW, timedelta(days=6), 60),
    "a prefix": lambda connection: accounts_by_prefix(connection, "user-00012"),
    "a page of all": lambda connection: accounts_by_prefix(connection, "", after="user-003000"),
    "usage by type": lambda connection: usage_kinds(connection, HEAVY, NOW, 30, "UTC"),
}


@pytest.fixture(scope="module")
def filled(postgres: PostgresServer, postgres_template: str) -> Iterator[Engine]:
    """A ledger with a year behind it."""
    name = f"console_plans_{uuid4().hex[:12]}"
    postgres.databases.create_database(name, template=postgres_template)
    engine = ledger_engine(postgres.address.url(name))
    fill(engine, FILLING, lambda _step, _done, _total: None)
    yield engine
    engine.dispose()
    postgres.databases.drop_database(name)


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_no_whole_table_is_read(question: Callable[[Connection], Any], filled: Engine) -> None:
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not statement.startswith("SET"):
            asked.append((statement, parameters))

    event.listen(filled, "before_cursor_execute", note)
    try:
        with snapshot(filled) as connection:
            question(connection)
    finally:
        event.remove(filled, "before_cursor_execute", note)
    assert asked
    with filled.connect() as connection:
        for statement, parameters in asked:
            lines = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
            assert "Seq Scan" not in "\n".join(lines), statement
