"""Dead letters on a real broker: those that a worker makes, and those that the broker makes by itself."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pika
import pytest
from sqlalchemy import Engine

from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import PATIENCE_S, eventually
from tests.support.worker_thread import FlagStop
from worker.bootstrap import Application
from worker.broker import BILLING, Link, open_link
from worker.deadletters.models import StoredDeadLetter
from worker.deadletters.replay.message import replay_of
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.filters import DeadLetterFilter
from worker.ledger.engine import ledger_engine
from worker.ledger.store import Ledger
from worker.settings import load_settings

DEDUCT = {"type": "usage.deduct", "referenceId": "r-1", "userId": "ann", "tokens": 5}
#: A body that is refused, and whose replay goes to the lane of its type.
TYPE_ALONE = b'{"type": "usage.deduct"}'


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    engine = ledger_engine(sqlite_url)
    yield engine
    engine.dispose()


@pytest.fixture
def service(engine: Engine, rabbitmq: RabbitMQServer) -> DeadLetters:
    return DeadLetters(engine, worker_users={rabbitmq.address.user})


@pytest.fixture
def dead(broker_url: str) -> Iterator[Link]:
    """A link that consumes the dead letters."""
    link = open_link(broker_url, consume=[BILLING.dead.name])
    yield link
    link.close()


@pytest.fixture
def policy(rabbitmq: RabbitMQServer, broker_url: str) -> None:
    """Set the policies that `topology declare` prints."""
    vhost = broker_url.rpartition("/")[2]
    for name, (pattern, definition) in BILLING.policies().items():
        rabbitmq.management.set_policy(vhost, name, pattern=pattern, definition=definition)


def worker(broker_url: str, database_url: str, **settings: Any) -> None:
    """Process the next message as a worker does."""
    application = Application(load_settings(broker_url=broker_url, database_url=database_url, **settings))
    pipeline = application.pipeline(Ledger(application.engine))
    link = application.link(consume=[queue.name for queue in BILLING.work])
    deliveries = link.receive(1, PATIENCE_S)
    items = pipeline.receive(deliveries)
    pipeline.apply(items)
    pipeline.reply_and_acknowledge(link, items)
    link.close()
    application.engine.dispose()


def parked(service: DeadLetters, dead: Link) -> StoredDeadLetter:
    """Drain until a dead letter is stored, and return it; it must be the only one."""
    eventually(lambda: service.drain(dead, wait_s=0.05))
    (dead_letter,) = service.every_dead_letter(DeadLetterFilter())
    return dead_letter


def sent_again(service: DeadLetters, link: Link, number: int, sent_as: str | None = None) -> None:
    """Publish the dead letter as a replay does."""
    assert not link.publish([replay_of(service.dead_letter(number), sent_as)]).returned


def own_headers(properties: Any) -> dict[str, Any]:
    """Return the headers without the count that a quorum queue adds."""
    return {name: value for name, value in properties.headers.items() if name != "x-delivery-count"}


def reject(rabbit: RabbitClient, *, requeue: bool = False) -> None:
    def got() -> bool:
        method, _, _ = rabbit.channel.basic_get("billing.usage")
        if method is not None:
            rabbit.channel.basic_reject(method.delivery_tag, requeue=requeue)
        return method is not None

    eventually(got)


@pytest.mark.usefixtures("policy")
def test_a_message_that_a_consumer_rejected_is_a_dead_letter(
    rabbit: RabbitClient, service: DeadLetters, dead: Link
) -> None:
    before = datetime.now(UTC)
    rabbit.publish(DEDUCT, message_id="m-1", headers={"x-trace": "t-1"})
    reject(rabbit)
    dead_letter = parked(service, dead)
    assert (dead_letter.reason, dead_letter.attempts, dead_letter.queue) == ("rejected", None, None)
    assert "took it from 'billing.usage'" in dead_letter.message
    assert dead_letter.sender == rabbit.user, "the broker keeps for whom it vouched"
    assert (dead_letter.type, dead_letter.reference_id, dead_letter.user_id) == ("usage.deduct", "r-1", "ann")
    assert dead_letter.last_failed_at is not None
    assert abs(dead_letter.last_failed_at - before) < timedelta(minutes=1)
    assert json.loads(dead_letter.body) == DEDUCT


@pytest.mark.usefixtures("policy")
def test_a_dead_letter_of_the_brokers_is_replayed_as_it_first_came(
    rabbit: RabbitClient, service: DeadLetters, dead: Link, broker_url: str
) -> None:
    user = broker_url.partition("://")[2].partition(":")[0]
    correlation_id = rabbit.publish(
        DEDUCT, message_id="m-1", user_id=user, headers={"x-trace": "t-1", "CC": ["payment.copy"]}
    )
    rabbit.take("billing.payments", 1)  # the copy for the CC header
    reject(rabbit)
    dead_letter = parked(service, dead)
    sent_again(service, dead, dead_letter.number, user)
    ((properties, body),) = rabbit.take("billing.usage", 1)
    assert json.loads(body) == DEDUCT
    assert (properties.message_id, properties.correlation_id) == ("m-1", correlation_id)
    assert (properties.reply_to, properties.user_id) == (rabbit.reply_queue, user)
    assert own_headers(properties) == {"x-trace": "t-1", "x-billing-sender": user}
    assert rabbit.depth("billing.payments") == 0, "no copy this time"


@pytest.mark.usefixtures("policy")
def test_replayed_broker_dead_letter_that_is_refused_is_the_same_dead_letter(
    rabbit: RabbitClient, service: DeadLetters, dead: Link, broker_url: str, sqlite_url: str
) -> None:
    rabbit.publish({"type": "usage.deduct"}, message_id="m-1")
    reject(rabbit)
    first = parked(service, dead)
    created = service.create_replay([first.number], "a try", "ann")
    application = Application(load_settings(broker_url=broker_url, database_url=sqlite_url))
    application.replayer().run(created.number, "ann", stop=FlagStop(), patience_s=0)
    application.engine.dispose()
    worker(broker_url, sqlite_url)
    again = parked(service, dead)
    assert (again.number, again.attempts) == (first.number, 2)
    assert (first.reason, again.reason) == ("rejected", "missing_field")


def test_a_message_that_was_delivered_too_often_is_a_dead_letter(
    rabbit: RabbitClient, service: DeadLetters, dead: Link, rabbitmq: RabbitMQServer, broker_url: str
) -> None:
    pattern, definition = BILLING.policies()["billing-work"]
    vhost = broker_url.rpartition("/")[2]
    rabbitmq.management.set_policy(
        vhost, "billing-work", pattern=pattern, definition={**definition, "delivery-limit": 2}
    )
    rabbit.publish(DEDUCT)
    for _ in range(3):
        reject(rabbit, requeue=True)
    dead_letter = parked(service, dead)
    assert (dead_letter.reason, dead_letter.queue) == ("delivery_limit", None)
    assert "took it from 'billing.usage'" in dead_letter.message


def test_a_message_that_has_expired_is_a_dead_letter_and_lives_on(
    rabbit: RabbitClient, service: DeadLetters, dead: Link
) -> None:
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": BILLING.dead.name}
    rabbit.channel.queue_declare("short", arguments=arguments, exclusive=True)
    rabbit.publish(DEDUCT, exchange="", routing_key="short", expiration="1")
    dead_letter = parked(service, dead)
    assert (dead_letter.reason, dead_letter.exchange, dead_letter.routing_key) == ("expired", None, None)
    sent_again(service, dead, dead_letter.number)
    ((properties, _),) = rabbit.take("billing.usage", 1)
    assert properties.expiration is None


def test_a_message_that_somebody_put_there_by_hand_is_a_dead_letter(
    rabbit: RabbitClient, service: DeadLetters, dead: Link
) -> None:
    rabbit.publish(b"\xff", exchange="", routing_key=BILLING.dead.name)
    dead_letter = parked(service, dead)
    assert (dead_letter.reason, dead_letter.queue, dead_letter.body) == ("unknown", None, b"\xff")


def test_a_workers_dead_letter_holds_headers_near_the_frames_maximum(
    rabbit: RabbitClient, service: DeadLetters, dead: Link, broker_url: str, sqlite_url: str
) -> None:
    headers = {"small": "s", "large": "l" * 90_000, "too-large": "t" * 30_000}
    rabbit.publish(TYPE_ALONE, routing_key="usage.deduct", headers=headers)
    worker(broker_url, sqlite_url)
    dead_letter = parked(service, dead)
    assert dead_letter.reason == "missing_field"
    assert dead_letter.properties["headers"]["x-billing-headers-omitted"] == "too-large"
    sent_again(service, dead, dead_letter.number)
    ((properties, body),) = rabbit.take("billing.usage", 1)
    assert body == TYPE_ALONE
    sender = {"x-billing-sender": rabbit.user}
    assert own_headers(properties) == {"small": "s", "large": "l" * 90_000, **sender}


def test_header_values_of_every_kind_come_back_over_the_wire(
    rabbit: RabbitClient, service: DeadLetters, dead: Link, broker_url: str, sqlite_url: str
) -> None:
    headers = {
        "nul": "a\0b",
        "bytes": b"\xff\x00",
        "time": datetime(2026, 11, 22, 10, 15, tzinfo=UTC).replace(tzinfo=None),
        "large": 2**62,
        "decimal": Decimal("12.50"),
        "yes": True,
        "none": None,
        "nested": {"list": [1, "two", {"three": 3}]},
    }
    rabbit.publish(TYPE_ALONE, routing_key="usage.deduct", headers=headers)
    ((before, _),) = rabbit.take("billing.usage", 1)
    rabbit.publish(TYPE_ALONE, routing_key="usage.deduct", headers=headers, message_id="m")
    worker(broker_url, sqlite_url)
    dead_letter = parked(service, dead)
    sent_again(service, dead, dead_letter.number)
    ((after, _),) = rabbit.take("billing.usage", 1)
    assert own_headers(after) == {**own_headers(before), "x-billing-sender": rabbit.user}


def test_a_dead_letter_with_a_routing_key_of_half_a_surrogate_pair_is_made_and_kept(
    rabbit: RabbitClient, service: DeadLetters, dead: Link, broker_url: str, sqlite_url: str
) -> None:
    properties = pika.BasicProperties(delivery_mode=2)
    rabbit.channel.basic_publish("billing", b"usage.\xed\xa0\x80", json.dumps(DEDUCT).encode(), properties)
    worker(broker_url, sqlite_url)
    dead_letter = parked(service, dead)
    assert (dead_letter.reason, dead_letter.routing_key) == ("wrong_routing_key", r"usage.\ud800")
