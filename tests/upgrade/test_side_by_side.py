"""The version before, from its wheel, beside this one on the newest schema, and a roll between them."""

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from packaging.version import Version
from sqlalchemy import Engine

from tests.support.expected_state import ExpectedState, every_reply, nothing_is_left, publish_some
from tests.support.load_scenario import USAGE, consumers_of
from tests.support.processes import STOP_S, WorkerProcesses, worker_environment
from tests.support.rabbit_client import RabbitClient
from tests.support.release import wheel_before
from tests.support.waiting import eventually
from worker import __version__
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.ledger.revisions import newest_revision
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


def test_kept_wheel_is_of_a_version_before_this_one(before: Path) -> None:
    text = (before / "worker" / "__init__.py").read_text()
    (version,) = re.findall(r'^__version__ = "(.+)"', text, re.MULTILINE)
    assert Version(version) < Version(__version__)
    revisions = (before / "worker" / "ledger" / "migrations" / "versions").glob("[0-9]*.py")
    assert max(file.name[:4] for file in revisions) < newest_revision()


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
