"""Runs that reverse charges of a user who is erased in between: all goes back once, no id comes back."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from schemas import OpenAccount
from tests.reversing.parts import ReverseWorld
from tests.support.commands import deduct
from tests.support.person_world import tables_with
from worker.ledger.audit import audit
from worker.privacy.erasure import erase
from worker.reversing import store

USER = "ada-lovelace"
#: A reference that grows with the pseudonym: its refund's becomes a digest.
LONG = f"{'x' * 175}-{USER}"


@pytest.mark.parametrize("comes_first", ["refund", "erasure"])
def test_run_goes_on_after_an_erasure_and_gives_back_once(postgres_engine: Engine, comes_first: str) -> None:
    world = ReverseWorld(postgres_engine)
    world.apply(OpenAccount(reference_id="o", user_id=USER, tier="free"))
    world.apply(*(deduct(100, name, USER, feature="chat") for name in (f"{USER}-1", LONG)))
    run = world.create(feature="chat")
    refunds = [one.command for one in store.claim(world.engine, world.now, run, 2).sent]
    if comes_first == "refund":
        assert world.apply(*refunds) == ["tokens_refunded"] * 2
    erase(postgres_engine, datetime.now(UTC), USER, reason="request", actor="eve", force=True)
    if comes_first == "erasure":
        assert world.apply(*refunds) == ["account_not_found"] * 2
    ended = world.go_on(run)
    assert (ended.is_done, world.tokens_back) == (True, [100, 100])
    world.apply(*refunds)  # late copies
    assert world.tokens_back == [100, 100]
    assert tables_with(postgres_engine, USER) == set()
    assert audit(postgres_engine).findings == ()
