"""The ledger behind PgBouncer: sessions that are its own work, sessions that change are refused."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Connection, make_url, text

from tests.cli.console import Cli
from tests.support.commands import deduct
from tests.support.pgbouncer_server import PgBouncer
from tests.support.provision import PostgresServer
from tests.support.rabbit_client import RabbitClient
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.errors import ConfigurationError
from worker.ledger import sessions
from worker.ledger.engine import SettingsPlace, ledger_engine
from worker.ledger.primary import DatabaseGuard
from worker.ledger.session_settings import missing_settings, needed
from worker.ledger.store import Ledger
from worker.settings import load_settings


@pytest.fixture(scope="module")
def session_pool(postgres: PostgresServer) -> Iterator[PgBouncer]:
    """A pooler in session mode that gives sessions on as they are."""
    with PgBouncer.start(postgres.address, "session") as pooler:
        yield pooler


def through(pooler: PgBouncer, url: str) -> str:
    """The URL of the same database through the pooler."""
    return pooler.address.url(str(make_url(url).database))


@contextmanager
def session(url: str, place: SettingsPlace = "connection") -> Iterator[Connection]:
    """Open a session as a batch has it."""
    engine = ledger_engine(url, only_by_key=True, guard=DatabaseGuard(10.0), settings_on=place)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def alone(url: str, *statements: str) -> Any:
    """Run statements as another client, one by one, and leave the session; return the last one's value."""
    with closing(psycopg2.connect(url.replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return (cursor.fetchone() or (None,))[0]


def asked(connection: Connection, statement: str) -> Any:
    return connection.execute(text(statement)).scalar_one()


@pytest.mark.parametrize("place", ["connection", "role"])
def test_session_of_a_pool_has_nothing_of_its_client_before(
    session_pool: PgBouncer, postgres_url: str, place: SettingsPlace
) -> None:
    url = through(session_pool, postgres_url)
    left = alone(
        url,
        "SET timezone = 'Asia/Kolkata'",
        "SET statement_timeout = '77s'",
        "SET enable_sort = off",
        "PREPARE select_0 AS SELECT 1",
        "SELECT pg_backend_pid()",
    )
    with session(url, place) as connection:
        assert asked(connection, "SELECT pg_backend_pid()") == left
        assert asked(connection, "SHOW statement_timeout") == ("8s" if place == "connection" else "0")
        assert asked(connection, "SHOW enable_sort") == "on"
        assert asked(connection, "SELECT count(*) FROM pg_prepared_statements") == 0
        assert asked(connection, "SHOW application_name") == "billing-worker"
        moment = asked(connection, "SELECT timestamptz '2026-03-01 01:30+02'")
    assert moment == datetime(2026, 2, 28, 23, 30, tzinfo=UTC)
    assert moment.utcoffset() == timedelta(0)


def test_session_of_a_pool_has_all_settings(session_pool: PgBouncer, postgres_url: str) -> None:
    with session(through(session_pool, postgres_url)) as connection:
        missing = missing_settings(connection, needed(8.0))
    assert (missing.needed, missing.advised) == ([], [])


def test_ledger_works_behind_a_pool_of_sessions_that_others_have_used(
    session_pool: PgBouncer, postgres_url: str
) -> None:
    url = through(session_pool, postgres_url)
    for _ in range(2):  # the second process meets the statements that the first one has prepared
        engine = ledger_engine(url, only_by_key=True, guard=DatabaseGuard(10.0))
        ledger = Ledger(engine)
        ledger.probe()
        with ledger.begin([deduct(1)], datetime.now(UTC)):
            pass
        engine.dispose()


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_pooler_that_changes_sessions_is_refused_in_one_line(
    postgres: PostgresServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    with PgBouncer.start(postgres.address, mode) as pooler:
        url = through(pooler, postgres_url)
        for guard in (None, DatabaseGuard(10.0)):
            engine = ledger_engine(url, guard=guard)
            with pytest.raises(ConfigurationError, match="pooler in transaction mode"):
                engine.connect()
        ended = Cli(monkeypatch, {"BILLING_DATABASE_URL": url})("balance", "ada")
        assert alone(url, "SHOW lock_timeout") == "0", "a session of others keeps its settings"
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert "pool_mode = session" in ended.err


def test_full_pool_of_sessions_is_none_of_transactions(
    postgres: PostgresServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_SECOND_S", 0.3)
    with (
        PgBouncer.start(postgres.address, "session", size=1) as pooler,
        session(through(pooler, postgres_url)) as connection,
    ):
        assert asked(connection, "SELECT 1") == 1


@pytest.mark.parametrize(
    ("ours", "others", "shares"),
    [
        ([7], [8], False),
        ([7], [7], True),  # an idle pooler gives its last session to anyone
        ([7, 9], [8], True),  # a busy one gives whichever is free
        ([7], [8, 9], True),
        ([7, 7, 7, 8], [8], True),
    ],
)
def test_two_connections_share_sessions_where_one_changes(
    ours: list[int], others: list[int], *, shares: bool
) -> None:
    assert sessions._shares(in_turn(ours), in_turn(others)) is shares


def in_turn(numbers: list[int]) -> Callable[[], int]:
    """Return the numbers one by one, then the last one again."""
    left = list(numbers)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_worker_answers_behind_a_pool_of_sessions(
    session_pool: PgBouncer, postgres_url: str, broker_url: str, rabbit: RabbitClient
) -> None:
    url = through(session_pool, postgres_url)
    application = Application(load_settings(broker_url=broker_url, database_url=url, readers=0))
    with running(application):
        reply = rabbit.request({"type": "account.open", "referenceId": "o", "userId": "u", "tier": "free"})
    application.engine.dispose()
    assert reply["code"] == "account_opened"
