"""Rule of which versions of the code may use a schema.

Each version knows the revision that it was built for, the newest of its history, and works from there on. A
newer schema says itself which versions may still write and read: its one row of ``schema_compatibility``
names the oldest revisions that they may have been built for. Migrations that only add leave that row alone.
"""

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Engine, select

from worker import __version__
from worker.errors import UnusableSchemaError
from worker.ledger.engine import translated_errors
from worker.ledger.revisions import current_revision, newest_revision
from worker.ledger.tables import schema_compatibility


class SchemaUse(StrEnum):
    """Use of the ledger's schema; who only reads may be older than who writes."""

    WRITE = "write"
    READ = "read"


@dataclass(frozen=True, slots=True)
class Compatibility:
    """Revision of a schema, and the oldest versions, by their revisions, that may write and read it."""

    revision: str | None
    writers_from: str
    readers_from: str

    def misfit(self, own: str, use: SchemaUse = SchemaUse.WRITE) -> str | None:
        """Return why the version built for revision ``own`` can't use the schema; None where it can."""
        if self.revision is None or self.revision < own:
            return (
                f"the ledger's schema is at {self.revision or 'nothing'}, this version needs {own}: "
                "run `billing-worker migrate`"
            )
        oldest = self.writers_from if use is SchemaUse.WRITE else self.readers_from
        if oldest <= own:
            return None
        return (
            f"the ledger's schema {self.revision} isn't for version {__version__}, which was built for {own}"
            f" and not for {oldest} or later: it must not {use} there, update it"
        )


def compatibility_of(engine: Engine) -> Compatibility:
    """Return what the schema says; one that isn't newer than this version has nothing to say to it."""
    revision, own = current_revision(engine), newest_revision()
    if revision is None or revision <= own:
        return Compatibility(revision, own, own)
    of = schema_compatibility.c
    with translated_errors(), engine.connect() as connection:
        connection.execution_options(read_only=True)
        return Compatibility(revision, *connection.execute(select(of.writers_from, of.readers_from)).one())


def require_usable(engine: Engine, use: SchemaUse = SchemaUse.WRITE) -> None:
    """Raise UnusableSchemaError where the schema isn't for this version."""
    if (misfit := compatibility_of(engine).misfit(newest_revision(), use)) is not None:
        raise UnusableSchemaError(misfit)
