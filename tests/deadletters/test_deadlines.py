"""Deadlines of dead letters: a replay drops them, and says so beforehand; bulk goes back to its lane."""

import json
from datetime import timedelta
from typing import Any

import pytest

from schemas import DeadLetterReason
from tests.deadletters.parts import NOW, World, came_of, deduct, failed
from worker.broker import BILLING
from worker.messages.dead_letters import Failure

LATE, IN_TIME = (NOW - timedelta(hours=1)).isoformat(), (NOW + timedelta(days=1)).isoformat()


@pytest.fixture(autouse=True)
def _ann(world: World) -> None:
    world.open("ann")


def batch(*items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "usage.batch", "referenceId": "b", "userId": "ann", "items": list(items)}


@pytest.mark.parametrize(
    "message",
    [deduct("late", validUntil=LATE), batch(deduct("late", validUntil=LATE), deduct("other", 0))],
    ids=["command", "batch"],
)
def test_replay_applies_usage_that_was_given_up(world: World, message: dict[str, Any]) -> None:
    (number,) = world.park_failed(message)
    assert came_of(world.replay([number])) == {"applied": 1}
    assert world.balance("ann") == 9_995
    assert json.loads(world.published[0].body) == message, "its bytes are the original's"


def test_message_sent_again_by_its_producer_is_too_late(world: World) -> None:
    world.queued = [*world.queued]
    (number,) = world.park_failed(deduct("late", validUntil=LATE))
    world.has_worker = False
    world.replay([number], patience_s=1.0)
    (sent,) = world.queued
    sent.headers.clear()  # type: ignore[attr-defined]  # as its producer sends it
    world.work()
    assert world.balance("ann") == 10_000


def test_dry_run_counts_the_deadlines_that_a_replay_drops(world: World) -> None:
    messages = (deduct("a", validUntil=LATE), deduct("b", validUntil=IN_TIME), deduct("c"))
    run = world.service.dry_run(world.park_failed(*messages))
    assert [forecast.would for forecast in run.forecasts] == ["apply"]
    assert run.past_deadline == 1
    dropped = [one.past_deadline is not None for one in run.dead_letters]
    assert dropped == [True, False, False]


def test_details_show_a_deadline_that_has_passed(world: World) -> None:
    late, in_time = world.park_failed(deduct("a", validUntil=LATE), deduct("b", validUntil=IN_TIME))
    assert world.service.details(late).past_deadline == NOW - timedelta(hours=1)
    assert world.service.details(in_time).past_deadline is None
    world.now += timedelta(days=2)
    assert world.service.details(in_time).past_deadline == NOW + timedelta(days=1)


def test_dead_letter_of_the_bulk_lane_goes_back_to_it(world: World) -> None:
    why = Failure(DeadLetterReason.UNPROCESSABLE, "a bug", traceback="t")
    body = json.dumps(deduct("in-bulk")).encode()
    (parked,) = world.park(failed(body, reason=why, exchange=BILLING.bulk_exchange))
    assert parked.queue == BILLING.bulk.name
    assert [one.would for one in world.service.dry_run([parked.number]).dead_letters] == ["apply"]
    assert came_of(world.replay([parked.number])) == {"applied": 1}
    assert [message.exchange for message in world.published] == [BILLING.bulk_exchange]


def test_replay_of_a_message_in_the_wrong_lane_goes_by_the_right_one(world: World) -> None:
    opening = {"type": "account.open", "referenceId": "o", "userId": "bob", "tier": "free"}
    why = Failure(DeadLetterReason.WRONG_LANE, "wrong")
    (parked,) = world.park(
        failed(
            json.dumps(opening).encode(),
            routing_key="account.open",
            reason=why,
            exchange=BILLING.bulk_exchange,
        )
    )
    (forecast,) = world.service.dry_run([parked.number]).forecasts
    assert (forecast.would, forecast.code) == ("apply", "account_opened")
    assert came_of(world.replay([parked.number])) == {"applied": 1}
    assert [message.exchange for message in world.published] == [BILLING.exchange]
