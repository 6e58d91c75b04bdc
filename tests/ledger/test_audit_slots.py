"""Audit of a distributed ledger, on its stand-in: slot by slot, with claims, in one partition."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from schemas import slot_of
from tests.support.distributed_database import is_on_citus
from tests.support.partitioned_ledger import PARTITIONS, partitions_in
from tests.support.query_plans import recorded_statements
from tests.support.true_ledger import CATALOG
from worker.ledger.audit import audit
from worker.ledger.audit.share_checks import STEPS_A_SHARE, Demand, check_share
from worker.ledger.audit.sums import Sums, sums_by_slot
from worker.ledger.audit.taken import without_taker
from worker.ledger.slots import Slots
from worker.ledger.tables import LEDGER

LATER = datetime(2027, 1, 1, tzinfo=UTC)


def test_distributed_ledger_is_clean_slot_by_slot(true_stand_in: Engine) -> None:
    report = audit(true_stand_in, catalog=CATALOG, one_slot=True, claims_before=LATER, jobs=2)
    assert report.findings == ()
    assert report.is_clean
    assert (report.debtors, report.debt, report.uncollected) == (1, 25, 50)
    assert (report.examined["accounts"], report.examined["entries"]) == (11, 101)


@pytest.mark.parametrize("user", ["ada", "eve"])
def test_each_statement_reads_one_partition(true_stand_in: Engine, user: str) -> None:
    slot = Slots(slot_of(user), slot_of(user))
    steps: list[None] = []
    with recorded_statements(true_stand_in) as statements, true_stand_in.connect() as connection:
        sums_by_slot(connection, slot)
        # Sums that don't fit the rows, so that no check is left out.
        demand = Demand(10, CATALOG, LATER)
        check_share(connection, slot, Sums(entries=1_000), demand, lambda: steps.append(None))
        list(without_taker(connection, slot, [slot], lambda _: None, LATER))
        connection.rollback()
    assert len(steps) == STEPS_A_SHARE
    with true_stand_in.connect() as connection:
        plans = [
            connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
            for statement, parameters in statements
        ]
        connection.rollback()
    touched = [partitions_in(plan) for plan in plans]
    assert set().union(*touched) == {table.name for table in LEDGER}
    own = {0} if is_on_citus() else {slot.first % PARTITIONS}
    assert all(partitions == own for tables in touched for partitions in tables.values())
