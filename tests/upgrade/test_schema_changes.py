"""Schemas that change under a running worker: it goes on where it can, else pauses, and blames no message."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, text, update

from tests.support.expected_state import ExpectedState, every_reply, nothing_is_left, publish_some
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from tests.support.worker_thread import FlagStop, running
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.errors import ConfigurationError
from worker.ledger.revisions import newest_revision
from worker.ledger.tables import schema_compatibility
from worker.processes import run_reader, run_scheduler, run_worker
from worker.runtime.stop import SignalStop
from worker.settings import Settings

LANES = {queue.name for queue in BILLING.work}
ROW_TYPES = ("operations", "accounts", "lots", "entries", "holds", "payments")


@pytest.fixture
def worker_settings(worker_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a worker in small batches, which soon looks at the schema again."""
    monkeypatch.setattr("worker.lanes.schema.LOOK_EVERY_S", 0.05)
    return worker_settings.model_copy(update={"batch_size": 10})


def executed(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def set_revision(engine: Engine, revision: str, *, writers_from: str | None = None) -> None:
    """Pretend that the schema is at ``revision``, and perhaps that it isn't for versions before another."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :to"), {"to": revision})
        if writers_from is not None:
            connection.execute(update(schema_compatibility).values(writers_from=writers_from))


@contextmanager
def changed(engine: Engine, there: str, back: str) -> Iterator[None]:
    """Change the schema in the block, as a revision does that is not for this version."""
    set_revision(engine, "9999", writers_from="9999")
    executed(engine, there)
    yield
    executed(engine, back)
    set_revision(engine, newest_revision())


def is_paused(application: Application) -> bool:
    """Return True where every lane is paused for the schema, with a text for operators."""
    pauses = application.pauses.lasting(datetime.now(UTC))
    return {pause.queue for pause in pauses} == LANES and all(
        pause.code == "schema_unusable" and "schema 9999 isn't for version" in pause.text for pause in pauses
    )


MUST = "ALTER TABLE operations ADD CONSTRAINT must CHECK (code = 0) NOT VALID"


@pytest.mark.parametrize(
    ("there", "back"),
    [
        pytest.param("SELECT 1", "SELECT 1", id="nothing-but-the-row"),
        pytest.param(
            "ALTER TABLE entries RENAME amount TO tokens",
            "ALTER TABLE entries RENAME tokens TO amount",
            id="another-column",
        ),
        pytest.param(MUST, "ALTER TABLE operations DROP CONSTRAINT must", id="another-rule"),
        pytest.param(
            "ALTER TABLE quotas RENAME TO meters", "ALTER TABLE meters RENAME TO quotas", id="another-table"
        ),
    ],
)
def test_worker_whose_schema_is_gone_pauses_and_goes_on_when_it_is_back(
    application: Application, rabbit: RabbitClient, there: str, back: str
) -> None:
    engine = application.engine
    state = ExpectedState(engine)
    with running(application):
        replies = rabbit.replies(publish_some(rabbit, state, 30))
        with changed(engine, there, back):
            late = publish_some(rabbit, state, 30, prefix="n")
            eventually(lambda: is_paused(application), what="all lanes are paused")
            assert rabbit.depth(BILLING.dead.name) == 0
        state.check(replies | every_reply(rabbit, late))
        eventually(lambda: not application.pauses.lasting(datetime.now(UTC)), what="the pauses have ended")
        nothing_is_left(rabbit)
    assert rabbit.depth(BILLING.dead.name) == 0


@pytest.mark.parametrize("rounds", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_worker_goes_on_while_columns_are_added_under_load(
    application: Application, rabbit: RabbitClient, rounds: int
) -> None:
    """Each column changes a row type that running sessions have prepared statements for."""
    engine = application.engine
    state = ExpectedState(engine)
    sent: list[str] = []
    with running(application):
        for number in range(rounds):
            for table in ROW_TYPES:
                sent += publish_some(rabbit, state, 29, prefix=f"{table}-{number}")
                executed(engine, f"ALTER TABLE {table} ADD COLUMN later_{number} text")
        set_revision(engine, "9999")
        sent += publish_some(rabbit, state, 29)
        alone = publish_some(rabbit, state, 1, prefix="alone")
        state.check(every_reply(rabbit, [*sent, *alone]))
        nothing_is_left(rabbit)
    assert rabbit.depth(BILLING.dead.name) == 0


@pytest.mark.parametrize("run", [run_worker, run_reader, run_scheduler])
def test_process_that_is_to_wait_for_the_schema_starts_when_it_is_there(
    application: Application,
    run: Callable[[Application, SignalStop], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = application.engine
    waiting = Application(application.settings.model_copy(update={"wait_for_schema": True}))
    set_revision(engine, "0001")
    with caplog.at_level(logging.INFO), running(waiting, run):
        eventually(lambda: "waiting for the schema: the ledger's schema is at 0001" in caplog.text)
        set_revision(engine, newest_revision())
        eventually(lambda: re.search("consuming from|answering queries|scheduling what", caplog.text))


def test_process_that_is_not_to_wait_refuses_another_schema(application: Application) -> None:
    set_revision(application.engine, "0001")
    with pytest.raises(ConfigurationError, match=r"this version needs \d+: run `billing-worker migrate`"):
        run_worker(application, FlagStop())
