"""Erasure of what operators wrote about a user, and requests of a member of the role by hand."""

import json
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from schemas import DeductUsage
from tests.deadletters.parts import World
from tests.support.apply_commands import applied
from tests.support.person_world import OTHER, PERSON, everything, tables_with
from worker.catalog import load_catalog
from worker.deadletters.body_fields import BodyChanges
from worker.deadletters.store.filters import DeadLetterFilter
from worker.ledger.audit import audit
from worker.ledger.queries import snapshot
from worker.ledger.queries.charges import matching_operations
from worker.ledger.queries.operation_filter import OperationFilter
from worker.privacy.erasure import erase
from worker.reversing import store as runs
from worker.reversing.models import ReverseRequest
from worker.reversing.selection import selection_text

NOW = datetime(2026, 11, 27, tzinfo=UTC)
CATALOG = load_catalog()


@pytest.mark.parametrize("user", ["7", "ada", 'a "b"', PERSON])
def test_filters_of_operators_lose_an_id_of_any_length(postgres_engine: Engine, user: str) -> None:
    world = World(postgres_engine)
    world.open(user, OTHER)
    applied(postgres_engine, CATALOG, DeductUsage(reference_id="r-1", user_id=user, tokens=1))
    usage = {"type": "usage.deduct", "tokens": 1}
    number, _ = world.park_failed(
        {**usage, "referenceId": "l-1", "userId": OTHER}, {**usage, "referenceId": "l-2", "userId": user}
    )
    wanted = OperationFilter(user_id=user, since=datetime(2025, 7, 7, 7, 7, tzinfo=UTC))
    with snapshot(postgres_engine) as connection:
        charges = matching_operations(connection, wanted).charges
    runs.create(postgres_engine, NOW, charges, ReverseRequest("wrong", "ann", selection_text(wanted)))
    changes = BodyChanges.read(sets=[f"userId={json.dumps(user)}", "tokens=7"])
    world.service.edit_set([number], changes, "wrong user", "ann")
    world.service.undo_set_edit(1, "right user", "ann")
    replay = world.service.create_replay(DeadLetterFilter(user_id=user), "again", "ann")
    world.service.cancel_replay(replay.number, "ann")
    pseudonym = erase(postgres_engine, NOW, user, reason="request", actor="eve", force=True).pseudonym
    kept = (f"user {user},", f"userId={user}", f"'userId', {user!r}")
    rows = [row for _, row in everything(postgres_engine)]
    assert not [row for row in rows if any(text in row for text in kept)]
    assert any(f"user {pseudonym}, from 2025-07-07T07:07:00Z" in row for row in rows)
    assert any(f"userId={pseudonym}" in row for row in rows)
    assert audit(postgres_engine).findings == ()


@pytest.mark.parametrize("is_ascii", [True, False], ids=["escaped", "as it is"])
@pytest.mark.parametrize("user", ["jürgen@straße", 'the "one" and\\only', "a😀b-lovelace"])
def test_bodies_of_others_lose_the_id_as_their_writers_have_it(
    postgres_engine: Engine, user: str, *, is_ascii: bool
) -> None:
    world = World(postgres_engine)
    world.open(user, OTHER)
    usage = {"type": "usage.deduct", "referenceId": "r", "userId": OTHER, "tokens": 1}
    body = json.dumps({**usage, "metadata": {"friend": user}}, ensure_ascii=is_ascii)
    (number,) = world.park_failed(usage)
    before = world.service.dead_letter(number).body
    world.service.edit(number, body.encode(), "a friend", "ann", instead_of=before)
    pseudonym = erase(postgres_engine, NOW, user, reason="request", actor="eve", force=True).pseudonym
    after = json.loads(world.service.dead_letter(number).current_body)
    assert after["metadata"] == {"friend": pseudonym}


@pytest.mark.parametrize(
    "pseudonym",
    ["", PERSON, OTHER, "erased-0123456789abcdef", None],
    ids=["none", "own", "other", "slot", "null"],
)
def test_account_is_given_to_nobody(postgres_engine: Engine, pseudonym: str | None) -> None:
    World(postgres_engine).open(PERSON)
    with pytest.raises(DBAPIError, match="fresh pseudonym"), postgres_engine.begin() as connection:
        connection.execute(text("SELECT erase_user(:user, :new, 'eve')"), {"user": PERSON, "new": pseudonym})
    assert "accounts" in tables_with(postgres_engine, PERSON)
