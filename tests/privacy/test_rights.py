"""Rights to erase: the role for privacy alone executes the functions, and nothing else passes the guards."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from schemas import DeductUsage, OpenAccount
from tests.cli.console import Cli
from tests.support.apply_commands import applied
from tests.support.database_roles import PASSWORD, DatabaseRoles
from tests.support.provision import PostgresServer
from worker.catalog import load_catalog
from worker.errors import ConfigurationError
from worker.ledger.engine import ledger_engine
from worker.ledger.roles import ERASING
from worker.privacy.erasure import erase

NOW = datetime(2026, 11, 27, tzinfo=UTC)
NOT_PERMITTED, APPEND_ONLY = "42501", "23001"
CALLS = {
    "erase_user": "SELECT erase_user('ada-lovelace', 'erased-1', 'eve')",
    "purge_activity": "SELECT purge_activity(ARRAY[1]::bigint[])",
    "purge_dead_letters": "SELECT purge_dead_letters(ARRAY[1]::bigint[], true)",
}


@pytest.fixture(scope="module")
def roles(postgres: PostgresServer, postgres_template: str) -> Iterator[DatabaseRoles]:
    """A database with roles and one account, and a person who may erase."""
    with DatabaseRoles(postgres, postgres_template) as made:
        made.make()
        opening = OpenAccount(reference_id="o", user_id="ada-lovelace", tier="free")
        usage = DeductUsage(reference_id="d", user_id="ada-lovelace", tokens=1)
        applied(made.engine, load_catalog(), opening, usage)
        person = person_of(made)
        made.run(
            f"CREATE ROLE {person} LOGIN PASSWORD '{PASSWORD}'", f"GRANT {made.names.privacy} TO {person}"
        )
        yield made
        made.run(f"DROP ROLE {person}")


def person_of(roles: DatabaseRoles) -> str:
    return f"person_of_{roles.names.privacy}"


def state_of(roles: DatabaseRoles, role: str, *statements: str) -> str:
    """Return the SQLSTATE with which the server refuses the last of the statements."""
    with pytest.raises(DBAPIError) as refused:
        run(create_engine(roles.url(role), poolclass=NullPool), *statements)
    return str(getattr(refused.value.orig, "pgcode", None))


def run(engine: Engine, *statements: str) -> None:
    """Run the statements in one transaction."""
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_every_function_that_passes_the_guards_is_tried() -> None:
    assert CALLS.keys() == ERASING.keys()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("kind", ["worker", "reader"])
def test_worker_and_reader_can_not_erase(roles: DatabaseRoles, kind: str, call: str) -> None:
    assert state_of(roles, getattr(roles.names, kind), call) == NOT_PERMITTED


def test_setting_of_the_functions_opens_no_guard_for_a_worker(roles: DatabaseRoles) -> None:
    setting = "SET billing.erasing = 'on'"
    change = "UPDATE operations SET content = '{}'"
    assert state_of(roles, roles.names.worker, setting, change) == APPEND_ONLY
    assert state_of(roles, roles.names.worker, setting, "DELETE FROM entries") == NOT_PERMITTED


@pytest.mark.parametrize(
    "statement",
    ["UPDATE operations SET content = '{}'", "DELETE FROM entries", "INSERT INTO erased_ids VALUES ('x')"],
)
def test_person_who_may_erase_changes_nothing_by_hand(roles: DatabaseRoles, statement: str) -> None:
    assert state_of(roles, person_of(roles), "SET billing.erasing = 'on'", statement) == NOT_PERMITTED


def test_guards_are_closed_again_behind_a_function(roles: DatabaseRoles) -> None:
    """The owner of the tables itself is refused in the transaction that has called one."""
    as_owner = f"SET LOCAL ROLE {roles.names.owner}"
    with pytest.raises(DBAPIError) as refused:
        run(roles.engine, as_owner, CALLS["purge_activity"], "DELETE FROM entries")
    assert getattr(refused.value.orig, "pgcode", None) == APPEND_ONLY


def test_functions_keep_a_path_of_their_own(roles: DatabaseRoles) -> None:
    with roles.engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT proname, prosecdef, proconfig::text, proowner::regrole::text FROM pg_proc"
            " WHERE pronamespace = 'public'::regnamespace AND prosecdef ORDER BY 1"
        ).all()
    owner = roles.names.owner
    assert [tuple(row) for row in found] == [
        (name, True, '{"search_path=public, pg_temp"}', owner) for name in sorted(ERASING)
    ]


def engine_of(roles: DatabaseRoles, role: str) -> Engine:
    return ledger_engine(roles.url(role))


def test_worker_that_erases_gets_an_error_with_the_way_out(roles: DatabaseRoles) -> None:
    engine = engine_of(roles, roles.names.worker)
    with pytest.raises(ConfigurationError, match="GRANT billing_privacy"):
        erase(engine, NOW, "ada-lovelace", reason="request", actor="eve", force=True)
    engine.dispose()


def test_person_who_may_erases(roles: DatabaseRoles) -> None:
    engine = engine_of(roles, person_of(roles))
    tried = erase(engine, NOW, "ada-lovelace", reason="request", actor="eve", force=True, dry_run=True)
    engine.dispose()
    assert (tried.rows["accounts"], tried.rows["operations"]) == (1, 2)


def test_person_who_may_exports_and_purges_with_the_command_line(
    roles: DatabaseRoles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    cli = Cli(monkeypatch, {"BILLING_DATABASE_URL": roles.url(person_of(roles))})
    assert cli("account", "export", "ada-lovelace", "--output", "ada.json", "--actor", "eve").code == 0
    purge = cli(
        "activity", "purge", "--older-than", "2100-01-01", "--export", "log", "--yes", "--actor", "eve"
    )
    assert purge.lines[-1] == "purged 1 entries"
    purged = cli(
        *("dead-letters", "purge", "--older-than", "1d", "--export", "dead", "--yes", "--actor", "eve")
    )
    assert purged.lines[-1] == "purged 0 dead letters"
