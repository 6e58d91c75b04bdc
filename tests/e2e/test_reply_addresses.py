"""Attacks on reply addresses: a producer that may only publish tries to steer replies to others."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import pika
import pytest

from schemas import OpenAccount
from tests.support.apply_commands import applied
from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from tests.support.worker_thread import FlagStop, running
from worker.bootstrap import Application
from worker.broker import BILLING

DIRECT = "amq.rabbitmq.reply-to"
Connect = Callable[[str], Any]


@pytest.fixture
def connect(rabbitmq: RabbitMQServer, broker_url: str) -> Iterator[Connect]:
    """Connect as a user of the given name, who may publish commands and own private reply queues."""
    vhost = broker_url.rpartition("/")[2]
    names: list[str] = []
    connections: list[Any] = []

    def as_user(name: str) -> Any:
        own = rf"billing\.replies\.{name}\..*"
        url = rabbitmq.management.create_user(
            name, uuid4().hex, vhost, configure=own, write="^billing$", read=own
        )
        names.append(name)
        connections.append(pika.BlockingConnection(pika.URLParameters(url)))
        channel = connections[-1].channel()
        channel.confirm_delivery()
        return channel

    yield as_user
    for connection in connections:
        if connection.is_open:
            connection.close()
    for name in names:
        rabbitmq.management.delete_user(name)


@pytest.fixture
def name() -> str:
    """A user's name of this test's own: all virtual hosts share the users of the broker."""
    return f"mallory{uuid4().hex[:8]}"


@pytest.fixture
def ann(application: Application) -> None:
    """An account with 10,000 tokens."""
    opened = OpenAccount(reference_id="open", user_id="ann", tier="free")
    applied(application.engine, application.catalog, opened)


def send(channel: Any, reference: str, **properties: Any) -> None:
    command = {"type": "usage.deduct", "referenceId": reference, "userId": "ann", "tokens": 1}
    channel.basic_publish(
        "billing",
        "usage.deduct",
        json.dumps(command),
        pika.BasicProperties(correlation_id=reference, delivery_mode=2, **properties),
        mandatory=True,
    )


def references(rabbit: RabbitClient, queue: str, count: int) -> set[str]:
    return {json.loads(body)["referenceId"] for _, body in rabbit.take(queue, count)}


def counted(application: Application) -> float | None:
    return application.metrics.registry.get_sample_value("billing_worker_unroutable_replies_total")


@pytest.mark.usefixtures("ann")
def test_producer_steers_no_reply_into_a_queue_of_another(
    application: Application, rabbit: RabbitClient, connect: Connect, name: str
) -> None:
    victims = [
        "billing.replies.other",
        f"billing.replies.{name}2",
        f"billing.replies.{name[:-1]}",
        f"billing.replies.{rabbit.user}.private",
        f"billing.repliesX.{name}",
        "billing.repliesX",
    ]
    for victim in victims:
        rabbit.channel.queue_declare(victim)
    work = ["billing.dead", "billing.payments", "billing.usage"]
    channel = connect(name)
    with running(application):
        for place, queue in enumerate([*victims, *work]):
            send(channel, f"as-{place}", reply_to=queue, user_id=name)
            send(channel, f"anonymous-{place}", reply_to=queue)
        send(channel, "no-own", reply_to=f"billing.replies.{name}")
        sent = 2 * (len(victims) + len(work)) + 1
        assert len(references(rabbit, "billing.replies", sent)) == sent
    assert [rabbit.depth(queue) for queue in [*victims, *work]] == [0] * (len(victims) + len(work))


@pytest.mark.usefixtures("ann")
def test_producer_gets_replies_in_its_own_queues(
    application: Application, rabbit: RabbitClient, connect: Connect, name: str
) -> None:
    channel = connect(name)
    below = f"billing.replies.{name}.web-1"
    channel.queue_declare(below)
    rabbit.channel.queue_declare(f"billing.replies.{name}")
    with running(application):
        send(channel, "d-1", reply_to=f"billing.replies.{name}", user_id=name)
        send(channel, "d-2", reply_to=below, user_id=name)
        assert references(rabbit, f"billing.replies.{name}", 1) == {"d-1"}
        assert references(rabbit, below, 1) == {"d-2"}
    assert rabbit.depth("billing.replies") == 0


def test_producer_cannot_name_another_user(connect: Connect, rabbit: RabbitClient, name: str) -> None:
    channel = connect(name)
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="user_id"):
        send(channel, "d-1", reply_to=rabbit.reply_queue, user_id=rabbit.user)


@pytest.mark.usefixtures("ann")
@pytest.mark.parametrize("anonymous", [True, False])
def test_direct_reply_arrives(
    application: Application, rabbit: RabbitClient, connect: Connect, name: str, *, anonymous: bool
) -> None:
    channel = connect(name)
    replies: list[tuple[Any, bytes]] = []
    channel.basic_consume(DIRECT, lambda _c, _m, p, body: replies.append((p, body)), auto_ack=True)
    with running(application):
        send(channel, "d-1", reply_to=DIRECT, **({} if anonymous else {"user_id": name}))

        def arrived() -> bool:
            channel.connection.process_data_events(0.05)
            return bool(replies)

        eventually(arrived)
    ((properties, body),) = replies
    assert (properties.correlation_id, json.loads(body)["code"]) == ("d-1", "tokens_deducted")
    assert rabbit.depth("billing.replies") == 0
    assert counted(application) == 0


@pytest.mark.usefixtures("ann")
def test_lost_direct_reply_is_not_counted(
    application: Application, rabbit: RabbitClient, connect: Connect, name: str
) -> None:
    channel = connect(name)
    channel.basic_consume(DIRECT, lambda *_: None, auto_ack=True)
    send(channel, "d-1", reply_to=DIRECT)
    channel.connection.close()
    with running(application):
        rabbit.request({"type": "usage.deduct", "referenceId": "d-2", "userId": "ann", "tokens": 1})
        duplicate = {"type": "usage.deduct", "referenceId": "d-1", "userId": "ann", "tokens": 1}
        assert rabbit.request(duplicate)["duplicate"] is True
    assert counted(application) == 0
    assert rabbit.depth("billing.replies") == 0


@pytest.mark.usefixtures("ann")
def test_forged_direct_address_stops_nobody(
    application: Application, rabbit: RabbitClient, connect: Connect, name: str
) -> None:
    """RabbitMQ 3.10 closes the connection that publishes to an address of a node that it doesn't know."""
    channel = connect(name)
    unknown_node = "g1h2AAdyZXBseUAxAAADJgAAAABrCDsW"
    forged = ["AAAA.x", "!!!.x", "a.b", "é.x", ".", f"{unknown_node}.x"]
    for place, token in enumerate(forged):
        send(channel, f"forged-{place}", reply_to=f"{DIRECT}.{token}", user_id=name)
    with running(application):
        asked = {"type": "usage.deduct", "referenceId": "after", "userId": "ann", "tokens": 1}
        assert rabbit.request(asked)["status"] == "applied"
    for queue in BILLING.work:
        assert rabbit.depth(queue.name) == 0
    assert rabbit.depth("billing.dead") == 0
    assert counted(application) == 0


