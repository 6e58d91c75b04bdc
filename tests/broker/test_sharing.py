"""Composition of a batch: queues in their order, bulk last, with what it gets at least and at most."""

from collections import deque
from functools import partial

import pytest

from tests.support.fakes import delivery
from worker.broker import BulkShare, Delivery
from worker.broker.deliveries import BATCH_MAX_BYTES, front_of
from worker.broker.sharing import BatchTurns, Waiting

PAYMENTS, USAGE, BULK = QUEUES = ("billing.payments", "billing.usage", "billing.bulk")
Arrived = dict[str, deque[Delivery]]


def arrived(payments: int = 0, usage: int = 0, bulk: int = 0, size: int = 1) -> Arrived:
    return {
        queue: deque(delivery(b"x" * size, queue=queue) for _ in range(count))
        for queue, count in zip(QUEUES, (payments, usage, bulk), strict=True)
    }


def counts(batch: list[Delivery]) -> tuple[int, ...]:
    """Return the number of each queue's messages; fail where they don't stand in the queues' order."""
    places = [QUEUES.index(one.queue) for one in batch]
    assert places == sorted(places)
    return tuple(places.count(place) for place in range(3))


def taken(queues: Arrived, most: int, bulk: BulkShare | None) -> tuple[int, ...]:
    waiting = {queue: Waiting(len(some), partial(front_of, some)) for queue, some in queues.items()}
    return counts(BatchTurns().batch_of(waiting, most, bulk))


@pytest.mark.parametrize(
    ("waiting", "least", "most", "expected"),
    [
        ((0, 0, 500), 10, 90, (0, 0, 90)),
        ((3, 4, 500), 10, 90, (3, 4, 90)),
        ((3, 4, 500), 10, 20, (3, 4, 20)),
        ((3, 4, 5), 10, 20, (3, 4, 5)),
        ((0, 500, 500), 10, 20, (0, 90, 10)),
        ((500, 500, 500), 10, 20, (90, 0, 10)),
        ((50, 500, 500), 10, 20, (50, 40, 10)),
        ((0, 500, 4), 10, 20, (0, 96, 4)),
        ((0, 85, 500), 10, 20, (0, 85, 15)),
        ((0, 500, 0), 10, 20, (0, 100, 0)),
        ((0, 30, 500), 0, 0, (0, 30, 0)),
        ((0, 0, 0), 10, 20, (0, 0, 0)),
    ],
)
def test_bulk_gets_the_room_that_is_left_within_its_share(
    waiting: tuple[int, int, int], least: int, most: int, expected: tuple[int, ...]
) -> None:
    assert taken(arrived(*waiting), 100, BulkShare(BULK, least, most)) == expected


def test_queues_are_served_in_order_without_a_share() -> None:
    assert taken(arrived(30, 30, 90), 100, None) == (30, 30, 40)
    assert taken(arrived(30, 90, 90), 100, BulkShare("another", 10, 20)) == (30, 70, 0)


def test_share_counts_bytes_as_well() -> None:
    fifth = arrived(0, 0, 100, size=BATCH_MAX_BYTES // 50)
    assert taken(fifth, 100, BulkShare(BULK, 10, 20)) == (0, 0, 11), (
        "a fifth of the bytes, and the last one's"
    )


def test_large_messages_of_others_leave_bulk_its_share_of_bytes() -> None:
    queues = arrived(0, 100, 100, size=256 * 1024)
    assert taken(queues, 100, BulkShare(BULK, 10, 20)) == (0, 2, 1)


def test_bulk_is_never_starved_and_neither_is_anyone_else() -> None:
    queues, share = arrived(0, 1_000, 1_000), BulkShare(BULK, 10, 20)
    batches = [taken(queues, 100, share) for _ in range(11)]
    assert batches[:11] == [(0, 90, 10)] * 11


def partitioned(**counts: int) -> dict[str, Waiting]:
    """Return what waits in queues, by lane and partition: ``usage_03=5``; a lane alone has no partition.

    Of ``usage_03_last=5`` nothing more comes.
    """
    lanes = {"payments": PAYMENTS, "usage": USAGE, "bulk": BULK}
    waiting = {}
    for name, count in counts.items():
        lane, *partition = name.removesuffix("_last").split("_")
        queue = ".".join([lanes[lane], *partition])
        some = deque(delivery(b"x", queue=queue) for _ in range(count))
        waiting[queue] = Waiting(count, partial(front_of, some), is_last=name.endswith("_last"))
    return waiting


def by_queue(batch: list[Delivery]) -> dict[str, int]:
    """Return the number of each queue's messages, in the order of the batch."""
    found: dict[str, int] = {}
    for one in batch:
        short = one.queue.removeprefix("billing.").replace(".", "_")
        found[short] = found.get(short, 0) + 1
    return found


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        ({"usage_00": 500, "usage_01": 500}, {"usage_00": 50, "usage_01": 50}),
        ({"usage_00": 500, "usage_01": 7}, {"usage_00": 93, "usage_01": 7}),
        ({"usage": 500, "usage_00": 500, "usage_01": 4}, {"usage": 48, "usage_00": 48, "usage_01": 4}),
        ({"payments": 0, "usage": 0, "usage_00": 80, "payments_01": 50}, {"payments_01": 50, "usage_00": 50}),
        ({"bulk_00": 90, "bulk_01": 90}, {"bulk_00": 10, "bulk_01": 10}),
        ({"bulk_00": 90, "bulk_01": 90, "usage_01": 95}, {"usage_01": 90, "bulk_00": 5, "bulk_01": 5}),
        ({"usage_00": 0, "usage_01": 0}, {}),
        (
            {"usage_00": 90, "usage_01_last": 80, "usage_02": 90},
            {"usage_01": 80, "usage_00": 10, "usage_02": 10},
        ),
        ({"usage_00_last": 90, "usage_01_last": 90}, {"usage_00": 50, "usage_01": 50}),
        ({"payments_00": 70, "usage_01_last": 90, "usage_02": 90}, {"payments_00": 70, "usage_01": 30}),
    ],
)
def test_partitions_of_a_lane_get_equal_parts_after_those_that_end(
    waiting: dict[str, int], expected: dict[str, int]
) -> None:
    batch = BatchTurns().batch_of(partitioned(**waiting), 100, BulkShare(BULK, 10, 20))
    assert by_queue(batch) == expected


