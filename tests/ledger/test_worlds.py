"""Worlds by chance in a database: replies and rows are those of the model, and the audit finds nothing."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Engine

from schemas import Command
from tests.support.apply_commands import applied
from tests.support.forms import settle_awaited
from tests.support.in_world import in_world
from tests.support.model import Model, predicted
from tests.support.stored_comparison import assert_stored_like_the_model
from tests.support.strategies import CATALOGS, SMALL_CATALOG
from tests.support.worlds import day_of, named_world
from worker.catalog import Catalog
from worker.core import reply_for
from worker.ledger.audit import audit
from worker.ledger.engine import ledger_engine
from worker.ledger.store import Ledger


def assert_worlds_are_like_the_model(engine: Engine, seeds: range) -> None:
    """Apply the worlds to one database, each under one of the catalogs; the seed is the world's name."""
    catalogs = list(CATALOGS.values())
    for seed in seeds:
        with named_world(seed):
            assert_world_is_like_the_model(engine, seed, catalogs[seed % len(catalogs)])
    settle_awaited(Ledger(engine), engine, SMALL_CATALOG)
    assert audit(engine).findings == ()


def assert_world_is_like_the_model(engine: Engine, seed: int, catalog: Catalog) -> None:
    """Apply a world's batches; fail the test unless replies and rows are those of the model."""
    model = Model(catalog)
    for now, batch in day_of(seed):
        commands = [in_world(seed, command) for command in batch]
        replies = replies_to(engine, catalog, commands, now)
        assert replies == [model.apply(command, now) for command in commands]
    assert_stored_like_the_model(engine, model, f"{seed}-")


def replies_to(
    engine: Engine, catalog: Catalog, commands: Sequence[Command], now: datetime
) -> list[dict[str, Any]]:
    """Return the predicted part of the replies to a batch."""
    answers = applied(engine, catalog, *commands, now=now)
    replies = (reply_for(*answered) for answered in zip(commands, answers, strict=True))
    return [predicted(json.loads(reply.to_json())) for reply in replies]


def test_worlds_are_stored_as_the_model_says(sqlite_url: str) -> None:
    engine = ledger_engine(sqlite_url)
    try:
        assert_worlds_are_like_the_model(engine, range(10))
    finally:
        engine.dispose()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hundreds_of_worlds_are_stored_as_the_model_says(engine: Engine) -> None:
    assert_worlds_are_like_the_model(engine, range(10, 310))
