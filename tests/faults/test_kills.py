"""Workers killed from outside: only a message that kills its workers itself becomes a dead letter."""

import random
from pathlib import Path

import pytest

from tests.support.expected_state import ExpectedState, every_reply, publish_some
from tests.support.fault_injection import CrashingWorkers
from tests.support.load_scenario import assert_clean, load_scenario
from tests.support.mixed_messages import MANY_USERS
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from worker.bootstrap import Application
from worker.broker import BILLING

KILLS, KILLING_S, WORKERS = 25, 80.0, 3
SHORT_KILLS = 6
DEATHS_MAX = 25
POISON = {"type": "usage.deduct", "referenceId": "poison", "userId": "user-0", "tokens": 17}


def test_messages_of_killed_workers_are_applied_and_no_dead_letters(
    application: Application, crashing_workers: CrashingWorkers, rabbit: RabbitClient
) -> None:
    state = ExpectedState(application.engine)
    publish_some(rabbit, state, 400)
    for _ in range(SHORT_KILLS):
        answered = rabbit.depth(rabbit.reply_queue)
        worker = crashing_workers.start()
        eventually(lambda answered=answered: rabbit.depth(rabbit.reply_queue) > answered)  # type: ignore[misc]
        worker.kill()
        worker.join()
        publish_some(rabbit, state, 40, prefix=f"x{answered}")
    survivor = crashing_workers.start()
    replies = every_reply(rabbit, state.correlations)
    survivor.kill()
    survivor.join()
    state.check(replies)
    assert rabbit.depth(BILLING.dead.name) == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_all_workers_killed_under_load_leave_no_dead_letter(
    seed: int, broker_url: str, postgres_url: str, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    with load_scenario(
        tmp_path,
        broker_url=broker_url,
        database_url=postgres_url,
        malformed_share=0,
        users=MANY_USERS,
    ) as under:
        under.starts(workers=WORKERS)
        for _ in range(KILLS):
            under.lasts(KILLING_S / KILLS * rng.uniform(0.5, 1.5))
            for member in under.processes.running():
                under.replace(member)
        under.recovers(patience_s=120)
        assert_clean(under)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_message_that_kills_every_worker_is_given_up_within_25_deaths(
    application: Application, crashing_workers: CrashingWorkers, rabbit: RabbitClient
) -> None:
    state = ExpectedState(application.engine)
    publish_some(rabbit, state, 60)
    poison = rabbit.publish(POISON)
    publish_some(rabbit, state, 60, prefix="n")
    deaths = 0
    while not rabbit.depth(BILLING.dead.name):
        worker = crashing_workers.start_deadly('"poison"')
        eventually(lambda worker=worker: not worker.is_alive() or rabbit.depth(BILLING.dead.name))  # type: ignore[misc]
        if not worker.is_alive():
            deaths += 1
        assert deaths <= DEATHS_MAX, "it is never given up"
    replies = every_reply(rabbit, {*state.correlations, poison})
    state.check(replies)
    assert replies[poison][0]["reason"] == "delivery_limit"
    assert rabbit.depth(BILLING.dead.name) == 1
