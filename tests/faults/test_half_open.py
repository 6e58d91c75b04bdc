"""Half-open connections, and a broker that is frozen for a while."""

from pathlib import Path

import pytest

from tests.support.load_scenario import assert_clean, load_scenario, through
from tests.support.mixed_messages import MANY_USERS
from tests.support.provision import PostgresServer, RabbitMQServer
from tests.support.rabbitmq_server import RabbitMQ
from tests.support.tcp_proxy import Proxy

#: A missed heartbeat is noticed after a minute at most; a hanging database session holds its locks for
#: half a minute.
RECOVERY_S = 100.0
STANDSTILL_S = 20.0
VARIABLES = {"BILLING_DATABASE_TIMEOUT_S": "5"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_worker_gives_up_a_half_open_connection_to_the_database(
    postgres: PostgresServer, postgres_url: str, broker_url: str, tmp_path: Path
) -> None:
    with (
        Proxy(postgres.address.port) as proxy,
        load_scenario(
            tmp_path,
            broker_url=broker_url,
            database_url=postgres_url,
            seen=(None, through(proxy, postgres_url)),
            variables=VARIABLES,
            users=MANY_USERS,
        ) as under,
    ):
        under.starts(workers=2)
        under.lasts(1)
        proxy.hang()
        under.lasts(2)
        proxy.flow()
        under.recovers(patience_s=RECOVERY_S)
        assert_clean(under)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_worker_gives_up_a_half_open_connection_to_the_broker(
    rabbitmq: RabbitMQServer, postgres_url: str, broker_url: str, tmp_path: Path
) -> None:
    with (
        Proxy(rabbitmq.address.port) as proxy,
        load_scenario(
            tmp_path,
            broker_url=broker_url,
            database_url=postgres_url,
            seen=(through(proxy, broker_url), None),
            users=MANY_USERS,
        ) as under,
    ):
        under.starts(workers=2)
        under.lasts(1)
        proxy.hang()
        under.lasts(2)
        proxy.flow()
        under.recovers(patience_s=RECOVERY_S)
        assert_clean(under)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_worker_waits_for_a_broker_that_freezes_for_a_while(
    fragile_rabbitmq: RabbitMQ, fragile_broker: str, postgres_url: str, tmp_path: Path
) -> None:
    with load_scenario(
        tmp_path, broker_url=fragile_broker, database_url=postgres_url, users=MANY_USERS
    ) as under:
        under.starts(workers=2)
        under.lasts(1)
        fragile_rabbitmq.pause()
        try:
            under.lasts(STANDSTILL_S)
        finally:
            fragile_rabbitmq.unpause()
        under.recovers(patience_s=RECOVERY_S)
        assert_clean(under)
