"""Connections of the loops: to the primary alone, with a deadline for each wait."""

import logging
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, make_url, text

from worker.errors import LedgerUnavailableError
from worker.ledger.engine import ledger_engine, translated_errors
from worker.ledger.primary import DatabaseGuard
from worker.ledger.store import Ledger

NOBODY = "127.0.0.1:1"


@pytest.fixture
def guard() -> DatabaseGuard:
    return DatabaseGuard(2.0)


@pytest.fixture
def guarded(postgres_url: str, guard: DatabaseGuard) -> Iterator[Engine]:
    engine = ledger_engine(postgres_url, guard=guard)
    yield engine
    engine.dispose()


def run(engine: Engine, *statements: str) -> None:
    with translated_errors(), engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def pid(engine: Engine) -> int:
    with translated_errors(), engine.begin() as connection:
        return int(connection.scalar(text("SELECT pg_backend_pid()")) or 0)


def several(url: str, *addresses: str) -> str:
    """The URL with several addresses; ``here`` is the server's own."""
    parsed = make_url(url)
    hosts = [f"{parsed.host}:{parsed.port}" if one == "here" else one for one in addresses]
    bare = parsed._replace(host=None, port=None)
    return bare.update_query_dict({"host": hosts}).render_as_string(hide_password=False)


def test_server_that_is_well_gives_a_long_statement_up_by_itself(guarded: Engine) -> None:
    before = pid(guarded)
    with pytest.raises(LedgerUnavailableError, match="statement timeout"):
        run(guarded, "SELECT pg_sleep(30)")
    assert pid(guarded) == before, "the connection is kept"


def test_statement_that_nobody_answers_is_given_up_and_named(guarded: Engine) -> None:
    with pytest.raises(LedgerUnavailableError, match=r"no answer to a statement within 2 s"):
        run(guarded, "SET LOCAL statement_timeout = 0", "SELECT pg_sleep(30)")
    run(guarded, "SELECT 1")


def test_commit_that_nobody_answers_is_given_up_and_named(guarded: Engine) -> None:
    slow = (
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN PERFORM pg_sleep(30); RETURN NULL; END $$"
    )
    run(
        guarded,
        "CREATE TABLE t (x int)",
        slow,
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION wait()",
    )
    with pytest.raises(LedgerUnavailableError, match=r"no answer to a commit within 2 s"):
        run(guarded, "SET LOCAL statement_timeout = 0", "INSERT INTO t VALUES (1)")


def test_process_that_shall_end_gives_up_sooner(guarded: Engine, guard: DatabaseGuard) -> None:
    guard.timeout_s = 600.0
    guard.hurry(0.3)
    with pytest.raises(LedgerUnavailableError):
        run(guarded, "SET LOCAL statement_timeout = 0", "SELECT pg_sleep(30)")


@pytest.mark.parametrize("addresses", [("here", NOBODY), (NOBODY, "here"), ("here", "here")])
def test_address_that_takes_writes_is_found(
    postgres_url: str, guard: DatabaseGuard, addresses: tuple[str, ...]
) -> None:
    engine = ledger_engine(several(postgres_url, *addresses), guard=guard)
    Ledger(engine).probe()
    engine.dispose()


def test_server_of_a_list_that_is_used_is_named_in_the_log_once(
    postgres_url: str, guard: DatabaseGuard, caplog: pytest.LogCaptureFixture
) -> None:
    parsed = make_url(postgres_url)
    here = f"{parsed.host}:{parsed.port}"
    url = postgres_url.replace(here, f"{NOBODY},{here}")
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            engine = ledger_engine(url, guard=guard)
            Ledger(engine).probe()
            engine.dispose()
    assert caplog.messages == [f"the database's server {here} is used"]


def test_addresses_of_which_none_answers_are_all_named(postgres_url: str, guard: DatabaseGuard) -> None:
    engine = ledger_engine(several(postgres_url, NOBODY, "127.0.0.1:2"), guard=guard)
    with pytest.raises(LedgerUnavailableError, match=r"(?s)port 1.*port 2"):
        Ledger(engine).probe()


def test_server_on_an_older_timeline_than_was_seen_is_refused(guarded: Engine, guard: DatabaseGuard) -> None:
    run(guarded, "SELECT 1")
    (system,) = guard._highest
    assert guard._highest[system] == 1
    guard.is_replaced((system, 2))  # as another engine of this process finds the promoted standby
    with pytest.raises(LedgerUnavailableError, match="was replaced as primary"):
        run(guarded, "SELECT 1")


def test_server_of_another_system_is_judged_by_itself(guarded: Engine, guard: DatabaseGuard) -> None:
    guard.is_replaced(("another system", 9))
    run(guarded, "SELECT 1")


def test_database_that_turns_read_only_is_unavailable_and_left(postgres_engine: Engine) -> None:
    before = pid(postgres_engine)
    with pytest.raises(LedgerUnavailableError, match="read-only"):
        run(postgres_engine, "SET TRANSACTION READ ONLY", "CREATE TABLE t (x int)")
    assert pid(postgres_engine) != before


def test_probe_fails_where_the_database_only_reads(postgres_url: str, guard: DatabaseGuard) -> None:
    plain = ledger_engine(postgres_url)
    name = make_url(postgres_url).database
    run(plain, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    for engine in (ledger_engine(postgres_url), ledger_engine(postgres_url, guard=guard)):
        with pytest.raises(LedgerUnavailableError, match="read-only"):
            Ledger(engine).probe()
        engine.dispose()
    plain.dispose()


def test_probe_takes_a_write(engine: Engine) -> None:
    Ledger(engine).probe()
    Ledger(engine).probe()
