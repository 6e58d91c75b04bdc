"""Shared fixtures: real servers, and a database, a virtual host or a file for each test."""

import gc
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import settings
from sqlalchemy import Engine

from tests.support.apply_commands import applied
from tests.support.compiled_statements import share_compiled_statements
from tests.support.compiled_templates import share_compiled_templates
from tests.support.database_pool import DatabasePool
from tests.support.postgres_server import WITHOUT_FLUSH
from tests.support.private_server import memory_folder
from tests.support.processes import WorkerProcesses
from tests.support.provision import PostgresServer, RabbitMQServer, postgres_server, rabbitmq_server
from tests.support.rabbit_client import RabbitClient
from tests.support.replication import ReplicatedLedger, Replication
from tests.support.schedule import is_slow, processes, scheduled
from tests.support.slot_recorder import SlotRecorder
from tests.support.strategies import LIMITS  # noqa: F401 - registers the Hypothesis profile
from tests.support.vhost_pool import VhostPool
from worker.bootstrap import Application
from worker.catalog import Catalog, load_catalog
from worker.core import Answer
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.settings import Settings, load_settings

gc.disable()  # until the tests are collected: what they import and are made of stays

settings.load_profile("ci")  # registered by tests.support.strategies

# Some containers forbid Python to write bytecode: each started worker would compile the whole package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The tests' folders are in memory, unless programs can't run there: a commit of SQLite waits 2.6 ms for the
# disk, the end of a connection 28 ms, and thousands of ledgers and embedded brokers are SQLite files.
_memory = memory_folder()
if _memory is not None and not os.statvfs(_memory).f_flag & os.ST_NOEXEC:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_memory))

_OBJECTS_A_COLLECTION = 50_000

Apply = Callable[..., Sequence[Answer]]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each process of the run begin with its part of the slow tests; one process keeps the order."""
    if processes() > 1:
        slow = [item for item in items if is_slow(item.path)]
        items[:] = scheduled(slow, [item for item in items if not is_slow(item.path)], processes())


def pytest_collection_finish() -> None:
    """Keep the collected tests out of the search for garbage, and search more rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_A_COLLECTION)
    gc.enable()


_RECORDER = SlotRecorder()
_RECORDER.listen()


@pytest.fixture(autouse=True)
def _statements_name_the_slot() -> Iterator[None]:
    """Fail where the worker's code has sent a statement on the ledger without the slot."""
    yield
    found, _RECORDER.found = _RECORDER.found, []
    assert not found, "statements without the slot"


@pytest.fixture(autouse=True)
def _restored_root_logger() -> Iterator[None]:
    """Take back handlers that a command in this process has set: their stream ends with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(scope="session", autouse=True)
def _short_idle() -> Iterator[None]:
    """Shorten idle waits, so that a worker, reader or drainer in this process stops sooner."""
    with pytest.MonkeyPatch.context() as patch:
        for wait in ("consumer.IDLE_S", "queries.reader._LISTEN_S", "deadletters.drainer._LISTEN_S"):
            patch.setattr(f"worker.{wait}", 0.05)
        yield


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Compile a statement and a template once in a process, however many engines and consoles have them."""
    with pytest.MonkeyPatch.context() as patch:
        share_compiled_statements(patch)
        share_compiled_templates(patch)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL server of the run."""
    with postgres_server(settings=WITHOUT_FLUSH, folder=memory_folder()) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQServer]:
    """The RabbitMQ server of the run."""
    with rabbitmq_server(folder=memory_folder()) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> Iterator[str]:
    """The name of a migrated database to copy."""
    name = f"template_{uuid4().hex[:12]}"
    postgres.databases.create_database(name)
    engine = ledger_engine(postgres.address.url(name))
    migrate(engine)
    engine.dispose()
    yield name
    postgres.databases.drop_database(name)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite3"
    engine = ledger_engine(f"sqlite:///{path}")
    migrate(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA journal_mode = DELETE")  # a single file can be copied
    engine.dispose()
    return path


@pytest.fixture(scope="session")
def database_pool(postgres: PostgresServer, postgres_template: str) -> Iterator[DatabasePool]:
    """Pool of databases that are emptied after a test and used again."""
    databases = DatabasePool(postgres, postgres_template)
    yield databases
    databases.close()


@pytest.fixture
def postgres_url(postgres: PostgresServer, database_pool: DatabasePool) -> Iterator[str]:
    """A migrated, empty PostgreSQL database of this test's own."""
    with database_pool.database() as name:
        yield postgres.address.url(name)


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated SQLite file of this test's own."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'ledger.sqlite3')}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database, once of each dialect."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on a migrated database, once of each dialect."""
    engine = ledger_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_engine(postgres_url: str) -> Iterator[Engine]:
    """An engine on a migrated PostgreSQL database, for behaviour of PostgreSQL alone."""
    engine = ledger_engine(postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def replication() -> Iterator[Replication]:
    """The primary and the standby of the run."""
    with Replication.started() as servers:
        yield servers


@pytest.fixture
def replicated_ledger(replication: Replication) -> Iterator[ReplicatedLedger]:
    """A migrated, empty database of this test's own, on a primary and its standby."""
    with replication.ledger() as ledger:
        yield ledger


@pytest.fixture
def catalog() -> Catalog:
    """The packaged catalog."""
    return load_catalog()


@pytest.fixture
def apply(engine: Engine, catalog: Catalog) -> Apply:
    """Apply commands to the ledger in one transaction and return their answers."""
    return partial(applied, engine, catalog)


@pytest.fixture
def bare_broker_url(rabbitmq: RabbitMQServer) -> Iterator[str]:
    """A virtual host of this test's own, with nothing in it."""
    name = f"test_{uuid4().hex[:12]}"
    rabbitmq.management.create_vhost(name)
    yield rabbitmq.address.url(name)
    rabbitmq.management.delete_vhost(name)


@pytest.fixture(scope="session")
def vhost_pool(rabbitmq: RabbitMQServer) -> Iterator[VhostPool]:
    """Pool of virtual hosts that are emptied after a test and used again."""
    vhosts = VhostPool(rabbitmq)
    yield vhosts
    vhosts.close()


@pytest.fixture
def broker_url(rabbitmq: RabbitMQServer, vhost_pool: VhostPool) -> Iterator[str]:
    """A virtual host of this test's own, with the topology declared."""
    with vhost_pool.vhost() as name:
        yield rabbitmq.address.url(name)


@pytest.fixture
def rabbit(broker_url: str) -> Iterator[RabbitClient]:
    """Client of RabbitMQ that uses another library than the worker."""
    with RabbitClient(broker_url) as rabbit:
        yield rabbit


@pytest.fixture
def worker_settings(broker_url: str, postgres_url: str) -> Settings:
    """Settings for a worker on RabbitMQ and PostgreSQL, without readers: most tests ask nothing."""
    return load_settings(broker_url=broker_url, database_url=postgres_url, readers=0)


@pytest.fixture
def application(worker_settings: Settings) -> Iterator[Application]:
    """The application on RabbitMQ and PostgreSQL, in this process."""
    application = Application(worker_settings)
    yield application
    application.engine.dispose()


@pytest.fixture
def workers(worker_settings: Settings) -> Iterator[WorkerProcesses]:
    """Worker processes; none outlives the test."""
    with WorkerProcesses(worker_settings) as processes:
        yield processes
