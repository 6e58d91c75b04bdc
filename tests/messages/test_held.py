"""Held messages: they return as they came, with the rights of their first sender and of nobody else."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas import DeadLetterReason, DeductUsage
from schemas.dead_letter import HELD_HEADER, REPLAY_DEAD_LETTER_HEADER, SENDER_HEADER
from tests.support.fakes import delivery
from worker.broker import BILLING, Delivery, Outgoing
from worker.messages.dead_letters import Failure
from worker.messages.held import copy_of_held, held_copy, lane_type_of, may_be_held_unread
from worker.messages.origin import DEATHS, is_replay, origin_of
from worker.messages.policy import Policy
from worker.messages.receiving import message_in

NOW = datetime(2026, 11, 26, tzinfo=UTC)
USAGE, BULK, TYPE = "billing.usage", "billing.bulk", "usage.deduct"
POLICY = Policy(user="worker", worker_users=frozenset({"worker", "ops"}), senders={"usage.*": ["app"]})
MESSAGE = {"type": TYPE, "referenceId": "r", "userId": "ann", "tokens": 5}


def as_delivered(message: Outgoing, *, user_id: str | None = "worker") -> Delivery:
    """Return ``message`` as the broker delivers it from the queue that it was published to."""
    properties = {**message.properties, "user_id": user_id}
    return Delivery(
        message.body, message.routing_key, "", message.routing_key, 1, False, properties, message.headers
    )


def sent(**options: Any) -> Delivery:
    return delivery(MESSAGE, **{"user_id": "app", "message_id": "m", "reply_to": "q", **options})


def returned(held: Delivery, *paused: tuple[str, str]) -> Delivery:
    return as_delivered(copy_of_held(held, paused, POLICY, NOW))


def test_held_message_returns_to_its_lane_as_it_came() -> None:
    first = sent()
    held = as_delivered(held_copy(first, TYPE, POLICY))
    assert (held.queue, lane_type_of(held, POLICY)) == (BILLING.held.name, (USAGE, TYPE))
    back = returned(held)
    assert (back.queue, back.body) == (USAGE, first.body)
    assert (back.text("message_id"), back.text("reply_to")) == ("m", "q")
    assert origin_of(back, POLICY.worker_users).sender == "app"
    assert isinstance(message_in(back, POLICY, NOW), DeductUsage)


@pytest.mark.parametrize(
    ("came_from", "goes_to"), [("billing.usage.07", "billing.usage.07"), ("billing.usage.12", USAGE)]
)
def test_held_message_returns_to_its_partition_while_that_is_there(came_from: str, goes_to: str) -> None:
    policy = replace(POLICY, topology=BILLING.partitioned(8))
    held = as_delivered(held_copy(sent(queue=came_from), TYPE, policy))
    assert lane_type_of(held, policy) == (USAGE, TYPE)
    assert copy_of_held(held, [(USAGE, TYPE)], policy, NOW).routing_key == BILLING.held.name
    back = as_delivered(copy_of_held(held, (), policy, NOW))
    assert back.queue == goes_to
    assert isinstance(message_in(back, policy, NOW), DeductUsage)


def test_message_of_a_type_that_is_still_paused_is_held_again() -> None:
    held = as_delivered(held_copy(sent(queue=BULK, exchange=BILLING.bulk_exchange), TYPE, POLICY))
    assert returned(held, (BULK, TYPE)).queue == BILLING.held.name
    assert returned(held, (USAGE, TYPE)).queue == BULK
    again = returned(returned(held, (BULK, TYPE)))
    assert again.queue == BULK
    assert isinstance(message_in(again, POLICY, NOW), DeductUsage)


def test_replay_stays_a_replay_while_it_is_held() -> None:
    replay = replace(sent(user_id="ops"), headers={SENDER_HEADER: "app", REPLAY_DEAD_LETTER_HEADER: 7})
    back = returned(as_delivered(held_copy(replay, TYPE, POLICY)))
    assert is_replay(back, origin_of(back, POLICY.worker_users))


def test_holding_makes_no_header_of_a_producer_believed() -> None:
    forger = replace(sent(), headers={REPLAY_DEAD_LETTER_HEADER: 7, "traceparent": "00-1"})
    back = returned(as_delivered(held_copy(forger, TYPE, POLICY)))
    assert REPLAY_DEAD_LETTER_HEADER not in back.headers
    assert back.headers["traceparent"] == "00-1"


@pytest.mark.parametrize("user", ["app", "reader", None])
def test_message_that_no_worker_held_becomes_a_dead_letter(user: str | None) -> None:
    stranger = as_delivered(held_copy(sent(), TYPE, POLICY), user_id=user)
    assert lane_type_of(stranger, POLICY) is None
    assert copy_of_held(stranger, (), POLICY, NOW).routing_key == BILLING.dead.name


def test_held_header_gives_no_right_on_an_exchange() -> None:
    headers = {SENDER_HEADER: "app", HELD_HEADER: USAGE}
    failure = message_in(replace(sent(user_id="ops"), headers=headers), POLICY, NOW)
    assert isinstance(failure, Failure)
    assert failure.code is DeadLetterReason.WRONG_SENDER


@pytest.mark.parametrize("is_ruled", [True, False], ids=["rules of senders", "rights of keys alone"])
def test_message_held_unread_gets_no_right_of_another_type(*, is_ruled: bool) -> None:
    policy = POLICY if is_ruled else replace(POLICY, senders={})
    credit = {"type": "credit.bonus", "referenceId": "r", "userId": "ann", "tokens": 5}
    bonus = delivery(credit, routing_key=TYPE, queue=USAGE, user_id="app")
    back = as_delivered(copy_of_held(as_delivered(held_copy(bonus, TYPE, policy)), (), policy, NOW))
    for one in (bonus, back):
        failure = message_in(one, policy, NOW)
        assert isinstance(failure, Failure)
        assert failure.code is DeadLetterReason.WRONG_ROUTING_KEY


def test_message_is_held_unread_only_as_it_may_come() -> None:
    assert may_be_held_unread(sent(), TYPE, POLICY)
    back = returned(as_delivered(held_copy(sent(), TYPE, POLICY)))
    assert may_be_held_unread(back, TYPE, POLICY)
    assert not may_be_held_unread(back, "usage.record", POLICY)
    assert not may_be_held_unread(sent(), "usage.record", POLICY)
    for other in ({"exchange": ""}, {"exchange": "own"}, {"unreadable": b"x"}):
        assert not may_be_held_unread(sent(**other), TYPE, POLICY)
    forged: tuple[dict[str, Any], ...] = ({DEATHS: []}, {SENDER_HEADER: "ops"})
    for headers in forged:
        assert not may_be_held_unread(replace(sent(), headers=headers), TYPE, POLICY)
