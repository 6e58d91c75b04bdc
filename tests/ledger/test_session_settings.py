"""Settings of sessions: asked for by connections, or set on the role."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, make_url, text

from tests.support.provision import PostgresServer
from worker.bootstrap import Application
from worker.ledger.engine import SettingsPlace, ledger_engine
from worker.ledger.form import LedgerForm
from worker.ledger.primary import DatabaseGuard
from worker.ledger.session_settings import BY_KEY, for_role, missing_settings, needed, plans_by_key
from worker.settings import load_settings

NEEDED = needed(24.0)


@pytest.fixture
def role(postgres: PostgresServer, postgres_engine: Engine) -> Iterator[str]:
    """A superuser's role of this test's own, without settings."""
    name = f"role_{uuid4().hex[:12]}"
    password = postgres.address.password
    run(postgres_engine, f"CREATE ROLE {name} LOGIN SUPERUSER PASSWORD '{password}'")
    yield name
    run(postgres_engine, f"DROP ROLE {name}")


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@contextmanager
def session(url: str, role: str, place: SettingsPlace = "role", *, loop: bool = True) -> Iterator[Connection]:
    """Open a session of a role, as a loop has it or as a question does."""
    own = make_url(url).set(username=role).render_as_string(hide_password=False)
    guard = DatabaseGuard(10.0) if loop else None
    engine = ledger_engine(own, only_by_key=loop, guard=guard, settings_on=place)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def shown(connection: Connection, name: str) -> str:
    return str(connection.execute(text(f"SHOW {name}")).scalar_one())


def test_connection_has_all_settings_by_itself(postgres_url: str, role: str) -> None:
    with session(postgres_url, role, "connection") as connection:
        missing = missing_settings(connection, NEEDED)
    assert (missing.needed, missing.advised) == ([], [])


def test_settings_that_a_role_lacks_are_named(postgres_url: str, postgres_engine: Engine, role: str) -> None:
    run(postgres_engine, f"ALTER ROLE {role} SET timezone = 'Asia/Tokyo'")
    with session(postgres_url, role) as connection:
        missing = missing_settings(connection, NEEDED)
    assert missing.needed == for_role(role, NEEDED)
    assert missing.advised == for_role(role, BY_KEY)


def test_statements_that_are_named_are_all_that_is_missing(
    postgres_url: str, postgres_engine: Engine, role: str
) -> None:
    run(postgres_engine, *for_role(role, NEEDED), *for_role(role, BY_KEY))
    with session(postgres_url, role) as connection:
        missing = missing_settings(connection, NEEDED)
    assert (missing.needed, missing.advised) == ([], [])


def test_shorter_timeout_will_do_and_a_longer_one_not(
    postgres_url: str, postgres_engine: Engine, role: str
) -> None:
    own = {**NEEDED, "lock_timeout": "10", "statement_timeout": "24001"}
    run(postgres_engine, *for_role(role, own))
    with session(postgres_url, role) as connection:
        missing = missing_settings(connection, NEEDED)
    assert missing.needed == [f"ALTER ROLE {role} SET statement_timeout = '24000';"]


def test_question_on_the_role_of_loops_takes_its_time_and_any_plan(
    postgres_url: str, postgres_engine: Engine, role: str
) -> None:
    run(postgres_engine, *for_role(role, NEEDED), *for_role(role, BY_KEY))
    with session(postgres_url, role, loop=False) as connection:
        assert shown(connection, "statement_timeout") == "0"
        assert shown(connection, "enable_seqscan") == "on"
        assert shown(connection, "plan_cache_mode") == "auto"


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
def test_times_are_read_in_utc_whatever_the_zone_of_the_session(
    postgres_url: str, postgres_engine: Engine, role: str, zone: str
) -> None:
    run(postgres_engine, f"ALTER ROLE {role} SET timezone = '{zone}'")
    with session(postgres_url, role) as connection:
        row = connection.exec_driver_sql("SELECT timestamptz '2026-03-01 01:30+02', NULL::timestamptz").one()
    assert row == (datetime(2026, 2, 28, 23, 30, tzinfo=UTC), None)
    assert row[0].utcoffset() == timedelta(0)
    assert row[0].day == 28


@pytest.mark.parametrize(
    ("form", "mode"), [(LedgerForm.WHOLE, "force_generic_plan"), (LedgerForm.DISTRIBUTED, "auto")]
)
def test_batches_ask_for_generic_plans_but_where_the_ledger_is_distributed(
    postgres_url: str, form: LedgerForm, mode: str
) -> None:
    application = Application(load_settings(database_url=postgres_url, ledger_form=form))
    with application.batch_engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW plan_cache_mode").scalar_one() == mode
        missing = missing_settings(
            connection,
            application.needed_settings,
            plans_by_key(distributed=form is LedgerForm.DISTRIBUTED),
        )
    assert missing.advised == []
    application.batch_engine.dispose()
