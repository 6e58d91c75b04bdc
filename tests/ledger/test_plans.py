"""What is asked all the time is looked up: no such statement reads a whole table on PostgreSQL.

By the plans, on a ledger that is large enough for PostgreSQL to mind. No claim about time.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, event, select

from schemas import Command, DeductUsage, RefundCredit
from tests.benchmarks.filling import Filling, fill
from tests.support.provision import PostgresServer
from worker.catalog import Catalog
from worker.ledger.engine import ledger_engine
from worker.ledger.loading import load
from worker.ledger.queries import Reader
from worker.ledger.tables import operations

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
FILLING = Filling(entries=40_000, accounts=6_000, until=NOW, heavy=2, heavy_entries=4_000)
LARGE_TABLES = {"accounts", "operations", "lots", "entries"}
HEAVY, LIGHT = FILLING.user(1), FILLING.user(4_711)

Statement = tuple[str, Any]


@pytest.fixture(scope="module")
def filled(postgres: PostgresServer, postgres_template: str) -> Iterator[Engine]:
    """A ledger with a year behind it."""
    name = f"plans_{uuid4().hex[:12]}"
    postgres.databases.create_database(name, template=postgres_template)
    engine = ledger_engine(postgres.address.url(name))
    fill(engine, FILLING, lambda _step, _done, _total: None)
    yield engine
    engine.dispose()
    postgres.databases.drop_database(name)


QUESTIONS: dict[str, Callable[[Reader, Catalog], Any]] = {
    "balance": lambda reader, catalog: reader.balance(LIGHT, NOW, catalog),
    "balance of a heavy account": lambda reader, catalog: reader.balance(HEAVY, NOW, catalog),
    "balance in the past": lambda reader, catalog: reader.balance_at(HEAVY, NOW - timedelta(days=9), catalog),
    "can afford": lambda reader, catalog: reader.can_afford(LIGHT, 5, NOW, catalog),
    "first page of history": lambda reader, _: reader.history(HEAVY),
    "deep page of history": lambda reader, _: reader.history(HEAVY, offset=3_500),
    "usage": lambda reader, catalog: reader.usage(HEAVY, NOW, catalog, days=30),
    "usage of a light account": lambda reader, catalog: reader.usage(LIGHT, NOW, catalog, days=366),
    "lots": lambda reader, catalog: reader.lots(LIGHT, NOW, catalog),
    "expiring": lambda reader, catalog: reader.expiring(LIGHT, NOW, 30, catalog),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_an_answer_about_one_account_reads_no_whole_table(
    question: Callable[[Reader, Catalog], Any], filled: Engine, catalog: Catalog
) -> None:
    with heard(filled) as statements:
        question(Reader(filled), catalog)
    assert statements
    assert scanned(filled, statements) == []


def test_a_statement_reads_no_whole_table(filled: Engine) -> None:
    with (
        heard(filled) as statements,
        Reader(filled).statement(HEAVY, NOW - timedelta(days=40), NOW - timedelta(days=30)) as period,
    ):
        assert len(list(period.transactions)) == period.summary.entries > 0
    assert scanned(filled, statements) == []


def test_an_explanation_reads_no_whole_table(filled: Engine, catalog: Catalog) -> None:
    (reference, *_) = references(filled)
    with heard(filled) as statements:
        Reader(filled).explain(reference, NOW, catalog)
    assert scanned(filled, statements) == []


def test_loading_a_batch_reads_no_whole_table(filled: Engine) -> None:
    known = references(filled)
    batch: list[Command] = [
        *(
            DeductUsage(reference_id=f"d{number}", user_id=FILLING.user(number * 97 + 1), tokens=1)
            for number in range(40)
        ),
        *(
            RefundCredit(
                reference_id=f"r{number}", user_id=LIGHT, tokens=1, original_reference_id=known[number]
            )
            for number in range(10)
        ),
    ]
    url = filled.url.render_as_string(hide_password=False)
    for engine in (filled, ledger_engine(url, only_by_key=True)):  # the worker's own session, and any other
        with heard(engine) as statements, engine.connect() as connection:
            load(connection, batch, NOW)
            connection.rollback()
        assert len(statements) >= 5
        assert scanned(engine, statements) == []
        engine.dispose()


def test_a_scan_would_be_seen(filled: Engine) -> None:
    with heard(filled) as statements, filled.connect() as connection:
        connection.exec_driver_sql("SELECT sum(amount) FROM entries JOIN lots USING (account_id)")
    assert {table for table, _ in scanned(filled, statements)} == {"entries", "lots"}


def references(engine: Engine) -> list[str]:
    """Of the first deductions after half of the year."""
    usage = (
        select(operations.c.reference_id)
        .where(operations.c.type == "usage.deduct", operations.c.operation_id > 20_000)
        .order_by(operations.c.operation_id)
        .limit(10)
    )
    with engine.connect() as connection:
        return list(connection.execute(usage).scalars())


@contextmanager
def heard(engine: Engine) -> Iterator[list[Statement]]:
    """What is asked of the database meanwhile, with its parameters."""
    statements: list[Statement] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        # Of what is prepared the execution is explained; LIMIT 0 asks for the names of columns alone.
        if not (statement.startswith("PREPARE") or statement.endswith("LIMIT 0")):
            statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


def scanned(engine: Engine, statements: list[Statement]) -> list[tuple[str, str]]:
    """The large tables that one of ``statements`` would read from end to end, and the statement."""
    found = []
    with engine.connect() as connection:
        for statement, parameters in statements:
            explained = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            plan = explained.scalar_one()
            (root,) = json.loads(plan) if isinstance(plan, str) else plan
            found += [(table, statement) for table in _read_whole(root["Plan"]) if table in LARGE_TABLES]
    return found


def _read_whole(node: dict[str, Any]) -> Iterator[str]:
    if node["Node Type"] == "Seq Scan":
        yield node["Relation Name"]
    for part in node.get("Plans", ()):
        yield from _read_whole(part)
