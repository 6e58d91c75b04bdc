"""Filled ledger, compared with that of a worker."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, Table, select

from schemas import BonusCredit, CancelSubscription, Command, DeductUsage, OpenAccount, type_of
from tests.benchmarks import large
from tests.benchmarks.filling import Filling, fill
from tests.benchmarks.loads import deductions
from tests.benchmarks.reporters import LineReporter
from tests.benchmarks.results import BenchmarkContext
from tests.benchmarks.sandbox import Measured, Sandbox, Servers
from tests.support.apply_commands import applied
from tests.support.provision import PostgresServer, RabbitMQServer
from worker.catalog import Catalog
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.ledger.tables import accounts, entries, lots, operations

UNTIL = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
TINY = Filling(entries=230, accounts=30, until=UNTIL, heavy=2, heavy_entries=53)
_COMMANDS = {type_of(kind): kind for kind in (OpenAccount, BonusCredit, CancelSubscription, DeductUsage)}


def quietly(_step: str, _done: int, _total: int) -> None:
    """Ignore the progress."""


@pytest.fixture
def other_engine(postgres: PostgresServer, postgres_template: str) -> Iterator[Engine]:
    """A second migrated database."""
    name = f"test_{uuid4().hex[:12]}"
    postgres.databases.create_database(name, template=postgres_template)
    engine = ledger_engine(postgres.address.url(name))
    yield engine
    engine.dispose()
    postgres.databases.drop_database(name)


@pytest.mark.parametrize(
    "filling",
    [
        TINY,
        Filling(entries=90, accounts=30, until=UNTIL, heavy=2, heavy_entries=3),
        Filling(entries=40, accounts=8, until=UNTIL, heavy=0),
        Filling(entries=60, accounts=3, until=UNTIL, heavy=1, heavy_entries=51),
    ],
    ids=["heavy and light", "nothing used", "none is heavy", "hardly anybody else"],
)
def test_filled_ledger_equals_the_one_a_worker_leaves(
    filling: Filling, postgres_engine: Engine, other_engine: Engine, catalog: Catalog
) -> None:
    fill(postgres_engine, filling, quietly)
    for command, moment in commands_in(postgres_engine):
        applied(other_engine, catalog, command, now=moment)
    for table in (accounts, lots, operations, entries):
        assert rows_of(postgres_engine, table) == rows_of(other_engine, table)


def test_filled_ledger_passes_the_audit_and_has_the_requested_size(postgres_engine: Engine) -> None:
    steps = set()
    fill(postgres_engine, TINY, lambda step, _done, _total: steps.add(step))
    report = audit(postgres_engine)
    assert report.findings == ()
    assert report.examined["accounts"] == 30
    assert report.examined["entries"] == 230
    assert steps == {"filling", "building keys", "vacuuming"}


def test_heavy_accounts_have_usage_over_the_whole_year(postgres_engine: Engine) -> None:
    fill(postgres_engine, TINY, quietly)
    with postgres_engine.connect() as connection:
        account = connection.execute(select(accounts).where(accounts.c.user_id == TINY.user(1))).one()
        first_use = select(entries.c.recorded_at).where(entries.c.account_id == 1, entries.c.sequence == 4)
        began = connection.execute(first_use).scalar_one()
    assert account.sequence == 53
    assert began < UNTIL - timedelta(days=350)
    assert account.updated_at > UNTIL - timedelta(days=15)


def test_worker_continues_on_a_filled_ledger(postgres_engine: Engine, catalog: Catalog) -> None:
    fill(postgres_engine, TINY, quietly)
    applied(
        postgres_engine,
        catalog,
        *(DeductUsage(reference_id=f"d{n}", user_id=TINY.user(n), tokens=1) for n in range(1, 31)),
        OpenAccount(reference_id="o", user_id="eve", tier="pro"),
        now=UNTIL,
    )
    assert audit(postgres_engine).is_clean


def test_filled_ledger_has_the_keys_and_indexes_of_the_schema(
    postgres_engine: Engine, other_engine: Engine
) -> None:
    fill(postgres_engine, TINY, quietly)
    assert keys_of(postgres_engine) == keys_of(other_engine)


@pytest.mark.parametrize(
    "sizes",
    [
        {"entries": 89, "accounts": 30, "heavy": 0},
        {"entries": 200, "accounts": 30, "heavy": 2},
        {"entries": 200, "accounts": 2, "heavy": 2, "heavy_entries": 5},
        {"entries": 200, "accounts": 30, "heavy": 2, "heavy_entries": 2},
    ],
)
def test_filling_without_room_for_its_accounts_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="are too few"):
        Filling(until=UNTIL, **sizes)


def test_large_benchmark_measures_on_a_correct_ledger(
    postgres: PostgresServer, rabbitmq: RabbitMQServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is left out: other benchmarks run it."""

    def processed(
        load: Any, name: str, sandbox: Sandbox, pick: Callable[[], int], seed: int, **_: Any
    ) -> Measured:
        sandbox.apply(deductions(load.messages, pick, seed))
        return Measured(name, load.messages, 1.0, {"worker": 0.1})

    monkeypatch.setattr(large._Load, "_drained", processed)
    result = large.run(BenchmarkContext(Servers(postgres, rabbitmq), LineReporter(), runs=1, is_short=True))
    assert {figure.unit for figure in result.figures} == {"×", "ms", "messages/s", "µs/message", "s"}
    assert all(sample >= 0 for figure in result.figures for sample in figure.samples)
    assert result.sizes["entries"] == 2_000


def commands_in(engine: Engine) -> list[tuple[Command, datetime]]:
    """The commands behind the operations, in order, and when each was recorded."""
    with engine.connect() as connection:
        rows = connection.execute(select(operations).order_by(operations.c.operation_id)).all()
    return [(_command(row), row.recorded_at) for row in rows]


def _command(row: Any) -> Command:
    return _COMMANDS[row.type](
        reference_id=row.reference_id,
        user_id=row.user_id,
        occurred_at=row.occurred_at,
        **json.loads(row.content),
    )


def rows_of(engine: Engine, table: Table) -> list[Any]:
    """The rows, with the places of their accounts and operations instead of the ids, which are drawn anew.

    Nobody has judged a filled ledger, so its operations name no catalog.
    """
    with engine.connect() as connection:
        places = {
            column.name: {number: place for place, number in enumerate(connection.scalars(ids))}
            for column, ids in (
                (column, select(column).order_by(column))
                for column in (accounts.c.account_id, operations.c.operation_id)
            )
        }
        rows = connection.execute(select(table).order_by(*table.primary_key)).mappings().all()
    return sorted(
        [
            places[name].get(value, value) if name in places else value
            for name, value in row.items()
            if name != "catalog_id"
        ]
        for row in rows
    )


def keys_of(engine: Engine) -> list[tuple[str, str]]:
    """Every index and constraint, as PostgreSQL spells it."""
    spelled = """
        SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid <> 0
        UNION ALL SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
        WHERE indrelid IN ('entries'::regclass, 'operations'::regclass) ORDER BY 1, 2
    """
    with engine.connect() as connection:
        return [(row[0], row[1]) for row in connection.exec_driver_sql(spelled)]
