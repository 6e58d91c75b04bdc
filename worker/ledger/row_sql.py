"""SQL text for rows on PostgreSQL, the one place where it is written by hand.

Names come from the tables and are quoted where PostgreSQL asks for it. Values are parameters, as arrays (see
``records``), never text; the constants of a condition are the exception, and are quoted as literals. A text
depends on tables and names alone: it is made once, and the same for any number of rows.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import Column, Select, Table, literal_column
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql import ColumnElement, any_

#: Result of an insert where a row conflicts with a unique key: an error, nothing, or new values.
OnConflict = Literal["fail", "nothing", "update"]
#: Names and types of the values that rows have beside the columns of their table.
Beside = tuple[tuple[str, str], ...]
#: Makes the condition that a column is one of the keys that are asked for.
IsKey = Callable[[Column[Any]], ColumnElement[bool]]

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def quoted_name(name: str) -> str:
    """Return the name of a table or a column as it stands in SQL."""
    return _DIALECT.identifier_preparer.quote(name)


def quoted_text(text: str) -> str:
    """Return a constant text as a literal."""
    escaped = text.replace("'", "''")
    return f"'{escaped}'"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(quoted_name, names))


@lru_cache(maxsize=64)
def kind_of(table: Table, column: str) -> str:
    """Return the name of a column's type."""
    return table.c[column].type.compile(_DIALECT)


# -- reads ------------------------------------------------------------------------------------------------


def columns_sql(table: Table) -> str:
    """Return a SELECT of no rows, whose result has the columns in the order of the row type."""
    return f"SELECT * FROM {quoted_name(table.name)} LIMIT 0"  # noqa: S608 - from the tables


@lru_cache(maxsize=64)
def select_sql(
    table: Table,
    names: tuple[str, ...],
    key: str,
    also: str | None = None,
    only: tuple[str, str | bool] | None = None,
    order_by: tuple[str, ...] = (),
    *,
    for_update: bool = False,
) -> str:
    """Return a SELECT of the rows whose ``key`` is in the array ``$1``, and whose ``also`` is in ``$2``."""
    sql = f"SELECT {_listed(names)} FROM {quoted_name(table.name)} WHERE {_is_any(table, key, 1)}"  # noqa: S608 - names from the tables
    if also is not None:
        sql += f" AND {_is_any(table, also, 2)}"
    if only is not None:
        sql += f" AND {_is_constant(only)}"
    if order_by:
        sql += f" ORDER BY {_listed(order_by)}"
    return f"{sql} FOR UPDATE" if for_update else sql


def _is_any(table: Table, column: str, place: int) -> str:
    return f"{quoted_name(column)} = ANY(CAST(${place} AS {kind_of(table, column)}[]))"


def _is_constant(only: tuple[str, str | bool]) -> str:
    name, value = quoted_name(only[0]), only[1]
    if isinstance(value, str):
        return f"{name} = {quoted_text(value)}"
    return name if value else f"NOT {name}"


@lru_cache(maxsize=64)
def built_sql(build: Callable[[IsKey], Select[Any]]) -> str:
    """Return the text of the SELECT that ``build`` makes for the keys in the array ``$1``."""

    def is_key(column: Column[Any]) -> ColumnElement[bool]:
        return column == any_(literal_column(f"CAST($1 AS {kind_of(column.table, column.name)}[])"))

    return str(build(is_key).compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))


# -- writes -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def source_sql(table: Table, columns: tuple[str, ...], beside: Beside = (), place: int = 1) -> str:
    """Return the text behind FROM: the rows that the parameters from ``$place`` on hold, as ``r``."""
    kinds = (quoted_name(table.name), *(kind for _, kind in beside))
    arrays = ", ".join(f"CAST(${number} AS {kind}[])" for number, kind in enumerate(kinds, place))
    return f"unnest({arrays}) AS r({_listed((*columns, *(name for name, _ in beside)))})"


