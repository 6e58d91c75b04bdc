"""Pauses of a lane: a bug on every message makes few dead letters, and the other lanes go on."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice

import pytest
from sqlalchemy import Engine, text

from schemas import DeadLetter
from tests.support.expected_state import ExpectedState, every_reply, nothing_is_left, publish_some
from tests.support.mixed_messages import mixed
from tests.support.processes import WorkerProcesses, run_cli
from tests.support.provision import RabbitMQServer
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.ledger.pauses import Pauses
from worker.runtime.supervisor import LIMIT_EXIT
from worker.settings import Settings

LIMIT = 10
MESSAGES = 80
PAYMENTS, USAGE, BULK = (queue.name for queue in BILLING.work)


@pytest.fixture
def worker_settings(worker_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with low limits; a paused lane tries its message soon."""
    monkeypatch.setattr("worker.lanes.pausing.PROBE_FIRST_S", 0.05)
    monkeypatch.setattr("worker.lanes.pausing.PROBE_MOST_S", 0.1)
    monkeypatch.setattr("worker.lanes.pausing._SYNC_EVERY_S", 0.05)
    return worker_settings.model_copy(update={"max_consecutive_faults": LIMIT, "batch_size": 20})


@contextmanager
def a_bug_on(engine: Engine, references: str) -> Iterator[None]:
    """Refuse to write outcomes of references like ``references``, as after a bad deploy."""
    check = f"CHECK (reference_id NOT LIKE '{references}') NOT VALID"
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE operations ADD CONSTRAINT bug {check}"))
    yield
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE operations DROP CONSTRAINT bug"))


def dead_letters(rabbit: RabbitClient) -> int:
    return rabbit.depth(BILLING.dead.name)


def send_again(rabbit: RabbitClient, count: int) -> None:
    """Publish the dead letters to their origin again, as a replay does."""
    for properties, body in rabbit.take(BILLING.dead.name, count):
        dead_letter = DeadLetter.from_headers(properties.headers)
        rabbit.publish(
            body,
            routing_key=dead_letter.routing_key,
            correlation_id=properties.correlation_id,
            reply_to=properties.reply_to,
        )


def pauses(application: Application) -> dict[str, str]:
    """Return the paused lanes with their reason codes."""
    lasting = Pauses(application.engine).lasting(application_now())
    return {pause.queue: pause.code for pause in lasting}


def application_now() -> datetime:
    return datetime.now(UTC)


def usage(number: int) -> dict[str, object]:
    return {"type": "usage.deduct", "referenceId": f"bad-{number}", "userId": "user-0", "tokens": 1}


def test_lane_with_a_bug_pauses_resumes_by_itself_and_loses_no_message(
    application: Application, rabbit: RabbitClient
) -> None:
    state = ExpectedState(application.engine)
    rabbit.publish({"type": "account.open", "referenceId": "open", "userId": "user-0", "tier": "free"})
    with running(application):
        with a_bug_on(application.engine, "bad-%"):
            for number in range(MESSAGES):
                message = usage(number)
                state.sent(rabbit.publish(message), message)
            eventually(lambda: pauses(application) == {USAGE: "consecutive_faults"}, what="the pause")
            assert LIMIT <= dead_letters(rabbit) <= LIMIT + 3
            bonus = {"type": "credit.bonus", "referenceId": "bonus", "userId": "user-0", "tokens": 5}
            assert rabbit.request(bonus)["status"] == "applied", "the other lane goes on"
        eventually(lambda: pauses(application) == {}, what="it goes on by itself")
        sent = dead_letters(rabbit)
        assert sent < MESSAGES // 2
        send_again(rabbit, sent)
        eventually(lambda: rabbit.depth(USAGE) == 0, what="all are taken")
        replies = every_reply(rabbit, state.correlations)
    assert all(any(reply["status"] == "applied" for reply in copies) for copies in replies.values())
    nothing_is_left(rabbit)


def test_paused_lane_keeps_the_message_it_tries_and_returns_the_others_once(
    application: Application, rabbit: RabbitClient
) -> None:
    for number in range(MESSAGES):
        rabbit.publish(usage(number))
    with a_bug_on(application.engine, "bad-%"), running(application):
        eventually(lambda: pauses(application) == {USAGE: "consecutive_faults"}, what="the pause")
        left = MESSAGES - dead_letters(rabbit)
        eventually(lambda: rabbit.depth(USAGE) in range(left - 4, left), what="one is held")
    eventually(lambda: rabbit.depth(USAGE) == MESSAGES - dead_letters(rabbit), what="it is given back")
    counts = [
        int((properties.headers or {}).get("x-delivery-count", 0))
        for properties, _ in rabbit.take(USAGE, rabbit.depth(USAGE))
    ]
    assert max(counts) <= 3
    assert pauses(application) == {}, "the pause ends with its worker"


