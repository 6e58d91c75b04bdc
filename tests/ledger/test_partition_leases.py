"""Leases of partitions in a database: who has them, until when, and by whose clock."""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial

import pytest
from sqlalchemy import Engine, update

from tests.support.waiting import eventually
from worker.lanes.leases import change_for
from worker.ledger.partition_leases import Lease, LeaseChange, PartitionLeases, SharingWorker
from worker.ledger.tables import partition_leases, partition_workers

PARTITIONS = 8


@pytest.fixture
def leases(engine: Engine) -> PartitionLeases:
    return PartitionLeases(engine, lease_s=10)


def look(leases: PartitionLeases, worker: str, left: Collection[int] = ()) -> LeaseChange:
    return leases.renew(worker, PARTITIONS, partial(change_for, worker), left=left)


def holders(leases: PartitionLeases) -> Sequence[str | None]:
    return [lease.worker for lease in leases.held()[0]]


def test_first_worker_takes_all_and_renews(leases: PartitionLeases) -> None:
    assert look(leases, "a").take == set(range(PARTITIONS))
    (first, *_), now = leases.held()
    assert first.expires_at is not None
    assert 0 < (first.expires_at - now).total_seconds() <= 10
    assert look(leases, "a") == LeaseChange(keep=frozenset(range(PARTITIONS)))
    (renewed, *_), _ = leases.held()
    assert renewed.expires_at is not None
    assert renewed.expires_at > first.expires_at


def test_lease_is_its_workers_until_it_has_left(leases: PartitionLeases) -> None:
    look(leases, "a")
    assert look(leases, "b").missing == 4
    given_up = look(leases, "a").give_up
    assert look(leases, "b").take == set(), "the first still finishes what it holds"
    assert look(leases, "a", given_up) == LeaseChange(keep=frozenset(range(4)))
    assert look(leases, "b").take == given_up
    look(leases, "a", given_up)
    assert holders(leases) == ["a"] * 4 + ["b"] * 4, "what is another's by now stays so"


def test_worker_that_leaves_frees_all_and_counts_no_more(leases: PartitionLeases) -> None:
    look(leases, "a")
    look(leases, "b")
    leases.leave("a")
    assert holders(leases) == [None] * PARTITIONS
    assert look(leases, "b").take == set(range(PARTITIONS))


def test_lease_of_a_dead_worker_ends(engine: Engine) -> None:
    dying, other = PartitionLeases(engine, lease_s=0.1), PartitionLeases(engine, lease_s=10)
    look(dying, "a")
    eventually(lambda: look(other, "b").take, what="the lease has ended")
    assert holders(other) == ["b"] * PARTITIONS
    assert look(dying, "a").keep == set(), "it comes back, and has lost them"


def test_worker_forgets_those_that_died_long_ago(engine: Engine, leases: PartitionLeases) -> None:
    look(leases, "a")
    with engine.begin() as connection:
        long_ago = {"expires_at": datetime.fromisoformat("2026-01-01T00:00:00+00:00")}
        connection.execute(update(partition_workers).values(long_ago))
        connection.execute(update(partition_leases).values(long_ago))
    look(leases, "b")
    with engine.begin() as connection:
        assert connection.execute(partition_workers.select()).scalars().all() == ["b"]


def test_workers_that_look_at_the_same_time_take_each_partition_once(postgres_engine: Engine) -> None:
    leases = PartitionLeases(postgres_engine, lease_s=10)
    names = [f"w{number}" for number in range(4)]
    with ThreadPoolExecutor(len(names)) as threads:
        taken = list(threads.map(lambda name: look(leases, name).take, names))
    assert sorted(one for share in taken for one in share) == list(range(PARTITIONS))


def test_decision_is_made_by_the_clock_of_the_database(leases: PartitionLeases) -> None:
    seen: list[datetime] = []

    def decide(_: Sequence[Lease], workers: Sequence[SharingWorker], now: datetime) -> LeaseChange:
        seen.append(now)
        assert [one.name for one in workers] == ["a"]
        return LeaseChange()

    leases.renew("a", PARTITIONS, decide)
    _, after = leases.held()
    assert seen[0] <= after
