"""Keys of the ledger's tables, as PostgreSQL has them: they can be distributed by slot."""

import pytest
from sqlalchemy import Engine, insert, select, text
from sqlalchemy.exc import DBAPIError

from schemas import slot_of
from tests.conftest import Apply
from tests.support.commands import opening
from worker.ledger.tables import LEDGER, accounts

NAMES = [table.name for table in LEDGER]

_UNIQUE = """
    SELECT c.relname, i.indexrelid::regclass::text,
        EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
            AND a.attname = 'slot')
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    WHERE i.indisunique AND c.relname = ANY (:names)
"""
_FOREIGN = """
    SELECT conname, confrelid::regclass::text,
        array_position(conkey, own.attnum), array_position(confkey, their.attnum)
    FROM pg_constraint
    JOIN pg_attribute own ON own.attrelid = conrelid AND own.attname = 'slot'
    JOIN pg_attribute their ON their.attrelid = confrelid AND their.attname = 'slot'
    WHERE contype = 'f' AND conrelid::regclass::text = ANY (:names)
"""
_COLUMNS = """
    SELECT attrelid::regclass::text, atttypid::regtype::text, attnotnull, attgenerated, attidentity
    FROM pg_attribute WHERE attname = 'slot' AND attrelid::regclass::text = ANY (:names)
"""
_TRIGGERS = """
    SELECT DISTINCT tgfoid::regproc::text FROM pg_trigger
    WHERE NOT tgisinternal AND tgrelid::regclass::text = ANY (:names)
"""


def rows(engine: Engine, query: str) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query), {"names": NAMES})]


def test_every_table_has_a_plain_slot(postgres_engine: Engine) -> None:
    found = rows(postgres_engine, _COLUMNS)
    assert sorted(found) == sorted((name, "smallint", True, "", "") for name in NAMES)


def test_every_unique_key_holds_the_slot_but_the_judge_of_one_database(postgres_engine: Engine) -> None:
    without = {key for _, key, has_slot in rows(postgres_engine, _UNIQUE) if not has_slot}
    assert without == {"uq_operations_reference_id_is_taken"}


def test_every_foreign_key_pairs_slot_with_slot(postgres_engine: Engine) -> None:
    found = rows(postgres_engine, _FOREIGN)
    assert len(found) == 21
    for name, table, own, theirs in found:
        assert table in NAMES
        assert own is not None, name
        assert own == theirs, name


def test_triggers_only_refuse(postgres_engine: Engine) -> None:
    assert rows(postgres_engine, _TRIGGERS) == [("ledger_refuses",)]


@pytest.mark.parametrize("user_id", ["u", "é", "e\u0301", "Ω", "\u2126", "株式会社", "😀", "a b/c:d"])
def test_database_takes_no_other_slot_than_the_users(engine: Engine, apply: Apply, user_id: str) -> None:
    apply(opening(user_id=user_id))
    with engine.connect() as connection:
        row = dict(connection.execute(select(accounts)).mappings().one())
    assert row["slot"] == slot_of(user_id)
    other = {**row, "account_id": 99, "user_id": f"{user_id}{user_id}"}
    wrong = (slot_of(other["user_id"]) + 1) % 64
    with pytest.raises(DBAPIError, match="slot_of_user"), engine.begin() as connection:
        connection.execute(insert(accounts), {**other, "slot": wrong})
