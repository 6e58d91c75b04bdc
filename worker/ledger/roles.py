"""Roles of the ledger's database: the owner of the tables, the workers', one that reads, one that erases.

A worker adds and changes rows and deletes none of the ledger: it can't switch off what keeps the ledger true.
The role for privacy has no login: who erases is made a member of it. It reads, logs, and executes the
functions that erase, which nobody else may.
Statements are made as text, so that `migrate --roles --dry-run` prints what `migrate --roles` does. Each may
be run again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from psycopg2.extensions import connection as DriverConnection  # noqa: N812 - a class with a small name
from psycopg2.extensions import encrypt_password
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from worker.errors import ConfigurationError
from worker.ledger.driver_errors import is_not_permitted
from worker.ledger.engine import translated_errors
from worker.ledger.migrations import hold_migration_lock
from worker.ledger.session_settings import AS_ASKED, BY_KEY, SessionSettings, for_role, needed, plans_by_key

#: A table gets its owner under a lock that everybody waits behind: it is given up soon, and tried again.
_LOCK_TIMEOUT = "5s"

#: Tables that a worker only reads.
READ_ONLY = frozenset({"alembic_version", "erased_ids", "identifiers", "schema_compatibility"})
#: Tables whose rows never change once they are there.
APPEND_ONLY = frozenset(
    {
        "audit_log",
        "catalogs",
        "dead_letter_edits",
        "dead_letter_events",
        "dead_letter_set_edits",
        "entries",
        "hold_parts",
        "payment_events",
        "payments",
        "quota_entries",
        "senders",
        "superseded_outcomes",
        "usage_refunds",
    }
)
#: Tables from which a worker deletes: messages on trial, events whose payment has come, an account that was
#: made for a batch and not opened, and workers that ended. Foreign keys keep every account that has
#: an entry, a lot or a quota.
ERASABLE = frozenset({"accounts", "partition_workers", "trials", "waiting_events", "workers"})

#: Functions that pass the guards, with the owner's rights: the role for privacy alone executes them.
ERASING = {
    "erase_user": "text, text, text",
    "purge_activity": "bigint[]",
    "purge_dead_letters": "bigint[], boolean",
}

#: All functions of the ledger, which its owner owns.
FUNCTIONS = ("erasure_pattern", "has_id", "ledger_refuses", "without_id", *ERASING)

_EVERY_RIGHT = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
#: Attributes of a role with which it is above all rights on tables.
_POWERS = {
    "rolsuper": "SUPERUSER",
    "rolcreaterole": "CREATEROLE",
    "rolcreatedb": "CREATEDB",
    "rolreplication": "REPLICATION",
    "rolbypassrls": "BYPASSRLS",
}

#: Roles of the server whose members read or write its files, or run programs there.
_ABOVE_TABLES = ("pg_execute_server_program", "pg_read_server_files", "pg_write_server_files")


def privacy_rights(table: str) -> tuple[str, ...]:
    """Return the rights on ``table`` of who erases: the functions do the rest."""
    return ("SELECT", "INSERT") if table == "audit_log" else ("SELECT",)


def worker_rights(table: str) -> tuple[str, ...]:
    """Return the rights of a worker on ``table``; one that is in none of the lists may be changed."""
    if table in READ_ONLY:
        return ("SELECT",)
    if table in APPEND_ONLY:
        return ("SELECT", "INSERT")
    return ("SELECT", "INSERT", "UPDATE", *(("DELETE",) if table in ERASABLE else ()))


@dataclass(frozen=True, slots=True)
class RoleNames:
    """Names of the four roles."""

    owner: str = "billing_owner"
    worker: str = "billing_worker"
    reader: str = "billing_reader"
    privacy: str = "billing_privacy"

    @property
    def logins(self) -> tuple[str, str]:
        """The roles that processes log in as."""
        return (self.worker, self.reader)


@dataclass(frozen=True, slots=True)
class RolesWanted:
    """Roles to make: names, tables, passwords by role, and the settings of each login's sessions.

    Without ``settings`` connections ask for theirs: the roles have none.
    """

    names: RoleNames
    tables: Sequence[str]
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    settings: Mapping[str, SessionSettings] = field(default_factory=dict)


class RoleStatement(NamedTuple):
    """SQL of a statement, and the text to show for it: a password's hash is not shown."""

    sql: str
    shown: str


