"""Behaviour of RabbitMQ alone: confirms, returns, refusals, cancelled consumers, topology that differs."""

import ssl
from collections.abc import Callable, Iterator
from functools import partialmethod
from typing import Any
from unittest.mock import Mock

import pika
import pytest

from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from worker.broker import BILLING, BulkShare, Link, Outgoing, open_link
from worker.broker.rabbitmq import consuming, publishing
from worker.broker.rabbitmq.connection import WorkerConnection
from worker.broker.rabbitmq.publishing import PublishingConnection
from worker.errors import BrokerUnavailableError, ConfigurationError

PAYMENTS, USAGE, BULK = (queue.name for queue in BILLING.work)


@pytest.fixture
def link(broker_url: str) -> Iterator[Link]:
    link = open_link(broker_url, consume=[PAYMENTS, USAGE])
    yield link
    link.close()


def reply(number: int, queue: str = "billing.replies") -> Outgoing:
    return Outgoing(b"{}", "", queue, {"message_id": f"m{number}"})


def test_consumers_of_a_queue_are_counted(link: Link, broker_url: str) -> None:
    assert link.consumers(USAGE) == 1
    assert link.consumers("billing.dead") == 0
    other = open_link(broker_url, consume=[USAGE])
    assert link.consumers(USAGE) == 2
    other.close()


def test_messages_without_a_queue_are_returned(link: Link) -> None:
    lost, kept = reply(1, "billing.replies.gone"), reply(2)
    also_lost, twice = reply(3, "billing.replies.gone"), reply(1, "billing.replies.gone")
    result = link.publish([lost, kept, also_lost, twice])
    assert (result.returned, result.accepted) == ([lost, also_lost, twice], [kept])
    assert link.depth("billing.replies") == 1
    assert not link.publish([reply(4)]).returned


