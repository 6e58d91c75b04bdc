"""Roles of the database: what each may do, what the server refuses, and how they are made."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import NullPool, create_engine, make_url
from sqlalchemy.exc import DBAPIError

from schemas import OpenAccount
from tests.cli.console import Cli
from tests.support.apply_commands import applied
from tests.support.database_roles import PASSWORD, DatabaseRoles, drop_roles
from tests.support.pages import page, section, tables
from tests.support.provision import PostgresServer
from worker.catalog import load_catalog
from worker.errors import ConfigurationError
from worker.ledger.migrations import migrate
from worker.ledger.roles import (
    APPEND_ONLY,
    ERASABLE,
    READ_ONLY,
    RoleNames,
    RolesWanted,
    grant_rights,
    prepare_roles,
    role_statements,
    settings_of_roles,
)
from worker.ledger.session_settings import BY_KEY, missing_settings, needed

NOT_PERMITTED, STILL_REFERENCED = "42501", "23503"


@pytest.fixture(scope="module")
def made(postgres: PostgresServer, postgres_template: str) -> Iterator[DatabaseRoles]:
    """A database with roles, and an account in it, for all attempts."""
    with DatabaseRoles(postgres, postgres_template) as roles:
        roles.make()
        applied(roles.engine, load_catalog(), OpenAccount(reference_id="o", user_id="ann", tier="basic"))
        yield roles


@pytest.fixture
def database(postgres: PostgresServer, postgres_template: str) -> Iterator[DatabaseRoles]:
    """A migrated database without roles, of this test's own."""
    with DatabaseRoles(postgres, postgres_template) as roles:
        yield roles


def refusal(roles: DatabaseRoles, role: str, statement: str) -> str:
    """Return the SQLSTATE with which the server refuses a statement."""
    with pytest.raises(DBAPIError) as refused:
        roles.attempt(role, statement)
    return str(getattr(refused.value.orig, "pgcode", None))


# -- the forbidden ----------------------------------------------------------------------------------------

_DDL = (
    "CREATE TABLE mine (x int)",
    "CREATE TEMPORARY TABLE mine (x int)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OR REPLACE FUNCTION ledger_refuses() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "DROP TABLE entries",
    "DROP TRIGGER entries_append_only ON entries",
    "ALTER TABLE entries DISABLE TRIGGER ALL",
    "ALTER TABLE entries DROP CONSTRAINT pk_entries",
    "ALTER TABLE accounts ADD COLUMN mine int",
    "CREATE INDEX mine ON accounts (user_id)",
    "TRUNCATE entries, lots, accounts CASCADE",
    "LOCK TABLE entries IN ACCESS EXCLUSIVE MODE",
    "SET session_replication_role = replica",
    "CREATE ROLE mine",
    "COPY accounts TO PROGRAM 'cat'",
    "COPY accounts TO '/tmp/mine'",
    "SELECT pg_read_file('postgresql.conf')",
)


@pytest.mark.parametrize("statement", _DDL)
@pytest.mark.parametrize("kind", ["worker", "reader"])
def test_server_refuses_to_change_more_than_rows(made: DatabaseRoles, kind: str, statement: str) -> None:
    assert refusal(made, getattr(made.names, kind), statement) == NOT_PERMITTED


@pytest.mark.parametrize("table", sorted({"operations", "lots", "holds", "quotas", "claims", *APPEND_ONLY}))
def test_server_refuses_a_worker_to_delete_of_the_ledger(made: DatabaseRoles, table: str) -> None:
    assert table not in ERASABLE
    assert refusal(made, made.names.worker, f"DELETE FROM {table}") == NOT_PERMITTED  # noqa: S608