def settings_of_roles(
    names: RoleNames, of_loops: SessionSettings, query_timeout_s: float, *, distributed: bool = False
) -> dict[str, SessionSettings]:
    """Return the session settings of each login, by role; ``distributed`` leaves out what Citus refuses."""
    by_key = plans_by_key(distributed=distributed)
    return {names.worker: {**of_loops, **by_key}, names.reader: needed(query_timeout_s)}


# -- what there is ----------------------------------------------------------------------------------------


class _Server:
    """Roles, owners and names of a database, as it is before the statements."""

    def __init__(self, connection: Connection, wanted: RolesWanted) -> None:
        if connection.dialect.name != "postgresql":
            raise ConfigurationError("SQLite has no roles: --roles is for PostgreSQL")
        self._connection = connection
        quote = connection.dialect.identifier_preparer.quote
        self.quote: Callable[[str], str] = quote
        self.login, self.is_superuser, database, schema = connection.execute(_SELF).one()
        if schema is None:
            raise ConfigurationError(f"{self.login} has no schema to work in: set its search_path")
        self.database, self.schema = quote(database), quote(schema)
        names = wanted.names
        every = (names.owner, *names.logins, names.privacy)
        rows = connection.execute(_ROLES, {"names": list(every)}).mappings()
        self.roles = {str(row["rolname"]): row for row in rows}

    def require_apart(self, names: RoleNames) -> None:
        """Raise ConfigurationError where a role is above its rights, or two are the same."""
        if len({names.owner, *names.logins, names.privacy}) < len(_KINDS):
            raise ConfigurationError(
                "owner, worker, reader and privacy must be four roles: give each its own --role"
            )
        for name in (*names.logins, names.privacy):
            if name == self.login:
                raise ConfigurationError(
                    f"this is {name} itself, which must have no right to make roles: connect as another one"
                )
            powers = self._powers(name)
            if powers:
                raise ConfigurationError(
                    f"the role {name} has {', '.join(powers)}, and so every right: "
                    f"ALTER ROLE {self.quote(name)} {' '.join(f'NO{word}' for word in powers)}; "
                    "or name another one with --role"
                )
            for other in self._above(name, names):
                raise ConfigurationError(
                    f"the role {name} is a member of {other}, and so may all that it may: "
                    f"REVOKE {self.quote(other)} FROM {self.quote(name)}, "
                    "or from the role between them"
                )

    def _powers(self, role: str) -> list[str]:
        if (row := self.roles.get(role)) is None:
            return []
        return [word for column, word in _POWERS.items() if row[column]]

    def _above(self, role: str, names: RoleNames) -> Iterator[str]:
        """Yield the roles that ``role`` can become and that own the tables, erase, or are above rights."""
        above = [names.owner, names.privacy, *_ABOVE_TABLES]
        yield from self._connection.execute(_ABOVE, {"role": role, "above": above}).scalars()

    def must_join(self, owner: str) -> bool:
        """Return True where this login must become a member of ``owner``, to make tables in its name."""
        if self.is_superuser or owner == self.login:
            return False
        return owner not in self.roles or not self._is_member(self.login, owner)

    def _is_member(self, role: str, of: str) -> bool:
        return bool(self._connection.execute(_IS_MEMBER, {"role": role, "of": of}).scalar_one())

    def owned_by_others(self, owner: str, tables: Sequence[str]) -> Iterator[str]:
        """Yield the tables and functions of the ledger that ``owner`` doesn't own, as SQL names them."""
        asked = {"owner": owner, "tables": list(tables), "functions": list(FUNCTIONS)}
        for kind, name in self._connection.execute(_OWNED, asked):
            yield f"{kind} {name}"

    def session_settings(self, role: str) -> set[str]:
        """Return the names of the settings that ``role`` has in every database."""
        found = self._connection.execute(_SETTINGS, {"role": role}).scalars()
        return {each.partition("=")[0].lower() for each in found}

    def hashed(self, role: str, password: str) -> str:
        """Return the hash that the server keeps of a password: no log ever shows what it is of."""
        driver = cast(DriverConnection, self._connection.connection.driver_connection)
        return encrypt_password(password, role, driver)


