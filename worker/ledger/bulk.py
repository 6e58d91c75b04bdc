"""Reads and writes of many rows in one statement, and writes to many tables in one.

On PostgreSQL rows travel as an array of their table's row type (see ``records``), and keys as one array: the
statement is the same text for any number of them, prepared once a connection, and neither side builds
thousands of parameters. On SQLite SQLAlchemy builds the statements; rows are an ``executemany``.

Each statement is a round trip, and at its end the ledger's thread waits for its turn beside the worker's
other thread: fewer are faster by more than what they cost themselves.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, assert_never

from sqlalchemy import Column, Connection, Row, Select, Table, and_, bindparam, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql import ColumnElement, any_

from worker.ledger.records import Columns, array, by_column, by_row, columns_of, length_of, parameters
from worker.ledger.round_trips import COMMIT, rows_of
from worker.ledger.row_sql import (
    Beside,
    IsKey,
    OnConflict,
    Slotted,
    built_sql,
    checked_sql,
    execute_sql,
    insert_sql,
    joined_sql,
    key_types,
    kind_of,
    prepare_sql,
    select_sql,
    source_sql,
    source_types,
    update_sql,
)


class Keys(NamedTuple):
    """Keys of rows, and the slots that they may lie in; none for a table that has no slots."""

    values: Collection[Any]
    slots: Sequence[int] = ()

    @property
    def slotted(self) -> Slotted:
        """Return which slots the keys are in."""
        return slotted(self.slots)

    @property
    def parameters(self) -> list[str]:
        """Return slots and values as the parameters of ``select_sql``."""
        match self.slotted:
            case "one":
                return [str(self.slots[0]), array(self.values)]
            case "each":
                return [array(set(self.slots)), array(self.values)]
            case "none":
                return [array(self.values)]


def slotted(slots: Sequence[int]) -> Slotted:
    """Return how a statement names the slots of its rows, by the slots of its keys."""
    if not slots:
        return "none"
    return "one" if slots.count(slots[0]) == len(slots) else "each"


def select_rows(
    connection: Connection,
    table: Table,
    names: tuple[str, ...],
    key: str,
    keys: Keys,
    *,
    also: tuple[str, Collection[Any]] | None = None,
    only: tuple[str, str | bool] | None = None,
    order_by: tuple[str, ...] = (),
    for_update: bool = False,
) -> Sequence[Row[Any]]:
    """Return the columns ``names`` of the rows whose ``key``, and slot, are among ``keys``.

    ``also`` names a second column and its values. ``only`` leaves those whose column of that name has that
    value, a constant.

    ``for_update`` locks them in their order; SQLite has the write lock already and leaves it out.
    """
    if not keys.values:
        return []
    if connection.dialect.name == "postgresql":
        second = also and also[0]
        sql = select_sql(
            table, names, key, second, only, order_by, slotted=keys.slotted, for_update=for_update
        )
        types = key_types(table, key, second, keys.slotted)
        parameters_ = keys.parameters if also is None else [*keys.parameters, array(also[1])]
        verb = "lock" if for_update else "select"
        return _executed(connection, PreparedStatement(sql, f"{verb}_{table.name}", types, parameters_))
    statement = select(*(table.c[name] for name in names)).where(_is_among(table.c[key], keys))
    if also is not None:
        statement = statement.where(table.c[also[0]].in_(also[1]))
    if only is not None:
        statement = statement.where(table.c[only[0]] if only[1] is True else table.c[only[0]] == only[1])
    return connection.execute(statement.order_by(*(table.c[name] for name in order_by))).all()


def select_by(
    connection: Connection, build: Callable[[IsKey], Select[Any]], keys: Keys
) -> Sequence[Row[Any]]:
    """Return what ``build`` selects of the rows that ``keys`` name.

    The statement depends on nothing else: it is built and prepared once.
    """
    if not keys.values:
        return []
    if connection.dialect.name == "postgresql":
        label = f"select_{build.__name__.strip('_')}"
        sql, types = built_sql(build, keys.slotted)
        return _executed(connection, PreparedStatement(sql, label, types, keys.parameters))
    return connection.execute(build(lambda column: _is_among(column, keys))).all()


def _is_among(column: Column[Any], keys: Keys) -> ColumnElement[bool]:
    """Return SQLite's condition: rows are found by the key, and the slot is looked at then."""
    is_key = column.in_(keys.values)
    return and_(is_key, (column.table.c.slot + 0).in_(set(keys.slots))) if keys.slots else is_key


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
    """New values for the rows that slot and ``key`` name, where each guarded column has its expected value.

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
    if connection.dialect.name != "postgresql":
        return [_written_on_sqlite(connection, write) for write in writes]
    parts, types, texts = _joined(connection, writes)
    (row,) = _executed(connection, PreparedStatement(joined_sql(*parts), _label_of(writes), types, texts))
    return list(row)


def write_all_and_commit(connection: Connection, writes: Sequence[RowWrite]) -> None:
    """Carry out ``writes`` and commit, in one round trip; see ``commits_with_last``.

    The statement itself looks how many rows each has written: where one has not written all of its rows, it
    fails as contention, and nothing is committed.
    """
    parts, types, texts = _joined(connection, writes)
    sql = checked_sql(*parts, expected=len(texts) + 1)
    texts.append(array([length_of(write.columns) for write in writes]))
    _executed(
        connection, PreparedStatement(sql, _label_of(writes), [*types, "bigint[]"], texts), behind=COMMIT
    )


def _label_of(writes: Sequence[RowWrite]) -> str:
    return f"write_{writes[0].table.name if len(writes) == 1 else 'batch'}"


def _joined(connection: Connection, writes: Sequence[RowWrite]) -> tuple[list[str], list[str], list[str]]:
    """Return the text of each write, and the types and texts of the parameters of all."""
    slots = [slot for write in writes for slot in write.columns.get("slot", ())]
    of_slot = slotted(slots)
    texts, types = ([str(slots[0])], ["smallint"]) if of_slot == "one" else ([], [])
    parts = []
    for write in writes:
        source = _add_source(connection, write, texts, types)
        # A table beside the ledger has no slots.
        parts.append(_write_sql(write, source, of_slot if "slot" in write.columns else "none"))
    return parts, types, texts


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
        types: list[str] = []
        source = _add_source(connection, new, texts, types)
        sql = insert_sql(new.table, tuple(new.columns), new.on_conflict, source, returning)
        return _executed(connection, PreparedStatement(sql, f"insert_{new.table.name}", types, texts))
    statement = _sqlite_insert(new.table, tuple(new.columns), new.on_conflict)
    wanted = statement.returning(*(new.table.c[name] for name in returning)) if returning else statement
    result = connection.execute(wanted, by_row(new.columns))
    return result.all() if returning else []


def update_rows(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, key: tuple[str, ...]
) -> int:
    """Update the ``rows``, which all have the same keys, where the ``key`` matches; return how many did."""
    return write_all(connection, [RowUpdate(table, by_column(rows), key)])[0] if rows else 0


class PreparedStatement(NamedTuple):
    """Statement with its parameters, as texts, and their types.

    The server parses it once a connection and plans it seldom. Its name there begins with ``label``, which
    the server's activity view shows.
    """

    sql: str
    label: str
    types: Sequence[str]
    texts: Sequence[str]


def locking(table: Table, key: str, keys: Keys) -> PreparedStatement:
    """Return the statement that locks the rows that ``keys`` name by ``key``, in its order."""
    sql = select_sql(table, (key,), key, order_by=(key,), slotted=keys.slotted, for_update=True)
    return PreparedStatement(
        sql, f"lock_{table.name}", key_types(table, key, None, keys.slotted), keys.parameters
    )


def executed_together(connection: Connection, *statements: PreparedStatement) -> Sequence[Any]:
    """Execute statements in one round trip, on a connection of batches; return the rows of the last one."""
    text = "; ".join([_execution(connection, statement) for statement in statements])
    texts = tuple(chain.from_iterable(statement.texts for statement in statements))
    return rows_of(connection, connection.exec_driver_sql(text, texts))


def _executed(
    connection: Connection, statement: PreparedStatement, *, behind: str = ""
) -> Sequence[Row[Any]]:
    """Execute ``statement``; the text ``behind`` it is sent along."""
    text = _execution(connection, statement) + behind
    return rows_of(connection, connection.exec_driver_sql(text, tuple(statement.texts)))


def _execution(connection: Connection, statement: PreparedStatement) -> str:
    """Return the text that executes ``statement``, which is prepared where this connection hasn't yet."""
    prepared: dict[str, str] = connection.info.setdefault("prepared", {})
    name = prepared.get(statement.sql)
    if name is None:
        name = f"{statement.label}_{len(prepared)}"
        connection.exec_driver_sql(prepare_sql(name, statement.sql, statement.types))
        prepared[statement.sql] = name
    return execute_sql(name, len(statement.texts))


