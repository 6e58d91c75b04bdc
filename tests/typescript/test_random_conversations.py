"""The fake of the TypeScript client replies as the worker does, in random conversations as well."""

import re
from pathlib import Path

import pytest

from tests.contracts.samples import text_of, with_replies
from tests.typescript.npm_package import FOLDER, run
from tests.typescript.random_conversations import conversation
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate

pytestmark = pytest.mark.usefixtures("compiled")

SEEDS = range(40)


@pytest.mark.timeout(240)
def test_fake_replies_as_the_worker_in_random_conversations(tmp_path: Path) -> None:
    for seed in SEEDS:
        engine = ledger_engine("sqlite://")
        migrate(engine)
        steps = list(with_replies(conversation(seed), engine))
        (tmp_path / f"{seed}.json").write_text(text_of(steps), encoding="utf-8")
        engine.dispose()
    test = FOLDER / "build" / "test" / "conversations.test.js"
    output = run("node", "--test", "--test-reporter=tap", str(test), BILLING_TEST_CONVERSATIONS=str(tmp_path))
    assert re.search(rf"^# pass {len(SEEDS)}$", output, re.MULTILINE)
