"""The rate over time: what is in a bucket, and what is only estimated."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from schemas import slot_of
from tests.support.query_samples import NOW, Apply, given, on_sqlite, opened, used
from worker.errors import QueryError
from worker.ledger.queries import snapshot
from worker.ledger.queries.pace import Pace, pace
from worker.ledger.slots import SLOT_BY_SLOT, WHOLE, Slots
from worker.ledger.tables import operations

MINUTE = timedelta(minutes=1)
Ask = Callable[..., Pace]


@pytest.fixture
def ask(engine: Engine) -> Ask:
    def asked(
        end: datetime = NOW, length: timedelta = MINUTE, buckets: int = 5, shares: Sequence[Slots] = WHOLE
    ) -> Pace:
        with snapshot(engine) as connection:
            return pace(connection, end, length, buckets, shares=shares)

    return asked


def test_an_empty_ledger_has_empty_buckets_and_no_last_time(ask: Ask) -> None:
    answer = ask()
    assert [bucket.count for bucket in answer.buckets] == [0] * 5
    assert all(bucket.is_counted for bucket in answer.buckets)
    assert answer.last_at is None
    assert (answer.start, answer.end) == (NOW - 5 * MINUTE, NOW)


def test_each_operation_is_in_the_bucket_of_its_time(ask: Ask, apply: Apply) -> None:
    apply(opened("ada", "none"), given("ada", 10), now=NOW - 20 * MINUTE)
    apply(used("a", 1), now=NOW - 3 * MINUTE)  # the first instant of a bucket
    apply(used("b", 1), now=NOW - 2 * MINUTE - timedelta(microseconds=1))  # its last
    apply(used("c", 1), used("d", 100), now=NOW - timedelta(seconds=30))
    answer = ask()
    assert [bucket.count for bucket in answer.buckets] == [0, 0, 2, 0, 2]
    last = answer.buckets[-1]
    assert (last.applied, last.rejected, last.codes) == (1, 1, {"insufficient_balance": 1})
    assert answer.last_at == NOW - timedelta(seconds=30)


def test_late_attempt_is_in_the_bucket_of_its_latest_outcome(ask: Ask, apply: Apply) -> None:
    apply(opened("ada", "none"), now=NOW - 60 * MINUTE)
    for number in range(30):
        apply(used(f"r{number}", 5), now=NOW - (50 - number) * MINUTE)
    apply(given("ada", 100), now=NOW - MINUTE)
    again = used("r10", 5).model_copy(update={"attempt": 2})
    apply(again, now=NOW - timedelta(seconds=20))
    answer = ask(length=10 * MINUTE, buckets=6)
    assert [bucket.count for bucket in answer.buckets] == [1, 10, 9, 10, 0, 2]


def test_ids_give_no_order_in_time(ask: Ask, engine: Engine) -> None:
    _fill(engine, 300, start=NOW - 3 * MINUTE, step=timedelta(milliseconds=600), ids_apart=-1)
    answer = ask(buckets=3)
    assert [bucket.count for bucket in answer.buckets] == [100, 100, 100]
    assert answer.last_at == NOW - timedelta(milliseconds=600)


@pytest.mark.parametrize("ids_apart", [1, 3, -1, 64])
def test_a_full_bucket_is_estimated_and_says_so(ask: Ask, engine: Engine, ids_apart: int) -> None:
    _fill(engine, 6_000, start=NOW - MINUTE, step=timedelta(milliseconds=10), ids_apart=ids_apart)
    (bucket,) = ask(buckets=1).buckets
    assert not bucket.is_counted
    assert bucket.count == pytest.approx(6_000, rel=0.01)
    assert bucket.applied + bucket.rejected == bucket.count
    assert bucket.rejected == pytest.approx(1_500, rel=0.05)
    assert bucket.codes == {"insufficient_balance": bucket.rejected}


def test_a_small_bucket_between_full_ones_is_counted(ask: Ask, engine: Engine) -> None:
    _fill(engine, 4_000, start=NOW - 3 * MINUTE, step=timedelta(milliseconds=15))
    _fill(engine, 40, start=NOW - 2 * MINUTE, step=timedelta(seconds=1), first_id=500_000)
    _fill(engine, 4_000, start=NOW - MINUTE, step=timedelta(milliseconds=15), first_id=2_000_000)
    before, small, after = ask(buckets=3).buckets
    assert (small.is_counted, small.count, small.rejected) == (True, 40, 10)
    assert not before.is_counted
    assert not after.is_counted


def test_pace_is_the_same_where_a_statement_reads_one_slot(ask: Ask, engine: Engine) -> None:
    users = [f"user-{number}" for number in range(200)]
    _fill(engine, 6_000, start=NOW - 2 * MINUTE, step=timedelta(milliseconds=15), users=users)
    assert ask(shares=SLOT_BY_SLOT) == ask()


@on_sqlite
def test_the_number_of_buckets_has_bounds(ask: Ask) -> None:
    for buckets in (0, 201):
        with pytest.raises(QueryError, match="buckets must be from 1 to 200"):
            ask(buckets=buckets)


def _fill(
    engine: Engine,
    number: int,
    *,
    start: datetime,
    step: timedelta,
    ids_apart: int = 1,
    first_id: int = 1_000_000,
    users: Sequence[str] = ("ada",),
) -> None:
    """Insert so many operations, every fourth a rejection, without their entries."""

    def row(place: int) -> dict[str, Any]:
        user_id, is_rejected = users[place % len(users)], place % 4 == 0
        return {
            "operation_id": first_id + place * ids_apart,
            "slot": slot_of(user_id),
            "reference_id": f"{first_id}-{place}",
            "user_id": user_id,
            "type": "usage.deduct",
            "attempt": 1,
            "content": "{}",
            "status": "rejected" if is_rejected else "applied",
            "code": "insufficient_balance" if is_rejected else "tokens_deducted",
            "amount": None if is_rejected else 1,
            "balance_before": 9,
            "balance_after": 9,
            "recorded_at": start + place * step,
        }

    with engine.begin() as connection:
        connection.execute(insert(operations), [row(place) for place in range(number)])
