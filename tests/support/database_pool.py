"""Pool of databases that tests use in turn: emptied where possible, else created anew.

To copy the template takes a third of a second, to empty a database a part of that. One is used again only if
it is as the template left it: the same objects, no statistics, no settings of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg2
from psycopg2 import extensions
from sqlalchemy.engine import make_url

from tests.support.provision import PostgresServer

#: All that a test may have changed and an emptied table doesn't show.
_FINGERPRINT = """
    SELECT md5(concat_ws('|',
        (SELECT string_agg(concat(oid, relname, relchecks, relhastriggers, reloptions), ',' ORDER BY oid)
         FROM pg_class WHERE relnamespace = 'public'::regnamespace),
        (SELECT string_agg(concat(oid, reltuples), ',' ORDER BY oid) FROM pg_class
         WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'),
        (SELECT string_agg(concat(oid, convalidated), ',' ORDER BY oid) FROM pg_constraint
         WHERE connamespace = 'public'::regnamespace),
        (SELECT string_agg(concat(oid, tgenabled), ',' ORDER BY oid) FROM pg_trigger),
        (SELECT string_agg(concat(oid, xmin), ',' ORDER BY oid) FROM pg_proc
         WHERE pronamespace = 'public'::regnamespace),
        (SELECT string_agg(concat(attrelid, attname, atttypid, attnotnull), ',' ORDER BY attrelid, attnum)
         FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
         WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'),
        (SELECT count(*) FROM pg_statistic JOIN pg_class ON pg_class.oid = starelid
         WHERE relnamespace = 'public'::regnamespace),
        (SELECT string_agg(setconfig::text, ',') FROM pg_db_role_setting JOIN pg_database ON oid = setdatabase
         WHERE datname = current_database()),
        (SELECT datacl::text FROM pg_database WHERE datname = current_database()),
        (SELECT string_agg(version_num, ',') FROM alembic_version),
        (SELECT string_agg(concat(writers_from, readers_from), ',') FROM schema_compatibility),
        (SELECT count(*) FROM pg_namespace)))
"""
_LEAVE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_EMPTY = """
    DO $$
    DECLARE used record; large text; numbers record;
    BEGIN
        PERFORM set_config('session_replication_role', 'replica', true);  -- the ledger refuses it otherwise
        PERFORM set_config('lock_timeout', '5000', true);
        FOR used IN SELECT oid::regclass AS name, pg_relation_size(oid) AS bytes FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND pg_relation_size(oid) > 0
                AND relname NOT IN ('alembic_version', 'identifiers', 'schema_compatibility')
        LOOP
            IF used.bytes > 65536 THEN
                large := concat_ws(', ', large, used.name);
            ELSE  -- new files for a table and its indexes cost more than a few dead rows
                EXECUTE 'DELETE FROM ' || used.name;
            END IF;
        END LOOP;
        IF large IS NOT NULL THEN
            EXECUTE 'TRUNCATE ' || large || ' CASCADE';
        END IF;
        PERFORM pg_stat_reset();
        FOR numbers IN SELECT oid::regclass AS name FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind = 'S'
        LOOP
            PERFORM setval(numbers.name, 1, false);
        END LOOP;
    END $$
"""


class DatabasePool:
    """Pool of copies of one template on ``postgres``, for one process.

    Each has a session that empties it: a new one would read the catalogs of the database anew.
    """

    def __init__(self, postgres: PostgresServer, template: str) -> None:
        self._postgres, self._template = postgres, template
        self._free: list[str] = []
        self._fingerprints: dict[str, str] = {}
        self._sessions: dict[str, extensions.connection] = {}

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yield the name of an empty, migrated database, for one test."""
        name = self._free.pop() if self._free else self._made()
        try:
            yield name
        finally:
            if self._is_emptied(name):
                self._free.append(name)
            else:
                self._drop(name)

    def close(self) -> None:
        """Drop the remaining databases."""
        while self._free:
            self._drop(self._free.pop())

    def _made(self) -> str:
        name = f"test_{uuid4().hex[:12]}"
        self._postgres.databases.create_database(name, template=self._template)
        self._fingerprints[name] = _fingerprint(self._session(name).cursor())
        return name

    def _drop(self, name: str) -> None:
        session = self._sessions.pop(name, None)
        if session is not None:
            session.close()
        self._postgres.databases.drop_database(name)

    def _is_emptied(self, name: str) -> bool:
        try:
            try:
                found = _emptied(self._session(name).cursor())
            except (psycopg2.OperationalError, psycopg2.InterfaceError):  # its test has ended our session
                self._sessions.pop(name, None)
                found = _emptied(self._session(name).cursor())
        except psycopg2.Error:  # dropped by its test, or held
            return False
        return found == self._fingerprints[name]

    def _session(self, name: str) -> extensions.connection:
        # An engine would ask the server some questions first.
        if name not in self._sessions:
            url = make_url(self._postgres.address.url(name)).set(drivername="postgresql")
            self._sessions[name] = psycopg2.connect(url.render_as_string(hide_password=False))
            self._sessions[name].autocommit = True
        return self._sessions[name]


def _emptied(cursor: extensions.cursor) -> str:
    """Empty a database, and return what is left of it."""
    cursor.execute(_LEAVE)
    cursor.execute(_EMPTY)
    return _fingerprint(cursor)


def _fingerprint(cursor: extensions.cursor) -> str:
    cursor.execute(_FINGERPRINT)
    rows = cursor.fetchall()
    return str(rows[0][0])
