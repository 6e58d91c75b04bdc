"""Ways around rights that a producer has tried: each is refused, and moves no token.

The producer may publish usage to the exchange of commands, by topic permission, and may do as it likes with
queues and exchanges of its own.
"""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pika
import pytest

from schemas import OpenAccount
from tests.support.apply_commands import applied
from tests.support.processes import WorkerProcesses
from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient
from worker.bootstrap import Application, utc_now
from worker.ledger.queries import Reader

#: An exchange and a queue of the producer's own.
OWN, OWN_QUEUE = "ocr.own", "ocr.queue"


@pytest.fixture
def ocr(rabbitmq: RabbitMQServer, broker_url: str) -> Iterator[Any]:
    """A channel of a producer of usage, with a connection of its own."""
    name = f"ocr{uuid4().hex[:8]}"
    vhost = broker_url.rpartition("/")[2]
    own = r"ocr\..*"
    url = rabbitmq.management.create_user(
        name,
        uuid4().hex,
        vhost,
        configure=f"^{own}$",
        write=rf"^(billing|amq\.default|{own})$",
        read=f"^{own}$",
    )
    rabbitmq.management.limit_topics(name, vhost, "billing", write=r"^usage\.")
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    yield channel
    connection.close()
    rabbitmq.management.delete_user(name)


@pytest.fixture
def account(application: Application) -> None:
    """Account of ann."""
    opened = OpenAccount(reference_id="open", user_id="ann", tier="free")
    applied(application.engine, application.catalog, opened)


def bonus(reference: str) -> bytes:
    return json.dumps(
        {"type": "credit.bonus", "referenceId": reference, "userId": "ann", "tokens": 1_000_000}
    ).encode()


def send(channel: Any, exchange: str, key: str, reference: str, **properties: Any) -> None:
    properties = {"delivery_mode": 2, **properties}
    channel.basic_publish(exchange, key, bonus(reference), pika.BasicProperties(**properties), mandatory=True)


def by_default_exchange(channel: Any) -> None:
    send(channel, "", "billing.payments", "default")


def by_own_exchange(channel: Any) -> None:
    channel.exchange_declare(OWN, "fanout")
    channel.exchange_bind("billing", OWN)
    send(channel, OWN, "credit.bonus", "bound")


def by_dead_letter_exchange(channel: Any) -> None:
    arguments = {"x-dead-letter-exchange": "billing", "x-dead-letter-routing-key": "credit.bonus"}
    channel.queue_declare(OWN_QUEUE, arguments=arguments)
    for reference, headers in (("dead", {}), ("dead-hidden", {"x-death": "none"})):
        send(channel, "", OWN_QUEUE, reference, expiration="1", headers=headers)


def by_copy(channel: Any) -> None:
    send(channel, "billing", "usage.deduct", "copied", headers={"CC": ["credit.bonus"]})


@pytest.mark.usefixtures("account")
def test_credit_comes_in_by_its_own_routing_key_alone(
    application: Application, workers: WorkerProcesses, rabbit: RabbitClient, ocr: Any
) -> None:
    """Without rules of senders: topic permissions alone say who may send what."""
    workers.start()
    by_default_exchange(ocr)
    by_own_exchange(ocr)
    by_dead_letter_exchange(ocr)
    by_copy(ocr)
    replies = [json.loads(body) for _, body in rabbit.take("billing.replies", 6)]
    assert sorted((reply["referenceId"], reply["reason"]) for reply in replies) == [
        ("bound", "wrong_exchange"),
        ("copied", "wrong_routing_key"),
        ("copied", "wrong_routing_key"),
        ("dead", "wrong_exchange"),
        ("dead-hidden", "wrong_exchange"),
        ("default", "wrong_exchange"),
    ]
    ann = Reader(application.engine).balance("ann", utc_now(), application.catalog)
    assert ann.balance == 10_000


@pytest.fixture
def clerk(rabbitmq: RabbitMQServer, broker_url: str) -> Iterator[RabbitClient]:
    """An operator, whose user is one of ours, without the right to give credit."""
    name = f"clerk{uuid4().hex[:8]}"
    vhost = broker_url.rpartition("/")[2]
    own = rf"billing\.replies\.{name}\..*"
    url = rabbitmq.management.create_user(
        name,
        uuid4().hex,
        vhost,
        configure=f"^{own}$",
        write=r"^(billing|amq\.default)$",
        read=f"^{own}$",
    )
    with RabbitClient(url) as client:
        yield client
    rabbitmq.management.delete_user(name)


@pytest.mark.usefixtures("account")
def test_copy_has_the_rights_of_its_first_sender_and_of_its_publisher(
    application: Application, workers: WorkerProcesses, rabbit: RabbitClient, ocr: Any, clerk: RabbitClient
) -> None:
    user = ocr.connection._impl.params.credentials.username
    rules = {"credit.*": [rabbit.user, "gateway"], "usage.*": [user, clerk.user]}
    workers.start(BILLING_SENDERS=json.dumps(rules), BILLING_WORKER_USERS=clerk.user)

    def copied(client: RabbitClient, message: bytes, sender: str, **route: Any) -> tuple[str, str | None]:
        """Publish a copy of what ``sender`` has sent; return the status and the text of the reply."""
        headers = {"x-billing-sender": sender}
        reply = client.request(message, headers=headers, user_id=client.user, **route)
        return reply["status"], reply.get("reason") and reply["message"]

    named = {"headers": {"x-billing-sender": "gateway"}, "user_id": user, "reply_to": "billing.replies"}
    ocr.basic_publish(
        "billing",
        "usage.deduct",
        b'{"type": "usage.deduct", "referenceId": "forged", "userId": "ann", "tokens": 1}',
        pika.BasicProperties(**named),
    )
    ((_, reply),) = rabbit.take("billing.replies", 1)
    assert json.loads(reply)["message"].startswith(f"{user!r} is no worker user, so its header")
    by_key = {"routing_key": "credit.bonus"}
    assert copied(rabbit, bonus("b-1"), "gateway", **by_key) == ("applied", None)
    assert copied(rabbit, bonus("b-2"), user, **by_key) == ("failed", f"{user!r} may not send credit.bonus.")
    assert copied(clerk, bonus("b-3"), "gateway", **by_key) == (
        "failed",
        f"{clerk.user!r} may not send credit.bonus.",
    )
    deduct = json.dumps({"type": "usage.deduct", "referenceId": "d", "userId": "ann", "tokens": 1}).encode()
    passed_on = {"exchange": "", "routing_key": "billing.usage"}
    assert copied(clerk, deduct, user, **passed_on) == ("applied", None)
    sender_of_copy = application.service().explain("d").outcomes[-1].sender
    assert sender_of_copy is not None
    assert sender_of_copy.broker_user == user
