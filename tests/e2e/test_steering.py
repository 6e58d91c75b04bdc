"""Steering from end to end: real workers obey operators, lose nothing, and are known."""

from collections.abc import Sequence
from typing import Any

import pytest

from schemas import OpenAccount
from tests.support.apply_commands import applied
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.ledger.audit import audit
from worker.ledger.operator_pauses import OperatorPauses, PauseKind
from worker.ledger.workers import KnownWorker, Workers, WorkerState
from worker.steering import LANES, pause_lanes, resume_lanes

pytestmark = pytest.mark.usefixtures("quick_steering")

PAYMENTS, USAGE, HELD = "billing.payments", "billing.usage", BILLING.held.name
TYPE = "usage.deduct"


@pytest.fixture(autouse=True)
def _open(application: Application) -> None:
    opening = OpenAccount(reference_id="open", user_id="ann", tier="pro")
    applied(application.engine, application.catalog, opening)


def pause(
    application: Application,
    lane: str = "usage",
    type_: str | None = None,
    kind: PauseKind = PauseKind.PAUSE,
) -> None:
    pause_lanes(application, lane, type_, kind, reason="why", actor="ann")


def deductions(count: int, prefix: str = "d") -> list[dict[str, Any]]:
    return [
        {"type": TYPE, "referenceId": f"{prefix}-{number}", "userId": "ann", "tokens": 1}
        for number in range(count)
    ]


def balances(rabbit: RabbitClient, ids: Sequence[str]) -> list[int]:
    """Return the balances after each of these messages, once all of them have one reply."""
    replies = rabbit.replies(ids)
    assert [len(replies[each]) for each in ids] == [1] * len(ids)
    return [replies[each][0]["balanceAfter"] for each in ids]


def is_in_order(balances_after: Sequence[int]) -> bool:
    return list(balances_after) == sorted(balances_after, reverse=True)


def in_state(application: Application, state: WorkerState) -> KnownWorker:
    """Return the worker, once its row says so."""
    workers = Workers(application.engine)
    found = eventually(
        lambda: [one for one in workers.all(application.clock()) if one.state is state], what=f"{state}"
    )
    return found[0]


def test_lane_that_is_paused_before_its_worker_starts_waits_in_its_queue(
    application: Application, rabbit: RabbitClient
) -> None:
    pause(application)
    ids = rabbit.publish_all(deductions(20))
    bonus = {"type": "credit.bonus", "referenceId": "b", "userId": "ann", "tokens": 5}
    with running(application):
        assert rabbit.request(bonus)["status"] == "applied"
        assert rabbit.depth(USAGE) == 20
        resume_lanes(application, "usage", None, actor="ann")
        assert is_in_order(balances(rabbit, ids))


def test_quiesced_worker_takes_nothing_more_and_says_so(
    application: Application, rabbit: RabbitClient
) -> None:
    with running(application):
        rabbit.request(deductions(1, "first")[0])
        for lane in LANES:
            pause(application, lane, kind=PauseKind.QUIESCE)
        known = in_state(application, WorkerState.QUIESCED)
        assert known.lanes[USAGE].paused == "all of it quiesced by ann: why"
        assert (known.lanes[USAGE].acknowledged, known.last_batch_size) == (1, 1)
        ids = rabbit.publish_all(deductions(3))
        eventually(lambda: rabbit.depth(USAGE) == 3, what="a waiting backlog")
        resume_lanes(application, None, None, actor="ann")
        balances(rabbit, ids)
    assert Workers(application.engine).all(application.clock()) == [], "it has said that it ended"


def test_messages_of_a_paused_type_are_held_and_return_in_their_order(
    application: Application, rabbit: RabbitClient
) -> None:
    pauses = OperatorPauses(application.engine)
    pause(application, "usage", TYPE)
    with running(application):
        ids = rabbit.publish_all(deductions(30))
        free = {"type": "usage.free_upload", "referenceId": "f", "userId": "ann", "bytes": 1}
        assert "status" in rabbit.request(free), "the lane goes on"
        eventually(lambda: rabbit.depth(HELD) == 30, what="held messages")
        assert rabbit.depth(USAGE) == 0
        resume_lanes(application, "usage", TYPE, actor="ann")
        assert is_in_order(balances(rabbit, ids))
        eventually(lambda: not pauses.current(), what="the record of the return")
    assert rabbit.depth(HELD) == 0
    assert audit(application.engine).is_clean
