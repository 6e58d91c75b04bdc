"""SQL text for rows on PostgreSQL, the one place where it is written by hand.

Names come from the tables and are quoted where PostgreSQL asks for it. Values are parameters of their own
types, as arrays (see ``records``), never text; the constants of a condition are the exception, and are quoted
as literals. A text depends on tables and names alone: it is made once, and the same for any number of rows.

Each names the slot: as a parameter (``$1``) where all rows are of one, so that PostgreSQL looks at one
partition; with each key where they are of several.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import Column, Select, Table, and_, literal_column
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql import ColumnElement, any_

#: Result of an insert where a row conflicts with a unique key: an error, nothing, or new values.
OnConflict = Literal["fail", "nothing", "update"]
#: Names and types of the values that rows have beside the columns of their table.
Beside = tuple[tuple[str, str], ...]
#: Makes the condition that a column is one of the keys that are asked for, in their slots.
IsKey = Callable[[Column[Any]], ColumnElement[bool]]

#: Slots of the keys of a statement: one, several, or none in a table without slots.
Slotted = Literal["one", "each", "none"]

_SLOT = "smallint"

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def quoted_name(name: str) -> str:
    """Return the name of a table or a column as it stands in SQL."""
    return _DIALECT.identifier_preparer.quote(name)


def quoted_text(text: str) -> str:
    """Return a constant text as a literal."""
    escaped = text.replace("'", "''")
    return f"'{escaped}'"


def _listed(names: tuple[str, ...], row: str = "") -> str:
    return ", ".join(f"{row}{quoted_name(name)}" for name in names)


@lru_cache(maxsize=64)
def kind_of(table: Table, column: str) -> str:
    """Return the name of a column's type."""
    return table.c[column].type.compile(_DIALECT)


# -- reads ------------------------------------------------------------------------------------------------


def columns_sql(table: Table) -> str:
    """Return a SELECT of the names of the columns in the order of the row type."""
    name = quoted_text(quoted_name(table.name))
    return (
        f"SELECT attname FROM pg_attribute WHERE attrelid = {name}::regclass"  # noqa: S608 - from the tables
        " AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )


@lru_cache(maxsize=128)
def select_sql(
    table: Table,
    names: tuple[str, ...],
    key: str,
    also: str | None = None,
    only: tuple[str, str | bool] | None = None,
    order_by: tuple[str, ...] = (),
    *,
    slotted: Slotted,
    for_update: bool = False,
) -> str:
    """Return a SELECT of the rows whose ``key``, and slot, are among the parameters.

    These are the slot, or an array of slots, and the array of the keys. A row's ``also`` is in another array
    behind them.
    """
    source, is_key = _keyed(table, key, slotted)
    sql = f"SELECT {_listed(names, 't.')} FROM {source} WHERE {is_key}"  # noqa: S608 - names from the tables
    if also is not None:
        sql += f" AND t.{quoted_name(also)} = ANY(${2 if slotted == 'none' else 3})"
    if only is not None:
        sql += f" AND {_is_constant(only)}"
    if order_by:
        sql += f" ORDER BY {_listed(order_by, 't.')}"
    return f"{sql} FOR UPDATE OF t" if for_update else sql


def _keyed(table: Table, key: str, slotted: Slotted) -> tuple[str, str]:
    """Return the text behind FROM, and the condition that a row has one of the keys."""
    name, column = f"{quoted_name(table.name)} AS t", f"t.{quoted_name(key)}"
    match slotted:
        case "one":
            return name, f"t.slot = $1 AND {column} = ANY($2)"
        case "each":
            # Rows are found by the key, and the slot is looked at then: not each key in every slot.
            return name, f"t.slot + 0 = ANY($1) AND {column} = ANY($2)"
        case "none":
            return name, f"{column} = ANY($1)"


@lru_cache(maxsize=8)
def first_reads_sql(
    accounts: Table,
    of_account: tuple[str, ...],
    lots: Table,
    of_lot: tuple[str, ...],
    operations: Table,
    of_operation: tuple[str, ...],
    slotted: Slotted,
) -> str:
    """Return a SELECT of accounts, of their open lots, and of operations, in rows that have all columns.

    The columns of the other two are NULL; lots are in the order of their numbers. Parameters are those of
    ``select_sql`` for the accounts' users, and the array of the references.
    """
    source, is_user = _keyed(accounts, "user_id", slotted)
    # An array and no join: a plan for a join, made while there are few lots, would later read all of them.
    last = len(_SLOT_TYPES[slotted])
    ids = f"ARRAY(SELECT t.account_id FROM {source} WHERE {is_user})"  # noqa: S608 - names from the tables
    own, is_own = _keyed(lots, "account_id", slotted)
    judged, is_reference = _keyed(operations, "reference_id", "none")
    columns = ((accounts, of_account), (lots, of_lot), (operations, of_operation))
    parts = (
        (accounts, source, is_user),
        (lots, own, f"{is_own.replace(f'${last + 1}', ids)} AND t.is_open"),
        (operations, judged, is_reference.replace("$1", f"${last + 2}")),
    )
    selects = []
    for table, rows, which in parts:
        listed = (_listed(names, "t.") if each is table else _nulls(each, names) for each, names in columns)
        selects.append(f"SELECT {', '.join(listed)} FROM {rows} WHERE {which}")  # noqa: S608 - names from the tables
    return f"{' UNION ALL '.join(selects)} ORDER BY {len(of_account) + 2}"


def _nulls(table: Table, names: tuple[str, ...]) -> str:
    return ", ".join(f"NULL::{kind_of(table, name)}" for name in names)


def first_reads_types(accounts: Table, operations: Table, slotted: Slotted) -> tuple[str, ...]:
    """Return the types of the parameters of ``first_reads_sql``."""
    return *key_types(accounts, "user_id", None, slotted), f"{kind_of(operations, 'reference_id')}[]"


_SLOT_TYPES: Mapping[Slotted, tuple[str, ...]] = {"one": (_SLOT,), "each": (f"{_SLOT}[]",), "none": ()}


def key_types(table: Table, key: str, also: str | None, slotted: Slotted) -> tuple[str, ...]:
    """Return the types of the parameters of ``select_sql``."""
    arrays = (f"{kind_of(table, name)}[]" for name in (key, also) if name is not None)
    return *_SLOT_TYPES[slotted], *arrays


def _is_constant(only: tuple[str, str | bool]) -> str:
    name, value = f"t.{quoted_name(only[0])}", only[1]
    if isinstance(value, str):
        return f"{name} = {quoted_text(value)}"
    return name if value else f"NOT {name}"


@lru_cache(maxsize=128)
def built_sql(build: Callable[[IsKey], Select[Any]], slotted: Slotted) -> tuple[str, tuple[str, ...]]:
    """Return the text of the SELECT that ``build`` makes, and the types of its parameters.

    They are those of ``select_sql``; the tables have slots.
    """
    types: list[tuple[str, ...]] = []

    def is_key(column: Column[Any]) -> ColumnElement[bool]:
        types.append(key_types(column.table, column.name, None, slotted))
        slot = column.table.c.slot
        first: ColumnElement[Any] = literal_column("$1")
        is_in_slot = slot == first if slotted == "one" else slot + 0 == any_(first)
        return and_(is_in_slot, column == any_(literal_column("$2")))

    text = str(build(is_key).compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))
    return text, types[0]