@pytest.mark.parametrize("table", sorted(APPEND_ONLY))
def test_server_refuses_a_worker_to_change_what_never_changes(made: DatabaseRoles, table: str) -> None:
    with made.engine.connect() as connection:
        *_, column = connection.exec_driver_sql(f"SELECT * FROM {table}").keys()  # noqa: S608
    statement = f"UPDATE {table} SET {column} = {column}"  # noqa: S608
    assert refusal(made, made.names.worker, statement) == NOT_PERMITTED


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE alembic_version SET version_num = '9999'",
        "INSERT INTO identifiers (kind, number, name) VALUES ('code', 999, 'x')",
        "DELETE FROM dead_letters",
        "DELETE FROM replays",
    ],
)
def test_server_refuses_a_worker(made: DatabaseRoles, statement: str) -> None:
    assert refusal(made, made.names.worker, statement) == NOT_PERMITTED


def test_account_that_was_opened_can_not_be_deleted(made: DatabaseRoles) -> None:
    assert refusal(made, made.names.worker, "DELETE FROM accounts") == STILL_REFERENCED


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO id_counters (counter, next_id) VALUES (1, 1)",
        "UPDATE accounts SET balance = 0",
        "DELETE FROM trials",
        "SELECT * FROM accounts FOR UPDATE",
        "UPDATE lane_pauses SET ended_at = now()",
    ],
)
def test_server_refuses_a_reader_to_write(made: DatabaseRoles, statement: str) -> None:
    assert refusal(made, made.names.reader, statement) == NOT_PERMITTED


@pytest.mark.parametrize("kind", ["worker", "reader"])
def test_server_refuses_to_become_the_owner(made: DatabaseRoles, kind: str) -> None:
    statement = f"SET ROLE {made.names.owner}"
    assert refusal(made, getattr(made.names, kind), statement) == NOT_PERMITTED


def test_owner_has_no_login(made: DatabaseRoles) -> None:
    with pytest.raises(DBAPIError, match=r"not permitted to log in|authentication failed"):
        made.attempt(made.names.owner, "SELECT 1")


def test_every_table_that_refuses_changes_is_only_added_to(made: DatabaseRoles) -> None:
    with made.engine.connect() as connection:
        guarded = connection.exec_driver_sql(
            "SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname ~ '_append_only$'"
        ).scalars()
        assert set(guarded) == APPEND_ONLY
    assert not APPEND_ONLY & (ERASABLE | READ_ONLY)


# -- how they are made ------------------------------------------------------------------------------------


def rights(roles: DatabaseRoles) -> list[tuple[object, ...]]:
    """Return all rights on tables, schema and database, with the owners, and the defaults for later."""
    with roles.engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT relname, relowner::regrole::text, relacl::text FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S')"
            " UNION ALL SELECT 'database', '', datacl::text FROM pg_database"
            " WHERE datname = current_database()"
            " UNION ALL SELECT 'schema', '', nspacl::text FROM pg_namespace WHERE nspname = 'public'"
            " UNION ALL SELECT 'later', defaclrole::regrole::text, defaclacl::text FROM pg_default_acl"
            " ORDER BY 1, 2, 3"
        )
        return [tuple(row) for row in found]


def test_roles_made_again_are_as_they_were(database: DatabaseRoles) -> None:
    first = rights(database.make())
    assert rights(database.make()) == first


def test_statements_of_a_dry_run_make_the_same(database: DatabaseRoles) -> None:
    nothing = rights(database)
    before, after = role_statements(database.engine, database.wanted)
    assert rights(database) == nothing, "a dry run changes nothing"
    assert PASSWORD not in "".join([*before, *after])
    database.run(*(each for each in before if not each.startswith("--")))
    database.run(*after)
    printed = rights(database)
    assert rights(database.make()) == printed


def test_rights_beyond_the_least_are_taken_away(database: DatabaseRoles) -> None:
    database.make()
    worker = database.names.worker
    least = rights(database)
    database.run(
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {worker}",
        "GRANT SELECT ON accounts TO PUBLIC",
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        f"GRANT TEMPORARY ON DATABASE {database.name} TO PUBLIC",
    )
    assert rights(database.make()) == least


