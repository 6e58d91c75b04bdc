"""Partitioned topology: queues, keys and policies beside those of the lanes."""

import re
from contextlib import closing
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from schemas import MESSAGE_TYPES
from worker.broker import BILLING, open_link
from worker.broker.partitions import partition_in, queue_of, without_partition
from worker.broker.roles import FURTHER_ROLES, ROLES, BrokerRole, BrokerUser, rights_of, sendable_keys
from worker.errors import ConfigurationError


def test_lane_has_a_queue_for_each_partition() -> None:
    topology = BILLING.partitioned(16)

    assert len(topology.partition_queues) == 3 * 16
    names = [queue.name for queue in topology.work_queues]
    assert names[:6] == [
        "billing.payments",
        "billing.usage",
        "billing.bulk",
        "billing.payments.00",
        "billing.usage.00",
        "billing.bulk.00",
    ]
    assert len(set(names)) == len(names)


def test_topology_without_partitions_is_as_before() -> None:
    assert BILLING.partitions == 0
    assert BILLING.partition_queues == ()
    assert BILLING.partitioned(0) == BILLING
    assert BILLING.work_queues == BILLING.work


def test_number_of_partitions_serves_whole_slots() -> None:
    with pytest.raises(ValueError, match="12 is no number of partitions"):
        BILLING.partitioned(12)


def test_keys_end_in_the_partition() -> None:
    seventh = next(queue for queue in BILLING.partitioned(8).partition_queues if queue.name.endswith("7"))

    assert seventh.routing_keys == ("payment.*.07", "credit.*.07", "account.*.07", "subscription.*.07")


def test_leaders_of_partitions_are_balanced() -> None:
    queues = BILLING.partitioned(8).partition_queues

    assert {queue.arguments["x-queue-leader-locator"] for queue in queues} == {"balanced"}
    assert {queue.exchange for queue in queues if "bulk" in queue.name} == {"billing.bulk"}


def test_journal_has_exactly_the_keys_of_the_queues_of_work() -> None:
    topology = BILLING.partitioned(8)

    assert set(topology.journal_bindings) == {
        (queue.exchange or topology.exchange, key)
        for queue in topology.work_queues
        for key in queue.routing_keys
    }


def test_policy_of_work_holds_for_every_partition_and_no_other_queue() -> None:
    pattern, _ = BILLING.policies()["billing-work"]

    assert all(re.search(pattern, queue.name) for queue in BILLING.partitioned(64).work_queues)
    assert not any(
        re.search(pattern, name) for name in ("billing.usage.7", "billing.usage.007", "billing.replies.07")
    )


@pytest.mark.parametrize(
    ("name", "lane", "partition"),
    [
        ("billing.usage", "billing.usage", None),
        ("billing.usage.07", "billing.usage", 7),
        ("usage.deduct", "usage.deduct", None),
        ("usage.deduct.63", "usage.deduct", 63),
        ("usage.deduct.7", "usage.deduct.7", None),
        ("usage.deduct.007", "usage.deduct.007", None),
        ("", "", None),
    ],
)
def test_partition_is_read_from_a_name(name: str, lane: str, partition: int | None) -> None:
    assert (without_partition(name), partition_in(name)) == (lane, partition)


def test_queue_of_a_partition_names_its_lane() -> None:
    assert without_partition(queue_of("billing.bulk", 3)) == "billing.bulk"
    assert partition_in(queue_of("billing.bulk", 3)) == 3


@pytest.mark.parametrize("role", [*ROLES, *FURTHER_ROLES], ids=lambda role: role.name)
def test_partition_behind_a_type_gives_no_role_another_right(role: BrokerRole) -> None:
    topology = BILLING.partitioned(64)
    for exchange in topology.command_exchanges:
        keys = re.compile(sendable_keys(role, topology, exchange))
        for type_ in MESSAGE_TYPES:
            may_send = keys.search(type_) is not None
            assert (keys.search(f"{type_}.07") is not None) == may_send
            assert not may_send or any(fnmatchcase(type_, pattern) for pattern in role.sends)


def test_key_of_usage_reaches_no_queue_of_payments() -> None:
    topology = BILLING.partitioned(64)
    payments = [queue for queue in topology.work_queues if topology.lane_of(queue.name) == "billing.payments"]

    assert all(not key.startswith("usage") for queue in payments for key in queue.routing_keys)


@pytest.mark.parametrize("partitions", [0, 16])
def test_worker_may_read_every_partition_whatever_their_number(partitions: int) -> None:
    (worker,) = (role for role in ROLES if role.name == "worker")
    read = re.compile(rights_of(BrokerUser("worker", worker), BILLING.partitioned(partitions)).read)

    assert all(read.search(queue.name) for queue in BILLING.partitioned(64).work_queues)
    assert not any(
        read.search(name) for name in ("billing.usage.7", "billing.usage.07.x", "billing.replies.07")
    )


def test_bulk_lane_is_known_by_its_queues() -> None:
    assert [queue.name for queue in BILLING.partitioned(8).work_queues if BILLING.is_bulk(queue.name)] == [
        "billing.bulk",
        *(f"billing.bulk.{partition:02d}" for partition in range(8)),
    ]


def test_lane_of_a_foreign_queue_is_its_name() -> None:
    assert BILLING.lane_of("billing.replies.07") == "billing.replies.07"


# -- on RabbitMQ ------------------------------------------------------------------------------------------


def test_partitions_that_are_there_are_found(broker_url: str) -> None:
    with closing(open_link(broker_url)) as link:
        assert link.partitions(BILLING) == 0
        link.declare(BILLING.partitioned(8))
        assert link.partitions(BILLING) == 8
        assert link.differences(BILLING.partitioned(8)) == []
        link.declare(BILLING.partitioned(16))
        assert link.partitions(BILLING.partitioned(8)) == 16  # their number was lowered
        link.delete("billing.usage.15")
        (missing,) = link.differences(BILLING.partitioned(16))
        assert missing.startswith("queue 'billing.usage.15' is missing")


def test_embedded_broker_refuses_partitions(tmp_path: Path) -> None:
    with closing(open_link(f"sqla+sqlite:///{tmp_path}/broker.db")) as link:
        assert link.partitions(BILLING) == 0
        with pytest.raises(ConfigurationError, match="the embedded broker has no partitions"):
            link.declare(BILLING.partitioned(8))
