"""Reads of a database where a statement touches one slot alone: their answers are those of any other."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Connection, Engine

from schemas import Query, QueryBalance, QueryHistory, QueryOperation, QueryStats, QueryUsage
from tests.support.query_plans import recorded_statements
from tests.support.query_samples import Apply, given, opened
from tests.support.true_ledger import CATALOG, OPENED
from worker.demo.stored_notices import stored_notices
from worker.ledger.due import DueAccount, due_accounts
from worker.ledger.form import claim_all
from worker.ledger.queries import Expiring, Reader, expiring, snapshot
from worker.ledger.queries.operation_filter import OperationFilter
from worker.ledger.queries.operation_totals import operation_totals, top_spenders
from worker.ledger.queries.operations import OperationLine, operation_page
from worker.ledger.queries.reports import ReportName, report, report_request
from worker.ledger.queries.search import accounts_by_prefix
from worker.ledger.slots import slot_by_slot
from worker.ledger.tables import LEDGER, claims
from worker.queries import QueryService
from worker.queries.sources import Database, Sources

USERS = ("ada", "ben", "cyd", "dan", "eve", "fay", "gus", "hal")
NOW = OPENED + timedelta(days=45)
THEN = OPENED + timedelta(days=20)

Read = Callable[[Engine], Any]


def of_each(read: Callable[[Reader, str], Any]) -> Read:
    return lambda engine: [read(Reader(engine), user) for user in USERS]


#: A deduction, one of two attempts, a taken reference, holds, payments and events; the last is awaited.
REFERENCES = (
    *("ada-use", "ada-anew", "ada-back", "eve-due-1", "ben-settle", "ben-hold-1"),
    *("cyd-pay-2", "cyd-early", "dan-failed", "dan-use", "gus-cancel", "cyd-nowhere"),
)


def explained(engine: Engine) -> list[Any]:
    return [Reader(engine).explain(reference, NOW, CATALOG) for reference in REFERENCES]


def listed_by_page(engine: Engine) -> list[tuple[Expiring, ...]]:
    pages: list[tuple[Expiring, ...]] = []
    cursor: str | None = None
    while not pages or cursor is not None:
        page = Reader(engine).expiring_page(None, NOW, 400, CATALOG, 2, cursor)
        pages.append(page.expiring)
        cursor = page.next_cursor
    return pages


def due_by_page(engine: Engine) -> list[list[DueAccount]]:
    pages: list[list[DueAccount]] = []
    after: DueAccount | None = None
    while not pages or pages[-1]:
        pages.append(due_accounts(engine, NOW + timedelta(days=400), 3, after=after))
        after = pages[-1][-1] if pages[-1] else None
    return pages


def searched(engine: Engine) -> list[Any]:
    with snapshot(engine) as connection:
        return [
            accounts_by_prefix(connection, prefix, after, limit)
            for prefix in ("", "a", "x")
            for after in (None, "ben")
            for limit in (1, 3, 200)
        ]


FILTERS = (
    OperationFilter(),
    OperationFilter(status="rejected"),
    OperationFilter(types=frozenset({"usage.deduct"}), since=THEN),
    OperationFilter(reference_prefix="cyd-"),
    OperationFilter(user_id="ada"),
    OperationFilter(user_id="cyd", min_tokens=1),
)


def operations_by_page(engine: Engine) -> list[Any]:
    with snapshot(engine) as connection:
        return [
            *(operation_totals(connection, wanted) for wanted in FILTERS),
            *(top_spenders(connection, wanted, "user") for wanted in FILTERS),
            *(list(_operations(connection, wanted)) for wanted in FILTERS),
        ]


def _operations(connection: Connection, wanted: OperationFilter) -> Iterator[OperationLine]:
    cursor: str | None = None
    while True:
        page = operation_page(connection, wanted, 7, cursor)
        yield from page.operations
        if (cursor := page.next_cursor) is None:
            return


def stated(reader: Reader, user: str) -> tuple[Any, ...]:
    with reader.statement(user, OPENED + timedelta(days=1), NOW) as period:
        return period.summary, *period.transactions


def asked(*queries: Query) -> Read:
    """Return a read that answers queries together."""

    def read(engine: Engine) -> Any:
        return QueryService(
            Sources(Database(engine, engine), clock=lambda: NOW), CATALOG, clock=lambda: NOW
        ).answer(queries)

    return read


def reported(name: str) -> Read:
    def read(engine: Engine) -> Any:
        by = ("month", "tier")
        request = report_request(name, OPENED - timedelta(days=1), NOW, ZoneInfo("UTC"), by, NOW)
        return report(engine, request, CATALOG.payments).rows

    return read


READS: dict[str, Read] = {
    "balances together": asked(*(QueryBalance(user_id=user) for user in USERS)),
    "outcomes together": asked(*(QueryOperation(reference_id=reference) for reference in REFERENCES)),
    "history with refusals": asked(*(QueryHistory(user_id=user, status="all") for user in USERS)),
    "usage by feature": asked(*(QueryUsage(user_id=user, days=60, group_by="feature") for user in USERS)),
    "statistics": asked(QueryStats()),
    "balance": of_each(lambda reader, user: reader.balance(user, NOW, CATALOG)),
    "balance in the past": of_each(lambda reader, user: reader.balance_at(user, THEN, CATALOG)),
    "can afford": of_each(lambda reader, user: reader.can_afford(user, 5, NOW, CATALOG)),
    "lots": of_each(lambda reader, user: reader.lots(user, NOW, CATALOG, used_up=True)),
    "holds": of_each(lambda reader, user: reader.holds(user, NOW, CATALOG, ended=True)),
    "history": of_each(lambda reader, user: reader.history(user)),
    "statement": of_each(stated),
    "usage": of_each(lambda reader, user: reader.usage(user, NOW, CATALOG, 60)),
    "expiring": of_each(lambda reader, user: reader.expiring(user, NOW, 400, CATALOG)),
    "expiring of everybody": lambda engine: list(Reader(engine).all_expiring(NOW, 400, CATALOG)),
    "expiring by page": listed_by_page,
    "due accounts": due_by_page,
    "search": searched,
    "operations": operations_by_page,
    **{f"report on {name}": reported(name) for name in ReportName},
    "totals": lambda engine: Reader(engine).stats(),
    "explanation": explained,
    "notices": lambda engine: sorted(stored_notices(engine, REFERENCES)),
}


@pytest.fixture
def claimed_ledger(true_ledger: Engine) -> Iterator[Engine]:
    """The true ledger, whose references have claims."""
    with true_ledger.begin() as connection:
        claim_all(connection)
    yield true_ledger
    with true_ledger.begin() as connection:
        connection.execute(claims.delete())


TABLES = re.compile(rf"\b(?:FROM|JOIN) (?:{'|'.join(table.name for table in LEDGER)})\b")


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_answer_is_the_same_from_statements_that_name_one_slot(read: Read, claimed_ledger: Engine) -> None:
    whole = read(claimed_ledger)
    assert whole
    narrow = slot_by_slot(claimed_ledger)
    with recorded_statements(narrow) as statements:
        assert read(narrow) == whole
    assert statements
    for statement in (text for text, _ in statements if TABLES.search(text)):
        source = statement.partition("FROM")[2]
        assert source.count("slot") >= len(TABLES.findall(statement)), statement
        assert "slot BETWEEN" not in source, statement


def test_pages_of_many_accounts_are_the_same_slot_by_slot(
    engine: Engine, apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiring, "_PAGE", 2)
    users = [f"user-{number:03}" for number in range(70)]  # some share a slot
    apply(*(opened(user, "free") for user in users), *(given(user, 7) for user in users[::3]), now=OPENED)
    for read in (listed_by_page, due_by_page, searched):
        assert read(slot_by_slot(engine)) == read(engine)