_KINDS = ("owner", "worker", "reader", "privacy")
_SELF = text(
    "SELECT current_user, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),"
    " current_database(), current_schema()"
)
_ROLES = text(f"SELECT rolname, {', '.join(_POWERS)} FROM pg_roles WHERE rolname = ANY(:names)")  # noqa: S608
_IS_MEMBER = text("SELECT pg_has_role(:role, :of, 'MEMBER')")
_ABOVE = text(
    "SELECT above.rolname FROM pg_roles AS login JOIN pg_roles AS above ON above.oid <> login.oid"  # noqa: S608
    f" WHERE login.rolname = :role AND ({' OR '.join(f'above.{power}' for power in _POWERS)}"
    " OR above.rolname = ANY(:above))"
    " AND pg_has_role(login.oid, above.oid, 'MEMBER') ORDER BY 1"
)
_OWNED = text(
    "SELECT 'TABLE', c.oid::regclass::text FROM pg_class c"
    " WHERE c.relnamespace = current_schema()::regnamespace AND c.relname = ANY(:tables)"
    " AND c.relkind IN ('r', 'p') AND pg_get_userbyid(c.relowner) <> :owner"
    " UNION ALL SELECT 'FUNCTION', p.oid::regprocedure::text FROM pg_proc p"
    " WHERE p.pronamespace = current_schema()::regnamespace AND p.proname = ANY(:functions)"
    " AND pg_get_userbyid(p.proowner) <> :owner ORDER BY 1, 2"
)
_SETTINGS = text(
    "SELECT unnest(s.setconfig) FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole"
    " WHERE r.rolname = :role AND s.setdatabase = 0"
)


# -- statements -------------------------------------------------------------------------------------------


def _before(server: _Server, wanted: RolesWanted) -> Iterator[RoleStatement]:
    """Yield the statements before the migration: roles, their place in the database, and the owner."""
    yield from _plain(_made(server, wanted.names))
    for role, password in wanted.passwords.items():
        name = server.quote(role)
        yield RoleStatement(
            f"ALTER ROLE {name} PASSWORD '{server.hashed(role, password)}'",
            f"-- ALTER ROLE {name} PASSWORD '…'",
        )
    yield from _plain(_placed(server, wanted.names))
    yield from _plain(_owned(server, wanted))
    for role in wanted.names.logins:
        yield from _plain(_settings(server, role, wanted.settings.get(role)))


def _made(server: _Server, names: RoleNames) -> Iterator[str]:
    if names.owner not in server.roles:
        yield f"CREATE ROLE {server.quote(names.owner)} NOLOGIN"
    if names.privacy not in server.roles:
        yield f"CREATE ROLE {server.quote(names.privacy)} NOLOGIN"
    for name in names.logins:
        verb = "ALTER" if name in server.roles else "CREATE"
        yield f"{verb} ROLE {server.quote(name)} LOGIN"
    if server.must_join(names.owner):
        yield f"GRANT {server.quote(names.owner)} TO {server.quote(server.login)}"