def among(connection: Connection, column: Column[Any], values: Iterable[Any]) -> ColumnElement[bool]:
    """Return the condition that ``column`` is one of ``values``, on PostgreSQL one array."""
    if connection.dialect.name == "postgresql":
        return column == any_(bindparam(None, list(values), type_=ARRAY(column.type)))
    return column.in_(list(values))


def _add_source(connection: Connection, write: RowWrite, texts: list[str], types: list[str]) -> str:
    """Return the source of the rows of ``write``, as ``r``; add its parameters and their types."""
    beside: Beside = ()
    if isinstance(write, RowUpdate):
        beside = tuple((parameter, kind_of(write.table, column)) for column, parameter in write.guard)
    order = columns_of(connection, write.table)
    source = source_sql(order, beside, len(texts) + 1)
    texts += parameters(write.table, order, write.columns, beside)
    types += source_types(write.table, beside)
    return source


def _write_sql(write: RowWrite, source: str, of_slot: Slotted) -> str:
    match write:
        case RowInsert(table, columns, on_conflict):
            return insert_sql(table, tuple(columns), on_conflict, source)
        case RowUpdate(table, columns, key, guard):
            return update_sql(table, tuple(columns), key, guard, source, of_slot)
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
            key = ("slot", *key) if "slot" in columns else key
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
