"""Reads and writes of many rows in one statement, and writes to many tables in one.

On PostgreSQL rows travel as an array of their table's row type (see ``records``), and keys as one array: the
statement is the same text for any number of them, prepared once a connection, and neither side builds
thousands of parameters. On SQLite SQLAlchemy builds the statements; rows are an ``executemany``.

Each statement is a round trip, and at its end the ledger's thread waits for its turn beside the worker's
other thread: fewer are faster by more than what they cost themselves.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from sqlalchemy import Column, Connection, CursorResult, Row, Select, Table, bindparam, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql import ColumnElement, any_

from worker.ledger.records import Columns, array, by_column, by_row, columns_of, parameters
from worker.ledger.row_sql import (
    Beside,
    IsKey,
    OnConflict,
    built_sql,
    execute_sql,
    insert_sql,
    joined_sql,
    kind_of,
    prepare_sql,
    select_sql,
    source_sql,
    update_sql,
    uses_sql,
)
from worker.ledger.tables import operations


def select_rows(
    connection: Connection,
    table: Table,
    names: tuple[str, ...],
    key: str,
    values: Collection[Any],
    *,
    also: tuple[str, Collection[Any]] | None = None,
    only: tuple[str, str | bool] | None = None,
    order_by: tuple[str, ...] = (),
    for_update: bool = False,
) -> Sequence[Row[Any]]:
    """Return the columns ``names`` of the rows whose ``key`` is one of ``values``.

    ``also`` names a second column and its values. ``only`` leaves those whose column of that name has that
    value, a constant.

    ``for_update`` locks them in their order; SQLite has the write lock already and leaves it out.
    """
    if not values:
        return []
    if connection.dialect.name == "postgresql":
        sql = select_sql(table, names, key, also and also[0], only, order_by, for_update=for_update)
        keys = [array(values)] if also is None else [array(values), array(also[1])]
        verb = "lock" if for_update else "select"
        return _executed(connection, sql, f"{verb}_{table.name}", keys).all()
    statement = select(*(table.c[name] for name in names)).where(table.c[key].in_(values))
    if also is not None:
        statement = statement.where(table.c[also[0]].in_(also[1]))
    if only is not None:
        statement = statement.where(table.c[only[0]] if only[1] is True else table.c[only[0]] == only[1])
    return connection.execute(statement.order_by(*(table.c[name] for name in order_by))).all()


def select_by(
    connection: Connection, build: Callable[[IsKey], Select[Any]], keys: Collection[Any]
) -> Sequence[Row[Any]]:
    """Return what ``build`` selects of the rows that ``keys`` name.

    The statement depends on nothing else: it is built and prepared once.
    """
    if not keys:
        return []
    if connection.dialect.name == "postgresql":
        label = f"select_{build.__name__.strip('_')}"
        return _executed(connection, built_sql(build), label, [array(keys)]).all()
    return connection.execute(build(lambda column: column.in_(keys))).all()


@dataclass(frozen=True, slots=True)
class RowInsert:
    """New rows, in their order.

    Where a row conflicts with a unique key, ``nothing`` leaves it out, and ``update`` replaces all columns
    but the primary key.
    """

    table: Table
    columns: Columns
    on_conflict: OnConflict = "fail"


@dataclass(frozen=True, slots=True)
class RowUpdate:
    """New values for the rows that the ``key`` names, where each guarded column has its expected value.

    ``guard`` maps a column to the name of its expected value among ``columns``.
    """

    table: Table
    columns: Columns
    key: tuple[str, ...]
    guard: tuple[tuple[str, str], ...] = ()


RowWrite = RowInsert | RowUpdate


def write_all(connection: Connection, writes: Sequence[RowWrite]) -> list[int]:
    """Carry out ``writes``, of which no two write the same row; return how many rows each has written.

    On PostgreSQL it is one statement, so that foreign keys are checked when all of it is done.
    """
    if connection.dialect.name == "postgresql":
        texts: list[str] = []
        parts: list[str] = []
        for write in writes:
            source = _add_source(connection, write, texts)
            parts.append(_write_sql(write, source))
        only = writes[0].table.name if len(writes) == 1 else "batch"
        (row,) = _executed(connection, joined_sql(*parts), f"write_{only}", texts)
        return list(row)
    return [_written_on_sqlite(connection, write) for write in writes]


def insert_rows(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    on_conflict: OnConflict = "fail",
    returning: tuple[str, ...] = (),
) -> Sequence[Row[Any]]:
    """Insert ``rows``, which all have the same keys, in order; return the rows written, if asked for."""
    return insert(connection, RowInsert(table, by_column(rows), on_conflict), returning) if rows else []


def insert(connection: Connection, new: RowInsert, returning: tuple[str, ...] = ()) -> Sequence[Row[Any]]:
    """Insert rows; return those that were written, if asked for."""
    if connection.dialect.name == "postgresql":
        texts: list[str] = []
        source = _add_source(connection, new, texts)
        sql = insert_sql(new.table, tuple(new.columns), new.on_conflict, source, returning)
        result = _executed(connection, sql, f"insert_{new.table.name}", texts)
    else:
        statement = _sqlite_insert(new.table, tuple(new.columns), new.on_conflict)
        wanted = statement.returning(*(new.table.c[name] for name in returning)) if returning else statement
        result = connection.execute(wanted, by_row(new.columns))
    return result.all() if returning else []


def update_rows(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, key: tuple[str, ...]
) -> int:
    """Update the ``rows``, which all have the same keys, where the ``key`` matches; return how many did."""
    return write_all(connection, [RowUpdate(table, by_column(rows), key)])[0] if rows else 0


def write_uses(
    connection: Connection, claims: RowInsert, moves: RowUpdate, uses: RowUpdate, posted: RowInsert
) -> Sequence[Row[Any]]:
    """Write few deductions in one statement, for a batch that is too small to spread round trips over it.

    ``claims`` are operations, ``moves`` accounts, ``uses`` lots, ``posted`` entries with the ``reference_id``
    of their operation; none of them empty. Returns a row for each operation that was claimed, with how many
    of all other rows were written. PostgreSQL only.
    """
    texts: list[str] = []
    claiming, moving, using = (
        _write_sql(write, _add_source(connection, write, texts)) for write in (claims, moves, uses)
    )
    source = _add_source(connection, posted, texts, _OF_REFERENCE)
    sql = uses_sql(claiming, moving, using, tuple(posted.columns), source)
    return _executed(connection, sql, "write_uses", texts).all()


_OF_REFERENCE: Beside = (("reference_id", kind_of(operations, "reference_id")),)


def _executed(connection: Connection, sql: str, label: str, texts: Sequence[str]) -> CursorResult[Any]:
    """Execute ``sql`` with ``texts`` as parameters; the server parses it once a connection, plans it seldom.

    Its name on the server begins with ``label``, which the server's activity view shows.
    """
    prepared: dict[str, str] = connection.info.setdefault("prepared", {})
    name = prepared.get(sql)
    if name is None:
        name = f"{label}_{len(prepared)}"
        connection.exec_driver_sql(prepare_sql(name, sql, len(texts)))
        prepared[sql] = name
    return connection.exec_driver_sql(execute_sql(name, len(texts)), tuple(texts))


def among(connection: Connection, column: Column[Any], values: Iterable[Any]) -> ColumnElement[bool]:
    """Return the condition that ``column`` is one of ``values``, on PostgreSQL one array."""
    if connection.dialect.name == "postgresql":
        return column == any_(bindparam(None, list(values), type_=ARRAY(column.type)))
    return column.in_(list(values))


def _add_source(connection: Connection, write: RowWrite, texts: list[str], beside: Beside = ()) -> str:
    """Return the source of the rows of ``write``, as ``r``; add the texts that hold them to ``texts``."""
    if isinstance(write, RowUpdate):
        beside = tuple((parameter, kind_of(write.table, column)) for column, parameter in write.guard)
    order = columns_of(connection, write.table)
    source = source_sql(write.table, order, beside, len(texts) + 1)
    texts += parameters(write.table, order, write.columns, beside)
    return source


def _write_sql(write: RowWrite, source: str) -> str:
    match write:
        case RowInsert(table, columns, on_conflict):
            return insert_sql(table, tuple(columns), on_conflict, source)
        case RowUpdate(table, columns, key, guard):
            return update_sql(table, tuple(columns), key, guard, source)
        case _:
            assert_never(write)


def _written_on_sqlite(connection: Connection, write: RowWrite) -> int:
    rows = by_row(write.columns)
    if not rows:
        return 0
    match write:
        case RowInsert(table, columns, on_conflict):
            connection.execute(_sqlite_insert(table, tuple(columns), on_conflict), rows)
            return len(rows)
        case RowUpdate(table, columns, key, guard):
            fixed = {*key, *(parameter for _, parameter in guard)}
            statement = (
                update(table)
                .where(*(table.c[name] == bindparam(f"k_{name}") for name in key))
                .where(*(table.c[column] == bindparam(f"k_{parameter}") for column, parameter in guard))
                .values({name: bindparam(f"v_{name}") for name in columns if name not in fixed})
            )
            named = {name: f"k_{name}" if name in fixed else f"v_{name}" for name in columns}
            values = [{named[name]: value for name, value in row.items()} for row in rows]
            return connection.execute(statement, values).rowcount
        case _:
            assert_never(write)


def _sqlite_insert(table: Table, names: tuple[str, ...], on_conflict: OnConflict) -> sqlite.Insert:
    statement = sqlite.insert(table)
    match on_conflict:
        case "nothing":
            return statement.on_conflict_do_nothing()
        case "update":
            keys = [column.name for column in table.primary_key]
            return statement.on_conflict_do_update(
                index_elements=keys,
                set_={name: statement.excluded[name] for name in names if name not in keys},
            )
        case "fail":
            return statement
