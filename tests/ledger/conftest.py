"""Fixtures for the tests of the ledger."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from tests.benchmarks import filling
from tests.support.distributed_database import distributed_database, is_on_citus
from tests.support.provision import PostgresServer
from tests.support.query_samples import NOW, Apply, given, opened
from tests.support.true_ledger import HISTORY, OPENED, fill, unguarded
from worker.core import decide
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.ledger.form import LedgerForm
from worker.ledger.queries import Reader
from worker.ledger.store import Ledger

YEAR_OLD = filling.Filling(entries=40_000, accounts=6_000, until=NOW, heavy=2, heavy_entries=4_000)


_LONG_AFTER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def stand_in(postgres: PostgresServer) -> Iterator[Engine]:
    """A distributed ledger for all tests of a module, whose users are their own."""
    with distributed_database(postgres, only_by_key=True) as engine:
        yield engine
        assert audit(engine, one_slot=is_on_citus(), claims_before=_LONG_AFTER).is_clean


@pytest.fixture(scope="session")
def true_stand_in(postgres: PostgresServer) -> Iterator[Engine]:
    """The true ledger in the form that is distributed, in partitions; only to be read."""
    with distributed_database(postgres) as engine:
        ledger = Ledger(engine, LedgerForm.DISTRIBUTED)
        for day, commands, catalog in HISTORY:
            for command in commands:
                with ledger.begin([command], OPENED + day) as transaction:
                    transaction.write(decide([command], transaction.known, OPENED + day, catalog))
        yield engine


@pytest.fixture(scope="session")
def _sqlite_copy(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = shutil.copy(sqlite_template, tmp_path_factory.mktemp("true") / "ledger.sqlite3")
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def _postgres_copy(postgres: PostgresServer, postgres_template: str) -> Iterator[str]:
    name = f"true_{uuid4().hex[:12]}"
    postgres.databases.create_database(name, template=postgres_template)
    yield postgres.address.url(name)
    postgres.databases.drop_database(name)


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def true_ledger(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A true ledger with everything in it, that can be corrupted: whoever does so rolls it back."""
    url: str = request.getfixturevalue("_sqlite_copy" if request.param == "sqlite" else "_postgres_copy")
    engine = ledger_engine(url)
    fill(engine)
    engine.dispose()
    engine = unguarded(url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def year_old(postgres: PostgresServer, postgres_template: str) -> Iterator[Engine]:
    """A ledger of ``YEAR_OLD``, large enough for PostgreSQL to mind; only to be read."""
    name = f"year_{uuid4().hex[:12]}"
    postgres.databases.create_database(name, template=postgres_template)
    engine = ledger_engine(postgres.address.url(name))
    filling.fill(engine, YEAR_OLD, lambda _step, _done, _total: None)
    yield engine
    engine.dispose()
    postgres.databases.drop_database(name)


@pytest.fixture
def reader(engine: Engine) -> Reader:
    """The read side of the test's database."""
    return Reader(engine)


@pytest.fixture
def ada(apply: Apply) -> str:
    """A user with 10,000 tokens that never expire and no allocation, opened a year ago."""
    apply(opened("ada", "none"), given("ada", 10_000), now=NOW - timedelta(days=365))
    return "ada"
