"""Export of an account: every row about the user, of every table that there is."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from tests.deadletters.parts import World
from tests.support.person_world import OTHER, PERSON, fill
from worker.errors import NotFoundError
from worker.ledger.tables import accounts, metadata
from worker.privacy.account_export import export_account
from worker.privacy.rows_of_user import ABOUT_NOBODY, ABOUT_USERS

NOW = datetime(2026, 11, 27, tzinfo=UTC)


def exported(engine: Engine, user_id: str = PERSON) -> dict[str, Any]:
    document: dict[str, Any] = json.loads("".join(export_account(engine, user_id, NOW)))
    return document


def test_every_table_is_about_users_or_about_nobody() -> None:
    about_users = {table.name for table in ABOUT_USERS}
    assert about_users | set(ABOUT_NOBODY) == set(metadata.tables)
    assert not about_users & set(ABOUT_NOBODY)


def test_table_with_an_account_or_a_user_is_about_users() -> None:
    for table in metadata.tables.values():
        if {"account_id", "user_id"} & set(table.columns.keys()):
            assert table in ABOUT_USERS, table.name


def test_export_has_every_row_of_the_account_and_none_of_others(engine: Engine) -> None:
    fill(engine, 3)
    document = exported(engine)
    assert (document["format"], document["user"]) == ("billing-account/1", PERSON)
    assert list(document["tables"]) == [table.name for table in ABOUT_USERS]
    with engine.connect() as connection:
        own = connection.execute(
            select(accounts.c.account_id).where(accounts.c.user_id == PERSON)
        ).scalar_one()
        for table in ABOUT_USERS:
            rows = document["tables"][table.name]
            column, value = ("account_id", own) if "account_id" in table.c else ("user_id", PERSON)
            if column not in table.c:
                continue
            counted = select(func.count()).select_from(table).where(table.c[column] == value)
            assert len(rows) >= connection.execute(counted).scalar_one(), table.name
            if table.name not in {"dead_letters", "claims", "waiting_events"}:
                assert {row[column] for row in rows} <= {value}, table.name
    beside = (
        *("senders", "dead_letters", "dead_letter_events", "dead_letter_edits", "audit_log"),
        "reverse_items",
    )
    assert all(document["tables"][name] for name in ("accounts", "operations", "entries", "lots", *beside))


def test_export_says_what_the_rows_say(engine: Engine) -> None:
    fill(engine, 3)
    document = exported(engine)
    (account,) = document["tables"]["accounts"]
    assert account["opened_at"].endswith("+00:00")
    assert {row["type"] for row in document["tables"]["operations"]} >= {"account.open"}
    bodies = {row["reference_id"]: row["body"] for row in document["tables"]["dead_letters"]}
    named_inside = {"lost-3", "lost-5"}  # one of them since its edit
    assert set(bodies) == {f"lost-1:{PERSON}", "lost-2", *named_inside}
    assert json.loads(bodies["lost-2"])["userId"] == PERSON
    assert OTHER not in json.dumps(document["tables"]["operations"])


@pytest.mark.parametrize("user", ["jürgen@straße", 'the "one" and\\only'])
def test_export_has_dead_letters_that_name_the_user_escaped(engine: Engine, user: str) -> None:
    world = World(engine)
    world.open(user, OTHER)
    usage = {"type": "usage.deduct", "referenceId": "r", "userId": OTHER, "tokens": 1}
    world.park_failed({**usage, "metadata": {"friend": user}})  # all but ASCII is escaped
    (found,) = json.loads("".join(export_account(engine, user, NOW)))["tables"]["dead_letters"]
    assert json.loads(found["body"])["metadata"] == {"friend": user}


def test_user_of_nothing_is_not_found(engine: Engine) -> None:
    with pytest.raises(NotFoundError, match="nothing in the database"):
        next(export_account(engine, "nobody", NOW))