# -- writes -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def source_sql(columns: tuple[str, ...], beside: Beside = (), place: int = 1) -> str:
    """Return the text behind FROM: the rows that the parameters from ``$place`` on hold, as ``r``."""
    arrays = ", ".join(f"${number}" for number in range(place, place + 1 + len(beside)))
    return f"unnest({arrays}) AS r({_listed((*columns, *(name for name, _ in beside)))})"


def source_types(table: Table, beside: Beside = ()) -> tuple[str, ...]:
    """Return the types of the parameters of ``source_sql``."""
    return f"{quoted_name(table.name)}[]", *(f"{kind}[]" for _, kind in beside)


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
    slotted: Slotted,
) -> str:
    """Return an UPDATE of the rows that slot and ``key`` name, where guarded columns have expected values.

    Where all are in one slot, it is ``$1``.
    """
    fixed = {"slot", *key, *(parameter for _, parameter in guard)}
    changed = map(quoted_name, (name for name in names if name not in fixed))
    sets = ", ".join(f"{name} = r.{name}" for name in changed)
    of_slot = () if slotted == "none" else (("slot", "slot"),)
    pairs = (*of_slot, *((name, name) for name in key), *guard)
    where = " AND ".join(f"t.{quoted_name(column)} = r.{quoted_name(value)}" for column, value in pairs)
    if slotted == "one":
        where += " AND t.slot = $1"
    return f"UPDATE {quoted_name(table.name)} AS t SET {sets} FROM {source} WHERE {where}"  # noqa: S608 - names from the tables


@lru_cache(maxsize=512)
def joined_sql(*writes: str) -> str:
    """Return one statement of several writes, whose row counts how many rows each has written."""
    writing = ", ".join(f"w{number} AS ({write} RETURNING 1)" for number, write in enumerate(writes))
    return f"WITH {writing} SELECT {_counts(writes)}"


def _counts(writes: Sequence[str]) -> str:
    return ", ".join(f"(SELECT count(*) FROM w{number})" for number in range(len(writes)))  # noqa: S608 - numbers


@lru_cache(maxsize=512)
def checked_sql(*writes: str, expected: int) -> str:
    """Return one statement of several writes that divides by zero where they have not written so many rows.

    The numbers of rows are the array that is the parameter ``expected``.
    """
    writing = ", ".join(f"w{number} AS ({write} RETURNING 1)" for number, write in enumerate(writes))
    return f"WITH {writing} SELECT 1 / (ARRAY[{_counts(writes)}] = ${expected})::integer"


# -- prepared statements ----------------------------------------------------------------------------------


def prepare_sql(name: str, sql: str, types: Sequence[str]) -> str:
    """Return the text that prepares ``sql`` under ``name``, with the types of its parameters."""
    return f"PREPARE {name}({', '.join(types)}) AS {sql}"


def execute_sql(name: str, parameters: int) -> str:
    """Return the text that executes a prepared statement, with a place for each parameter."""
    places = ", ".join(["%s"] * parameters)
    return f"EXECUTE {name}({places})"
