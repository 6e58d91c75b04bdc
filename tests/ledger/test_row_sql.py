"""SQL text for rows: names are quoted where it must be, values are parameters, constants are literals."""

from typing import Any

import pytest
from sqlalchemy import BigInteger, Boolean, Column, MetaData, Select, SmallInteger, String, Table, select

from worker.ledger.row_sql import (
    IsKey,
    Slotted,
    built_sql,
    columns_sql,
    execute_sql,
    insert_sql,
    joined_sql,
    key_types,
    prepare_sql,
    quoted_name,
    quoted_text,
    select_sql,
    source_sql,
    source_types,
    update_sql,
)

ROOMS = Table(
    "rooms",
    MetaData(),
    Column("key", BigInteger, primary_key=True),
    Column("slot", SmallInteger),
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


@pytest.mark.parametrize(
    ("slotted", "source", "condition", "types"),
    [
        ("one", "rooms AS t", "t.slot = $1 AND t.key = ANY($2)", ("smallint", "BIGINT[]")),
        (
            "each",
            "rooms AS t",
            "t.slot + 0 = ANY($1) AND t.key = ANY($2)",
            ("smallint[]", "BIGINT[]"),
        ),
        ("none", "rooms AS t", "t.key = ANY($1)", ("BIGINT[]",)),
    ],
)
def test_select_asks_for_keys_and_their_slots(
    slotted: Slotted, source: str, condition: str, types: tuple[str, ...]
) -> None:
    sql = select_sql(ROOMS, ("key", "user"), "key", slotted=slotted)
    assert sql == f'SELECT t.key, t."user" FROM {source} WHERE {condition}'  # noqa: S608 - an expected text
    assert key_types(ROOMS, "key", None, slotted) == types


def test_select_has_each_condition_that_is_asked_for() -> None:
    sql = select_sql(
        ROOMS, ("key",), "key", "user", ("is_open", False), ("user", "key"), slotted="one", for_update=True
    )
    assert sql == (
        "SELECT t.key FROM rooms AS t WHERE t.slot = $1 AND t.key = ANY($2)"
        ' AND t."user" = ANY($3) AND NOT t.is_open ORDER BY t."user", t.key FOR UPDATE OF t'
    )
    assert key_types(ROOMS, "key", "user", "one") == ("smallint", "BIGINT[]", "VARCHAR(9)[]")
    assert ' AND t."user" = ANY($2)' in select_sql(ROOMS, ("key",), "key", "user", slotted="none")
    is_open = select_sql(ROOMS, ("key",), "key", only=("is_open", True), slotted="one")
    assert is_open.endswith(" AND t.is_open")
    named = select_sql(ROOMS, ("key",), "key", only=("user", "o'b"), slotted="one")
    assert named.endswith(" AND t.\"user\" = 'o''b'")


@pytest.mark.parametrize(
    ("slotted", "source", "condition"),
    [
        ("one", "rooms", "rooms.slot = $1 AND rooms.key = ANY ($2)"),
        (
            "each",
            "rooms",
            "rooms.slot + 0 = ANY ($1) AND rooms.key = ANY ($2)",
        ),
    ],
)
def test_built_select_has_its_constants_in_the_text(slotted: Slotted, source: str, condition: str) -> None:
    def _open_rooms(is_key: IsKey) -> Select[Any]:
        return select(ROOMS.c.user).where(is_key(ROOMS.c.key), ROOMS.c.user != "o'b")

    sql, types = built_sql(_open_rooms, slotted)
    assert " ".join(sql.split()) == (
        f"SELECT rooms.\"user\" FROM {source} WHERE {condition} AND rooms.\"user\" != 'o''b'"  # noqa: S608 - an expected text
    )
    assert types == key_types(ROOMS, "key", None, slotted)


def test_source_has_an_array_of_the_row_type_and_one_for_each_value_beside() -> None:
    beside = (("expected", "BIGINT"),)
    assert source_sql(("user", "key"), beside, 3) == 'unnest($3, $4) AS r("user", key, expected)'
    assert source_types(ROOMS, beside) == ("rooms[]", "BIGINT[]")


def test_insert_leaves_conflicts_to_the_caller() -> None:
    plain = 'INSERT INTO rooms (key, "user") SELECT key, "user" FROM new_rooms AS r'
    assert insert_sql(ROOMS, ("key", "user"), "fail", SOURCE) == plain
    assert insert_sql(ROOMS, ("key", "user"), "nothing", SOURCE, ("user",)) == (
        f'{plain} ON CONFLICT DO NOTHING RETURNING "user"'
    )
    assert insert_sql(ROOMS, ("key", "user"), "update", SOURCE) == (
        f'{plain} ON CONFLICT (key) DO UPDATE SET "user" = excluded."user"'
    )


@pytest.mark.parametrize(
    ("slotted", "of_slot", "and_slot"),
    [
        ("one", "t.slot = r.slot AND ", " AND t.slot = $1"),
        ("each", "t.slot = r.slot AND ", ""),
        ("none", "", ""),
    ],
)
def test_update_changes_neither_key_nor_slot_nor_guard(slotted: Slotted, of_slot: str, and_slot: str) -> None:
    names = ("key", "slot", "user", "is_open", "expected")
    assert update_sql(ROOMS, names, ("key",), (("is_open", "expected"),), SOURCE, slotted) == (
        'UPDATE rooms AS t SET "user" = r."user", is_open = r.is_open FROM new_rooms AS r'  # noqa: S608 - an expected text
        f" WHERE {of_slot}t.key = r.key AND t.is_open = r.expected{and_slot}"
    )


def test_joined_writes_count_their_rows() -> None:
    assert joined_sql("A", "B") == (
        "WITH w0 AS (A RETURNING 1), w1 AS (B RETURNING 1)"
        " SELECT (SELECT count(*) FROM w0), (SELECT count(*) FROM w1)"
    )


def test_prepared_statement_has_the_types_of_its_parameters() -> None:
    sql = prepare_sql("select_1", "SELECT $1, $2", ("smallint", "text[]"))
    assert sql == "PREPARE select_1(smallint, text[]) AS SELECT $1, $2"
    assert execute_sql("select_1", 2) == "EXECUTE select_1(%s, %s)"
    assert "attrelid = 'rooms'::regclass" in columns_sql(ROOMS)
