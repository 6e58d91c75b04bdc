"""Shared fixtures of the fault tests."""

import logging
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.support.fault_injection import CrashingWorkers
from tests.support.postgres_server import Postgres
from tests.support.private_server import memory_folder
from tests.support.rabbitmq_cluster import Cluster, rabbitmq_cluster
from tests.support.rabbitmq_server import RabbitMQ
from worker.broker import BILLING, open_link
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.settings import Settings

IMPATIENCE_S = 10


@pytest.fixture(autouse=True)
def _quiet_pika() -> Iterator[None]:
    """Silence pika, which logs a page for every refused connection; here they are refused on purpose."""
    logger = logging.getLogger("pika")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.fixture
def crashing_workers(worker_settings: Settings) -> Iterator[CrashingWorkers]:
    """Workers that crash at a given point; none outlives the test."""
    with CrashingWorkers(worker_settings) as processes:
        yield processes


@pytest.fixture(scope="session")
def fragile_postgres() -> Iterator[Postgres]:
    """A PostgreSQL that the tests may stop; it flushes, to a disk in memory."""
    with Postgres.start(memory_folder()) as server:
        yield server


@pytest.fixture(scope="session")
def fragile_rabbitmq() -> Iterator[RabbitMQ]:
    """A RabbitMQ that the tests may stop."""
    with RabbitMQ.start(memory_folder()) as server:
        yield server


@pytest.fixture(scope="session")
def impatient_rabbitmq() -> Iterator[RabbitMQ]:
    """A RabbitMQ that takes deliveries back after a consumer has held them for ten seconds."""
    with RabbitMQ.start(consumer_timeout_s=IMPATIENCE_S) as server:
        yield server


@pytest.fixture
def fragile_database(fragile_postgres: Postgres) -> Iterator[str]:
    """A migrated database on ``fragile_postgres``."""
    name = f"test_{uuid4().hex[:12]}"
    fragile_postgres.databases.create_database(name)
    url = fragile_postgres.address.url(name)
    engine = ledger_engine(url)
    migrate(engine)
    engine.dispose()
    yield url
    fragile_postgres.databases.drop_database(name)


@pytest.fixture
def fragile_broker(fragile_rabbitmq: RabbitMQ) -> str:
    """A virtual host on ``fragile_rabbitmq``, with the topology."""
    name = f"test_{uuid4().hex[:12]}"
    fragile_rabbitmq.management.create_vhost(name)
    url = fragile_rabbitmq.address.url(name)
    link = open_link(url)
    link.declare(BILLING)
    link.close()
    return url


@pytest.fixture(scope="session")
def _broker_nodes() -> Iterator[Cluster]:
    """Three nodes that start once for all tests: that takes a dozen seconds of processor time."""
    with rabbitmq_cluster() as cluster:
        yield cluster


@pytest.fixture
def broker_cluster(_broker_nodes: Cluster) -> Iterator[Cluster]:
    """A RabbitMQ cluster of three nodes; those that the test has killed come back."""
    yield _broker_nodes
    for node in _broker_nodes.nodes:
        if not node.running:
            node.resume()