def test_right_that_comes_by_another_role_is_named(database: DatabaseRoles) -> None:
    database.make()
    group = f"group_{uuid4().hex[:8]}"
    database.run(f"CREATE ROLE {group}", f"GRANT {group} TO {database.names.reader}")
    database.run(f"GRANT DELETE ON entries TO {group}")
    try:
        with pytest.raises(ConfigurationError, match=f"{database.names.reader} may DELETE on entries"):
            database.make()
    finally:
        database.run(f"DROP OWNED BY {group}", f"DROP ROLE {group}")


@pytest.mark.parametrize("power", ["SUPERUSER", "CREATEROLE", "BYPASSRLS"])
def test_role_above_all_rights_is_refused(database: DatabaseRoles, power: str) -> None:
    database.run(f"CREATE ROLE {database.names.worker} LOGIN {power}")
    with pytest.raises(ConfigurationError, match=f"has {power}, and so every right: .* NO{power}"):
        database.make()


def test_worker_that_is_a_member_of_the_owner_is_refused(database: DatabaseRoles) -> None:
    database.make()
    database.run(f"GRANT {database.names.owner} TO {database.names.worker}")
    with pytest.raises(ConfigurationError, match=f"is a member of {database.names.owner}.*REVOKE"):
        database.make()


@pytest.mark.parametrize("above", ["CREATEROLE", "pg_execute_server_program", "the owner"])
def test_login_that_can_become_a_role_above_rights_is_refused(database: DatabaseRoles, above: str) -> None:
    """The login inherits no right, and takes them all with SET ROLE, also by a role in between."""
    database.make()
    between, power = (f"{kind}_{uuid4().hex[:8]}" for kind in ("between", "power"))
    database.run(f"CREATE ROLE {between} NOINHERIT", f"CREATE ROLE {power}")
    granted = {"CREATEROLE": power, "the owner": database.names.owner}.get(above, above)
    if above == "CREATEROLE":
        database.run(f"ALTER ROLE {power} CREATEROLE")
    database.run(
        f"ALTER ROLE {database.names.reader} NOINHERIT",
        f"GRANT {between} TO {database.names.reader}",
        f"GRANT {granted} TO {between}",
    )
    try:
        with pytest.raises(ConfigurationError, match=f"is a member of {granted}.*REVOKE"):
            database.make()
    finally:
        database.run(f"DROP ROLE {between}, {power}")


def test_right_that_a_login_takes_with_set_role_is_named(database: DatabaseRoles) -> None:
    names = database.make().names
    database.run(f"ALTER ROLE {names.reader} NOINHERIT", f"GRANT {names.worker} TO {names.reader}")
    with pytest.raises(ConfigurationError, match=f"{names.reader} may INSERT on accounts"):
        database.make()


def test_table_of_a_later_migration_has_owner_and_rights_without_roles_anew(
    postgres: PostgresServer,
) -> None:
    with DatabaseRoles(postgres, None) as roles:
        names = roles.names
        prepare_roles(roles.engine, roles.wanted)
        migrate(roles.engine, "0009", owner=names.owner)
        migrate(roles.engine)
        with roles.engine.connect() as connection:
            owners = connection.exec_driver_sql(
                "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
            ).scalars()
            assert set(owners) == {names.owner}
        roles.attempt(names.worker, "UPDATE payment_names SET version = version")
        roles.attempt(names.reader, "SELECT * FROM payment_names")
        assert refusal(roles, names.worker, "DELETE FROM payment_names") == NOT_PERMITTED


def test_login_without_superuser_makes_roles_in_a_database_of_its_own(
    database: DatabaseRoles, postgres: PostgresServer
) -> None:
    """A login that may create roles, and owns database and tables, as on a hosted server."""
    deployer = f"deployer_{uuid4().hex[:8]}"
    database.run(
        f"CREATE ROLE {deployer} LOGIN CREATEROLE PASSWORD '{PASSWORD}'",
        f"ALTER DATABASE {database.name} OWNER TO {deployer}",
    )
    tables = ", ".join(database.wanted.tables)
    for table in tables.split(", "):
        database.run(f"ALTER TABLE {table} OWNER TO {deployer}")
    with database.engine.connect() as connection:
        functions = connection.exec_driver_sql(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        ).scalars()
        for function in functions:
            database.run(f"ALTER FUNCTION {function} OWNER TO {deployer}")
    engine = create_engine(database.url(deployer), poolclass=NullPool)
    try:
        prepare_roles(engine, database.wanted)
        migrate(engine)
        grant_rights(engine, database.wanted)
        assert refusal(database, database.names.worker, "DELETE FROM entries") == NOT_PERMITTED
        database.attempt(database.names.worker, "SELECT * FROM entries")
    finally:
        database.run(f"REASSIGN OWNED BY {deployer} TO {make_url(postgres.address.url('x')).username}")
        database.run(f"DROP OWNED BY {deployer}", f"DROP ROLE {deployer}")


