"""Queues that are missing, full, or lost while the worker runs: nothing is lost, and it says so once."""

import json
import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
from pika.exceptions import NackError

from schemas import DeadLetter
from tests.support.expected_state import ExpectedState, every_reply, nothing_is_left, publish_some
from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient, vhost_of
from tests.support.waiting import eventually
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.broker.rabbitmq import consuming
from worker.consumer import Consumer
from worker.pipeline import Pipeline
from worker.runtime.backoff import Backoff

#: Number of tries that these tests wait for.
TRIES = 15
MALFORMED = b'{"type": "usage.deduct", '


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten waits to 20 ms, so that a test sees the tries of an hour's outage in moments."""
    monkeypatch.setattr(Consumer, "_backoff", lambda _: Backoff(0.02, 0.02, random.Random(1)))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the tries to send a batch's replies."""
    tries: list[None] = []
    original = Pipeline.reply

    def counting(self: Pipeline, *arguments: Any) -> None:
        tries.append(None)
        original(self, *arguments)

    monkeypatch.setattr(Pipeline, "reply", counting)
    return lambda: len(tries)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the worker's log lines from level INFO on, without its start and its end."""
    caplog.set_level(logging.INFO, logger="worker")

    def lines() -> list[str]:
        texts = [record.getMessage() for record in caplog.records if record.name.startswith("worker.")]
        aside = ("topology:", "consuming from", "stopped", "rejected the payment")
        return [text for text in texts if not text.startswith(aside) and " × " not in text]

    return lines


@pytest.mark.usefixtures("impatient")
def test_malformed_message_and_its_neighbours_wait_for_a_dead_letter_queue(
    application: Application,
    rabbit: RabbitClient,
    answers: Callable[[], int],
    logged: Callable[[], list[str]],
) -> None:
    state = ExpectedState(application.engine)
    rabbit.channel.queue_delete(BILLING.dead.name)
    broken = [rabbit.publish(MALFORMED, routing_key="usage.deduct") for _ in range(3)]
    publish_some(rabbit, state, 60)
    with running(application):
        eventually(lambda: answers() > 2 * TRIES, what="the worker tries and tries")
        declare(application)
        replies = every_reply(rabbit, {*state.correlations, *broken})
        state.check(replies)
        dead_letters = rabbit.take(BILLING.dead.name, len(broken))
    reasons = [DeadLetter.from_headers(properties.headers).reason for properties, _ in dead_letters]
    assert reasons == ["not_json"] * len(broken)
    assert rabbit.depth(BILLING.dead.name) == 0
    began, ended = logged()
    assert "topology declare" in began
    assert "the broker is back" in ended
    nothing_is_left(rabbit)


@pytest.mark.usefixtures("impatient")
def test_full_reply_queue_makes_no_dead_letter(
    application: Application,
    rabbitmq: RabbitMQServer,
    rabbit: RabbitClient,
    answers: Callable[[], int],
    logged: Callable[[], list[str]],
) -> None:
    """A full queue nacks. Given back again and again, the whole prefetch would pass the delivery limit."""
    state = ExpectedState(application.engine)

    def let_reply_queues_hold(count: int) -> None:
        definition = {"max-length": count, "overflow": "reject-publish"}
        vhost = vhost_of(application.settings)
        rabbitmq.management.set_policy(vhost, "replies", pattern=r"^billing\.replies", definition=definition)

    let_reply_queues_hold(1)
    before = fill(rabbit, BILLING.replies.name)
    publish_some(rabbit, state, 30)
    with running(application):
        eventually(lambda: answers() > 2 * TRIES, what="the worker tries and tries")
        let_reply_queues_hold(10_000)
        queues = (rabbit.reply_queue, BILLING.replies.name)
        eventually(lambda: sum(map(rabbit.depth, queues)) >= before + 30, what="30 replies")
    replies = {
        properties.correlation_id: [json.loads(body)]
        for queue in queues
        for properties, body in rabbit.take(queue, rabbit.depth(queue))
        if properties.correlation_id
    }
    assert replies.keys() == state.correlations.keys()
    state.check(replies)
    assert rabbit.depth(BILLING.dead.name) == 0
    began, ended = logged()
    assert "takes no messages for billing.replies" in began
    assert "the broker is back" in ended
    nothing_is_left(rabbit)


