"""Jobs of an audit side by side: results in order, errors, and an end that does not wait for statements."""

from collections.abc import Iterator
from contextlib import ExitStack
from threading import current_thread
from time import monotonic

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from worker.ledger.audit.jobs import Step, in_parallel

_LONG = {
    "postgresql": "SELECT pg_sleep(600)",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
}


@pytest.fixture
def connections(engine: Engine) -> Iterator[list[Connection]]:
    """Two connections to the test's database."""
    with ExitStack() as stack:
        read_only = engine.execution_options(read_only=True)
        yield [stack.enter_context(read_only.connect()) for _ in range(2)]


def ignore(_: object = None) -> None:
    """Do nothing."""


def test_results_come_in_the_order_of_the_tasks(connections: list[Connection]) -> None:
    steps: list[object] = []
    released: list[Connection] = []

    def add_one(connection: Connection, number: int, step: Step) -> int:
        step()
        return int(connection.execute(text(f"SELECT {number} + 1")).scalar_one())

    def on_step() -> None:
        steps.append(current_thread())

    results = in_parallel(connections, range(20), add_one, on_step, released.append)
    assert results == list(range(1, 21))
    assert steps == [current_thread()] * 20
    assert sorted(map(id, released)) == sorted(map(id, connections))


def test_error_of_a_job_ends_the_others(connections: list[Connection]) -> None:
    def fail_or_wait(connection: Connection, task: str, step: Step) -> None:
        connection.execute(text(task))

    tasks = ["SELECT 1 FROM nowhere", _LONG[connections[0].dialect.name]]
    began = monotonic()
    with pytest.raises(DBAPIError, match="nowhere"):
        in_parallel(connections, tasks, fail_or_wait, ignore, ignore)
    assert monotonic() - began < 30


def test_interruption_ends_statements_at_once(connections: list[Connection]) -> None:
    def wait(connection: Connection, task: str, step: Step) -> None:
        step()
        connection.execute(text(task))

    def interrupt() -> None:
        raise KeyboardInterrupt

    tasks = [_LONG[connections[0].dialect.name]] * 8
    began = monotonic()
    with pytest.raises(KeyboardInterrupt):
        in_parallel(connections, tasks, wait, interrupt, ignore)
    assert monotonic() - began < 30


def test_job_that_loses_its_connection_ends_the_others(postgres_engine: Engine) -> None:
    def run(connection: Connection, task: str, step: Step) -> None:
        connection.execute(text(task))

    tasks = [_LONG["postgresql"], "SELECT pg_terminate_backend(pg_backend_pid())"]
    began = monotonic()
    with postgres_engine.connect() as one, postgres_engine.connect() as other:
        with pytest.raises(DBAPIError) as raised:
            in_parallel([one, other], tasks, run, ignore, ignore)
        assert raised.value.connection_invalidated
    assert monotonic() - began < 30
