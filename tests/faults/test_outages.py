"""Outages of servers under load: messages wait, the log says so once, and nothing needs a restart."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.support.background_producer import BackgroundProducer
from tests.support.expected_state import ExpectedState, every_reply
from tests.support.mixed_messages import mixed
from tests.support.postgres_server import Postgres
from tests.support.private_server import PrivateServer, StopMode
from tests.support.processes import WorkerProcesses
from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient, vhost_of
from tests.support.rabbitmq_management import BrokerConnection, ManagementError
from tests.support.rabbitmq_server import RabbitMQ
from tests.support.waiting import eventually, past
from worker.broker import BILLING
from worker.ledger.engine import ledger_engine
from worker.settings import Settings, load_settings

SHORT_S = 1.5
LONG_S = 10.0
MODES: tuple[StopMode, ...] = ("fast", "immediate")


def test_worker_recovers_after_postgresql_freezes_and_stops_under_load(
    fragile_postgres: Postgres, fragile_database: str, broker_url: str
) -> None:
    with load(load_settings(broker_url=broker_url, database_url=fragile_database, readers=0)) as under:
        fragile_postgres.pause()
        under.lasts(SHORT_S)
        fragile_postgres.unpause()
        under.is_answered()
        for mode in MODES:
            outage(fragile_postgres, mode, SHORT_S, under)
            under.is_answered()
    # A database that is slow for a while is no outage.
    assert under.log.count("keeping the messages") == len(MODES)
    assert under.log.count("the database is back") == len(MODES)


@pytest.mark.parametrize("mode", [pytest.param("fast", marks=pytest.mark.slow), "immediate"])
def test_worker_recovers_after_rabbitmq_stops_under_load(
    mode: StopMode, fragile_rabbitmq: RabbitMQ, fragile_broker: str, postgres_url: str
) -> None:
    with load(load_settings(broker_url=fragile_broker, database_url=postgres_url, readers=0)) as under:
        outage(fragile_rabbitmq, mode, 0, under)  # it needs some seconds to start
    assert under.log.count("keeping the messages") == 1
    assert under.log.count("the broker is back") == 1


def test_worker_reopens_connections_that_the_broker_closes(
    rabbitmq: RabbitMQServer, worker_settings: Settings
) -> None:
    with load(worker_settings) as under:
        vhost = vhost_of(worker_settings)
        names = eventually(lambda: four(rabbitmq.management.list_connections(vhost)))
        for name in names:  # the worker's three and the producer's, one after the other
            with suppress(ManagementError):  # the worker may have closed its other connections
                rabbitmq.management.close_connection(name)
            under.is_answered()
    assert under.log.count("keeping the messages") == under.log.count("the broker is back") <= len(names)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_worker_recovers_after_long_and_repeated_stops_of_postgresql(
    fragile_postgres: Postgres, fragile_database: str, broker_url: str
) -> None:
    with load(
        load_settings(broker_url=broker_url, database_url=fragile_database, readers=0), workers=2
    ) as under:
        for mode in MODES * 2:
            outage(fragile_postgres, mode, LONG_S, under)
            under.is_answered(workers=2)
    # One of the two may sleep through the little time between two outages.
    assert under.log.count("keeping the messages") == under.log.count("the database is back") <= 16


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_worker_recovers_after_long_and_repeated_stops_of_rabbitmq(
    fragile_rabbitmq: RabbitMQ, fragile_broker: str, postgres_url: str
) -> None:
    with load(
        load_settings(broker_url=fragile_broker, database_url=postgres_url, readers=0), workers=2
    ) as under:
        for mode in MODES * 2:
            outage(fragile_rabbitmq, mode, LONG_S, under)
            under.is_answered(workers=2)
    assert under.log.count("keeping the messages") == under.log.count("the broker is back")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_worker_recovers_after_both_servers_stop_together(
    fragile_postgres: Postgres, fragile_database: str, fragile_rabbitmq: RabbitMQ, fragile_broker: str
) -> None:
    with load(load_settings(broker_url=fragile_broker, database_url=fragile_database, readers=0)) as under:
        for mode in MODES:
            fragile_rabbitmq.stop(mode)
            outage(fragile_postgres, mode, SHORT_S, under)
            fragile_rabbitmq.resume()
            under.is_answered()
            fragile_postgres.stop(mode)
            outage(fragile_rabbitmq, mode, SHORT_S, under)
            fragile_postgres.resume()
            under.is_answered()


class Load:
    """Load of a producer that goes on publishing, and workers that reply."""

    def __init__(self, url: str, producer: BackgroundProducer) -> None:
        self._url, self._producer = url, producer
        self.log = ""

    def lasts(self, seconds: float) -> None:
        """Let the load go on for ``seconds``."""
        eventually(past(seconds))

    def is_answered(self, workers: int = 1) -> None:
        """Wait until ``workers`` consume and have answered all messages published so far and some more."""
        wanted = len(self._producer.published) + 20
        with RabbitClient(self._url) as rabbit:
            usage = BILLING.queue_of("usage.deduct").name
            eventually(lambda: consumers_of(rabbit, usage) == workers, what=f"{workers} workers")
            eventually(lambda: rabbit.depth(BILLING.replies.name) >= wanted, what=f"{wanted} replies")


@contextmanager
def load(settings: Settings, *, workers: int = 1) -> Iterator[Load]:
    """Keep up load before, during and after the block; then assert a right reply to every message."""
    url = settings.broker_url.get_secret_value()
    engine = ledger_engine(settings.database_url.get_secret_value())
    state = ExpectedState(engine)
    with WorkerProcesses(settings) as processes:
        started = [processes.start() for _ in range(workers)]
        with BackgroundProducer(url, mixed(), reply_to=BILLING.replies.name) as producer:
            under = Load(url, producer)
            under.is_answered(workers)
            yield under
            under.is_answered(workers)
        for message in producer.published:
            state.sent(message["referenceId"], message)
        engine.dispose()  # its connections went through the outage too
        check(url, state)
        ended = [processes.stop(process) for process in started]
    engine.dispose()
    assert [code for code, _ in ended] == [0] * workers
    under.log = "".join(log for _, log in ended)


def consumers_of(rabbit: RabbitClient, queue: str) -> int:
    return int(rabbit.channel.queue_declare(queue, passive=True).method.consumer_count)


def check(url: str, state: ExpectedState) -> None:
    with RabbitClient(url) as rabbit:
        rabbit.reply_queue = BILLING.replies.name  # this queue survives a restart of the broker
        state.check(every_reply(rabbit, state.correlations))
        assert rabbit.depth(BILLING.dead.name) == 0


def outage(server: PrivateServer, mode: StopMode, seconds: float, under: Load) -> None:
    server.stop(mode)
    try:
        under.lasts(seconds)
    finally:
        server.resume()


def four(connections: list[BrokerConnection]) -> list[str]:
    """Return the names of all four connections, or nothing until all are listed."""
    return [connection.name for connection in connections] if len(connections) == 4 else []
