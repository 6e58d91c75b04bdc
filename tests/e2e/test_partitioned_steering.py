"""Steering of partitioned queues from end to end: a pause covers a lane with its partitions."""

from contextlib import closing

import pytest

from schemas import OpenAccount, routing_key
from tests.support.apply_commands import applied
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually
from tests.support.worker_thread import running
from worker.bootstrap import Application
from worker.broker import BILLING, Link, open_link
from worker.ledger.audit import audit
from worker.ledger.operator_pauses import PauseKind
from worker.settings import Settings
from worker.status_probe import StatusProbe
from worker.steering import pause_lanes, resume_lanes

pytestmark = pytest.mark.usefixtures("quick_steering")

PARTITIONS = 8
TOPOLOGY = BILLING.partitioned(PARTITIONS)
USERS = [f"u-{number}" for number in range(6)]
USAGE, HELD, TYPE = "billing.usage", BILLING.held.name, "usage.deduct"


@pytest.fixture
def worker_settings(worker_settings: Settings) -> Settings:
    """Settings of a worker on partitioned queues."""
    with closing(open_link(worker_settings.broker_url.get_secret_value())) as link:
        link.declare(TOPOLOGY)
    return worker_settings.model_copy(update={"partitions": PARTITIONS})


@pytest.fixture(autouse=True)
def _open(application: Application) -> None:
    opened = [OpenAccount(reference_id=f"open-{user}", user_id=user, tier="pro") for user in USERS]
    applied(application.engine, application.catalog, *opened)


def publish(rabbit: RabbitClient, prefix: str, rounds: int = 3) -> dict[str, list[str]]:
    """Publish deductions of all users in turn, each by its partition; return the ids by user."""
    ids: dict[str, list[str]] = {user: [] for user in USERS}
    for place in range(rounds):
        for user in USERS:
            message = {"type": TYPE, "referenceId": f"{prefix}-{place}-{user}", "userId": user, "tokens": 1}
            ids[user].append(rabbit.publish(message, routing_key=routing_key(TYPE, user, PARTITIONS)))
    return ids


def in_order(rabbit: RabbitClient, ids: dict[str, list[str]]) -> bool:
    """Wait for the replies; return True where each user's messages were applied once, in their order."""
    replies = rabbit.replies([each for of_user in ids.values() for each in of_user])
    for of_user in ids.values():
        balances = [reply["balanceAfter"] for each in of_user for reply in replies[each]]
        if balances != sorted(set(balances), reverse=True) or len(balances) != len(of_user):
            return False
    return True


def waiting(rabbit: RabbitClient) -> int:
    return sum(rabbit.depth(name) for name in TOPOLOGY.names_by_lane[USAGE])


def consumers(link: Link) -> int:
    """Return the consumers of all queues of the lane."""
    return sum(link.consumers(name) or 0 for name in TOPOLOGY.names_by_lane[USAGE])


def shown(application: Application) -> tuple[int | None, int | None]:
    """Return what the status says of the lane: messages that wait, and consumers."""
    with closing(StatusProbe(application)) as probe:
        lane = next(lane for lane in probe.read().lanes if lane.queue == USAGE)
    return lane.depth, lane.consumers


@pytest.mark.parametrize("kind", list(PauseKind))
def test_paused_lane_takes_nothing_of_its_partitions(
    application: Application, rabbit: RabbitClient, kind: PauseKind
) -> None:
    with running(application), closing(application.link()) as link:
        assert in_order(rabbit, publish(rabbit, "before"))
        pause_lanes(application, "usage", None, kind, reason="why", actor="ann")
        eventually(lambda: consumers(link) == 0, what="a lane that nobody takes")
        ids = publish(rabbit, "while")
        bonus = {"type": "credit.bonus", "referenceId": "b", "userId": USERS[0], "tokens": 5}
        key = routing_key("credit.bonus", USERS[0], PARTITIONS)
        rabbit.replies([rabbit.publish(bonus, routing_key=key)])
        assert waiting(rabbit) == sum(map(len, ids.values())), "the other lanes go on"
        assert shown(application) == (waiting(rabbit), 0)
        resume_lanes(application, "usage", None, actor="ann")
        assert in_order(rabbit, ids)
    assert audit(application.engine).is_clean


def test_held_messages_return_to_their_partitions_in_order(
    application: Application, rabbit: RabbitClient
) -> None:
    pause_lanes(application, "usage", TYPE, PauseKind.PAUSE, reason="why", actor="ann")
    ids = publish(rabbit, "held")
    with running(application):
        eventually(lambda: rabbit.depth(HELD) == sum(map(len, ids.values())), what="held messages")
        assert waiting(rabbit) == 0
        resume_lanes(application, "usage", TYPE, actor="ann")
        assert in_order(rabbit, ids)
    assert rabbit.depth(HELD) == 0
    assert audit(application.engine).is_clean
