"""The schema's history (Alembic). ``migrate`` brings a database to the newest revision."""

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Engine

from worker.errors import ConfigurationError
from worker.ledger.engine import translated_errors

_MIGRATION_LOCK = 7301988  # any number, the same in every version


def migrate(engine: Engine, revision: str = "head") -> None:
    """Bring the database to ``revision``, in one transaction; does nothing where it is there already.

    Raises ConfigurationError for a database that can't be migrated.
    """
    with translated_errors(), engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # Several workers may start at once: one migrates, the others wait and find it done. It takes as
            # long as the ledger is large, whatever limit there is for the statements of a batch.
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        config = _config()
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, revision)
        except CommandError as error:
            raise ConfigurationError(f"the database can't be migrated: {error}") from error


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files(__name__)))
    return config
