"""Ids in blocks: never given twice, by slots without a common sequence, and small enough for JSON."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest
from sqlalchemy import Connection, Engine, delete, insert, select

from schemas import SLOTS
from worker.ledger.ids import SHARED, Ids
from worker.ledger.tables import id_counters


def taken(connection: Connection, counter: int, count: int) -> list[int]:
    ids = Ids(connection, counter)
    ids.provide(count)
    return list(ids.take(count))


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        yield connection


def test_ids_of_a_connection_rise(connection: Connection) -> None:
    found = [*taken(connection, SHARED, 3), *taken(connection, SHARED, 500)]
    assert found == sorted(set(found))


def test_block_is_taken_once_for_many_batches(connection: Connection) -> None:
    for _ in range(15):
        taken(connection, SHARED, 500)
    assert connection.scalar(select(id_counters.c.next_id)) == 10_001


def test_batch_that_is_larger_than_a_block_has_its_ids(connection: Connection) -> None:
    assert len(set(taken(connection, SHARED, 25_000))) == 25_000


def test_connections_never_give_the_same_id(postgres_engine: Engine) -> None:
    def worker(number: int) -> list[int]:
        with postgres_engine.connect() as connection:
            counter = SHARED if number % 2 else 3
            return [one for _ in range(5) for one in taken(connection, counter, 4_000)]

    with ThreadPoolExecutor(4) as pool:
        found = list(chain.from_iterable(pool.map(worker, range(4))))
    assert len(set(found)) == len(found) == 80_000


def test_id_shows_its_counter(connection: Connection) -> None:
    found = {counter: taken(connection, counter, 7) for counter in range(SLOTS + 1)}
    assert all(number % 65 == counter for counter, own in found.items() for number in own)
    assert len(set(chain.from_iterable(found.values()))) == 7 * 65


def test_counters_begin_above_the_ids_of_a_ledger_that_was_migrated(connection: Connection) -> None:
    with connection.begin():
        connection.execute(delete(id_counters))
        connection.execute(insert(id_counters), {"counter": SHARED, "next_id": 12_346})
    assert min(chain.from_iterable(taken(connection, counter, 2) for counter in range(65))) > 12_345


def test_new_connection_leaves_the_block_of_another(engine: Engine) -> None:
    with engine.connect() as connection:
        before = taken(connection, SHARED, 5)
        connection.invalidate()
    with engine.connect() as connection:
        assert taken(connection, SHARED, 1)[0] > before[-1]


@pytest.mark.parametrize("counter", [0, 63, SHARED])
def test_ids_stay_below_2_to_53_for_a_long_time(connection: Connection, counter: int) -> None:
    a_century = 100 * 365 * 86_400 * 10_000  # at 10,000 a second, all from one counter
    with connection.begin():
        connection.execute(delete(id_counters))
        connection.execute(insert(id_counters), {"counter": counter, "next_id": a_century})
    assert taken(connection, counter, 1)[0] < 2**53