@pytest.mark.usefixtures("ann")
def test_replay_steers_no_reply_into_a_queue_of_the_operator(
    application: Application, rabbit: RabbitClient, connect: Connect, name: str
) -> None:
    """On replay the operator is the sender that the broker vouches for."""
    channel = connect(name)
    target = f"billing.replies.{rabbit.user}.console"
    rabbit.channel.queue_declare(target)
    service = application.service()
    bad = {"type": "usage.deduct", "referenceId": "d-1", "userId": "ann", "tokens": -1}
    for message, who in ((bad, name), (bad | {"referenceId": "d-2"}, None)):
        channel.basic_publish(
            "billing",
            "usage.deduct",
            json.dumps(message),
            pika.BasicProperties(reply_to=target, user_id=who, headers={"x-billing-sent-by": rabbit.user}),
        )
    with closing(application.link(consume=[BILLING.dead.name])) as link, running(application):

        def are_parked() -> bool:
            service.drain(link, wait_s=0.05)
            return service.counts().parked == 2

        eventually(are_parked)
    numbers = [line.number for line in service.page().dead_letters]
    created = service.create_replay(numbers, "a try", "ann")
    with running(application):
        ended = application.replayer().run(created.number, "ann", stop=FlagStop())
        assert ended.counts["failed_again"] == 2
    assert rabbit.depth(target) == 0
