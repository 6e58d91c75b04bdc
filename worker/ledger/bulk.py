"""Many rows in one statement.

On PostgreSQL rows travel as one JSON parameter that ``json_to_recordset`` turns into a table, and keys as one
array literal: the statement is the same text for any number of them, prepared once a connection, and neither
side builds thousands of parameters. On SQLite SQLAlchemy builds the statements; rows are an ``executemany``.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic_core import to_json
from sqlalchemy import Column, Connection, CursorResult, Row, Table, Text, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql import ColumnElement, any_
from sqlalchemy.types import TypeEngine

from worker.ledger.tables import accounts, entries, lots, operations

Rows = Sequence[Mapping[str, Any]]
OnConflict = Literal["fail", "nothing", "update"]

_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]


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
        parameters = [_array(values)] if also is None else [_array(values), _array(also[1])]
        return _executed(connection, sql, table, *parameters).all()
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
        sql = _insert_sql(table, names, on_conflict, returning)
        result = _executed(connection, sql, table, _dumped(rows))
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
        sql = _update_sql(table, names, key, guards)
        return _executed(connection, sql, table, _dumped(rows)).rowcount
    fixed = {*key, *(parameter for _, parameter in guards)}
    statement = (
        update(table)
        .where(*(table.c[name] == bindparam(f"k_{name}") for name in key))
        .where(*(table.c[column] == bindparam(f"k_{parameter}") for column, parameter in guards))
        .values({name: bindparam(f"v_{name}") for name in names if name not in fixed})
    )
    parameters = [
        {(f"k_{name}" if name in fixed else f"v_{name}"): row[name] for name in names} for row in rows
    ]
    return connection.execute(statement, parameters).rowcount


def write_uses(
    connection: Connection, claims: Rows, moves: Rows, uses: Rows, booked: Rows
) -> Sequence[Row[Any]]:
    """Few deductions in one statement, for a batch that is too small to spread round trips over it.

    ``claims`` are rows of operations, ``moves`` of accounts with their ``expected_sequence``, ``uses`` of
    lots, ``booked`` of entries with the ``reference_id`` of their operation; none of them empty. Returns a
    row for each operation that was claimed, with how many of all other rows were written. PostgreSQL only.
    """
    parts = {"claims": claims, "moves": moves, "uses": uses, "booked": booked}
    sql = _uses_sql(*(tuple(rows[0]) for rows in parts.values()))
    return _executed(connection, sql, operations, to_json(parts).decode()).all()


def _executed(connection: Connection, sql: str, table: Table, *parameters: str) -> CursorResult[Any]:
    """``sql`` with its parameters ``$1`` …; the server parses it once a connection, and plans it seldom.

    Its name there says what it does: that is what a look at the server's activity shows.
    """
    prepared: dict[str, str] = connection.info.setdefault("prepared", {})
    name = prepared.get(sql)
    if name is None:
        verb = "lock" if sql.endswith("FOR UPDATE") else sql.partition(" ")[0].lower()
        name = f"{'use' if verb == 'with' else verb}_{table.name}_{len(prepared)}"
        kinds = ", ".join(["text"] * len(parameters))
        connection.exec_driver_sql(f"PREPARE {name}({kinds}) AS {sql}")
        prepared[sql] = name
    places = ", ".join(["%s"] * len(parameters))
    return connection.exec_driver_sql(f"EXECUTE {name}({places})", parameters)


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
    return f"{column} = ANY(CAST(${place} AS {table.c[column].type.compile(_POSTGRESQL)}[]))"


def _array(values: Collection[Any]) -> str:
    """The text of an array of numbers, days or strings, which PostgreSQL reads faster than a list of them."""
    return "{" + ",".join(_quoted(value) if isinstance(value, str) else str(value) for value in values) + "}"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_ALL = "CAST($1 AS json)"


@lru_cache(maxsize=64)
def _insert_sql(
    table: Table,
    names: tuple[str, ...],
    on_conflict: OnConflict,
    returning: tuple[str, ...],
    source: str = _ALL,
) -> str:
    columns = ", ".join(names)
    sql = f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM {_recordset(table, names, source)}"  # noqa: S608 - names from the tables
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
    source: str = _ALL,
) -> str:
    expected = {parameter: column for column, parameter in guards}
    sets = ", ".join(f"{name} = r.{name}" for name in names if name not in key and name not in expected)
    where = " AND ".join(
        [f"t.{name} = r.{name}" for name in key]
        + [f"t.{column} = r.{parameter}" for column, parameter in guards]
    )
    return (
        f"UPDATE {table.name} AS t SET {sets} FROM {_recordset(table, names, source, expected)} WHERE {where}"  # noqa: S608 - names from the tables
    )


@lru_cache(maxsize=64)
def _uses_sql(
    claims: tuple[str, ...], moves: tuple[str, ...], uses: tuple[str, ...], booked: tuple[str, ...]
) -> str:
    """Claims and entries meet by reference in a nested loop: that is for few."""
    names = [name for name in booked if name != "reference_id"]
    of_operation = {"reference_id": Text()}
    claiming = _insert_sql(
        operations, claims, "nothing", ("reference_id", "operation_id"), f"{_ALL}->'claims'"
    )
    moving = _update_sql(
        accounts, moves, ("account_id",), (("sequence", "expected_sequence"),), f"{_ALL}->'moves'"
    )
    using = _update_sql(lots, uses, ("account_id", "number"), (), f"{_ALL}->'uses'")
    booking = (
        f"INSERT INTO entries ({', '.join(names)}, operation_id) SELECT {', '.join(names)}, operation_id "  # noqa: S608 - names from the tables
        f"FROM {_recordset(entries, booked, f'{_ALL}->{chr(39)}booked{chr(39)}', others=of_operation)} "
        "JOIN claimed USING (reference_id)"
    )
    return (
        f"WITH claimed AS ({claiming}), moved AS ({moving} RETURNING 1), "  # noqa: S608 - made above
        f"used AS ({using} RETURNING 1), booked AS ({booking} RETURNING 1) "
        "SELECT reference_id, operation_id, (SELECT count(*) FROM moved) AS moved, "
        "(SELECT count(*) FROM used) AS used, (SELECT count(*) FROM booked) AS booked FROM claimed"
    )


def _recordset(
    table: Table,
    names: tuple[str, ...],
    source: str,
    aliases: Mapping[str, str] | None = None,
    others: Mapping[str, TypeEngine[Any]] | None = None,
) -> str:
    """The rows of ``source``: columns of ``table``, some under ``aliases``, and ``others``."""
    own = (name for name in names if name not in (others or {}))
    kinds = {name: table.c[(aliases or {}).get(name, name)].type for name in own} | dict(others or {})
    columns = (f"{name} {kind.compile(_POSTGRESQL)}" for name, kind in kinds.items())
    return f"json_to_recordset({source}) AS r({', '.join(columns)})"


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


def _dumped(rows: Rows) -> str:
    return to_json(rows).decode()
