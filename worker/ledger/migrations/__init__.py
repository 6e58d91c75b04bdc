"""The schema's history (Alembic). ``migrate`` brings a database to the newest revision.

Since revision 0017 a revision only adds, so that the version before goes on beside the new one: columns are
nullable and without a default until the release after. ``make lint`` has squawk read the SQL.

An index of a large table is built CONCURRENTLY, in ``op.get_context().autocommit_block()``. It waits for
older transactions, longer than for a lock: SET lock_timeout = 0 before it, and back behind it. Begin with
DROP INDEX CONCURRENTLY IF EXISTS: a build that breaks off leaves an invalid index.
"""

import io
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, text

from worker.errors import ConfigurationError, ContentionError
from worker.ledger.engine import translated_errors
from worker.ledger.revisions import MIGRATION_LOCK
from worker.runtime.backoff import Backoff

log = logging.getLogger(__name__)

#: Longest wait of a migration for a lock, and how often it tries.
LOCK_TIMEOUT_MS, _TRIES = 2_000, 30
_RETRY_FIRST_S, _RETRY_MOST_S = 0.5, 5.0


#: Role that owns the ledger, where this login is another one and may act as it.
_OWNER = text(
    "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass('alembic_version')"
    " AND pg_get_userbyid(relowner) <> current_user AND pg_has_role(current_user, relowner, 'MEMBER')"
    " AND has_schema_privilege(relowner, relnamespace, 'CREATE')"
)


def migrate(
    engine: Engine,
    revision: str = "head",
    *,
    owner: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Bring the database to ``revision``; does nothing where it is there already.

    On PostgreSQL each revision is a transaction of its own, tried again where it gets no lock; on SQLite all
    are one. There the role ``owner`` owns new tables; without one, who owns those that are there. Raises
    ConfigurationError for a database that can't be migrated, ContentionError where others keep a lock.
    """
    backoff = Backoff(_RETRY_FIRST_S, _RETRY_MOST_S, random.Random())  # noqa: S311 - jitter
    for tries_left in reversed(range(_TRIES)):
        try:
            _upgrade(engine, revision, owner)
        except ContentionError as error:
            if not tries_left:
                raise
            log.warning("the migration waits for others to let go of a table, and tries again: %s", error)
            sleep(backoff.next())
        else:
            return


def sql_of(revisions: str) -> str:
    """Return the SQL for PostgreSQL of ``revisions``, such as ``0017:head``; none of a database is needed."""
    output = io.StringIO()
    config = _config()
    config.output_buffer = output
    command.upgrade(config, revisions, sql=True)
    return output.getvalue()


def _upgrade(engine: Engine, revision: str, owner: str | None) -> None:
    with translated_errors(), _only_migrator(engine, owner) as connection:
        config = _config()
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, revision)
        except CommandError as error:
            raise ConfigurationError(f"the database can't be migrated: {error}") from error


def hold_migration_lock(connection: Connection) -> None:
    """Wait, in this transaction, until nobody else migrates."""
    connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")


@contextmanager
def _only_migrator(engine: Engine, owner: str | None) -> Iterator[Connection]:
    """Yield a connection on which nobody else migrates meanwhile; on SQLite it is in a transaction.

    Several workers may start at once: one migrates, the others wait and find it done.
    """
    if engine.dialect.name != "postgresql":
        with engine.begin() as connection:
            yield connection
        return
    with engine.connect() as connection:
        try:
            # It takes as long as the ledger is large, whatever limit there is for the statements of a batch.
            connection.exec_driver_sql("SET lock_timeout = 0")
            connection.exec_driver_sql("SET statement_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_lock({MIGRATION_LOCK})")
            _act_as(owner or connection.execute(_OWNER).scalar(), connection)
            connection.commit()
            yield connection
        finally:
            connection.invalidate()  # the session ends, and with it its lock, its role and its settings


def _act_as(owner: str | None, connection: Connection) -> None:
    if owner is not None:
        name = connection.dialect.identifier_preparer.quote(owner)
        connection.exec_driver_sql(f"SET ROLE {name}")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files(__name__)))
    return config