def test_login_without_the_right_is_refused_with_the_way_out(database: DatabaseRoles) -> None:
    database.make()
    nobody = f"nobody_{uuid4().hex[:8]}"
    database.run(f"CREATE ROLE {nobody} LOGIN PASSWORD '{PASSWORD}'")
    engine = create_engine(database.url(nobody), poolclass=NullPool)
    try:
        with pytest.raises(ConfigurationError, match=f"{nobody} may not run .* --dry-run"):
            prepare_roles(engine, database.wanted)
    finally:
        database.run(f"DROP ROLE {nobody}")


# -- settings of sessions ---------------------------------------------------------------------------------


def lacking(roles: DatabaseRoles, role: str) -> list[str]:
    engine = create_engine(roles.url(role), poolclass=NullPool)
    with engine.connect() as connection:
        missing = missing_settings(connection, needed(24.0))
    return [*missing.needed, *missing.advised]


def test_roles_get_and_lose_the_settings_of_their_sessions(database: DatabaseRoles) -> None:
    wanted, names = database.wanted, database.names
    on_role = settings_of_roles(names, needed(24.0), 15.0)
    database.make()
    assert lacking(database, names.worker)
    prepare_roles(database.engine, RolesWanted(names, wanted.tables, settings=on_role))
    assert lacking(database, names.worker) == []
    database.run(f"ALTER ROLE {names.worker} SET work_mem = '8MB'")
    prepare_roles(database.engine, wanted)
    assert lacking(database, names.worker)
    with database.engine.connect() as connection:
        kept = connection.exec_driver_sql(
            f"SELECT setconfig FROM pg_db_role_setting WHERE setrole = '{names.worker}'::regrole"  # noqa: S608
        ).scalar_one()
    assert kept == ["work_mem=8MB"], "a setting of somebody else stays"


