"""The version before, from its wheel, beside this one on the newest schema, and a roll between them."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from packaging.version import Version
from sqlalchemy import Engine, text, update

from tests.support.expected_state import ExpectedState, every_reply, nothing_is_left, publish_some
from tests.support.load_scenario import USAGE, consumers_of
from tests.support.processes import STOP_S, WorkerProcesses, worker_environment
from tests.support.provision import PostgresServer
from tests.support.rabbit_client import RabbitClient
from tests.support.release import wheel_before
from tests.support.waiting import eventually
from worker import __version__
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.ledger.revisions import newest_revision
from worker.ledger.tables import schema_compatibility
from worker.settings import Settings

#: So that each of several workers gets its share.
SMALL = ("--batch-size", "10", "--prefetch", "10")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version before, as `pip install --target` leaves it; its dependencies are ours."""
    folder = tmp_path_factory.mktemp("before")
    with zipfile.ZipFile(wheel_before()) as wheel:
        wheel.extractall(folder)
    return folder


class WorkersBefore:
    """Workers of the version before; none outlives the block."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._environment = {**worker_environment(settings), "PYTHONPATH": str(folder)}
        self._ending = ExitStack()

    def __enter__(self) -> "WorkersBefore":
        return self

    def __exit__(self, *_error: object) -> None:
        self._ending.close()

    def start(self) -> subprocess.Popen[bytes]:
        """Start a worker; its log is piped."""
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "run", *SMALL],
            cwd=self._folder,
            env=self._environment,
            stderr=subprocess.PIPE,
        )
        self._ending.callback(process.communicate)
        self._ending.callback(process.kill)
        return process


@pytest.fixture
def workers_before(before: Path, worker_settings: Settings) -> Iterator[WorkersBefore]:
    """Workers of the version before; none outlives the test."""
    with WorkersBefore(before, worker_settings) as processes:
        yield processes


def stopped(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Send SIGTERM; return the exit code and the log."""
    process.terminate()
    _, log = process.communicate(timeout=STOP_S)
    return process.returncode, log.decode()


def add_columns(engine: Engine, number: int) -> None:
    """Change the row types that both versions write through, as a later revision may."""
    for table in ("operations", "accounts", "lots", "entries", "holds"):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN later_{number} text")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")


def version_of(folder: Path) -> str:
    text = (folder / "worker" / "__init__.py").read_text()
    (version,) = re.findall(r'^__version__ = "(.+)"', text, re.MULTILINE)
    return str(version)


def test_kept_wheel_is_of_a_version_before_this_one(before: Path) -> None:
    assert Version(version_of(before)) < Version(__version__)
    revisions = (before / "worker" / "ledger" / "migrations" / "versions").glob("[0-9]*.py")
    assert max(file.name[:4] for file in revisions) < newest_revision()


def test_ledger_of_the_version_before_becomes_one_of_this(
    before: Path, postgres: PostgresServer, postgres_engine: Engine
) -> None:
    name = f"before_{uuid4().hex[:8]}"
    postgres.databases.create_database(name)
    url = postgres.address.url(name)
    subprocess.run(
        [sys.executable, "-m", "worker", "migrate"],
        cwd=before,
        env={**os.environ, "PYTHONPATH": str(before), "BILLING_DATABASE_URL": url},
        check=True,
        timeout=60,
    )
    engine = ledger_engine(url)
    migrate(engine)
    assert schema_of(engine) == schema_of(postgres_engine)
    engine.dispose()
    postgres.databases.drop_database(name)


def schema_of(engine: Engine) -> list[tuple[str, ...]]:
    """Return columns, indexes, constraints and the revision of a ledger."""
    with engine.connect() as connection:
        return [tuple(row) for statement in _SCHEMA for row in connection.execute(text(statement))]


_COLUMNS = """
SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns
WHERE table_schema = 'public' ORDER BY table_name, column_name
"""
_CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2
"""
_SCHEMA = (
    _COLUMNS,
    _CONSTRAINTS,
    "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname",
    "SELECT kind, name FROM identifiers ORDER BY kind, name",
    "SELECT version_num FROM alembic_version",
)


def test_version_before_works_beside_this_one_on_its_schema_and_through_a_roll(
    application: Application,
    rabbit: RabbitClient,
    workers: WorkerProcesses,
    workers_before: WorkersBefore,
) -> None:
    engine = application.engine
    state = ExpectedState(engine)

    def consume(count: int) -> None:
        eventually(lambda: consumers_of(rabbit, USAGE) == count, what=f"{count} workers")

    old = workers_before.start()
    replies = rabbit.replies(publish_some(rabbit, state, 87, prefix="before"))
    older, new = workers_before.start(), workers.start(*SMALL)
    consume(3)
    sent = publish_some(rabbit, state, 145, prefix="m")
    add_columns(engine, 1)
    sent += publish_some(rabbit, state, 58, prefix="beside")
    assert stopped(older)[0] == 0
    newer = workers.start(*SMALL)
    sent += publish_some(rabbit, state, 87, prefix="n")
    consume(3)
    code, log = stopped(old)
    assert code == 0, log
    sent += publish_some(rabbit, state, 58, prefix="after")
    state.check(replies | every_reply(rabbit, sent))
    nothing_is_left(rabbit)
    assert [workers.stop(process)[0] for process in (new, newer)] == [0, 0]
    assert rabbit.depth(BILLING.dead.name) == 0


@pytest.mark.slow
def test_version_before_pauses_where_the_schema_is_for_this_one_alone(
    application: Application,
    rabbit: RabbitClient,
    workers: WorkerProcesses,
    workers_before: WorkersBefore,
    before: Path,
) -> None:
    engine = application.engine
    state = ExpectedState(engine)
    old = workers_before.start()
    replies = rabbit.replies(publish_some(rabbit, state, 29))
    with engine.begin() as connection:
        connection.execute(update(schema_compatibility).values(writers_from=newest_revision()))
    pauses = eventually(lambda: application.pauses.lasting(datetime.now(UTC)), what="the old one pauses")
    assert {pause.code for pause in pauses} == {"schema_unusable"}
    assert all(f"isn't for version {version_of(before)}," in pause.text for pause in pauses)
    new = workers.start()
    state.check(replies | every_reply(rabbit, publish_some(rabbit, state, 58, prefix="n")))
    nothing_is_left(rabbit)
    assert stopped(old)[0] == 0
    assert workers.stop(new)[0] == 0
    assert rabbit.depth(BILLING.dead.name) == 0
