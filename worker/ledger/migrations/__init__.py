"""The schema's history (Alembic). ``migrate`` brings a database to the newest revision."""

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, text

from worker.errors import ConfigurationError
from worker.ledger.engine import translated_errors

_MIGRATION_LOCK = 7301988  # any number, the same in every version


#: Role that owns the ledger, where this login is another one and may act as it.
_OWNER = text(
    "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass('alembic_version')"
    " AND pg_get_userbyid(relowner) <> current_user AND pg_has_role(current_user, relowner, 'MEMBER')"
    " AND has_schema_privilege(relowner, relnamespace, 'CREATE')"
)


def migrate(engine: Engine, revision: str = "head", *, owner: str | None = None) -> None:
    """Bring the database to ``revision``, in one transaction; does nothing where it is there already.

    On PostgreSQL the role ``owner`` owns new tables; without one, who owns those that are there. Raises
    ConfigurationError for a database that can't be migrated.
    """
    with translated_errors(), engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            hold_migration_lock(connection)
            owner = owner or connection.execute(_OWNER).scalar()
            if owner is not None:
                name = connection.dialect.identifier_preparer.quote(owner)
                connection.exec_driver_sql(f"SET LOCAL ROLE {name}")
        config = _config()
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, revision)
        except CommandError as error:
            raise ConfigurationError(f"the database can't be migrated: {error}") from error


def hold_migration_lock(connection: Connection) -> None:
    """Wait, in this transaction, until nobody else migrates.

    Several workers may start at once: one migrates, the others wait and find it done. It takes as long as the
    ledger is large, whatever limit there is for the statements of a batch.
    """
    connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files(__name__)))
    return config
