"""The short form: the benchmark runs, and the ledger is true afterwards. No claim about time.

What costs time is counted instead: the statements of a batch, which must not grow with it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, event

from schemas import DeductUsage, OpenAccount
from tests.benchmarks.first_speed import measure
from tests.support.books import applied
from tests.support.provision import PostgresServer, RabbitMQServer
from worker.catalog import Catalog


def test_the_first_speed_is_measured_on_a_ledger_that_is_true(
    postgres: PostgresServer, rabbitmq: RabbitMQServer
) -> None:
    steps: set[str] = set()
    run = measure(
        postgres,
        rabbitmq,
        messages=1_500,
        users=50,
        workers=1,
        progress=lambda step, _done, _total: steps.add(step),
    )
    assert run.audit_clean
    assert run.seconds > 0
    assert "prefilling" in steps


@pytest.mark.parametrize("count", [1, 500])
def test_a_batch_of_plain_deductions_is_seven_statements_and_a_commit(
    count: int, postgres_engine: Engine, catalog: Catalog
) -> None:
    users = [f"u{number}" for number in range(100)]
    applied(
        postgres_engine,
        catalog,
        *(OpenAccount(reference_id=f"o-{user}", user_id=user, tier="pro") for user in users),
    )
    batch = [
        DeductUsage(
            reference_id=f"d-{number}", user_id=users[number % 100], tokens=1, occurred_at=datetime.now(UTC)
        )
        for number in range(count)
    ]
    with counted(postgres_engine) as statements:
        applied(postgres_engine, catalog, *batch)
    assert statements == [
        "SELECT accounts FOR UPDATE",
        "SELECT operations",
        "SELECT lots",
        "INSERT operations",
        "UPDATE accounts",
        "UPDATE lots",
        "INSERT entries",
        "COMMIT",
    ]


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    """What is asked of the database meanwhile: the verb, the table, and whether it locks."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        verb = statement.split()[0]
        table = re.search(r"\b(?:FROM|INTO|UPDATE)\s+(\w+)", statement)
        lock = " FOR UPDATE" if statement.rstrip().endswith("FOR UPDATE") else ""
        seen.append(f"{verb} {table and table[1]}{lock}")

    def commit(_connection: Any) -> None:
        seen.append("COMMIT")

    event.listen(engine, "before_cursor_execute", note)
    event.listen(engine, "commit", commit)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)
        event.remove(engine, "commit", commit)
