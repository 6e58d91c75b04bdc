"""Worlds with an account of ada, who has plenty of tokens."""

import pytest
from sqlalchemy import Engine

from tests.reversing.parts import ReverseWorld
from tests.support.commands import bonus, opening


@pytest.fixture
def world(engine: Engine) -> ReverseWorld:
    """A world with the accounts of ada and bob, each with 1,000,000 tokens more than their tier's."""
    world = ReverseWorld(engine)
    for user in ("ada", "bob"):
        world.apply(opening(f"open-{user}", user), bonus(1_000_000, f"more-{user}", user))
    return world
