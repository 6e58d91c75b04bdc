"""Failover: a database hangs, and a standby takes over behind the same list of addresses."""

import re
from pathlib import Path
from time import monotonic

import pytest
from sqlalchemy import NullPool, create_engine, text

from tests.support.limited_postgres import Standby, url_of_both
from tests.support.load_scenario import assert_clean, load_scenario, new_database
from tests.support.postgres_server import Postgres
from tests.support.waiting import eventually

TIMEOUT_S = 5
VARIABLES = {"BILLING_DATABASE_TIMEOUT_S": str(TIMEOUT_S)}
FIRST_ANSWER_S, END_S = 15.0, 10.0
_OVERDUE = re.compile(rf"overdue|within {TIMEOUT_S}(\.0)? s|did not answer|no answer")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_workers_follow_a_promoted_standby_and_leave_the_old_primary(broker_url: str, tmp_path: Path) -> None:
    with Postgres.start() as primary:
        url = new_database(primary.address)
        name = url.rpartition("/")[2]
        with Standby.of(primary) as standby:
            seen = url_of_both(primary.address, standby.address, name)
            with load_scenario(
                tmp_path, broker_url=broker_url, database_url=url, seen=(None, seen), variables=VARIABLES
            ) as under:
                under.starts(workers=2)
                under.lasts(2)
                under.producer.pause()  # every answered command is on the standby as well
                under.recovers()
                standby.catch_up()
                primary.pause()
                under.producer.resume()
                under.lasts(2)
                standby.promote()
                promoted = monotonic()
                under.ledger_url = standby.address.url(name)
                eventually(lambda: under.collector.first_after(promoted) is not None)
                assert (under.collector.first_after(promoted) or 0) - promoted < FIRST_ANSWER_S
                under.recovers()
                primary.unpause()
                before = operations(primary.address.url(name))
                under.lasts(3)
                disconnect(standby.address.url(name))  # a new connection reaches the old one first
                under.lasts(3)
                under.recovers()
                assert operations(primary.address.url(name)) == before
                for member in under.processes.members:
                    overdue = [line for line in member.warnings if _OVERDUE.search(line)]
                    assert len(overdue) == 1, member.log
                assert_clean(under)


def test_worker_stopped_while_the_database_hangs_ends_in_order(
    fragile_postgres: Postgres, fragile_database: str, broker_url: str, tmp_path: Path
) -> None:
    with load_scenario(
        tmp_path, broker_url=broker_url, database_url=fragile_database, variables=VARIABLES
    ) as under:
        under.starts()
        under.lasts(0.5)
        fragile_postgres.pause()
        try:
            under.lasts(0.5)
            began = monotonic()
            code = under.processes.running()[0].stop(60)
            took = monotonic() - began
        finally:
            fragile_postgres.unpause()
        assert (code, took < END_S) == (0, True), f"{code} after {took:.1f} s\n{under.processes.log}"
        under.starts()
        under.recovers()
        assert_clean(under)


def operations(url: str) -> int:
    """Return the number of operations on that server."""
    return int(asked(url, "SELECT count(*) FROM operations"))


def disconnect(url: str) -> None:
    """End every other session of the database."""
    asked(
        url,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


def asked(url: str, statement: str) -> int:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return int(connection.execute(text(statement)).scalar_one())
