"""The rate over time: what is in a bucket, and what is only estimated."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.support.query_samples import NOW, Apply, given, on_sqlite, opened, used
from worker.errors import QueryError
from worker.ledger.queries import snapshot
from worker.ledger.queries.pace import Pace, pace

MINUTE = timedelta(minutes=1)
Ask = Callable[..., Pace]


@pytest.fixture
def ask(engine: Engine) -> Ask:
    def asked(end: datetime = NOW, length: timedelta = MINUTE, buckets: int = 5) -> Pace:
        with snapshot(engine) as connection:
            return pace(connection, end, length, buckets)

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


def test_late_attempt_at_an_old_reference_moves_no_border(ask: Ask, apply: Apply) -> None:
    apply(opened("ada", "none"), now=NOW - 60 * MINUTE)
    for number in range(30):
        apply(used(f"r{number}", 5), now=NOW - (50 - number) * MINUTE)
    apply(given("ada", 100), now=NOW - MINUTE)
    again = used("r10", 5).model_copy(update={"attempt": 2})
    apply(again, now=NOW - timedelta(seconds=20))
    answer = ask(length=10 * MINUTE, buckets=6)
    assert [bucket.count for bucket in answer.buckets] == [1, 10, 10, 10, 0, 1]


def test_a_full_bucket_is_estimated_and_says_so(ask: Ask, engine: Engine) -> None:
    _fill(engine, 6_000, start=NOW - MINUTE, step=timedelta(milliseconds=10), rejected_every=4)
    (bucket,) = ask(buckets=1).buckets
    assert not bucket.is_counted
    assert bucket.count == 6_000
    assert bucket.applied + bucket.rejected == bucket.count
    assert bucket.rejected == pytest.approx(1_500, rel=0.1)


def test_gaps_in_the_ids_are_taken_into_account(ask: Ask, engine: Engine) -> None:
    _fill(engine, 3_000, start=NOW - MINUTE, step=timedelta(milliseconds=20), ids_apart=3)
    (bucket,) = ask(buckets=1).buckets
    assert not bucket.is_counted
    assert bucket.count == pytest.approx(3_000, rel=0.03)


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
    rejected_every: int = 0,
    ids_apart: int = 1,
) -> None:
    """Insert so many operations as they would stand in the table, without their entries."""

    def row(place: int) -> dict[str, Any]:
        is_rejected = bool(rejected_every) and place % rejected_every == 0
        recorded_at = start + place * step
        return {
            "id": 1 + place * ids_apart,
            "reference": f"f{place}",
            "status": "rejected" if is_rejected else "applied",
            "code": "insufficient_balance" if is_rejected else "ok",
            "amount": None if is_rejected else 1,
            "at": recorded_at if on_postgresql else recorded_at.strftime("%Y-%m-%d %H:%M:%S.%f"),
        }

    on_postgresql = engine.dialect.name == "postgresql"
    columns = (
        "INSERT INTO operations (operation_id, reference_id, type, user_id, attempt, content, status, code,"
        " amount, balance_before, balance_after, recorded_at)"
    )
    rows = "VALUES (:id, :reference, 'usage.deduct', 'ada', 1, '{}', :status, :code, :amount, 9, 9, :at)"
    statement = text(f"{columns} {'OVERRIDING SYSTEM VALUE' if on_postgresql else ''} {rows}")
    with engine.begin() as connection:
        connection.execute(statement, [row(place) for place in range(number)])
