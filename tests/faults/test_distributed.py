"""Kill -9 of workers on a distributed ledger, between claim and operation and between two slots."""

from datetime import UTC, datetime

import pytest

from schemas import OpenAccount
from tests.faults.test_crashes import crash
from tests.support.apply_commands import applied
from tests.support.expected_state import ExpectedState, every_reply, nothing_is_left, publish_some
from tests.support.fault_injection import SLOT_CRASH_POINTS, CrashingWorkers
from tests.support.processes import WorkerProcesses
from tests.support.rabbit_client import RabbitClient
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.ledger.audit import audit
from worker.ledger.form import LedgerForm, distribute
from worker.settings import Settings

COUNT = 66


@pytest.fixture
def worker_settings(worker_settings: Settings) -> Settings:
    """Settings of workers on a distributed ledger."""
    return worker_settings.model_copy(update={"ledger_form": LedgerForm.DISTRIBUTED})


@pytest.mark.parametrize("crash_point", SLOT_CRASH_POINTS)
@pytest.mark.parametrize("nth", [25, pytest.param(1, marks=pytest.mark.slow)])
def test_crash_between_slots_loses_no_message_and_applies_none_twice(
    crash_point: str,
    nth: int,
    application: Application,
    crashing_workers: CrashingWorkers,
    workers: WorkerProcesses,
    rabbit: RabbitClient,
) -> None:
    state = ExpectedState(application.engine)
    with application.engine.begin() as connection:
        distribute(connection)
    publish_some(rabbit, state, COUNT)
    crash(crashing_workers, crash_point, nth)
    workers.start()
    workers.start()
    state.check(every_reply(rabbit, state.correlations))
    nothing_is_left(rabbit)
    assert audit(application.engine, one_slot=True, claims_before=datetime.now(UTC)).is_clean


@pytest.mark.parametrize("crash_point", SLOT_CRASH_POINTS)
def test_redelivery_finishes_a_batch_of_many_users_that_a_crash_left_in_the_middle(
    crash_point: str,
    application: Application,
    crashing_workers: CrashingWorkers,
    rabbit: RabbitClient,
) -> None:
    users = [f"u-{number}" for number in range(6)]
    opened = [OpenAccount(reference_id=f"open-{user}", user_id=user, tier="free") for user in users]
    applied(application.engine, application.catalog, *opened)
    with application.engine.begin() as connection:
        distribute(connection)
    items = [
        {"type": "usage.deduct", "referenceId": f"item-{user}", "userId": user, "tokens": 1} for user in users
    ]
    correlation_id = rabbit.publish({"type": "usage.batch", "referenceId": "b-1", "items": items})
    crash(crashing_workers, crash_point, 3)
    with running(application):
        (reply,) = rabbit.replies([correlation_id])[correlation_id]
    assert [item["code"] for item in reply["items"]] == ["tokens_deducted"] * len(users)
    assert {item["balanceBefore"] - item["balanceAfter"] for item in reply["items"]} == {1}
    assert any(item["duplicate"] for item in reply["items"])
    nothing_is_left(rabbit)
    assert audit(application.engine, one_slot=True, claims_before=datetime.now(UTC)).is_clean
