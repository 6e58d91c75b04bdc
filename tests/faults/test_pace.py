"""Lost connections under a backlog: the pace is back at once."""

from pathlib import Path

import pytest

from tests.support.load_scenario import assert_clean, load_scenario, through
from tests.support.provision import PostgresServer, RabbitMQServer
from tests.support.tcp_proxy import Proxy
from tests.support.waiting import eventually, past

BACKLOG, LOSSES = 3_000, 5
#: One worker with a core to itself applies more than a thousand commands a second.
PACE_MIN = 300.0
HANDS_FULL = 300


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_worker_processes_the_backlog_at_once_after_lost_connections(
    rabbitmq: RabbitMQServer,
    broker_url: str,
    postgres: PostgresServer,
    postgres_url: str,
    tmp_path: Path,
) -> None:
    with Proxy(rabbitmq.address.port) as broker, Proxy(postgres.address.port) as database:
        seen = through(broker, broker_url), through(database, postgres_url)
        with load_scenario(
            tmp_path,
            broker_url=broker_url,
            database_url=postgres_url,
            seen=seen,
            pace=10_000,
            malformed_share=0,
        ) as under:
            eventually(lambda: len(under.producer.published) >= BACKLOG, what="the backlog")
            under.producer.pause()
            database.delay(0.02)  # so that the backlog outlasts all losses
            under.starts()
            for _ in range(LOSSES):
                loses_its_connection(broker)
            database.flow()
            left = under.under_way()
            took = under.recovers(patience_s=100)
            assert left > BACKLOG / 3
            assert left / took > PACE_MIN, f"{left} messages took {took:.1f} s"
            assert_clean(under)


def loses_its_connection(broker: Proxy) -> None:
    """Reset the connections once many messages are held, or after some seconds."""
    before, late = broker.deliveries, past(3)
    eventually(lambda: broker.deliveries - before >= HANDS_FULL or late())
    broker.reset()