def test_full_batch_is_of_four_partitions_and_each_has_its_turn() -> None:
    turns, waiting = BatchTurns(), partitioned(**{f"usage_{number:02d}": 90 for number in range(8)})
    batches = [by_queue(turns.batch_of(waiting, 100)) for _ in range(2)]
    assert batches == [{f"usage_{n:02d}": 25 for n in numbers} for numbers in (range(4), range(4, 8))]


def test_batch_of_one_partition_is_of_one_that_ends_while_there_is_one() -> None:
    turns, waiting = BatchTurns(one_partition=True), partitioned(usage_00=9, usage_01_last=150, usage_02=9)
    batches = [by_queue(turns.batch_of(waiting, 100)) for _ in range(2)]
    assert batches == [{"usage_01": 100}, {"usage_01": 50}]


def test_no_partition_is_starved_by_batches_that_are_smaller_than_their_number() -> None:
    turns, waiting = BatchTurns(), partitioned(**{f"usage_{number:02d}": 90 for number in range(8)})
    served = [one.queue for _ in range(8) for one in turns.batch_of(waiting, 3)]
    assert {served.count(queue) for queue in waiting} == {3}


def test_batch_of_one_partition_has_its_lanes_in_order_and_each_has_its_turn() -> None:
    turns = BatchTurns(one_partition=True)
    waiting = partitioned(payments=1, usage=0, usage_03=150, bulk_03=9, payments_03=2, usage_05=4)
    batches = [by_queue(turns.batch_of(waiting, 100, BulkShare(BULK, 10, 20))) for _ in range(3)]
    assert sorted(map(str, batches)) == sorted(
        map(str, [{"payments": 1}, {"payments_03": 2, "usage_03": 89, "bulk_03": 9}, {"usage_05": 4}])
    )


def test_late_look_takes_nothing_and_no_turn_where_a_batch_is_of_one_partition() -> None:
    turns, waiting = BatchTurns(one_partition=True), partitioned(usage_00=9, usage_01=9)
    assert by_queue(turns.batch_of(waiting, 5, BulkShare(BULK, 1, 4))) == {"usage_00": 5}
    assert turns.batch_of(waiting, 5, BulkShare(BULK, 0, 0)) == []
    assert by_queue(turns.batch_of(waiting, 5, BulkShare(BULK, 1, 4))) == {"usage_01": 5}


def test_queue_that_was_served_alone_comes_after_those_that_waited() -> None:
    turns, waiting = BatchTurns(), partitioned(usage_00=90, usage_01=90)
    turns.batch_of({"billing.usage.00": waiting["billing.usage.00"]}, 1)
    assert by_queue(turns.batch_of(waiting, 1)) == {"usage_01": 1}


def test_batch_of_one_partition_is_whole_although_others_have_arrived() -> None:
    queues = ["billing.usage", "billing.usage.00", "billing.payments.00", "billing.usage.01"]
    assert BatchTurns(one_partition=True).enough(500, queues) == 1500
    assert BatchTurns().enough(500, queues) == 500
