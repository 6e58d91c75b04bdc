"""Share of the bulk lane: short batches beside other lanes, nearly whole ones alone, and never nothing."""

from dataclasses import dataclass

import pytest

from tests.support.fakes import delivery
from worker.broker import BulkShare
from worker.lanes.sharing import SHORT_FOR_S, LaneShares
from worker.pipeline import Item

USAGE, BULK = "billing.usage", "billing.bulk"


@dataclass
class SetClock:
    """Clock that its test sets."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def shares(clock: SetClock) -> LaneShares:
    return LaneShares(BULK, 500, clock)


def most_of_bulk(shares: LaneShares) -> int:
    share = shares.next()
    assert share is not None
    return share.most


def test_bulk_alone_leaves_a_tenth_of_a_batch_to_whoever_comes(shares: LaneShares) -> None:
    shares.note([delivery(b"", queue=BULK)])
    assert shares.next() == BulkShare(BULK, 50, 450)


def test_batches_with_bulk_are_short_for_a_while_after_another_message(
    shares: LaneShares, clock: SetClock
) -> None:
    shares.note([delivery(b"", queue=USAGE), delivery(b"", queue=BULK)])
    assert shares.next() == BulkShare(BULK, 50, 50)
    clock.now += SHORT_FOR_S / 2
    assert shares.next() == BulkShare(BULK, 50, 50)
    clock.now += SHORT_FOR_S / 2
    assert shares.next() == BulkShare(BULK, 50, 450)


@pytest.mark.parametrize(
    ("fixed_s", "each_s", "share"),
    [(0.004, 0.00016, 100), (0.008, 0.0002, 60), (0.030, 0.0002, 50), (0.0001, 0.00001, 450)],
)
def test_short_batches_take_the_same_time_on_any_machine(
    shares: LaneShares, clock: SetClock, fixed_s: float, each_s: float, share: int
) -> None:
    """A batch takes a fixed time and some for each message; the share settles where both are 20 ms."""
    for _ in range(50):
        most = most_of_bulk(shares)
        shares.note([delivery(b"", queue=USAGE), *[delivery(b"", queue=BULK)] * most])
        clock.now += fixed_s + each_s * (most + 1)
    assert most_of_bulk(shares) == pytest.approx(share, abs=2)


def test_time_without_bulk_is_not_measured(shares: LaneShares, clock: SetClock) -> None:
    for _ in range(50):
        shares.next()
        shares.note([delivery(b"", queue=BULK)] * 450)
        clock.now += 0.06
    for _ in range(50):
        shares.next()
        shares.note([delivery(b"", queue=USAGE)])
        clock.now += 1.0
    assert shares.next() == BulkShare(BULK, 50, 150)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 2_000])
@pytest.mark.parametrize("beside", [USAGE, BULK])
def test_bulk_gets_something_of_every_batch(batch_size: int, beside: str) -> None:
    shares = LaneShares(BULK, batch_size, SetClock())
    shares.note([delivery(b"", queue=beside)])
    share = shares.next()
    assert share is not None
    assert 1 <= share.least <= share.most <= batch_size


def test_late_messages_join_a_batch_with_bulk_ahead_of_it(shares: LaneShares) -> None:
    first, bulk, late = (Item(delivery(b"", queue=queue)) for queue in (USAGE, BULK, USAGE))
    assert shares.room_for_late([first.delivery, bulk.delivery]) == 498
    assert shares.of_late() == BulkShare(BULK, 0, 0)
    assert shares.joined([first, bulk], [late]) == [first, late, bulk]


def test_batch_without_bulk_is_joined_by_no_message(shares: LaneShares) -> None:
    assert shares.room_for_late([]) == 0
    assert shares.room_for_late([delivery(b"", queue=USAGE)]) == 0


def test_share_is_none_without_a_bulk_lane() -> None:
    shares = LaneShares(None, 500)
    shares.note([delivery(b"", queue=USAGE)])
    assert (shares.next(), shares.of_late()) == (None, None)
