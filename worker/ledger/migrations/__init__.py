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
from sqlalchemy import Connection, Engine

from worker.errors import ConfigurationError, ContentionError
from worker.ledger.engine import translated_errors
from worker.runtime.backoff import Backoff

log = logging.getLogger(__name__)

_MIGRATION_LOCK = 7301988  # any number, the same in every version
#: Longest wait of a migration for a lock, and how often it tries.
LOCK_TIMEOUT_MS, _TRIES = 2_000, 30
_RETRY_FIRST_S, _RETRY_MOST_S = 0.5, 5.0


def migrate(engine: Engine, revision: str = "head", *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Bring the database to ``revision``; does nothing where it is there already.

    On PostgreSQL each revision is a transaction of its own, tried again where it gets no lock; on SQLite all
    are one. Raises ConfigurationError for a database that can't be migrated, ContentionError where others
    keep a lock.
    """
    backoff = Backoff(_RETRY_FIRST_S, _RETRY_MOST_S, random.Random())  # noqa: S311 - jitter
    for tries_left in reversed(range(_TRIES)):
        try:
            _upgrade(engine, revision)
        except ContentionError as error:
            if not tries_left:
                raise
            log.warning("the migration waits for others to let go of a table, and tries again: %s", error)
            sleep(backoff.next())
        else:
            return


def sql_of(revisions: str) -> str:
    """Return the SQL for PostgreSQL of ``revisions``, such as ``0017:head``; none of a database is needed."""
    text = io.StringIO()
    config = _config()
    config.output_buffer = text
    command.upgrade(config, revisions, sql=True)
    return text.getvalue()


def _upgrade(engine: Engine, revision: str) -> None:
    with translated_errors(), _only_migrator(engine) as connection:
        config = _config()
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, revision)
        except CommandError as error:
            raise ConfigurationError(f"the database can't be migrated: {error}") from error


@contextmanager
def _only_migrator(engine: Engine) -> Iterator[Connection]:
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
            connection.exec_driver_sql(f"SELECT pg_advisory_lock({_MIGRATION_LOCK})")
            connection.commit()
            yield connection
        finally:
            connection.invalidate()  # the session ends, and with it its lock and its settings


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files(__name__)))
    return config
