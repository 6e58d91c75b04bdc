"""Times in the detail of an operation, which are text there, as values of the tables' time columns."""

from typing import Any

from sqlalchemy import DateTime, Text, case, cast, func
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from worker.ledger.tables import UtcDateTime

_WHOLE_SECONDS = 19  # length of a time on SQLite without its fraction


class time_of_text(GenericFunction[Any]):  # noqa: N801 - named as a function of SQL
    """Time that an RFC 3339 text in UTC names; null for null."""

    type = UtcDateTime()
    inherit_cache = True
    name = "time_of_text"


@compiles(time_of_text, "postgresql")
def _of_postgresql(element: time_of_text, compiler: SQLCompiler, **options: Any) -> str:
    (text,) = element.clauses
    return compiler.process(cast(text, DateTime(timezone=True)), **options)


@compiles(time_of_text, "sqlite")
def _of_sqlite(element: time_of_text, compiler: SQLCompiler, **options: Any) -> str:
    """Spell the time as SQLAlchemy keeps it there, with six digits of a fraction."""
    (text,) = element.clauses
    kept = func.replace(func.replace(text, "T", " "), "+00:00", "", type_=Text())
    has_no_fraction = func.length(kept) == _WHOLE_SECONDS
    return compiler.process(case((has_no_fraction, kept + ".000000"), else_=kept), **options)
