"""Senders on a real broker: those of operations are kept, and those that a rule refuses get nowhere."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pika
import pytest

from schemas import OpenAccount
from tests.support.apply_commands import applied
from tests.support.processes import WorkerProcesses, run_cli
from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient, user_of
from worker.bootstrap import Application


@pytest.fixture
def ocr(rabbitmq: RabbitMQServer, broker_url: str) -> Iterator[str]:
    """The URL of a user that may publish commands, and nothing else."""
    name = f"ocr{uuid4().hex[:8]}"
    vhost = broker_url.rpartition("/")[2]
    yield rabbitmq.management.create_user(name, uuid4().hex, vhost, write="^billing$")
    rabbitmq.management.delete_user(name)


@pytest.fixture
def account(application: Application) -> None:
    """Account of ann."""
    opened = OpenAccount(reference_id="open", user_id="ann", tier="free")
    applied(application.engine, application.catalog, opened)


@pytest.mark.usefixtures("account")
def test_sender_of_each_operation_is_explained(
    application: Application, workers: WorkerProcesses, rabbit: RabbitClient, ocr: str
) -> None:
    """Two users, of which one has two programs; a message without names, and the command line's own."""
    workers.start("--workers", "2")
    producer = pika.BlockingConnection(pika.URLParameters(ocr))
    user = user_of(ocr)
    for reference, user_id, app_id in (
        ("day", user, "scan-day"),
        ("night", user, "scan-night"),
        ("plain", user, None),
        ("stranger", None, "scan-day"),
        ("nobody", None, None),
    ):
        properties = pika.BasicProperties(user_id=user_id, app_id=app_id, delivery_mode=2)
        producer.channel().basic_publish("billing", "usage.deduct", json.dumps(deduct(reference)), properties)
    producer.close()
    line = json.dumps(deduct("line")).encode()
    assert run_cli(application.settings, "publish", "-", stdin=line).returncode == 0
    rabbit.publish(deduct("chat"), app_id="chat", reply_to="billing.replies")
    rabbit.publish(batch("many", "first", "second"), app_id="chat", user_id=rabbit.user, reply_to=None)
    rabbit.take("billing.replies", 8)
    rabbit.request(deduct("day"), app_id="copy")
    assert {reference: sender_of(application, reference) for reference in SENT} == {
        "day": (user, "scan-day"),
        "night": (user, "scan-night"),
        "plain": (user, None),
        "stranger": (None, "scan-day"),
        "nobody": None,
        "line": (rabbit.user, "billing-worker publish"),
        "chat": (None, "chat"),
        "first": (rabbit.user, "chat"),
        "second": (rabbit.user, "chat"),
    }


SENT = ("day", "night", "plain", "stranger", "nobody", "line", "chat", "first", "second")


def sender_of(application: Application, reference: str) -> tuple[str | None, str | None] | None:
    """Return the broker user and the application in the explanation of a reference."""
    sender = application.service().explain(reference).outcomes[-1].sender
    return None if sender is None else (sender.broker_user, sender.application)


@pytest.mark.usefixtures("account")
def test_worker_processes_refuse_references_without_the_prefix_of_their_sender(
    workers: WorkerProcesses, rabbit: RabbitClient, ocr: str
) -> None:
    """The rule reaches the supervisor through its environment, and its workers through theirs."""
    parameters = pika.URLParameters(ocr)
    user = parameters.credentials.username
    workers.start("--workers", "2", BILLING_SENDERS=json.dumps({"usage.*": {user: "ocr-", rabbit.user: ""}}))
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()

    def send(message: dict[str, Any], sender: str | None = user) -> None:
        properties = pika.BasicProperties(user_id=sender, delivery_mode=2)
        channel.basic_publish("billing", message["type"], json.dumps(message), properties)

    send(deduct("ocr-1"))
    send(deduct("job-1"))
    send(deduct("ocr-2"), None)
    send(batch("ocr-b1", "ocr-3", "job-2"))
    send(batch("job-b", "ocr-4"))
    send(batch("ocr-b2", "ocr-5", "ocr-6"))
    connection.close()
    replies = {
        reply["referenceId"]: (reply["status"], reply.get("reason"), reply.get("field"))
        for reply in (json.loads(body) for _, body in rabbit.take("billing.replies", 6))
    }
    assert replies == {
        "ocr-1": ("applied", None, None),
        "job-1": ("failed", "wrong_sender", "referenceId"),
        "ocr-2": ("failed", "wrong_sender", None),
        "ocr-b1": ("failed", "wrong_sender", "items.1.referenceId"),
        "job-b": ("failed", "wrong_sender", "referenceId"),
        "ocr-b2": ("applied", None, None),
    }
    assert rabbit.request(deduct("job-1"))["balanceAfter"] == 10_000 - 3 - 1


def deduct(reference: str) -> dict[str, Any]:
    return {"type": "usage.deduct", "referenceId": reference, "userId": "ann", "tokens": 1}


def batch(reference: str, *items: str) -> dict[str, Any]:
    return {"type": "usage.batch", "referenceId": reference, "items": [deduct(item) for item in items]}
