"""A crash while messages of a paused type are held, or return: each of them is applied once."""

from typing import Any

import pytest

from schemas import OpenAccount
from tests.support.apply_commands import applied
from tests.support.processes import WorkerProcesses
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from worker.bootstrap import Application
from worker.broker import BILLING
from worker.ledger.audit import audit
from worker.ledger.operator_pauses import OperatorPauses, PauseKind
from worker.steering import pause_lanes, resume_lanes

HELD, TYPE, COUNT = BILLING.held.name, "usage.deduct", 3_000


def deductions() -> list[dict[str, Any]]:
    return [
        {"type": TYPE, "referenceId": f"d-{number}", "userId": "ann", "tokens": 1} for number in range(COUNT)
    ]


def used(application: Application) -> int:
    with application.engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT used FROM accounts").scalar_one())


@pytest.mark.slow  # a killed worker counts as alive for 30 seconds
def test_killed_workers_lose_no_held_message_and_apply_none_twice(
    application: Application, workers: WorkerProcesses, rabbit: RabbitClient
) -> None:
    opening = OpenAccount(reference_id="open", user_id="ann", tier="pro")
    applied(application.engine, application.catalog, opening)
    pause_lanes(application, "usage", TYPE, PauseKind.PAUSE, reason="x", actor="ann")
    ids = rabbit.publish_all(deductions(), reply_to=None)
    first = workers.start()
    eventually(lambda: rabbit.depth(HELD) > 0, what="held messages")
    first.kill()
    first.wait()
    second = workers.start()
    eventually(lambda: rabbit.depth(HELD) >= COUNT, what="all of them held")
    resume_lanes(application, None, None, actor="ann")
    eventually(lambda: rabbit.depth(HELD) < COUNT, what="the return")
    second.kill()
    second.wait()
    workers.start()
    eventually(lambda: used(application) == COUNT, what="all of them applied")
    eventually(lambda: not OperatorPauses(application.engine).current(), what="the record of the return")
    assert rabbit.depth(HELD) == 0
    assert audit(application.engine).is_clean
    assert len(ids) == used(application)
