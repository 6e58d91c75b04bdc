"""Attacks on dead letters: a producer publishes straight to their queue with forged headers."""

import json
from contextlib import closing
from typing import Any
from uuid import uuid4

import pika
import pytest

from schemas import DeadLetterReason
from tests.support.provision import RabbitMQServer
from tests.support.waiting import eventually
from worker.bootstrap import Application, utc_now
from worker.broker import BILLING, Delivery
from worker.deadletters.models import StoredDeadLetter
from worker.deadletters.store.filters import DeadLetterFilter
from worker.messages.dead_letters import Failure, dead_letter_for
from worker.messages.policy import Policy

DEDUCT = {"type": "usage.deduct", "referenceId": "job-1", "userId": "ann", "tokens": 5}
NOTICE = {"type": "balance.low", "id": "n-1", "userId": "bob", "referenceId": "job-2"}
BATCH = {"type": "usage.batch", "referenceId": "b-1", "userId": "eve", "items": [DEDUCT]}


def forged_headers(body: bytes) -> dict[str, Any]:
    """Return the headers that a worker would write about another message."""
    reason = Failure(
        DeadLetterReason.UNPROCESSABLE, "m", type="payment.succeeded", reference_id="pi_1", user_id="victim"
    )
    failed = Delivery(body, "billing.payments", "billing", "payment.succeeded", 1)
    dead_letter = dead_letter_for(failed, reason, Policy(), tries=1, now=utc_now())
    return dict(dead_letter.headers) | {"x-billing-sender": "gateway"}


def drained(application: Application, count: int) -> list[StoredDeadLetter]:
    service = application.service()

    def are_all_there() -> bool:
        service.drain(link, wait_s=0.05)
        return service.counts().parked == count

    with closing(application.link(consume=[BILLING.dead.name])) as link:
        eventually(are_all_there)
    return list(service.every_dead_letter(DeadLetterFilter()))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (json.dumps(DEDUCT).encode(), ("usage.deduct", "job-1", "ann")),
        (json.dumps(NOTICE).encode(), ("balance.low", "job-2", "bob")),
        (json.dumps(BATCH).encode(), ("usage.batch", "b-1", "eve")),
        (b"not json", (None, None, None)),
        (b'{"userId": "ann", "pad": "' + b"x" * 600_000 + b'"}', (None, None, None)),
        (b"[" * 300_000, (None, None, None)),
    ],
    ids=["command", "notice", "batch", "no JSON", "too large", "too deep"],
)
def test_forged_headers_give_no_identity(
    application: Application,
    rabbitmq: RabbitMQServer,
    broker_url: str,
    body: bytes,
    said: tuple[str | None, ...],
) -> None:
    name = f"mallory{uuid4().hex[:8]}"
    vhost = broker_url.rpartition("/")[2]
    url = rabbitmq.management.create_user(name, uuid4().hex, vhost, write=r"^amq\.default$")
    try:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        channel.confirm_delivery()
        for headers in (forged_headers(body), {"x-billing-user-id": "victim"}):
            properties = pika.BasicProperties(headers=headers, message_id=str(len(headers)))
            channel.basic_publish("", BILLING.dead.name, body, properties, mandatory=True)
        connection.close()
        dead_letters = drained(application, 2)
    finally:
        rabbitmq.management.delete_user(name)
    assert [
        (dead_letter.type, dead_letter.reference_id, dead_letter.user_id) for dead_letter in dead_letters
    ] == [said] * 2
    assert list(application.service().every_dead_letter(DeadLetterFilter(user_id="victim"))) == []
    for dead_letter in dead_letters:
        assert (dead_letter.sender, dead_letter.is_origin_known) == (None, False)
        assert (dead_letter.reason, dead_letter.attempts, dead_letter.queue) == ("unknown", None, None)
