"""Shared fixtures of the dead-letter tests."""

import pytest
from sqlalchemy import Engine

from tests.deadletters.parts import World


@pytest.fixture
def world(engine: Engine) -> World:
    """A ledger of each dialect, with a worker and a broker in memory around it."""
    return World(engine)