def test_full_queue_refuses_messages_and_the_link_stays(link: Link, rabbit: RabbitClient) -> None:
    rabbit.channel.queue_declare(
        "billing.replies.full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    sent = [reply(n, "billing.replies.full") for n in range(10)]
    lost = reply(10, "billing.replies.gone")
    result = link.publish([*sent, lost])
    assert result.returned == [lost]
    assert result.refused
    assert set(result.refused) | set(result.accepted) == set(sent)
    assert rabbit.depth("billing.replies.full") == len(result.accepted)
    assert link.publish([kept := reply(11)]).accepted == [kept]
    with pytest.raises(BrokerUnavailableError, match=r"refused \d messages for 'billing.replies.full'"):
        result.raise_if_refused()


def test_channel_that_refuses_is_followed_by_another_one(
    link: Link, rabbit: RabbitClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_RENEW_AFTER_S", 0)
    opened = Mock(wraps=PublishingConnection._opened)
    monkeypatch.setattr(PublishingConnection, "_opened", partialmethod(opened))
    full = {"x-max-length": 0, "x-overflow": "reject-publish"}
    rabbit.channel.queue_declare("billing.replies.full", arguments=full)
    assert link.publish([reply(1)]).accepted
    assert link.publish([reply(2, "billing.replies.full")]).refused
    assert not opened.called
    assert len(link.publish([reply(3), reply(4)]).accepted) == 2
    assert link.publish([reply(5)]).accepted
    assert opened.call_count == 1


def notice(number: int, key: str = "balance.low") -> Outgoing:
    return Outgoing(b"{}", BILLING.events, key, {"message_id": f"n{number}"})


def test_notices_reach_bound_queues_or_are_returned(link: Link, rabbit: RabbitClient) -> None:
    for queue, key in (("all", "#"), ("balances", "balance.*"), ("credits", "credit.expiring")):
        rabbit.channel.queue_declare(queue, exclusive=True)
        rabbit.channel.queue_bind(queue, BILLING.events, key)
    sent = [notice(1), notice(2, "balance.depleted"), notice(3, "credit.expiring")]
    assert link.publish(sent).accepted == sent
    assert {queue: rabbit.depth(queue) for queue in ("all", "balances", "credits")} == {
        "all": 3,
        "balances": 2,
        "credits": 1,
    }
    rabbit.channel.queue_unbind("all", BILLING.events, "#")
    unheard = notice(4, "payment.strange")
    assert link.publish([notice(5), unheard]).returned == [unheard]


def test_one_full_bound_queue_refuses_a_notice(link: Link, rabbit: RabbitClient) -> None:
    rabbit.channel.queue_declare("open", exclusive=True)
    rabbit.channel.queue_declare(
        "full", exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    for queue in ("open", "full"):
        rabbit.channel.queue_bind(queue, BILLING.events, "#")
    sent = [notice(n) for n in range(3)]
    result = link.publish(sent)
    assert result.refused
    assert set(result.refused) < set(sent)
    assert rabbit.depth("open") == 3


def test_missing_event_exchange_names_the_command_to_run(link: Link, rabbit: RabbitClient) -> None:
    rabbit.channel.exchange_delete(BILLING.events)
    with pytest.raises(BrokerUnavailableError, match="topology declare"):
        link.publish([notice(1)])
    link.declare(BILLING)
    assert len(link.publish([notice(1)]).returned) == 1


def test_a_body_of_many_frames_comes_back_as_it_was_sent(link: Link, rabbit: RabbitClient) -> None:
    body = bytes(range(256)) * 4_096  # a megabyte, twice the size of the reply to a thousand items
    link.publish([Outgoing(body, "", "billing.replies")])
    ((_, received),) = rabbit.take("billing.replies", 1)
    assert received == body


def test_a_message_survives_the_broker(link: Link, rabbit: RabbitClient) -> None:
    link.publish([reply(1)])
    ((properties, _),) = rabbit.take("billing.replies", 1)
    assert properties.delivery_mode == 2


def test_a_deleted_queue_is_a_lost_link(link: Link, rabbit: RabbitClient) -> None:
    rabbit.channel.queue_delete(USAGE)
    with pytest.raises(BrokerUnavailableError, match="cancelled"):
        eventually(lambda: link.receive(1, 0.05))


def test_missing_queue_names_the_command_to_run(bare_broker_url: str) -> None:
    with pytest.raises(BrokerUnavailableError, match="topology declare"):
        open_link(bare_broker_url, consume=[USAGE])


def test_bulk_that_fills_the_memory_stands_before_nobody(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages that are not read wait in their socket; bulk has one of its own."""
    monkeypatch.setattr(consuming, "HELD_MAX_BYTES", 64 * 1024)
    link = open_link(broker_url, consume=[USAGE, BULK], prefetch=500, bulk=BULK)
    body = b"x" * 16 * 1024
    link.publish([Outgoing(body, BILLING.bulk_exchange, "usage.deduct") for _ in range(500)])
    eventually(lambda: link.receive(1, 0.1, BulkShare(BULK, 1, 1)))
    link.publish([Outgoing(b"{}", BILLING.exchange, "usage.deduct")])
    (found,) = eventually(lambda: link.receive(20, 0.1, BulkShare(BULK, 0, 0)))
    assert found.queue == USAGE
    link.close()


def test_bulk_alone_is_consumed(broker_url: str) -> None:
    link = open_link(broker_url, consume=[BULK], bulk=BULK)
    link.publish([Outgoing(b"{}", BILLING.bulk_exchange, "usage.deduct")])
    (found,) = eventually(lambda: link.receive(1, 0.1))
    assert found.queue == BULK
    link.close()


def test_deleted_bulk_queue_is_a_lost_link(broker_url: str, rabbit: RabbitClient) -> None:
    link = open_link(broker_url, consume=[USAGE, BULK], bulk=BULK)
    rabbit.channel.queue_delete(BULK)
    with pytest.raises(BrokerUnavailableError, match=r"cancelled the consumer of billing\.bulk"):
        eventually(lambda: link.receive(1, 0.05))
    link.close()


def test_a_body_that_names_an_encoding_stays_as_it_was_sent(link: Link, rabbit: RabbitClient) -> None:
    rabbit.publish(b"\xff\xfe", routing_key="usage.deduct", content_encoding="utf-16")
    (delivery,) = eventually(lambda: link.receive(1, 1.0))
    assert delivery.body == b"\xff\xfe"


@pytest.mark.parametrize(
    ("properties", "old", "new"),
    [
        ({"headers": {"sentAt": 10**15}}, b"sentAtl", b"sentAtT"),
        ({"message_id": "abc"}, b"\x03abc", b"\x03\xff\xfe\xfd"),
    ],
    ids=["a time in milliseconds", "an id that is not UTF-8"],
)
def test_unreadable_properties_are_kept_and_stop_nothing(
    link: Link,
    rabbit: RabbitClient,
    monkeypatch: pytest.MonkeyPatch,
    properties: dict[str, Any],
    old: bytes,
    new: bytes,
) -> None:
    encode: Callable[..., list[bytes]] = pika.BasicProperties.encode

    def mangled(self: pika.BasicProperties) -> list[bytes]:
        return [b"".join(encode(self)).replace(old, new)]

    monkeypatch.setattr(pika.BasicProperties, "encode", mangled)
    rabbit.publish(b"first", routing_key="usage.deduct", **properties)
    rabbit.publish(b"second", routing_key="usage.deduct")
    first = eventually(lambda: link.receive(1, 1.0))[0]
    second = eventually(lambda: link.receive(1, 1.0))[0]
    assert (first.body, second.body) == (b"first", b"second")
    assert first.unreadable is not None
    assert new in first.unreadable
    assert dict(first.headers) == {}
    assert second.unreadable is None


def test_missing_exchange_and_queues_are_named(bare_broker_url: str) -> None:
    link = open_link(bare_broker_url)
    try:
        missing = link.differences(BILLING)
    finally:
        link.close()
    assert len(missing) == len(BILLING.exchanges) + len(BILLING.queues)
    assert all("topology declare" in line for line in missing)
    assert missing[2] == "exchange 'billing.events' is missing: run `billing-worker topology declare`"
    assert "'billing.usage'" in " ".join(missing)


def test_a_queue_of_another_type_is_named_with_the_difference(bare_broker_url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(bare_broker_url)) as connection:
        connection.channel().queue_declare(USAGE, durable=True)
    link = open_link(bare_broker_url)
    try:
        with pytest.raises(ConfigurationError, match="x-queue-type"):
            link.declare(BILLING)
        (line,) = [line for line in link.differences(BILLING) if USAGE in line]
    finally:
        link.close()
    assert "differs" in line
    assert "x-queue-type" in line


def test_wrong_password_is_a_configuration_error(rabbitmq: RabbitMQServer) -> None:
    url = rabbitmq.address.url("/").replace(rabbitmq.address.password, "wrong-password")
    with pytest.raises(ConfigurationError) as raised:
        open_link(url)
    assert "wrong-password" not in str(raised.value)


def test_missing_virtual_host_is_a_configuration_error(rabbitmq: RabbitMQServer) -> None:
    with pytest.raises(ConfigurationError, match="not found"):
        open_link(rabbitmq.address.url("nowhere"))


def test_absent_broker_is_unavailable() -> None:
    with pytest.raises(BrokerUnavailableError, match="not available"):
        open_link("amqp://guest:secret@127.0.0.1:1/")


def test_another_kind_of_url_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigurationError, match="amqp://"):
        open_link("redis://127.0.0.1/")


def test_the_policy_is_one_the_broker_accepts_and_keeps_dead_letters(
    broker_url: str, rabbitmq: RabbitMQServer, rabbit: RabbitClient
) -> None:
    vhost = broker_url.rpartition("/")[2]
    for name, (pattern, definition) in BILLING.policies().items():
        rabbitmq.management.set_policy(vhost, name, pattern=pattern, definition=dict(definition))

    def dead() -> int:
        rabbit.publish(b"poison", routing_key="usage.deduct")
        method, _, _ = rabbit.channel.basic_get(USAGE)
        if method is not None:
            rabbit.channel.basic_reject(method.delivery_tag, requeue=False)
        return rabbit.depth("billing.dead")

    assert eventually(dead) > 0


def test_a_certificate_is_compared_with_the_name_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def connect(connection: Any, *_: Any) -> None:
        asked.append(connection.ssl)
        raise OSError("seen enough")

    monkeypatch.setattr(WorkerConnection, "connect", connect)
    for url in ("amqps://u:p@broker.example/", "amqp://u:p@broker.example/"):
        with pytest.raises(BrokerUnavailableError, match="seen enough"):
            open_link(url)
    assert asked == [{"server_hostname": "broker.example", "cert_reqs": ssl.CERT_REQUIRED}, False]


@pytest.mark.parametrize("url", ["amqp://127.0.0.1/?heartbeat=abc", "amqp://127.0.0.1:port/"])
def test_unreadable_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="URL"):
        open_link(url)


def test_producer_cannot_forge_a_delivery_count(link: Link, rabbit: RabbitClient) -> None:
    rabbit.publish(b"{}", routing_key="usage.deduct", headers={"x-delivery-count": 99})
    (delivery,) = eventually(lambda: link.receive(1, 1.0))
    assert delivery.delivery_count == 0


def test_bodies_far_too_large_do_not_fill_the_memory(link: Link, rabbit: RabbitClient) -> None:
    for _ in range(12):
        rabbit.publish(b"x" * 4_000_000, routing_key="usage.deduct")
    sizes: list[int] = []
    while sum(sizes) < 12:
        batch = eventually(lambda: link.receive(500, 1.0))
        link.acknowledge(batch)
        sizes.append(len(batch))
    assert max(sizes) <= 9