def _placed(server: _Server, names: RoleNames) -> Iterator[str]:
    owner, logins = server.quote(names.owner), _listed(server, (*names.logins, names.privacy))
    yield f"GRANT CONNECT ON DATABASE {server.database} TO {logins}"
    yield f"REVOKE CREATE, TEMPORARY ON DATABASE {server.database} FROM PUBLIC, {logins}"
    yield f"REVOKE CREATE ON SCHEMA {server.schema} FROM PUBLIC, {logins}"
    yield f"GRANT USAGE, CREATE ON SCHEMA {server.schema} TO {owner}"
    yield f"GRANT USAGE ON SCHEMA {server.schema} TO {logins}"


def _owned(server: _Server, wanted: RolesWanted) -> Iterator[str]:
    names, owner = wanted.names, server.quote(wanted.names.owner)
    for what in server.owned_by_others(names.owner, wanted.tables):
        yield f"ALTER {what} OWNER TO {owner}"
    of_later = f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {server.schema}"
    yield f"{of_later} GRANT SELECT, INSERT, UPDATE ON TABLES TO {server.quote(names.worker)}"
    yield f"{of_later} GRANT SELECT ON TABLES TO {server.quote(names.reader)}"


def _settings(server: _Server, role: str, settings: SessionSettings | None) -> Iterator[str]:
    name = server.quote(role)
    if settings is not None:
        yield from (statement.removesuffix(";") for statement in for_role(name, settings))
        return
    # Of the time when the role had them: connections ask for theirs now, and questions for none of these.
    ours = {*needed(0), *BY_KEY, *AS_ASKED}
    for each in sorted(server.session_settings(role) & ours):
        yield f"ALTER ROLE {name} RESET {each}"


def _after(server: _Server, wanted: RolesWanted) -> Iterator[RoleStatement]:
    """Yield the statements behind the migration: the rights on its tables, and no others."""
    names = wanted.names
    worker, reader, privacy = map(server.quote, (names.worker, names.reader, names.privacy))
    every = _tables(server, wanted.tables)
    functions = ", ".join(f"{server.schema}.{name}({types})" for name, types in sorted(ERASING.items()))
    statements = [
        f"REVOKE ALL ON {every} FROM PUBLIC, {worker}, {reader}, {privacy}",
        f"GRANT SELECT ON {every} TO {reader}, {privacy}",
        f"GRANT INSERT ON {_tables(server, ['audit_log'])} TO {privacy}",
        f"REVOKE ALL ON FUNCTION {functions} FROM PUBLIC, {worker}, {reader}",
        f"GRANT EXECUTE ON FUNCTION {functions} TO {privacy}",
    ]
    of_worker: dict[tuple[str, ...], list[str]] = {}
    for table in wanted.tables:
        of_worker.setdefault(worker_rights(table), []).append(table)
    for rights, tables in sorted(of_worker.items()):
        statements.append(f"GRANT {', '.join(rights)} ON {_tables(server, tables)} TO {worker}")
    yield from _plain(statements)


def _tables(server: _Server, tables: Iterable[str]) -> str:
    return ", ".join(f"{server.schema}.{server.quote(table)}" for table in sorted(tables))


def _listed(server: _Server, names: Iterable[str]) -> str:
    return ", ".join(map(server.quote, names))


def _plain(statements: Iterable[str]) -> Iterator[RoleStatement]:
    return (RoleStatement(sql, f"{sql};") for sql in statements)


# -- to show, and to do -----------------------------------------------------------------------------------


def role_statements(engine: Engine, wanted: RolesWanted) -> tuple[list[str], list[str]]:
    """Return the statements before and behind the migration, as they are shown. Changes nothing.

    Raises ConfigurationError where they can't be made.
    """
    with translated_errors(), engine.connect() as connection:
        server = _Server(connection, wanted)
        server.require_apart(wanted.names)
        before, after = _before(server, wanted), _after(server, wanted)
        return [each.shown for each in before], [each.shown for each in after]


def prepare_roles(engine: Engine, wanted: RolesWanted) -> None:
    """Make the roles, and give the ledger to its owner. Raises ConfigurationError where it may not."""
    _execute(engine, wanted, _before)


