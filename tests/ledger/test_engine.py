"""Translation of the database's errors into those of the worker."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError

from schemas import DeductUsage
from worker.errors import (
    ConfigurationError,
    ContentionError,
    LedgerUnavailableError,
    UnsupportedStatementError,
)
from worker.ledger.engine import ledger_engine, translated_errors
from worker.ledger.store import Ledger


def run(engine: Engine, sql: str) -> None:
    with translated_errors(), engine.begin() as connection:
        connection.execute(text(sql))


def run_in(connection: Connection, sql: str) -> None:
    with translated_errors():
        connection.exec_driver_sql(sql)


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELECT pg_terminate_backend(pg_backend_pid())", LedgerUnavailableError),
        ("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$", ContentionError),
        ("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$", ContentionError),
        ("DO $$ BEGIN RAISE SQLSTATE '55P03'; END $$", ContentionError),
        ("DO $$ BEGIN RAISE SQLSTATE '53100'; END $$", LedgerUnavailableError),  # disk full
        ("DO $$ BEGIN RAISE SQLSTATE '57P03'; END $$", LedgerUnavailableError),  # starting up
        ("DO $$ BEGIN RAISE SQLSTATE '25006'; END $$", LedgerUnavailableError),  # read-only standby
        ("DO $$ BEGIN RAISE SQLSTATE 'XX002'; END $$", LedgerUnavailableError),  # a corrupt index
        ("SELECT * FROM no_such_table", LedgerUnavailableError),
        ("SELECT no_such_column FROM accounts", LedgerUnavailableError),
        ("DO $$ BEGIN RAISE 'a crash' USING ERRCODE = 'XX000'; END $$", LedgerUnavailableError),
        ("DO $$ BEGIN RAISE 'not supported' USING ERRCODE = 'XX000'; END $$", UnsupportedStatementError),
        ("SELECT count(*) FROM accounts FOR UPDATE", UnsupportedStatementError),
        ("DO $$ BEGIN RAISE SQLSTATE '22003'; END $$", DBAPIError),  # out of range: this message's own
        ("DO $$ BEGIN RAISE SQLSTATE '23514'; END $$", DBAPIError),  # a check: this message's own
    ],
)
def test_postgresql_error_becomes_the_error_that_it_means(
    postgres_engine: Engine, sql: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        run(postgres_engine, sql)
    run(postgres_engine, "SELECT 1")  # and the next transaction has a connection that works


def test_plans_that_were_made_for_empty_tables_are_not_kept(postgres_url: str) -> None:
    engine = ledger_engine(postgres_url, only_by_key=True)
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _u, sql, *_: asked.append(sql))
    for number in range(1, 102):
        asked.append(f"transaction {number}")
        run(engine, "SELECT 1")
    engine.dispose()
    assert [asked[place - 1] for place, sql in enumerate(asked) if sql == "DISCARD PLANS"] == [
        "transaction 10",
        "transaction 100",
    ]


@pytest.mark.parametrize("state", ["26000", "42P05", "22P02"])
def test_a_session_whose_prepared_statements_are_stale_is_left(postgres_engine: Engine, state: str) -> None:
    with postgres_engine.connect() as connection:
        before = connection.scalar(text("SELECT pg_backend_pid()"))
    with pytest.raises(LedgerUnavailableError):
        run(postgres_engine, f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$")
    with postgres_engine.connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) != before


def test_session_whose_prepared_statement_has_other_columns_now_is_left(postgres_engine: Engine) -> None:
    with postgres_engine.begin() as connection:
        before = connection.scalar(text("SELECT pg_backend_pid()"))
        connection.exec_driver_sql("CREATE TABLE changed (a integer)")
        connection.exec_driver_sql("PREPARE select_changed_0 AS SELECT * FROM changed")
        connection.exec_driver_sql("EXECUTE select_changed_0")
        connection.exec_driver_sql("ALTER TABLE changed ADD COLUMN b integer")
    with pytest.raises(LedgerUnavailableError, match="older than the schema") as raised:
        run(postgres_engine, "EXECUTE select_changed_0")
    assert isinstance(raised.value.__cause__, DBAPIError)
    # The driver names the place in the server's source, which has no language.
    assert raised.value.__cause__.orig.diag.source_function == "RevalidateCachedQuery"  # type: ignore[union-attr]
    with postgres_engine.connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) != before


@pytest.mark.parametrize(
    ("statements", "name"),
    [
        (["PREPARE lock_accounts_0(text) AS SELECT count(*) FROM accounts FOR UPDATE"], "lock_accounts"),
        (
            [
                "PREPARE select_lots_12(text) AS SELECT date_part($1, localtimestamp)",
                "EXECUTE select_lots_12('timezone')",
            ],
            "select_lots",
        ),
        (["SELECT count(*) FROM accounts\nFOR UPDATE"], r"SELECT count\(\*\) FROM accounts FOR UPDATE"),
        (["SELECT * FROM other.public.accounts"], r"SELECT \* FROM other.public.accounts"),
    ],
)
def test_statement_that_is_not_supported_is_named(
    postgres_engine: Engine, statements: list[str], name: str
) -> None:
    *before, last = statements
    with postgres_engine.connect() as connection:
        for statement in before:
            connection.exec_driver_sql(statement)
        with pytest.raises(UnsupportedStatementError, match=f"support the statement '{name}'"):
            run_in(connection, last)


def test_session_is_kept_where_a_statement_is_not_supported(postgres_engine: Engine) -> None:
    with postgres_engine.connect() as connection:
        before = connection.scalar(text("SELECT pg_backend_pid()"))
    with pytest.raises(UnsupportedStatementError):
        run(postgres_engine, "SELECT count(*) FROM accounts FOR UPDATE")
    with postgres_engine.connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) == before


@pytest.mark.parametrize(
    ("sql", "is_contention"),
    [
        ("CREATE TABLE operations_p7 (id integer UNIQUE); INSERT INTO operations_p7 VALUES (1), (1)", True),
        ("CREATE TABLE others (id integer UNIQUE); INSERT INTO others VALUES (1), (1)", False),
        # Citus passes on the text alone.
        ("DO $$ BEGIN RAISE 'it violates \"pk_operations_7\"' USING ERRCODE = '23505'; END $$", True),
        ("DO $$ BEGIN RAISE 'it violates \"pk_senders_7\"' USING ERRCODE = '23505'; END $$", False),
    ],
)
def test_operation_that_another_worker_has_written_is_contention(
    postgres_engine: Engine, sql: str, *, is_contention: bool
) -> None:
    with pytest.raises(ContentionError if is_contention else DBAPIError):
        run(postgres_engine, sql)


def test_statements_that_a_session_has_lost_are_prepared_again(postgres_engine: Engine) -> None:
    ledger = Ledger(postgres_engine)
    command = DeductUsage(reference_id="r", user_id="nobody", tokens=1)

    def look() -> None:
        with ledger.begin([command], datetime.now(UTC)):
            pass

    look()
    run(postgres_engine, "DEALLOCATE ALL")
    with pytest.raises(LedgerUnavailableError):
        look()
    look()


def test_a_server_that_is_not_there_is_unavailable() -> None:
    engine = ledger_engine("postgresql://nobody:secret@127.0.0.1:1/nothing")
    with pytest.raises(LedgerUnavailableError) as raised:
        Ledger(engine).probe()
    assert "secret" not in str(raised.value)


def test_a_locked_sqlite_file_is_waited_for(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.sqlite3'}"
    first, second = ledger_engine(url), ledger_engine(url)
    run(first, "CREATE TABLE t (x INTEGER)")
    held, finished = threading.Event(), threading.Event()

    def write_second() -> None:
        held.wait(10)
        run(second, "INSERT INTO t VALUES (2)")
        finished.set()

    writer = threading.Thread(target=write_second)
    writer.start()
    with first.begin() as connection:
        connection.execute(text("INSERT INTO t VALUES (1)"))
        held.set()
        assert not finished.wait(0.05)
    writer.join(10)
    assert finished.is_set()
    first.dispose()
    second.dispose()


@pytest.mark.parametrize("url", ["mysql://root@127.0.0.1/x", "nonsense", ""])
def test_another_database_is_refused_with_the_way_out(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"PostgreSQL|--database-url"):
        ledger_engine(url)


def test_url_that_nobody_can_read_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as refused:
        ledger_engine("mysql://h:5432#s3cr3t")
    assert "s3cr3t" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_an_option_of_the_url_that_nobody_knows_is_a_matter_of_configuration(postgres_url: str) -> None:
    engine = ledger_engine(f"{postgres_url}?no_such_option=1")
    with pytest.raises(ConfigurationError, match="no_such_option"):
        Ledger(engine).probe()


def test_a_file_that_is_no_database_is_nobodys_dead_letter(tmp_path: Path) -> None:
    path = tmp_path / "not.sqlite3"
    path.write_bytes(b"certainly no database " * 100)
    with pytest.raises(LedgerUnavailableError):
        Ledger(ledger_engine(f"sqlite:///{path}")).probe()


def test_a_statement_that_takes_too_long_is_given_up(postgres_url: str) -> None:
    engine = ledger_engine(postgres_url, statement_timeout_s=1)
    with pytest.raises(LedgerUnavailableError, match="statement timeout"):
        run(engine, "SELECT pg_sleep(30)")
    engine.dispose()


def test_error_hides_the_values_of_its_statement(engine: Engine) -> None:
    with pytest.raises(DBAPIError) as raised, engine.begin() as connection:
        connection.execute(
            text("INSERT INTO accounts (user_id) VALUES (:user)"), {"user": "somebody-private"}
        )
    assert "SQL parameters hidden" in str(raised.value)
