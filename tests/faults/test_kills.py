"""Workers killed from outside: only a message that kills its workers itself becomes a dead letter."""

import random
from pathlib import Path

import pytest

from tests.support.mixed_messages import MANY_USERS
from tests.support.rig import assert_clean, rig
from tests.support.saboteur import Saboteurs
from tests.support.truth import Truth, every_reply, publish_some
from tests.support.waiting import eventually
from tests.support.witness import Witness
from worker.bootstrap import Application
from worker.broker import BILLING

KILLS, KILLING_S, WORKERS = 25, 80.0, 3
SHORT_KILLS = 6
DEATHS_MAX = 25
POISON = {"type": "usage.deduct", "referenceId": "poison", "userId": "user-0", "tokens": 17}


def test_messages_of_killed_workers_are_applied_and_no_dead_letters(
    application: Application, saboteurs: Saboteurs, witness: Witness
) -> None:
    truth = Truth(application.engine)
    publish_some(witness, truth, 400)
    for _ in range(SHORT_KILLS):
        answered = witness.depth(witness.reply_queue)
        worker = saboteurs.start()
        eventually(lambda answered=answered: witness.depth(witness.reply_queue) > answered)  # type: ignore[misc]
        worker.kill()
        worker.join()
        publish_some(witness, truth, 40, prefix=f"x{answered}")
    survivor = saboteurs.start()
    replies = every_reply(witness, truth.correlations)
    survivor.kill()
    survivor.join()
    truth.check(replies)
    assert witness.depth(BILLING.dead.name) == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_all_workers_killed_under_load_leave_no_dead_letter(
    seed: int, broker_url: str, postgres_url: str, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    with rig(
        tmp_path,
        broker_url=broker_url,
        database_url=postgres_url,
        malformed_share=0,
        users=MANY_USERS,
    ) as under:
        under.starts(workers=WORKERS)
        for _ in range(KILLS):
            under.lasts(KILLING_S / KILLS * rng.uniform(0.5, 1.5))
            for member in under.fleet.running():
                under.replace(member)
        under.recovers(patience_s=120)
        assert_clean(under)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_message_that_kills_every_worker_is_given_up_within_25_deaths(
    application: Application, saboteurs: Saboteurs, witness: Witness
) -> None:
    truth = Truth(application.engine)
    publish_some(witness, truth, 60)
    poison = witness.publish(POISON)
    publish_some(witness, truth, 60, prefix="n")
    deaths = 0
    while not witness.depth(BILLING.dead.name):
        worker = saboteurs.start_deadly('"poison"')
        eventually(lambda worker=worker: not worker.is_alive() or witness.depth(BILLING.dead.name))  # type: ignore[misc]
        if not worker.is_alive():
            deaths += 1
        assert deaths <= DEATHS_MAX, "it is never given up"
    replies = every_reply(witness, {*truth.correlations, poison})
    truth.check(replies)
    assert replies[poison][0]["reason"] == "delivery_limit"
    assert witness.depth(BILLING.dead.name) == 1
