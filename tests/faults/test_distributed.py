"""Kill -9 of workers on a distributed ledger, between claim and operation and between two slots."""

from datetime import UTC, datetime

import pytest

from tests.faults.test_crashes import crash
from tests.support.expected_state import ExpectedState, every_reply, nothing_is_left, publish_some
from tests.support.fault_injection import SLOT_CRASH_POINTS, CrashingWorkers
from tests.support.processes import WorkerProcesses
from tests.support.rabbit_client import RabbitClient
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
