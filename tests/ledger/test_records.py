"""Rows as arrays of row types: they are read as written, whatever is in them, in any order."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Date,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

from tests.support.strategies import examples
from worker.errors import LedgerUnavailableError
from worker.ledger.bulk import RowInsert, RowUpdate, insert_rows, update_rows, write_all
from worker.ledger.engine import translated_errors
from worker.ledger.records import Columns, columns_of, parameters
from worker.ledger.row_sql import source_sql
from worker.ledger.tables import JsonObject, UtcDateTime

KINDS = Table(
    "kinds",
    MetaData(),
    Column("key", BigInteger, primary_key=True),
    Column("words", Text),
    Column("code", String(9)),
    Column("amount", BigInteger),
    Column("is_open", Boolean),
    Column("day", Date),
    Column("moment", UtcDateTime),
    Column("detail", JsonObject),
    Column("small", Integer),
)

_words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
_hostile = st.sampled_from(
    ["", '"', "\\", '\\"', "a,b", "(x)", "{y}", "NULL", "null", "%s", "\n", " ", "'", "\\\\"]
)
_detail = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | _words | _hostile, st.lists, max_leaves=5
)
_rows = st.fixed_dictionaries(
    {
        "words": st.none() | _words | _hostile,
        "code": st.none() | st.text("ab\"\\,(){}'", max_size=9),
        "amount": st.none() | st.integers(-(2**63), 2**63 - 1),
        "is_open": st.none() | st.booleans(),
        "day": st.none() | st.dates(),
        "moment": st.none() | st.datetimes(timezones=st.just(UTC)),
        "detail": st.none() | st.dictionaries(_words | _hostile, _detail, max_size=3),
    }
)


@pytest.fixture
def connection(postgres_engine: Engine) -> Iterator[Connection]:
    """Connection inside one transaction, with the table in an order of columns of its own."""
    with postgres_engine.begin() as connection:
        connection.execute(text("CREATE TABLE kinds (gone int, day date, detail jsonb, words text)"))
        connection.execute(
            text(
                "ALTER TABLE kinds DROP gone, ADD moment timestamptz, ADD is_open boolean, "
                "ADD amount bigint, ADD code varchar(9), ADD key bigint PRIMARY KEY, ADD small int"
            )
        )
        yield connection
        connection.rollback()


@settings(examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(_rows, min_size=1, max_size=6))
def test_rows_are_read_as_written(connection: Connection, rows: list[dict[str, Any]]) -> None:
    connection.execute(text("DELETE FROM kinds"))
    numbered = [{"key": number, **row} for number, row in enumerate(rows)]
    written = insert_rows(connection, KINDS, numbered, returning=tuple(numbered[0]))
    assert [dict(row._mapping) for row in written] == numbered
    changed = [{**row, "small": 7} for row in numbered]
    assert update_rows(connection, KINDS, changed, key=("key",)) == len(rows)
    read = connection.execute(KINDS.select().order_by(KINDS.c.key)).mappings()
    assert [dict(row) for row in read] == changed


def test_several_writes_say_how_many_rows_each_has_written(connection: Connection) -> None:
    insert_rows(connection, KINDS, [{"key": key, "words": "old", "amount": key} for key in range(4)])
    written = write_all(
        connection,
        [
            RowInsert(KINDS, {"key": [7, 8], "words": ["new", None]}),
            RowUpdate(KINDS, {"key": [0, 1, 9], "words": ["first", "second", "none"]}, ("key",)),
            RowInsert(KINDS, {"key": [], "words": []}),
            RowUpdate(
                KINDS,
                {"key": [2, 3], "words": ["third", "late"], "expected": [2, 4]},
                ("key",),
                (("amount", "expected"),),
            ),
            RowInsert(KINDS, {"key": [4], "words": ["again"]}, on_conflict="update"),
        ],
    )
    assert written == [2, 2, 0, 1, 1]
    read = connection.execute(KINDS.select().order_by(KINDS.c.key))
    assert {row.key: row.words for row in read} == {
        0: "first",
        1: "second",
        2: "third",
        3: "old",
        4: "again",
        7: "new",
        8: None,
    }


def test_rows_have_the_order_that_the_table_has_there(connection: Connection) -> None:
    columns = columns_of(connection, KINDS)
    assert columns[0] == "day"
    assert "gone" not in columns
    assert source_sql(columns, (("expected", "BIGINT"),), 3) == (
        f"unnest($3, $4) AS r({', '.join(columns)}, expected)"
    )
    given_columns: Columns = {
        "key": [1, 2],
        "words": ['say "a\\b"', "x"],
        "expected": [4, 5],
        "day": [None, None],
    }
    assert parameters(KINDS, columns, given_columns, (("expected", "BIGINT"),)) == [
        '{"(,,\\"say \\\\\\"a\\\\\\\\b\\\\\\"\\",,,,,1,)","(,,\\"x\\",,,,,2,)"}',
        "{4,5}",
    ]


def test_value_of_many_thousand_characters_is_written(connection: Connection) -> None:
    long = '\\"' * 50_000
    (row,) = insert_rows(connection, KINDS, [{"key": 1, "words": long}], returning=("words",))
    assert row.words == long


def test_a_column_that_a_migration_adds_meanwhile_ends_the_session(postgres_engine: Engine) -> None:
    row = {"key": 1, "moment": datetime(2026, 11, 23, tzinfo=UTC)}

    def write() -> None:
        with translated_errors(), postgres_engine.begin() as connection:
            insert_rows(connection, KINDS, [row])
            connection.execute(text("DELETE FROM kinds"))

    def change(statement: str) -> None:
        with postgres_engine.begin() as connection:
            connection.execute(text(statement))

    change("CREATE TABLE kinds (key bigint PRIMARY KEY, moment timestamptz)")
    try:
        write()
        change("ALTER TABLE kinds ADD day date")
        with pytest.raises(LedgerUnavailableError):
            write()
        write()
    finally:
        change("DROP TABLE kinds")
