"""Plans of the console's frequent queries: no statement reads a whole table on PostgreSQL."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from tests.ledger.conftest import YEAR_OLD
from tests.ledger.test_plans import LARGE_TABLES
from tests.support.query_plans import recorded_statements, scanned
from tests.support.query_samples import NOW
from worker.ledger.queries import snapshot
from worker.ledger.queries.kinds import usage_kinds
from worker.ledger.queries.pace import pace
from worker.ledger.queries.search import accounts_by_prefix

HEAVY = YEAR_OLD.user(1)

QUESTIONS: dict[str, Callable[[Connection], Any]] = {
    "the rate of an hour": lambda connection: pace(connection, NOW, timedelta(minutes=1), 60),
    "the rate of a year": lambda connection: pace(connection, NOW, timedelta(days=6), 60),
    "a prefix": lambda connection: accounts_by_prefix(connection, "user-00012"),
    "a page of all": lambda connection: accounts_by_prefix(connection, "", after="user-003000"),
    "usage by type": lambda connection: usage_kinds(connection, HEAVY, NOW, 30, "UTC"),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_query_reads_no_whole_table(question: Callable[[Connection], Any], year_old: Engine) -> None:
    with recorded_statements(year_old) as statements, snapshot(year_old) as connection:
        question(connection)
    assert statements
    assert scanned(year_old, statements, LARGE_TABLES) == []
