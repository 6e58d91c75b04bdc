"""Migration 0013: rows say nothing twice, and what they say is what they said before."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from tests.ledger.history_0006 import write_history
from tests.support.narrowed_rows import narrowed_entry, narrowed_operation
from tests.support.provision import PostgresServer
from tests.support.true_ledger import CATALOG
from worker.errors import ConfigurationError
from worker.ledger import rows
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.ledger.identifiers import IDENTIFIERS
from worker.ledger.migrations import migrate
from worker.ledger.queries.history import history
from worker.ledger.queries.snapshots import snapshot
from worker.ledger.revisions import current_revision
from worker.ledger.tables import LEDGER, identifiers, operations

Row = dict[str, Any]


@contextmanager
def new_database(
    dialect: str, request: pytest.FixtureRequest, folders: pytest.TempPathFactory
) -> Iterator[Engine]:
    """An empty database."""
    if dialect == "sqlite":
        engine = ledger_engine(f"sqlite:///{folders.mktemp('narrower') / 'ledger.sqlite3'}")
        yield engine
        engine.dispose()
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"narrower_{uuid4().hex[:12]}"
    server.databases.create_database(name)
    engine = ledger_engine(server.address.url(name))
    try:
        yield engine
    finally:
        engine.dispose()
        server.databases.drop_database(name)


@dataclass(frozen=True)
class Narrowed:
    """The migrated ledger, and the rows of its tables before."""

    engine: Engine
    before: dict[str, list[Row]]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def narrowed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Narrowed]:
    """A ledger with everything of revision 0012 in it, migrated."""
    with new_database(request.param, request, tmp_path_factory) as engine:
        write_history(engine)
        migrate(engine, "0012")
        if request.param == "postgresql":
            with engine.begin() as connection:
                connection.exec_driver_sql("GRANT SELECT ON entries TO PUBLIC")
        before = {table.name: rows_of(engine, table.name) for table in LEDGER}
        migrate(engine)
        yield Narrowed(engine, before)


def rows_of(engine: Engine, table: str) -> list[Row]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()]  # noqa: S608 - a name of the schema


def test_rows_say_nothing_twice_and_keep_their_order(narrowed: Narrowed) -> None:
    expected = dict(narrowed.before)
    expected["operations"] = list(map(narrowed_operation, expected["operations"]))
    expected["entries"] = list(map(narrowed_entry, expected["entries"]))
    for table in ("operations", "superseded_outcomes"):  # a later migration added it
        expected[table] = [row | {"catalog_id": None} for row in expected[table]]
    assert {table: rows_of(narrowed.engine, table) for table in expected} == expected
    assert {row["last_entry"] is None for row in expected["operations"] if row["first_entry"]} == {
        True,
        False,
    }
    balances = {row["balance_before"] is None for row in expected["operations"] if row["first_entry"]}
    assert balances == {True, False}


def test_outcome_is_read_as_it_was_written(narrowed: Narrowed) -> None:
    was = {row["operation_id"]: row for row in narrowed.before["operations"]}
    with narrowed.engine.connect() as connection:
        found = [rows.outcome(row) for row in connection.execute(select(operations))]
    for outcome in found:
        row = was[outcome.transaction_id]
        assert outcome.balance_before == row["balance_before"], row
        assert (outcome.first_entry, outcome.last_entry) == (row["first_entry"], row["last_entry"]), row


def test_history_has_the_features_that_entries_had(narrowed: Narrowed) -> None:
    users = {row["account_id"]: row["user_id"] for row in narrowed.before["accounts"]}
    features = {
        (users[row["account_id"]], row["sequence"]): row["feature"] or None
        for row in narrowed.before["entries"]
    }
    assert len(set(features.values())) > 2
    with snapshot(narrowed.engine) as connection:
        found = {
            (user, entry.sequence): entry.feature
            for user in users.values()
            for entry in history(connection, user, 1_000, 0, None).transactions
        }
    assert found == features


def test_columns_are_in_the_order_that_wastes_no_byte(narrowed: Narrowed) -> None:
    inspector = inspect(narrowed.engine)
    for table in LEDGER:
        assert [column["name"] for column in inspector.get_columns(table.name)] == list(table.c.keys())


def test_counter_accounts_have_their_codes(narrowed: Narrowed) -> None:
    counters = select(identifiers.c.name, identifiers.c.number).where(identifiers.c.kind == "counter")
    with narrowed.engine.connect() as connection:
        assert {row.name: row.number for row in connection.execute(counters)} == IDENTIFIERS["counter"]


def test_audit_of_the_narrowed_ledger_is_clean(narrowed: Narrowed) -> None:
    assert audit(narrowed.engine, catalog=CATALOG).findings == ()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entries SET lot = 1",
        "DELETE FROM entries",
        "UPDATE operations SET code = 3 WHERE reference_id = 'ada-use'",
        "DELETE FROM operations",
    ],
)
def test_rows_are_guarded_as_before(narrowed: Narrowed, change: str) -> None:
    with pytest.raises(DBAPIError, match="append-only"), narrowed.engine.begin() as connection:
        connection.exec_driver_sql(change)


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        ("first_entry = 3, last_entry = 3", "entries_in_order"),
        ("first_entry = 3, balance_before = 2", "balance_before_not_repeated"),
        ("first_entry = NULL, last_entry = NULL, balance_before = NULL", "applied_has_amounts"),
    ],
)
def test_operation_that_repeats_itself_is_refused(narrowed: Narrowed, columns: str, constraint: str) -> None:
    rejected = "SELECT operation_id FROM operations WHERE status = 2 AND NOT is_taken"
    change = (
        f"UPDATE operations SET status = 1, attempt = attempt + 1, amount = 1, balance_after = 1, {columns}"  # noqa: S608 - of this test
        f" WHERE operation_id = ({rejected} LIMIT 1)"
    )
    with pytest.raises(IntegrityError, match=constraint), narrowed.engine.begin() as connection:
        connection.exec_driver_sql(change)


def test_rights_stay(narrowed: Narrowed) -> None:
    if narrowed.engine.dialect.name == "sqlite":
        return  # it has none
    asked = (
        "SELECT count(*) FROM pg_class, aclexplode(relacl)"
        " WHERE oid = CAST('entries' AS regclass) AND grantee = 0 AND privilege_type = 'SELECT'"
    )
    with narrowed.engine.connect() as connection:
        assert connection.execute(text(asked)).scalar_one() == 1


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_feature_that_nothing_else_has_is_refused_before_it_is_lost(
    dialect: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with new_database(dialect, request, tmp_path_factory) as engine:
        write_history(engine)
        migrate(engine, "0012")
        with engine.begin() as connection:
            if dialect == "postgresql":
                connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            else:
                connection.exec_driver_sql("DROP TRIGGER entries_not_updated")
            connection.exec_driver_sql(
                "UPDATE entries SET feature = 'other' WHERE account_id = 1 AND sequence = 2"
            )
        with pytest.raises(ConfigurationError, match="entry 2 of account 1 has another feature"):
            migrate(engine)
        assert current_revision(engine) == "0012"
        assert "feature" in rows_of(engine, "entries")[0]
