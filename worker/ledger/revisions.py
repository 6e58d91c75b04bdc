"""Revision of a database's schema, and the newest one, read without Alembic: every command compares them."""

from importlib.resources import files

from sqlalchemy import Connection, Engine, inspect

from worker.ledger.engine import translated_errors

#: Key of the advisory lock of who changes the schema: any number, the same in every version.
MIGRATION_LOCK = 7301988
_TABLE = "alembic_version"


def current_revision(engine: Engine) -> str | None:
    """Return the revision the database is at; None where it has never been migrated."""
    with translated_errors(), engine.connect() as connection:
        connection.execution_options(read_only=True)
        return revision_in(connection)


def revision_in(connection: Connection) -> str | None:
    """Return the revision of the database of a connection; None where it has never been migrated."""
    if not inspect(connection).has_table(_TABLE):
        return None
    found: str | None = connection.exec_driver_sql(f"SELECT version_num FROM {_TABLE}").scalar()  # noqa: S608
    return found


def newest_revision() -> str:
    """Return the revision this version of the worker needs: the digits of the last file of the history."""
    history = files("worker.ledger").joinpath("migrations", "versions")
    return max(file.name.partition("_")[0] for file in history.iterdir() if file.name[:4].isdecimal())
