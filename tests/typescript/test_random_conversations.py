"""The fake of the TypeScript client replies as the worker does, in random conversations as well."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.contracts.samples import text_of, with_replies
from tests.typescript.npm_package import FOLDER, run
from tests.typescript.random_catalogs import catalog_of, told
from tests.typescript.random_conversations import conversation
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate

pytestmark = pytest.mark.usefixtures("compiled")

SEEDS = range(40)


@pytest.mark.timeout(240)
def test_fake_replies_as_the_worker_in_random_conversations(tmp_path: Path) -> None:
    engine = ledger_engine("sqlite://")
    migrate(engine)
    with closing(sqlite3.connect(":memory:")) as empty:
        _copy(_database(engine), empty)
        for seed in SEEDS:
            _copy(empty, _database(engine))  # to make its tables takes longer than a conversation
            catalog = catalog_of(seed)
            steps = [{"catalog": told(catalog)}, *with_replies(conversation(seed), engine, catalog)]
            (tmp_path / f"{seed}.json").write_text(text_of(steps), encoding="utf-8")
    engine.dispose()
    test = FOLDER / "build" / "test" / "conversations.test.js"
    output = run("node", "--test", "--test-reporter=tap", str(test), BILLING_TEST_CONVERSATIONS=str(tmp_path))
    assert re.search(rf"^# pass {len(SEEDS)}$", output, re.MULTILINE)


def _database(engine: Engine) -> sqlite3.Connection:
    """Return the one connection of an engine, which is a ledger in memory."""
    with engine.connect() as connection:
        database = connection.connection.driver_connection
    assert isinstance(database, sqlite3.Connection)
    return database


def _copy(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Make one database as the other is."""
    source.backup(target)