@lru_cache(maxsize=512)
def insert_sql(
    table: Table,
    names: tuple[str, ...],
    on_conflict: OnConflict,
    source: str,
    returning: tuple[str, ...] = (),
) -> str:
    """Return an INSERT of the columns ``names`` of the rows of ``source``."""
    columns = _listed(names)
    sql = f"INSERT INTO {quoted_name(table.name)} ({columns}) SELECT {columns} FROM {source}"  # noqa: S608 - names from the tables
    match on_conflict:
        case "nothing":
            sql += " ON CONFLICT DO NOTHING"
        case "update":
            keys = tuple(column.name for column in table.primary_key)
            changed = map(quoted_name, (name for name in names if name not in keys))
            sets = ", ".join(f"{name} = excluded.{name}" for name in changed)
            sql += f" ON CONFLICT ({_listed(keys)}) DO UPDATE SET {sets}"
        case "fail":
            pass
    return f"{sql} RETURNING {_listed(returning)}" if returning else sql


@lru_cache(maxsize=512)
def update_sql(
    table: Table,
    names: tuple[str, ...],
    key: tuple[str, ...],
    guard: tuple[tuple[str, str], ...],
    source: str,
) -> str:
    """Return an UPDATE of the rows that the ``key`` names, where guarded columns have expected values."""
    fixed = {*key, *(parameter for _, parameter in guard)}
    changed = map(quoted_name, (name for name in names if name not in fixed))
    sets = ", ".join(f"{name} = r.{name}" for name in changed)
    pairs = (*((name, name) for name in key), *guard)
    where = " AND ".join(f"t.{quoted_name(column)} = r.{quoted_name(value)}" for column, value in pairs)
    return f"UPDATE {quoted_name(table.name)} AS t SET {sets} FROM {source} WHERE {where}"  # noqa: S608 - names from the tables


@lru_cache(maxsize=512)
def joined_sql(*writes: str) -> str:
    """Return one statement of several writes, whose row counts how many rows each has written."""
    writing = ", ".join(f"w{number} AS ({write} RETURNING 1)" for number, write in enumerate(writes))
    counts = ", ".join(f"(SELECT count(*) FROM w{number})" for number in range(len(writes)))  # noqa: S608 - numbers
    return f"WITH {writing} SELECT {counts}"


@lru_cache(maxsize=64)
def uses_sql(claiming: str, moving: str, using: str, posted: tuple[str, ...], source: str) -> str:
    """Return one statement that claims operations, moves accounts, uses lots and posts entries.

    It joins claims and entries by reference in a nested loop: good for few rows.
    """
    names = _listed(tuple(name for name in posted if name != "reference_id"))
    return (
        f"WITH claimed AS ({claiming} RETURNING reference_id, operation_id), "  # noqa: S608 - names from the tables
        f"moved AS ({moving} RETURNING 1), used AS ({using} RETURNING 1), "
        f"posted AS (INSERT INTO entries ({names}, operation_id) SELECT {names}, claimed.operation_id "
        f"FROM {source} JOIN claimed USING (reference_id) RETURNING 1) "
        "SELECT reference_id, operation_id, (SELECT count(*) FROM moved) AS moved, "
        "(SELECT count(*) FROM used) AS used, (SELECT count(*) FROM posted) AS posted FROM claimed"
    )


# -- prepared statements ----------------------------------------------------------------------------------


def prepare_sql(name: str, sql: str, parameters: int) -> str:
    """Return the text that prepares ``sql``, whose parameters are all texts, under ``name``."""
    kinds = ", ".join(["text"] * parameters)
    return f"PREPARE {name}({kinds}) AS {sql}"


def execute_sql(name: str, parameters: int) -> str:
    """Return the text that executes a prepared statement, with a place for each parameter."""
    places = ", ".join(["%s"] * parameters)
    return f"EXECUTE {name}({places})"