def test_missing_reply_queue_is_counted_and_logged_and_stops_no_message(
    application: Application, rabbit: RabbitClient, logged: Callable[[], list[str]]
) -> None:
    state = ExpectedState(application.engine)
    gone = f"billing.replies.{rabbit.user}.gone"
    with running(application):
        publish_some(rabbit, state, 5, reply_to=gone)
        answered = publish_some(rabbit, state, 5, prefix="n")
        state.check(every_reply(rabbit, answered))
    unroutable = application.metrics.registry.get_sample_value("billing_worker_unroutable_replies_total")
    assert unroutable == 5
    assert {line.partition(" ")[2] for line in logged()} == {
        f"replies reached no queue: {gone!r} does not exist"
    }
    nothing_is_left(rabbit)


@pytest.mark.usefixtures("impatient")
def test_missing_work_queue_leaks_no_connections_and_holds_no_messages(
    application: Application, rabbitmq: RabbitMQServer, rabbit: RabbitClient, logged: Callable[[], list[str]]
) -> None:
    """A link that can't be completed must not go on holding payments through its first consumer."""
    rabbit.channel.queue_delete("billing.usage")
    payment = {"type": "credit.bonus", "referenceId": "b", "userId": "u", "tokens": 1}
    for _ in range(TRIES + 1):  # the wait for the next payment proves that the last one was given back
        rabbit.publish(payment)
    connects = counted(application)
    with running(application):
        eventually(lambda: connects() > 2 * TRIES, what="the worker tries and tries")
        declare(application)
        rabbit.take(rabbit.reply_queue, TRIES + 1)
    assert "topology declare" in logged()[0]
    assert len(logged()) == 2


def test_missing_bulk_queue_stops_no_other_lane_and_is_consumed_once_it_is_there(
    application: Application,
    rabbit: RabbitClient,
    logged: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broker that was declared for the version before has none; its operator declares it some day."""
    monkeypatch.setattr(consuming, "_LOOK_EVERY_S", 0.05)
    rabbit.channel.queue_delete(BILLING.bulk.name)
    opening = {"type": "account.open", "referenceId": "o", "userId": "ann", "tier": "basic"}
    with running(application):
        assert rabbit.request(opening)["code"] == "account_opened"
        (said,) = logged()
        assert said.startswith("billing.bulk is not consumed: NOT_FOUND")
        declare(application)
        deduct = {"type": "usage.deduct", "referenceId": "d", "userId": "ann", "tokens": 5}
        assert rabbit.request(deduct, exchange=BILLING.bulk_exchange)["code"] == "tokens_deducted"
        assert rabbit.request({**deduct, "referenceId": "e"})["code"] == "tokens_deducted"
    assert logged()[1:] == ["billing.bulk is there and consumed now"]
    nothing_is_left(rabbit)


def test_bulk_queue_that_is_deleted_is_an_outage_and_then_missing(
    application: Application, rabbit: RabbitClient, logged: Callable[[], list[str]]
) -> None:
    opening = {"type": "account.open", "referenceId": "o", "userId": "ann", "tier": "basic"}
    with running(application):
        assert rabbit.request(opening)["code"] == "account_opened"
        rabbit.channel.queue_delete(BILLING.bulk.name)
        eventually(lambda: len(logged()) >= 3, what="it goes on without the lane")
        assert rabbit.request({**opening, "referenceId": "o2"})["code"] == "account_exists"
    assert any("billing.bulk is not consumed" in line for line in logged())


def fill(rabbit: RabbitClient, queue: str) -> int:
    """Publish to ``queue`` until it refuses; return the number of messages it holds."""
    for _ in range(1_000):
        try:
            rabbit.channel.basic_publish("", queue, b"full", mandatory=True)
        except NackError:
            return rabbit.depth(queue)
    raise AssertionError(f"{queue} takes all")


def declare(application: Application) -> None:
    link = application.link()
    link.declare(BILLING)
    link.close()


def counted(application: Application) -> Callable[[], int]:
    """Count the links that the application opens."""
    opened: list[None] = []
    original = application.link

    def link(**named: Any) -> Any:
        opened.append(None)
        return original(**named)

    application.link = link  # type: ignore[method-assign]
    return lambda: len(opened)
