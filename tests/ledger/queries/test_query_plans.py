"""Plans of frequent queries, the console's and the app's: none reads a whole table on PostgreSQL."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from schemas import Query, QueryAfford, QueryBalance, QueryHistory, QueryOperation, QueryUsage
from tests.ledger.conftest import YEAR_OLD
from tests.ledger.test_plans import LARGE_TABLES
from tests.support.query_plans import recorded_statements, scanned
from tests.support.query_samples import NOW
from worker.catalog import Catalog
from worker.ledger.engine import ledger_engine
from worker.ledger.queries import snapshot
from worker.ledger.queries.operation_filter import OperationFilter
from worker.ledger.queries.operation_totals import operation_totals, top_spenders
from worker.ledger.queries.operations import operation_page
from worker.ledger.queries.pace import pace
from worker.ledger.queries.search import accounts_by_prefix
from worker.queries import QueryService
from worker.queries.sources import Database, Sources

HEAVY = YEAR_OLD.user(1)
REJECTED = OperationFilter(status="rejected")
BY_REFERENCE = OperationFilter(reference_prefix="use-77")
LATEST = OperationFilter(since=NOW - timedelta(hours=1))

QUESTIONS: dict[str, Callable[[Connection], Any]] = {
    "the rate of an hour": lambda connection: pace(connection, NOW, timedelta(minutes=1), 60),
    "the rate of a year": lambda connection: pace(connection, NOW, timedelta(days=6), 60),
    "a prefix": lambda connection: accounts_by_prefix(connection, "user-00012"),
    "a page of all": lambda connection: accounts_by_prefix(connection, "", after="user-003000"),
    "operations": lambda connection: operation_page(connection, OperationFilter()),
    "operations of a feature": lambda connection: operation_page(connection, OperationFilter(feature="x")),
    "operations of a user": lambda connection: operation_page(connection, OperationFilter(user_id=HEAVY)),
    "rejected operations": lambda connection: operation_page(connection, REJECTED, 500),
    "operations by reference": lambda connection: operation_page(connection, BY_REFERENCE),
    "totals of operations": lambda connection: operation_totals(connection, LATEST),
    "totals of a user": lambda connection: operation_totals(connection, OperationFilter(user_id=HEAVY)),
    "spenders": lambda connection: top_spenders(connection, LATEST, "feature"),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_query_reads_no_whole_table(question: Callable[[Connection], Any], year_old: Engine) -> None:
    with recorded_statements(year_old) as statements, snapshot(year_old) as connection:
        question(connection)
    assert statements
    assert scanned(year_old, statements, LARGE_TABLES) == []


ASKED: dict[str, list[Query]] = {
    "balances of many": [QueryBalance(user_id=YEAR_OLD.user(number)) for number in range(1, 300)],
    "usage of many": [QueryAfford(user_id=YEAR_OLD.user(number), tokens=5) for number in range(1, 300)],
    "outcomes of many": [QueryOperation(reference_id=f"use-{number}") for number in range(300)],
    "filtered history": [QueryHistory(user_id=HEAVY, feature="chat", transaction_type="usage.deduct")],
    "refused history": [QueryHistory(user_id=HEAVY, status="all")],
    "usage by type": [QueryUsage(user_id=HEAVY)],
    "usage by metadata": [QueryUsage(user_id=HEAVY, group_by="metadata.model")],
}


@pytest.mark.parametrize("queries", ASKED.values(), ids=ASKED.keys())
def test_answer_reads_no_whole_table(queries: list[Query], year_old: Engine, catalog: Catalog) -> None:
    url = year_old.url.render_as_string(hide_password=False)
    database = Database(ledger_engine(url, only_by_key=True), ledger_engine(url))
    service = QueryService(Sources(database, clock=lambda: NOW), catalog, clock=lambda: NOW)
    for engine in database:
        with recorded_statements(engine) as statements:
            service.answer(queries)
        assert scanned(engine, statements, LARGE_TABLES) == []
    service.close()
