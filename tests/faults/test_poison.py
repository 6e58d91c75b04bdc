"""Poison messages: the neighbours are applied, the message becomes a dead letter with the reason."""

import json
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from typing import Any

import pytest
from sqlalchemy import text

from schemas import Command, DeadLetter
from tests.support.expected_state import ExpectedState, every_reply, nothing_is_left, publish_some
from tests.support.fault_injection import CrashingWorkers
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from tests.support.worker_thread import running
from worker import pipeline
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.core import decide
from worker.ledger.audit import audit
from worker.messages.policy import GIVE_UP_AFTER, TRIAL_AFTER

POISON = {"type": "usage.deduct", "referenceId": "poison", "userId": "user-0", "tokens": 17}
BESIDE = {**POISON, "referenceId": "beside"}
#: Deliveries until suspicion, trials in smaller and smaller groups, trials alone, one that reads the message.
DEATHS_MAX = 15
BATCH = {"type": "usage.batch", "referenceId": "batch", "items": [BESIDE, POISON]}


@pytest.fixture
def decided_alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Make ``decide`` raise for the poison message; count the tries of it alone."""
    alone: list[None] = []
    original = decide

    def deciding(commands: Sequence[Command], *arguments: Any) -> Any:
        references = {command.reference_id for command in commands}
        if "poison" in references:
            alone.extend([None] * (references <= {"poison", "beside"}))
            raise RuntimeError("raised by the test")
        return original(commands, *arguments)

    monkeypatch.setattr(pipeline, "decide", deciding)
    return lambda: len(alone)


def test_message_that_raises_becomes_a_dead_letter_with_its_traceback(
    application: Application, rabbit: RabbitClient, decided_alone: Callable[[], int]
) -> None:
    state = ExpectedState(application.engine)
    publish_some(rabbit, state, 25)
    poison = rabbit.publish(POISON)
    publish_some(rabbit, state, 25, prefix="n")
    with running(application):
        replies = every_reply(rabbit, {*state.correlations, poison})
    state.check(replies)
    (reply,) = replies[poison]
    assert (reply["status"], reply["code"]) == ("failed", "unprocessable")
    assert "raised by the test" not in reply["message"]
    ((properties, _),) = rabbit.take(BILLING.dead.name, 1)
    dead_letter = DeadLetter.from_headers(properties.headers)
    assert (dead_letter.reason, dead_letter.reference_id) == ("unprocessable", "poison")
    assert "RuntimeError: raised by the test" in (dead_letter.traceback or "")
    assert dead_letter.attempts == decided_alone() == application.settings.tries
    assert application.metrics.registry.get_sample_value("billing_worker_batch_bisections_total")
    nothing_is_left(rabbit)


def test_batch_with_an_item_that_raises_becomes_one_dead_letter(
    application: Application, rabbit: RabbitClient, decided_alone: Callable[[], int]
) -> None:
    """Its items share one transaction, so that an operator need not find out which were applied."""
    state = ExpectedState(application.engine)
    publish_some(rabbit, state, 12)
    poison = rabbit.publish(BATCH)
    publish_some(rabbit, state, 12, prefix="n")
    with running(application):
        replies = every_reply(rabbit, {*state.correlations, poison})
    state.check(replies)
    (reply,) = replies[poison]
    assert (reply["status"], reply["code"], reply["referenceId"]) == ("failed", "unprocessable", "batch")
    ((properties, body),) = rabbit.take(BILLING.dead.name, 1)
    dead_letter = DeadLetter.from_headers(properties.headers)
    assert (dead_letter.reason, dead_letter.type, dead_letter.reference_id) == (
        "unprocessable",
        "usage.batch",
        "batch",
    )
    assert json.loads(body) == BATCH
    assert decided_alone() == application.settings.tries
    nothing_is_left(rabbit)


def test_rows_that_the_database_refuses_fail_one_message_alone(
    application: Application, rabbit: RabbitClient
) -> None:
    """The tables' constraints hold even where Python is wrong, and the neighbours don't pay for it."""
    state = ExpectedState(application.engine)
    with application.engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE operations ADD CONSTRAINT no_poison CHECK (reference_id <> 'poison')")
        )
    publish_some(rabbit, state, 25)
    poison = rabbit.publish(POISON)
    publish_some(rabbit, state, 25, prefix="n")
    with running(application):
        replies = every_reply(rabbit, {*state.correlations, poison})
    state.check(replies)
    assert replies[poison][0]["code"] == "unprocessable"
    ((properties, body),) = rabbit.take(BILLING.dead.name, 1)
    assert "no_poison" in (DeadLetter.from_headers(properties.headers).traceback or "")
    assert b'"poison"' in body
    nothing_is_left(rabbit)


def test_message_that_kills_workers_becomes_a_dead_letter_and_spares_its_neighbours(
    application: Application, crashing_workers: CrashingWorkers, rabbit: RabbitClient
) -> None:
    state = ExpectedState(application.engine)
    publish_some(rabbit, state, 30)
    poison = rabbit.publish(POISON)
    publish_some(rabbit, state, 30, prefix="n")
    deaths = 0
    survivor = crashing_workers.start_deadly('"poison"')
    while not sends_a_dead_letter(survivor, rabbit):
        assert (deaths := deaths + 1) < DEATHS_MAX, "it is never given up"
        survivor = crashing_workers.start_deadly('"poison"')
    replies = every_reply(rabbit, {*state.correlations, poison})
    state.check(replies)
    assert deaths >= TRIAL_AFTER + GIVE_UP_AFTER
    survivor.kill()
    survivor.join()
    assert [reply["reason"] for reply in replies[poison]] == ["delivery_limit"]
    assert_given_up(rabbit, 1)
    nothing_is_left(rabbit)


def sends_a_dead_letter(worker: ForkServerProcess, rabbit: RabbitClient) -> bool:
    """True if the worker sends a dead letter before it dies."""

    def ended() -> str | None:
        if rabbit.depth(BILLING.dead.name):
            return "dead letter"
        return None if worker.is_alive() else "died"

    return eventually(ended) == "dead letter"


@pytest.mark.slow
def test_several_messages_that_kill_workers_become_dead_letters_and_no_others_do(
    application: Application, crashing_workers: CrashingWorkers, rabbit: RabbitClient
) -> None:
    state = ExpectedState(application.engine)
    deadly = []
    for number in range(3):
        publish_some(rabbit, state, 40, prefix=f"m{number}")
        deadly.append(rabbit.publish({**POISON, "referenceId": f"poison-{number}"}))
    expected = {*state.correlations, *deadly}
    pair: list[ForkServerProcess] = []

    def all_are_answered() -> bool:
        pair[:] = [process for process in pair if process.is_alive()]
        while len(pair) < 2:
            pair.append(crashing_workers.start_deadly('"poison-'))
        return rabbit.depth(rabbit.reply_queue) >= len(expected)

    eventually(all_are_answered)
    replies = every_reply(rabbit, expected)
    given_up = [copies for copies in replies.values() if copies[0].get("reason") == "delivery_limit"]
    assert len(given_up) == len(deadly), "no neighbour is a dead letter"
    assert_given_up(rabbit, len(given_up))
    assert audit(application.engine).findings == ()


def assert_given_up(rabbit: RabbitClient, count: int) -> None:
    dead_letters = [
        DeadLetter.from_headers(properties.headers) for properties, _ in rabbit.take(BILLING.dead.name, count)
    ]
    assert {dead_letter.reason for dead_letter in dead_letters} == {"delivery_limit"}
    assert all(
        "workers crashed while this message was applied alone" in dead_letter.message
        for dead_letter in dead_letters
    )
    assert rabbit.depth(BILLING.dead.name) == 0
