"""Audit of a distributed ledger, on its stand-in: slot by slot, with claims, in one partition."""

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from schemas import Command, slot_of
from tests.support.partitioned_ledger import PARTITIONS, partition_ledger, partitions_in
from tests.support.provision import PostgresServer
from tests.support.query_plans import recorded_statements
from tests.support.true_ledger import CATALOG, HISTORY, OPENED
from worker.catalog import Catalog
from worker.core import decide
from worker.ledger.audit import audit
from worker.ledger.audit.share_checks import STEPS_A_SHARE, Demand, check_share
from worker.ledger.audit.sums import Sums, sums_by_slot
from worker.ledger.audit.taken import without_taker
from worker.ledger.engine import ledger_engine
from worker.ledger.form import LedgerForm
from worker.ledger.slots import Slots
from worker.ledger.store import Ledger
from worker.ledger.tables import LEDGER

LATER = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def distributed(postgres: PostgresServer, postgres_template: str) -> Iterator[Engine]:
    """The true ledger, in the form that is distributed, in partitions."""
    name = f"distributed_{uuid4().hex[:12]}"
    postgres.databases.create_database(name, template=postgres_template)
    engine = ledger_engine(postgres.address.url(name))
    partition_ledger(engine)
    ledger = Ledger(engine, LedgerForm.DISTRIBUTED)
    for day, commands, catalog in HISTORY:
        for command in commands:
            _apply(ledger, command, catalog, OPENED + day)
    yield engine
    engine.dispose()
    postgres.databases.drop_database(name)


def _apply(ledger: Ledger, command: Command, catalog: Catalog, now: datetime) -> None:
    with ledger.begin([command], now) as transaction:
        transaction.write(decide([command], transaction.known, now, catalog))


def test_distributed_ledger_is_clean_slot_by_slot(distributed: Engine) -> None:
    report = audit(distributed, catalog=CATALOG, one_slot=True, claims_before=LATER, jobs=2)
    assert report.findings == ()
    assert report.is_clean
    assert (report.debtors, report.debt, report.uncollected) == (1, 25, 50)
    assert (report.examined["accounts"], report.examined["entries"]) == (11, 101)


@pytest.mark.parametrize("user", ["ada", "eve"])
def test_each_statement_reads_one_partition(distributed: Engine, user: str) -> None:
    slot = Slots(slot_of(user), slot_of(user))
    steps: list[None] = []
    with recorded_statements(distributed) as statements, distributed.connect() as connection:
        sums_by_slot(connection, slot)
        # Sums that don't fit the rows, so that no check is left out.
        demand = Demand(10, CATALOG, LATER)
        check_share(connection, slot, Sums(entries=1_000), demand, lambda: steps.append(None))
        list(without_taker(connection, slot, [slot], lambda _: None, LATER))
        connection.rollback()
    assert len(steps) == STEPS_A_SHARE
    with distributed.connect() as connection:
        plans = [
            connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
            for statement, parameters in statements
        ]
        connection.rollback()
    touched = [partitions_in(plan) for plan in plans]
    assert set().union(*touched) == {table.name for table in LEDGER}
    own = {slot.first % PARTITIONS}
    assert all(partitions == own for tables in touched for partitions in tables.values())
