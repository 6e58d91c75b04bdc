"""The migrated schema is the one of the tables, on both dialects."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, inspect
from sqlalchemy.engine.interfaces import ReflectedIndex

import worker.deadletters.store.tables  # noqa: F401 - its tables are in the metadata
from tests.support.provision import PostgresServer
from worker.errors import ContentionError
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate, sql_of
from worker.ledger.revisions import current_revision, newest_revision
from worker.ledger.tables import metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine on a database with nothing in it."""
    if request.param == "sqlite":
        engine = ledger_engine(f"sqlite:///{tmp_path / 'empty.sqlite3'}")
        yield engine
        engine.dispose()
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"empty_{uuid4().hex[:12]}"
    server.databases.create_database(name)
    engine = ledger_engine(server.address.url(name))
    yield engine
    engine.dispose()
    server.databases.drop_database(name)


def described(engine: Engine) -> dict[str, Any]:
    """Everything a table is made of, as the database tells it."""
    inspector = inspect(engine)
    return {
        table: {
            "columns": {
                c["name"]: (str(c["type"]), c["nullable"], c["default"], c.get("identity"))
                for c in inspector.get_columns(table)
            },
            "primary key": inspector.get_pk_constraint(table),
            "unique": sorted(map(str, inspector.get_unique_constraints(table))),
            "foreign keys": sorted(map(str, inspector.get_foreign_keys(table))),
            "checks": sorted(
                (str(check["name"]), re.sub(r"\s+", " ", check["sqltext"]))
                for check in inspector.get_check_constraints(table)
            ),
            "indexes": sorted(shown(index) for index in inspector.get_indexes(table)),
            "options": {
                name: value
                for name, value in inspector.get_table_options(table).items()
                if name != "postgresql_tablespace"
            },
        }
        for table in sorted(metadata.tables)
    }


def shown(index: ReflectedIndex) -> str:
    """All of an index, with the text of what SQLite gives as an expression."""
    options = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return str({**index, "dialect_options": options})


def test_the_migrated_schema_is_the_one_of_the_tables(empty: Engine) -> None:
    migrate(empty)
    migrated = described(empty)
    with empty.begin() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
    assert migrated == described(empty)


def test_an_empty_database_has_no_revision_and_a_migrated_one_the_newest(empty: Engine) -> None:
    assert current_revision(empty) is None
    migrate(empty)
    assert current_revision(empty) == newest_revision()


def test_migrating_again_changes_nothing(empty: Engine) -> None:
    migrate(empty)
    before = described(empty)
    migrate(empty)
    assert described(empty) == before


def test_several_may_migrate_at_once(postgres: PostgresServer) -> None:
    name = f"crowd_{uuid4().hex[:12]}"
    postgres.databases.create_database(name)
    engines = [ledger_engine(postgres.address.url(name)) for _ in range(4)]
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(migrate, engines))
        assert current_revision(engines[0]) == newest_revision()
    finally:
        for engine in engines:
            engine.dispose()
        postgres.databases.drop_database(name)


@pytest.fixture
def at_0017(postgres: PostgresServer) -> Iterator[Engine]:
    """Engine on a database whose next revision changes the table of pauses."""
    name = f"before_{uuid4().hex[:12]}"
    postgres.databases.create_database(name)
    engine = ledger_engine(postgres.address.url(name))
    migrate(engine, "0017")
    yield engine
    engine.dispose()
    postgres.databases.drop_database(name)


def test_migration_that_gets_no_lock_lets_others_pass_and_tries_again(
    at_0017: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.ledger.migrations.LOCK_TIMEOUT_MS", 20)
    reading = at_0017.connect()
    reading.exec_driver_sql("SELECT count(*) FROM lane_pauses")
    waited_s: list[float] = []

    def sleep(seconds: float) -> None:
        waited_s.append(seconds)
        if len(waited_s) == 2:
            reading.close()

    migrate(at_0017, sleep=sleep)
    assert len(waited_s) == 2
    assert current_revision(at_0017) == newest_revision()


def test_migration_ends_with_an_error_where_others_keep_a_lock(
    at_0017: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.ledger.migrations.LOCK_TIMEOUT_MS", 5)
    monkeypatch.setattr("worker.ledger.migrations._TRIES", 3)
    with at_0017.connect() as reading:
        reading.exec_driver_sql("SELECT count(*) FROM lane_pauses")
        with pytest.raises(ContentionError, match="lock timeout"):
            migrate(at_0017, sleep=lambda _: None)


def test_sql_of_the_revisions_sets_a_lock_timeout_before_anything_else() -> None:
    first, *_ = sql_of("0013:head").splitlines()
    assert first == "SET lock_timeout = '2000ms';"
