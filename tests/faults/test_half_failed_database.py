"""Database that answers but takes no writes: messages wait, no delivery is counted, the log is short."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.limited_postgres import SmallDisk, Standby, create_small, read_only
from tests.support.load_scenario import (
    USAGE,
    LoadScenario,
    assert_clean,
    consumers_of,
    load_scenario,
    new_database,
)
from tests.support.postgres_server import Postgres
from tests.support.rabbit_client import RabbitClient
from tests.support.waiting import eventually, past

#: Number of workers ended one after the other: more than a message may have deliveries.
RESTARTS = 18
SHORT_S, LONG_S = 2.0, 72.0
BACK = "the database is back"
#: Logged by a worker that was at work when the outage began; one that starts later waits elsewhere.
BEGUN = "keeping the messages"

Hindrance = Callable[[], AbstractContextManager[object]]


def test_worker_waits_until_a_read_only_database_takes_writes(
    fragile_postgres: Postgres, fragile_database: str, broker_url: str, tmp_path: Path
) -> None:
    with load_scenario(
        tmp_path, broker_url=broker_url, database_url=fragile_database, malformed_share=0
    ) as under:
        under.starts()
        with read_only(fragile_postgres):
            under.lasts(SHORT_S)
            assert_quiet_and_waiting(under)
        under.recovers()
        assert_logged_once(under)
        assert_clean(under)


@contextmanager
def disk_full(disk: SmallDisk) -> Iterator[None]:
    """Fill the disk as long as the block lasts."""
    disk.fill()
    try:
        yield
    finally:
        disk.free()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_restarted_on_a_read_only_database_give_up_no_message(
    fragile_postgres: Postgres, fragile_database: str, broker_url: str, tmp_path: Path
) -> None:
    with load_scenario(
        tmp_path, broker_url=broker_url, database_url=fragile_database, pace=50, malformed_share=0
    ) as under:
        waits_through(under, lambda: read_only(fragile_postgres))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_restarted_on_a_full_disk_give_up_no_message(broker_url: str, tmp_path: Path) -> None:
    disk = SmallDisk(40)
    try:
        with Postgres.start() as server:
            disk.serve(server)
            url = new_database(server.address, partial(create_small, server))
            with load_scenario(
                tmp_path, broker_url=broker_url, database_url=url, pace=50, malformed_share=0
            ) as under:
                waits_through(under, lambda: disk_full(disk))
    finally:
        disk.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_on_a_standby_wait_for_its_promotion(broker_url: str, tmp_path: Path) -> None:
    with Postgres.start() as primary:
        url = new_database(primary.address)
        with Standby.of(primary) as standby:
            seen = standby.address.url(url.rpartition("/")[2])
            with load_scenario(
                tmp_path,
                broker_url=broker_url,
                database_url=url,
                seen=(None, seen),
                pace=50,
                malformed_share=0,
            ) as under:
                standby.catch_up()
                for _ in range(RESTARTS):
                    one = under.processes.start("run")
                    consumes_or_waits(under, 1)
                    assert one.stop() == 0
                under.processes.start("run")
                under.lasts(SHORT_S)
                assert not under.collector.replies
                standby.promote()
                under.ledger_url = seen
                under.recovers()
                assert_logged_once(under)
                assert_clean(under)


def waits_through(under: LoadScenario, hindrance: Hindrance) -> None:
    """Assert that a worker waits through ``hindrance`` while another is ended and started again and again."""
    under.starts(workers=2)
    under.lasts(SHORT_S)
    with hindrance():
        for _ in range(RESTARTS):
            assert under.processes.running()[-1].stop() == 0
            under.processes.start("run")
            consumes_or_waits(under, 2)
        assert_quiet_and_waiting(under)
    under.recovers()
    under.lasts(SHORT_S)
    assert_logged_once(under)
    assert_clean(under)


def consumes_or_waits(under: LoadScenario, workers: int) -> None:
    """Wait until ``workers`` consume, or some seconds at most; then let the load go on for a moment."""
    with RabbitClient(under.broker_url) as rabbit:
        late = past(LONG_S / RESTARTS)
        eventually(lambda: late() or consumers_of(rabbit, USAGE) >= workers)
    under.lasts(0.5)


def assert_quiet_and_waiting(under: LoadScenario) -> None:
    """Assert that messages wait, and that no log has the recovery or has the outage more than once."""
    assert under.under_way() > 0
    for member in under.processes.members:
        assert BACK not in member.log, member.log
        assert len(member.outages) <= 1, member.outages


def assert_logged_once(under: LoadScenario) -> None:
    """Assert one log line for the start and one for the end in each process that saw both."""
    for member in under.processes.members:
        assert len(member.outages) <= 2, member.outages
        assert member.log.count(BACK) <= 1, member.log
        if member.is_running and BEGUN in member.log:
            assert member.log.count(BACK) == 1, member.log
