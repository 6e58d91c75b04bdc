"""Partitioned topology: queues, keys and policies beside those of the lanes."""

import re

import pytest

from worker.broker import BILLING
from worker.broker.partitions import partition_in, queue_of, without_partition


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
