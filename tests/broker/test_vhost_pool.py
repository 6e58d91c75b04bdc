"""Virtual hosts that tests use in turn: a test finds nothing of the one before."""

from collections.abc import Callable, Iterator

import pika
import pytest

from tests.support import vhost_pool
from tests.support.provision import RabbitMQServer
from tests.support.rabbitmq_management import connected
from tests.support.vhost_pool import VhostPool, has_connections
from tests.support.waiting import eventually


@pytest.fixture
def pool(rabbitmq: RabbitMQServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[VhostPool]:
    """A pool of this test's own, whose virtual hosts need no rest."""
    monkeypatch.setattr(vhost_pool, "REST_S", -1.0)
    found = VhostPool(rabbitmq)
    yield found
    found.close()


def test_virtual_host_is_used_again_without_the_messages_of_the_test_before(
    pool: VhostPool, rabbitmq: RabbitMQServer
) -> None:
    with pool.vhost() as first, pika.BlockingConnection(_parameters(rabbitmq, first)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for _ in range(3):
            channel.basic_publish("", "billing.dead", b"left behind")
        channel.basic_get("billing.dead")  # and never acknowledged
    eventually(lambda: not has_connections(rabbitmq.address.port), what="the end of the connection")
    with pool.vhost() as second:
        assert second == first
        assert rabbitmq.management.queue_depth(second, "billing.dead") == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda channel: channel.queue_delete("billing.replies"),
        lambda channel: channel.queue_declare("another", durable=True),
        lambda channel: channel.queue_declare("another", durable=False),
        lambda channel: channel.queue_bind("billing.dead", "billing.events", "#"),
        lambda channel: channel.exchange_declare("another", durable=False),
    ],
    ids=["queue gone", "queue", "queue that ends with the broker", "binding", "exchange"],
)
def test_changed_virtual_host_is_not_used_again(
    pool: VhostPool, rabbitmq: RabbitMQServer, change: Callable[[pika.channel.Channel], object]
) -> None:
    with pool.vhost() as first, pika.BlockingConnection(_parameters(rabbitmq, first)) as connection:
        change(connection.channel())
    with pool.vhost() as second:
        assert second != first


def test_policy_of_a_test_is_not_there_in_the_next(pool: VhostPool, rabbitmq: RabbitMQServer) -> None:
    with pool.vhost() as first:
        rabbitmq.management.set_policy(first, "p", pattern="^billing", definition={"max-length": 1})
    with pool.vhost() as second:
        assert second != first


def test_virtual_host_with_a_consumer_is_not_used_again(
    pool: VhostPool, rabbitmq: RabbitMQServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vhost_pool, "LISTED_S", -1.0)
    with pool.vhost() as first:
        connection = connected(rabbitmq.address.url(first))
        connection.channel().basic_consume("billing.dead", lambda *_: None)
    with pool.vhost() as second:
        assert second != first
    eventually(lambda: not connection.is_open or not _pumped(connection), what="the end of the connection")


def test_open_connection_is_seen_at_once(rabbitmq: RabbitMQServer) -> None:
    connection = connected(rabbitmq.address.url())
    assert has_connections(rabbitmq.address.port)
    connection.close()
    eventually(lambda: not has_connections(rabbitmq.address.port), what="the end of the connection")


def _parameters(rabbitmq: RabbitMQServer, vhost: str) -> pika.URLParameters:
    return pika.URLParameters(rabbitmq.address.url(vhost))


def _pumped(connection: pika.BlockingConnection) -> bool:
    """Return True while the broker keeps the connection."""
    try:
        connection.process_data_events(0)
    except pika.exceptions.AMQPError:
        return False
    return True
