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
