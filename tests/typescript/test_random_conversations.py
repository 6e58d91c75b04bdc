"""The fake of the TypeScript client replies as the worker does, in chosen and in random conversations."""

import re
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.contracts.samples import Step, text_of, with_replies
from tests.typescript.chosen_conversations import chosen
from tests.typescript.npm_package import FOLDER, run
from tests.typescript.random_catalogs import catalog_of, fake_catalog
from tests.typescript.random_conversations import conversation
from worker.catalog import Catalog
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate

pytestmark = pytest.mark.usefixtures("compiled")

SEEDS = range(40)
MANY_SEEDS = range(1_000, 1_400)


@pytest.mark.timeout(240)
def test_fake_replies_as_the_worker_in_chosen_and_random_conversations(tmp_path: Path) -> None:
    _compare({**chosen(), **_random(SEEDS)}, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fake_replies_as_the_worker_in_many_random_conversations(tmp_path: Path) -> None:
    _compare(_random(MANY_SEEDS), tmp_path)


def _random(seeds: Iterable[int]) -> dict[str, tuple[Catalog, list[Step]]]:
    return {f"seed_{seed}": (catalog_of(seed), conversation(seed)) for seed in seeds}


def _compare(conversations: Mapping[str, tuple[Catalog, list[Step]]], folder: Path) -> None:
    """Hold the conversations with the worker, then with the fake, which has to say the same."""
    engine = ledger_engine("sqlite://")
    migrate(engine)
    with closing(sqlite3.connect(":memory:")) as empty:
        _database(engine).backup(empty)
        for name, (catalog, steps) in conversations.items():
            empty.backup(_database(engine))  # to make its tables takes longer than a conversation
            replied = [{"catalog": fake_catalog(catalog)}, *with_replies(steps, engine, catalog)]
            (folder / f"{name}.json").write_text(text_of(replied), encoding="utf-8")
    engine.dispose()
    test = FOLDER / "build" / "test" / "conversations.test.js"
    output = run("node", "--test", "--test-reporter=tap", str(test), BILLING_TEST_CONVERSATIONS=str(folder))
    assert re.search(rf"^# pass {len(conversations)}$", output, re.MULTILINE)


def _database(engine: Engine) -> sqlite3.Connection:
    """Return the one connection of an engine, which is a ledger in memory."""
    with engine.connect() as connection:
        database = connection.connection.driver_connection
    assert isinstance(database, sqlite3.Connection)
    return database
