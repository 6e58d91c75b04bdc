"""Plans of frequent statements: none reads a whole table on PostgreSQL.

The ledger is large enough to make a difference to PostgreSQL. No claim about time.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select

from schemas import Command, DeductUsage, RefundCredit
from tests.ledger.conftest import YEAR_OLD
from tests.support.query_plans import recorded_statements, scanned
from tests.support.query_samples import NOW
from worker.catalog import Catalog
from worker.ledger.engine import ledger_engine
from worker.ledger.loading import load
from worker.ledger.queries import Reader
from worker.ledger.tables import operations

LARGE_TABLES = {"accounts", "operations", "lots", "entries"}
HEAVY, LIGHT = YEAR_OLD.user(1), YEAR_OLD.user(4_711)

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
    question: Callable[[Reader, Catalog], Any], year_old: Engine, catalog: Catalog
) -> None:
    with recorded_statements(year_old) as statements:
        question(Reader(year_old), catalog)
    assert statements
    assert scanned(year_old, statements, LARGE_TABLES) == []


def test_a_statement_reads_no_whole_table(year_old: Engine) -> None:
    with (
        recorded_statements(year_old) as statements,
        Reader(year_old).statement(HEAVY, NOW - timedelta(days=40), NOW - timedelta(days=30)) as period,
    ):
        assert len(list(period.transactions)) == period.summary.entries > 0
    assert scanned(year_old, statements, LARGE_TABLES) == []


def test_an_explanation_reads_no_whole_table(year_old: Engine, catalog: Catalog) -> None:
    (reference, *_) = references(year_old)
    with recorded_statements(year_old) as statements:
        Reader(year_old).explain(reference, NOW, catalog)
    assert scanned(year_old, statements, LARGE_TABLES) == []


def test_loading_a_batch_reads_no_whole_table(year_old: Engine) -> None:
    known = references(year_old)
    batch: list[Command] = [
        *(
            DeductUsage(reference_id=f"d{number}", user_id=YEAR_OLD.user(number * 97 + 1), tokens=1)
            for number in range(40)
        ),
        *(
            RefundCredit(
                reference_id=f"r{number}", user_id=LIGHT, tokens=1, original_reference_id=known[number]
            )
            for number in range(10)
        ),
    ]
    url = year_old.url.render_as_string(hide_password=False)
    for engine in (year_old, ledger_engine(url, only_by_key=True)):  # the worker's own session, and any other
        with recorded_statements(engine) as statements, engine.connect() as connection:
            load(connection, batch, NOW, lambda count: iter(range(-count, 0)))
            connection.rollback()
        assert len(statements) >= 5
        assert scanned(engine, statements, LARGE_TABLES) == []
        engine.dispose()


def test_a_scan_would_be_seen(year_old: Engine) -> None:
    with recorded_statements(year_old) as statements, year_old.connect() as connection:
        connection.exec_driver_sql("SELECT sum(amount) FROM entries JOIN lots USING (account_id)")
    assert {table for table, _ in scanned(year_old, statements, LARGE_TABLES)} == {"entries", "lots"}


def references(engine: Engine) -> list[str]:
    """References of the first deductions after half of the year."""
    usage = (
        select(operations.c.reference_id)
        .where(operations.c.type == "usage.deduct", operations.c.operation_id > 20_000)
        .order_by(operations.c.operation_id)
        .limit(10)
    )
    with engine.connect() as connection:
        return list(connection.execute(usage).scalars())