def grant_rights(engine: Engine, wanted: RolesWanted) -> None:
    """Give the roles their rights on the tables, take others away, and look whether it is so.

    Raises ConfigurationError where a role has more rights, or fewer.
    """
    _execute(engine, wanted, _after)
    with translated_errors(), engine.connect() as connection:
        wrong = list(_differences(connection, wanted))
    if wrong:
        raise ConfigurationError(
            f"the roles are made, but {'; '.join(wrong)}: see who else gives rights, as the owner of the "
            "database or a superuser"
        )


def _execute(
    engine: Engine, wanted: RolesWanted, statements: Callable[[_Server, RolesWanted], Iterator[RoleStatement]]
) -> None:
    with translated_errors(), engine.begin() as connection:
        server = _Server(connection, wanted)
        hold_migration_lock(connection)
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        server.require_apart(wanted.names)
        for statement in list(statements(server, wanted)):
            try:
                connection.exec_driver_sql(statement.sql.replace("%", "%%"))
            except DBAPIError as error:
                if not is_not_permitted(error):
                    raise
                raise ConfigurationError(
                    f"{server.login} may not run `{statement.shown}`: connect as a superuser, or hand what "
                    "`billing-worker migrate --roles --dry-run` prints to one"
                ) from None


def _differences(connection: Connection, wanted: RolesWanted) -> Iterator[str]:
    """Yield what a login may and should not, and what it should and may not."""
    names = wanted.names
    wanted_by_role: tuple[tuple[str, Callable[[str], tuple[str, ...]]], ...] = (
        (names.worker, worker_rights),
        (names.reader, lambda _: ("SELECT",)),
        (names.privacy, privacy_rights),
    )
    for role, wanted_of in wanted_by_role:
        rows = connection.execute(
            _TABLE_RIGHTS, {"role": role, "tables": list(wanted.tables), "rights": list(_EVERY_RIGHT)}
        )
        for table, right, has in rows:
            if has != (right in wanted_of(table)):
                yield f"{role} {'may' if has else 'may not'} {right} on {table}"
        for what, has in connection.execute(_OTHER_RIGHTS, {"role": role}):
            if has:
                yield f"{role} may {what}"
        for function, has in connection.execute(_EXECUTES, {"role": role, "functions": list(ERASING)}):
            if has != (role == names.privacy):
                yield f"{role} may {'' if has else 'not '}execute {function}"


# With SET ROLE a login has the rights of every role that it is a member of, whether it inherits them or not.
_TABLE_RIGHTS = text(
    "SELECT t, r, EXISTS (SELECT FROM pg_roles WHERE pg_has_role(:role, oid, 'MEMBER')"
    " AND has_table_privilege(oid, c.oid, r))"
    " FROM unnest(CAST(:tables AS text[])) AS t"
    " JOIN pg_class c ON c.relname = t AND c.relnamespace = current_schema()::regnamespace"
    " CROSS JOIN unnest(CAST(:rights AS text[])) AS r ORDER BY 1, 2"
)
_EXECUTES = text(
    "SELECT p.proname, EXISTS (SELECT FROM pg_roles WHERE pg_has_role(:role, oid, 'MEMBER')"
    " AND has_function_privilege(oid, p.oid, 'EXECUTE'))"
    " FROM pg_proc p WHERE p.pronamespace = current_schema()::regnamespace"
    " AND p.proname = ANY(:functions) ORDER BY 1"
)
_OTHER_RIGHTS = text(
    "SELECT what, bool_or(has)"
    " FROM (SELECT oid FROM pg_roles WHERE pg_has_role(:role, oid, 'MEMBER')) AS its, LATERAL (VALUES"
    " ('make tables in ' || current_schema(), has_schema_privilege(its.oid, current_schema(), 'CREATE')),"
    " ('make temporary tables', has_database_privilege(its.oid, current_database(), 'TEMPORARY')),"
    " ('make schemas', has_database_privilege(its.oid, current_database(), 'CREATE'))"
    ") AS rights (what, has) GROUP BY what"
)
