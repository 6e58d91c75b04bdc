"""SQL text for rows: names are quoted where it must be, values are parameters, constants are literals."""

from typing import Any

import pytest
from sqlalchemy import BigInteger, Boolean, Column, MetaData, Select, String, Table, select

from worker.ledger.row_sql import (
    IsKey,
    built_sql,
    columns_sql,
    execute_sql,
    insert_sql,
    joined_sql,
    prepare_sql,
    quoted_name,
    quoted_text,
    select_sql,
    source_sql,
    update_sql,
)

ROOMS = Table(
    "rooms",
    MetaData(),
    Column("key", BigInteger, primary_key=True),
    Column("user", String(9)),
    Column("is_open", Boolean),
)
SOURCE = "new_rooms AS r"


@pytest.mark.parametrize(
    ("name", "quoted"),
    [("key", "key"), ("user", '"user"'), ("Room", '"Room"'), ('a"b', '"a""b"'), ("two words", '"two words"')],
)
def test_name_is_quoted_where_sql_asks_for_it(name: str, quoted: str) -> None:
    assert quoted_name(name) == quoted


@pytest.mark.parametrize(("text", "literal"), [("open", "'open'"), ("", "''"), ("it's", "'it''s'")])
def test_constant_is_a_literal(text: str, literal: str) -> None:
    assert quoted_text(text) == literal


def test_select_asks_for_keys_by_one_array() -> None:
    assert select_sql(ROOMS, ("key", "user"), "key") == (
        'SELECT key, "user" FROM rooms WHERE key = ANY(CAST($1 AS BIGINT[]))'
    )


def test_select_has_each_condition_that_is_asked_for() -> None:
    sql = select_sql(ROOMS, ("key",), "key", "user", ("is_open", False), ("user", "key"), for_update=True)
    assert sql == (
        "SELECT key FROM rooms WHERE key = ANY(CAST($1 AS BIGINT[]))"
        ' AND "user" = ANY(CAST($2 AS VARCHAR(9)[])) AND NOT is_open ORDER BY "user", key FOR UPDATE'
    )
    assert select_sql(ROOMS, ("key",), "key", only=("is_open", True)).endswith(" AND is_open")
    assert select_sql(ROOMS, ("key",), "key", only=("user", "o'b")).endswith(" AND \"user\" = 'o''b'")


def test_built_select_has_its_constants_in_the_text() -> None:
    def _open_rooms(is_key: IsKey) -> Select[Any]:
        return select(ROOMS.c.user).where(is_key(ROOMS.c.key), ROOMS.c.user != "o'b")

    sql = " ".join(built_sql(_open_rooms).split())
    assert sql == (
        'SELECT rooms."user" FROM rooms'
        " WHERE rooms.key = ANY (CAST($1 AS BIGINT[])) AND rooms.\"user\" != 'o''b'"
    )


def test_source_has_an_array_of_the_row_type_and_one_for_each_value_beside() -> None:
    assert source_sql(ROOMS, ("user", "key"), (("expected", "BIGINT"),), 3) == (
        'unnest(CAST($3 AS rooms[]), CAST($4 AS BIGINT[])) AS r("user", key, expected)'
    )


def test_insert_leaves_conflicts_to_the_caller() -> None:
    plain = 'INSERT INTO rooms (key, "user") SELECT key, "user" FROM new_rooms AS r'
    assert insert_sql(ROOMS, ("key", "user"), "fail", SOURCE) == plain
    assert insert_sql(ROOMS, ("key", "user"), "nothing", SOURCE, ("user",)) == (
        f'{plain} ON CONFLICT DO NOTHING RETURNING "user"'
    )
    assert insert_sql(ROOMS, ("key", "user"), "update", SOURCE) == (
        f'{plain} ON CONFLICT (key) DO UPDATE SET "user" = excluded."user"'
    )


def test_update_changes_neither_key_nor_guard() -> None:
    names = ("key", "user", "is_open", "expected")
    assert update_sql(ROOMS, names, ("key",), (("is_open", "expected"),), SOURCE) == (
        'UPDATE rooms AS t SET "user" = r."user", is_open = r.is_open FROM new_rooms AS r'
        " WHERE t.key = r.key AND t.is_open = r.expected"
    )


def test_joined_writes_count_their_rows() -> None:
    assert joined_sql("A", "B") == (
        "WITH w0 AS (A RETURNING 1), w1 AS (B RETURNING 1)"
        " SELECT (SELECT count(*) FROM w0), (SELECT count(*) FROM w1)"
    )


def test_prepared_statement_takes_texts() -> None:
    assert prepare_sql("select_1", "SELECT $1, $2", 2) == "PREPARE select_1(text, text) AS SELECT $1, $2"
    assert execute_sql("select_1", 2) == "EXECUTE select_1(%s, %s)"
    assert columns_sql(ROOMS) == "SELECT * FROM rooms LIMIT 0"