# -- the command line -------------------------------------------------------------------------------------


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: DatabaseRoles) -> Cli:
    """The command line as a superuser of ``database``, in a folder with passwords."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secrets").mkdir()
    for name in database.names.logins:
        (tmp_path / "secrets" / name).write_text(f"{PASSWORD}\n")
    return Cli(
        monkeypatch, {"BILLING_DATABASE_URL": database.engine.url.render_as_string(hide_password=False)}
    )


def renamed(database: DatabaseRoles) -> list[str]:
    names = database.names
    return [f"--role={kind}={getattr(names, kind)}" for kind in ("owner", "worker", "reader", "privacy")]


def test_migrate_makes_roles_that_can_log_in_and_shows_no_password(cli: Cli, database: DatabaseRoles) -> None:
    tried = cli("migrate", "--roles", *renamed(database), "--passwords", "secrets", "--dry-run")
    assert (tried.code, tried.err) == (0, "")
    assert f"CREATE ROLE {database.names.owner} NOLOGIN;" in tried.lines
    assert f"-- ALTER ROLE {database.names.worker} PASSWORD '…'" in tried.lines
    done = cli("migrate", "--roles", *renamed(database), "--passwords", "secrets")
    assert (done.code, done.err) == (0, "")
    assert f"{database.names.worker}: works with them" in done.lines
    assert PASSWORD not in tried.all + done.all
    for name in database.names.logins:
        database.attempt(name, "SELECT * FROM accounts")
    again = cli("migrate", "--roles", "--json", *renamed(database))
    assert again.json["roles"]["worker"] == database.names.worker
    database.attempt(database.names.worker, "SELECT 1")  # without --passwords they stay


def test_setting_of_sessions_on_the_role_reaches_the_roles(cli: Cli, database: DatabaseRoles) -> None:
    cli.environment["BILLING_SESSION_SETTINGS"] = "role"
    assert cli("migrate", "--roles", *renamed(database), "--passwords", "secrets").code == 0
    checked = cli("check", "--database-url", database.url(database.names.worker))
    assert "ok   session: has the settings it needs" in checked.lines


def test_roles_of_a_distributed_ledger_lack_the_setting_that_citus_refuses(database: DatabaseRoles) -> None:
    found = settings_of_roles(database.names, needed(24.0), 15.0, distributed=True)
    assert found[database.names.worker].keys() == {*needed(24.0), *BY_KEY} - {"plan_cache_mode"}


def test_password_is_a_hash_in_the_server(cli: Cli, database: DatabaseRoles) -> None:
    cli("migrate", "--roles", *renamed(database), "--passwords", "secrets")
    with database.engine.connect() as connection:
        stored = connection.exec_driver_sql(
            f"SELECT rolpassword FROM pg_authid WHERE rolname = '{database.names.worker}'"  # noqa: S608
        ).scalar_one()
    assert re.match(r"SCRAM-SHA-256\$|md5", stored)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--dry-run"], "go with --roles"),
        (["--role", "worker=x"], "go with --roles"),
        (["--roles", "--role", "boss=x"], "--role boss=x: say owner=NAME or worker=NAME or reader=NAME"),
        (["--roles", "--role", "worker="], "--role worker=: say"),
        (["--roles", "--role", "worker=same", "--role", "reader=same"], "must be four roles"),
        (["--roles", "--passwords", "secrets"], "password of billing_worker: there is no file"),
    ],
)
def test_wrong_use_of_roles_is_refused(cli: Cli, arguments: list[str], problem: str) -> None:
    refused = cli("migrate", *arguments)
    assert refused.code == 2
    assert problem in refused.err


def test_short_password_is_refused(cli: Cli, database: DatabaseRoles) -> None:
    Path("secrets", database.names.reader).write_text("short")
    refused = cli("migrate", "--roles", *renamed(database), "--passwords", "secrets")
    assert refused.code == 2
    assert f"password of {database.names.reader}: it is too short, at least 16" in refused.error


@pytest.mark.parametrize("dry_run", [True, False])
def test_sqlite_has_no_roles(cli: Cli, dry_run: bool) -> None:
    cli.environment["BILLING_DATABASE_URL"] = "sqlite:///ledger.sqlite3"
    refused = cli("migrate", "--roles", *(["--dry-run"] if dry_run else []))
    assert (refused.code, refused.error) == (2, "SQLite has no roles: --roles is for PostgreSQL")


def test_commands_of_the_page_make_the_roles_of_its_table(
    cli: Cli, database: DatabaseRoles, postgres: PostgresServer
) -> None:
    shown = section(page("worker/OPERATING.md"), "Users and rights in the database")
    (block,) = re.findall(r"```sh\n(.*?)```", shown, re.DOTALL)
    (rows,) = tables(shown)
    roles = [row[0].strip("`") for row in rows]
    assert roles == [RoleNames().owner, *RoleNames().logins, RoleNames().privacy]
    try:
        for line in block.splitlines():
            if line.startswith("billing-worker "):
                done = cli(*shlex.split(line)[1:])
                assert done.code == 0, (line, done)
            else:
                subprocess.run(["sh", "-ec", line], check=True)
        for role in RoleNames().logins:
            password = Path("secrets", role).read_text().strip()
            engine = create_engine(database.url(role, password), poolclass=NullPool)
            with engine.connect() as connection:
                assert connection.exec_driver_sql("SELECT count(*) FROM accounts").scalar_one() == 0
    finally:
        database.engine.dispose()
        postgres.databases.drop_database(database.name)
        drop_roles(postgres, *roles)
