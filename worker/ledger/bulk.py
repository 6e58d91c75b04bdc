"""Many rows in one statement.

On PostgreSQL rows travel as an array of their table's row type (see ``records``), and keys as one array: the
statement is the same text for any number of them, prepared once a connection, and neither side builds
thousands of parameters. On SQLite SQLAlchemy builds the statements; rows are an ``executemany``.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import Column, Connection, CursorResult, Row, Table, bindparam, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql import ColumnElement, any_

from worker.ledger.records import Beside, Rows, array, columns_of, kind_of, parameters, unnested
from worker.ledger.tables import accounts, entries, lots, operations

OnConflict = Literal["fail", "nothing", "update"]


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
    """The columns ``names`` of the rows whose ``key`` is one of ``values``.

    ``also`` names a second column and its values. ``only`` leaves those whose column of that name has that
    value, a constant.

    ``for_update`` locks them in their order; SQLite has the write lock already and leaves it out.
    """
    if not values:
        return []
    if connection.dialect.name == "postgresql":
        sql = _select_sql(table, names, key, also and also[0], only, order_by, for_update)
        keys = [array(values)] if also is None else [array(values), array(also[1])]
        return _executed(connection, sql, table, keys).all()
    statement = select(*(table.c[name] for name in names)).where(table.c[key].in_(values))
    if also is not None:
        statement = statement.where(table.c[also[0]].in_(also[1]))
    if only is not None:
        statement = statement.where(table.c[only[0]] if only[1] is True else table.c[only[0]] == only[1])
    return connection.execute(statement.order_by(*(table.c[name] for name in order_by))).all()


def insert_rows(
    connection: Connection,
    table: Table,
    rows: Rows,
    *,
    on_conflict: OnConflict = "fail",
    returning: tuple[str, ...] = (),
) -> Sequence[Row[Any]]:
    """Insert ``rows``, which all have the same keys, in their order; the rows written, if asked for.

    ``nothing`` leaves a row out where a unique key stands against it, ``update`` replaces what is not the
    primary key.
    """
    if not rows:
        return []
    names = tuple(rows[0])
    if connection.dialect.name == "postgresql":
        columns = columns_of(connection, table)
        sql = _insert_sql(table, names, on_conflict, returning, unnested(table, columns))
        result = _executed(connection, sql, table, parameters(table, columns, rows))
    else:
        result = connection.execute(_sqlite_insert(table, names, on_conflict, returning), list(rows))
    return result.all() if returning else []


def update_rows(
    connection: Connection,
    table: Table,
    rows: Rows,
    *,
    key: tuple[str, ...],
    guard: Mapping[str, str] | None = None,
) -> int:
    """Set the columns of ``rows`` where the ``key`` matches and each guarded column holds what it must.

    ``guard`` maps a column to the key of ``rows`` with its expected value. Returns how many rows changed.
    """
    if not rows:
        return 0
    guards = tuple((guard or {}).items())
    names = tuple(rows[0])
    if connection.dialect.name == "postgresql":
        columns = columns_of(connection, table)
        expected: Beside = tuple((parameter, kind_of(table, column)) for column, parameter in guards)
        sql = _update_sql(table, names, key, guards, unnested(table, columns, expected))
        return _executed(connection, sql, table, parameters(table, columns, rows, expected)).rowcount
    fixed = {*key, *(parameter for _, parameter in guards)}
    statement = (
        update(table)
        .where(*(table.c[name] == bindparam(f"k_{name}") for name in key))
        .where(*(table.c[column] == bindparam(f"k_{parameter}") for column, parameter in guards))
        .values({name: bindparam(f"v_{name}") for name in names if name not in fixed})
    )
    values = [{(f"k_{name}" if name in fixed else f"v_{name}"): row[name] for name in names} for row in rows]
    return connection.execute(statement, values).rowcount


def write_uses(
    connection: Connection, claims: Rows, moves: Rows, uses: Rows, booked: Rows
) -> Sequence[Row[Any]]:
    """Few deductions in one statement, for a batch that is too small to spread round trips over it.

    ``claims`` are rows of operations, ``moves`` of accounts with their ``expected_sequence``, ``uses`` of
    lots, ``booked`` of entries with the ``reference_id`` of their operation; none of them empty. Returns a
    row for each operation that was claimed, with how many of all other rows were written. PostgreSQL only.
    """
    parts = (
        (operations, claims, ()),
        (accounts, moves, _EXPECTED_SEQUENCE),
        (lots, uses, ()),
        (entries, booked, _OF_REFERENCE),
    )
    texts: list[str] = []
    sources: list[str] = []
    for table, rows, beside in parts:
        columns = columns_of(connection, table)
        sources.append(unnested(table, columns, beside, len(texts) + 1))
        texts += parameters(table, columns, rows, beside)
    names = (tuple(rows[0]) for _, rows, _ in parts)
    return _executed(connection, _uses_sql(*names, *sources), operations, texts).all()


_EXPECTED_SEQUENCE: Beside = (("expected_sequence", kind_of(accounts, "sequence")),)
_OF_REFERENCE: Beside = (("reference_id", kind_of(operations, "reference_id")),)


def _executed(connection: Connection, sql: str, table: Table, texts: Sequence[str]) -> CursorResult[Any]:
    """``sql`` with ``texts`` for its parameters; the server parses it once a connection, and plans it seldom.

    Its name there says what it does: that is what a look at the server's activity shows.
    """
    prepared: dict[str, str] = connection.info.setdefault("prepared", {})
    name = prepared.get(sql)
    if name is None:
        verb = "lock" if sql.endswith("FOR UPDATE") else sql.partition(" ")[0].lower()
        name = f"{'use' if verb == 'with' else verb}_{table.name}_{len(prepared)}"
        kinds = ", ".join(["text"] * len(texts))
        connection.exec_driver_sql(f"PREPARE {name}({kinds}) AS {sql}")
        prepared[sql] = name
    places = ", ".join(["%s"] * len(texts))
    return connection.exec_driver_sql(f"EXECUTE {name}({places})", tuple(texts))


def among(connection: Connection, column: Column[Any], values: Iterable[Any]) -> ColumnElement[bool]:
    """``column`` is one of ``values``: one array parameter on PostgreSQL, so that the text stays the same."""
    if connection.dialect.name == "postgresql":
        return column == any_(bindparam(None, list(values), type_=ARRAY(column.type)))
    return column.in_(list(values))


@lru_cache(maxsize=64)
def _select_sql(
    table: Table,
    names: tuple[str, ...],
    key: str,
    also: str | None,
    only: tuple[str, str | bool] | None,
    order_by: tuple[str, ...],
    for_update: bool,  # noqa: FBT001 - a part of the cache's key
) -> str:
    sql = f"SELECT {', '.join(names)} FROM {table.name} WHERE {_is_any(table, key, 1)}"  # noqa: S608 - names from the tables
    if also is not None:
        sql += f" AND {_is_any(table, also, 2)}"
    if only is not None:
        column, value = only
        kept = f"{column} = '{value}'" if isinstance(value, str) else column if value else f"NOT {column}"
        sql += f" AND {kept}"
    if order_by:
        sql += f" ORDER BY {', '.join(order_by)}"
    return f"{sql} FOR UPDATE" if for_update else sql


def _is_any(table: Table, column: str, place: int) -> str:
    return f"{column} = ANY(CAST(${place} AS {kind_of(table, column)}[]))"


@lru_cache(maxsize=64)
def _insert_sql(
    table: Table,
    names: tuple[str, ...],
    on_conflict: OnConflict,
    returning: tuple[str, ...],
    source: str,
) -> str:
    columns = ", ".join(names)
    sql = f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM {source}"  # noqa: S608 - names from the tables
    match on_conflict:
        case "nothing":
            sql += " ON CONFLICT DO NOTHING"
        case "update":
            keys = [column.name for column in table.primary_key]
            sets = ", ".join(f"{name} = excluded.{name}" for name in names if name not in keys)
            sql += f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sets}"
        case "fail":
            pass
    if returning:
        sql += f" RETURNING {', '.join(returning)}"
    return sql


@lru_cache(maxsize=64)
def _update_sql(
    table: Table,
    names: tuple[str, ...],
    key: tuple[str, ...],
    guards: tuple[tuple[str, str], ...],
    source: str,
) -> str:
    expected = {parameter for _, parameter in guards}
    sets = ", ".join(f"{name} = r.{name}" for name in names if name not in key and name not in expected)
    where = " AND ".join(
        [f"t.{name} = r.{name}" for name in key]
        + [f"t.{column} = r.{parameter}" for column, parameter in guards]
    )
    return f"UPDATE {table.name} AS t SET {sets} FROM {source} WHERE {where}"  # noqa: S608 - names from the tables


@lru_cache(maxsize=64)
def _uses_sql(
    claims: tuple[str, ...],
    moves: tuple[str, ...],
    uses: tuple[str, ...],
    booked: tuple[str, ...],
    *sources: str,
) -> str:
    """Claims and entries meet by reference in a nested loop: that is for few."""
    claimed, moved, used, entered = sources
    names = ", ".join(name for name in booked if name != "reference_id")
    claiming = _insert_sql(operations, claims, "nothing", ("reference_id", "operation_id"), claimed)
    moving = _update_sql(accounts, moves, ("account_id",), (("sequence", "expected_sequence"),), moved)
    using = _update_sql(lots, uses, ("account_id", "number"), (), used)
    return (
        f"WITH claimed AS ({claiming}), moved AS ({moving} RETURNING 1), used AS ({using} RETURNING 1), "  # noqa: S608 - names from the tables
        f"booked AS (INSERT INTO entries ({names}, operation_id) SELECT {names}, claimed.operation_id "
        f"FROM {entered} JOIN claimed USING (reference_id) RETURNING 1) "
        "SELECT reference_id, operation_id, (SELECT count(*) FROM moved) AS moved, "
        "(SELECT count(*) FROM used) AS used, (SELECT count(*) FROM booked) AS booked FROM claimed"
    )


def _sqlite_insert(
    table: Table, names: tuple[str, ...], on_conflict: OnConflict, returning: tuple[str, ...]
) -> Any:
    statement = sqlite.insert(table)
    match on_conflict:
        case "nothing":
            statement = statement.on_conflict_do_nothing()
        case "update":
            keys = [column.name for column in table.primary_key]
            statement = statement.on_conflict_do_update(
                index_elements=keys,
                set_={name: statement.excluded[name] for name in names if name not in keys},
            )
        case "fail":
            pass
    return statement.returning(*(table.c[name] for name in returning)) if returning else statement