def test_operator_resumes_a_paused_lane(
    application: Application, rabbit: RabbitClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.lanes.pausing.PROBE_FIRST_S", 1_000.0)  # by itself it would take an hour
    monkeypatch.setattr("worker.lanes.pausing.PROBE_MOST_S", 1_000.0)
    with running(application):
        with a_bug_on(application.engine, "bad-%"):
            for number in range(MESSAGES):
                rabbit.publish(usage(number))
            eventually(lambda: pauses(application) == {USAGE: "consecutive_faults"}, what="the pause")
            checked = run_cli(application.settings, "check")
            assert checked.returncode == 1
            assert b"consecutive_faults" in checked.stdout
        resumed = run_cli(application.settings, "resume", USAGE)
        assert (resumed.returncode, b"resumed billing.usage" in resumed.stdout) == (0, True)
        eventually(lambda: rabbit.depth(rabbit.reply_queue) == MESSAGES, what="every answer")
    assert run_cli(application.settings, "resume").returncode == 4, "nothing is paused any more"


@pytest.mark.parametrize("arguments", [("--on-limit", "exit"), ("--on-limit", "exit", "--workers", "2")])
def test_worker_with_on_limit_exit_exits_with_5(
    application: Application, workers: WorkerProcesses, rabbit: RabbitClient, arguments: tuple[str, ...]
) -> None:
    publish_some(rabbit, ExpectedState(application.engine), MESSAGES)
    with a_bug_on(application.engine, "%"):
        process = workers.start(*arguments)
        _, log = process.communicate(timeout=60)
    assert process.returncode == LIMIT_EXIT
    assert b"in a row met a fault" in log
    assert b"Traceback" not in log
    assert b"starting another" not in log
    eventually(lambda: depth(rabbit) == MESSAGES - dead_letters(rabbit), what="the rest waits")


def depth(rabbit: RabbitClient) -> int:
    return sum(rabbit.depth(queue.name) for queue in BILLING.work)


def test_configuration_that_refuses_valid_messages_pauses_until_an_operator_resumes(
    application: Application, rabbit: RabbitClient
) -> None:
    Pauses(application.engine).accept("the one before", "somebody", application_now())
    strict = Application(application.settings.model_copy(update={"max_quantity": 1}))
    for number in range(1_200):
        rabbit.publish({**usage(number), "tokens": 2})
    with running(strict):
        eventually(lambda: pauses(application) == {USAGE: "config_suspect"}, what="the pause")
        assert dead_letters(rabbit) <= 501
    with running(strict):  # the next process with the same settings goes on pausing
        eventually(lambda: pauses(application) == {USAGE: "config_suspect"}, what="the pause")
        eventually(lambda: rabbit.depth(USAGE) == 1_200 - dead_letters(rabbit), what="nothing is held")
        run_cli(application.settings, "resume")
        # A worker that stops returns what it holds: only while it runs is it sure to refuse all.
        eventually(lambda: dead_letters(rabbit) == 1_200, what="refused, as the operator accepted")


#: Messages by which one producer tries to stop everybody.
ATTACKS = {
    "garbage without a user": [b"{garbage}"] * 700,
    "two bad deploys": [b'{"type":"usage.nothing"}', b'{"type":"usage.deduct","n":1}'] * 400,
    "conflicts": [
        b'{"type":"usage.deduct","referenceId":"r","userId":"nobody","tokens":%d}' % tokens
        for tokens in range(1, 1_301)
    ],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_by_usage_producers_pauses_no_lane(
    application: Application, rabbitmq: RabbitMQServer, rabbit: RabbitClient, attack: str
) -> None:
    state = ExpectedState(application.engine)
    bodies = ATTACKS[attack]
    with running(application):
        for number, body in enumerate(bodies):
            user = rabbitmq.address.user if number % 2 and attack == "two bad deploys" else None
            rabbit.publish(body, routing_key="usage.deduct", user_id=user, reply_to=None)
        for message in islice(mixed(prefix="payment-"), 40):
            state.sent(rabbit.publish(message), message)
        replies = every_reply(rabbit, state.correlations)
        assert pauses(application) == {}
        eventually(lambda: depth(rabbit) == 0, what="the attack is worked off")
    state.check(replies)


def test_one_bad_message_in_twenty_never_pauses_a_lane(
    application: Application, rabbit: RabbitClient
) -> None:
    state, expected = ExpectedState(application.engine), set[str]()
    stream = mixed(prefix="m")
    poison = {"type": "usage.deduct", "userId": "user-0", "tokens": 17}
    for number in range(2 * LIMIT):
        for message in islice(stream, 19):
            state.sent(rabbit.publish(message), message)
        bad = {**poison, "referenceId": f"poison-{number}"} if number % 2 else b"broken"
        expected.add(rabbit.publish(bad, routing_key="usage.deduct"))
    with a_bug_on(application.engine, "poison-%"), running(application):
        replies = every_reply(rabbit, {*state.correlations, *expected})
    state.check(replies)
    assert dead_letters(rabbit) == len(expected)
    nothing_is_left(rabbit)
