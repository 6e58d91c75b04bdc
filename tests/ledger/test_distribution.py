"""Distribution of a ledger over a Citus cluster: what forbids it, its statements, and their order.

The statements run on PostgreSQL with a fake of Citus' functions, which refuse what Citus was seen to refuse.
"""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from schemas import SLOTS
from tests.support.commands import opening
from tests.support.fake_citus import change_fake, install_fake_citus
from tests.support.forms import transacted
from tests.support.provision import PostgresServer
from tests.support.strategies import SMALL_CATALOG
from tests.support.true_ledger import OPENED
from worker.errors import ConfigurationError, UnsupportedStatementError
from worker.ledger.citus import citus_state
from worker.ledger.distribution import DISTRIBUTED_TABLES, carry_out, plan_of, read_plan, require_node
from worker.ledger.engine import ledger_engine
from worker.ledger.form import LedgerForm, require_form
from worker.ledger.store import Ledger
from worker.ledger.tables import LEDGER, claims, metadata, reverse_items


@pytest.fixture
def bare(postgres: PostgresServer, postgres_template: str) -> Iterator[Engine]:
    """A migrated, empty database of its own: the fake changes catalogs."""
    name = f"citus_{uuid4().hex[:12]}"
    postgres.databases.create_database(name, template=postgres_template)
    engine = ledger_engine(postgres.address.url(name), application_name="a test")
    yield engine
    engine.dispose()
    postgres.databases.drop_database(name)


@pytest.fixture
def coordinator(bare: Engine) -> Engine:
    """A database that looks like a coordinator."""
    install_fake_citus(bare)
    return bare


def done(engine: Engine) -> int:
    """The number of steps that were carried out."""
    return len(list(carry_out(engine)))


def rows(engine: Engine, statement: str) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def test_distributed_tables_are_those_with_slots_but_claims_and_reversals() -> None:
    """Claims and charges of a reversal name slots of operations, and lie on the coordinator."""
    slotted = {table.name for table in metadata.sorted_tables if "slot" in table.c}
    assert slotted - {claims.name, reverse_items.name} == {table.name for table in LEDGER}
    assert set(DISTRIBUTED_TABLES) - slotted == {"write_probes"}


def test_distribution_isolates_each_slot_of_all_tables(coordinator: Engine) -> None:
    done(coordinator)
    tables = rows(coordinator, "SELECT logicalrelid::text, partkey, colocationid FROM pg_dist_partition")
    assert {name for name, _, _ in tables} == set(DISTRIBUTED_TABLES)
    assert {column for name, column, _ in tables if name != "write_probes"} == {"slot"}
    assert len({group for _, _, group in tables}) == 1
    alone = "SELECT count(*) FROM pg_dist_shard WHERE shardminvalue = shardmaxvalue"
    assert rows(coordinator, alone) == [(SLOTS * len(DISTRIBUTED_TABLES),)]
    require_form(coordinator, LedgerForm.DISTRIBUTED)


def test_settings_are_those_of_the_database_and_not_of_one_connection(coordinator: Engine) -> None:
    done(coordinator)
    (found,) = rows(
        coordinator,
        "SELECT setconfig FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase"
        " WHERE datname = current_database()",
    )
    assert set(found[0]) >= {  # type: ignore[call-overload]
        "citus.enable_unsafe_triggers=on",
        "plan_cache_mode=auto",
        "lock_timeout=5000",
        "enable_seqscan=off",
    }


def test_second_distribution_has_nothing_to_do(coordinator: Engine) -> None:
    done(coordinator)
    plan = read_plan(coordinator)
    assert plan.is_done
    assert plan.refusals == ()


@pytest.mark.parametrize("steps", [1, 9, 20, 60])
def test_interrupted_distribution_goes_on(coordinator: Engine, steps: int) -> None:
    running = iter(carry_out(coordinator))
    for _ in range(steps):
        next(running)
    del running
    done(coordinator)
    assert read_plan(coordinator).is_done


def test_printed_statements_are_those_that_run(coordinator: Engine) -> None:
    plan = read_plan(coordinator)
    with coordinator.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        for line in plan.text:
            connection.exec_driver_sql(line)
        connection.invalidate()
    assert read_plan(coordinator).is_done


def test_statement_that_citus_refuses_ends_the_run(coordinator: Engine) -> None:
    change_fake(coordinator, "ALTER TABLE accounts ADD CONSTRAINT uq_accounts_user UNIQUE (user_id)")
    with pytest.raises(UnsupportedStatementError, match="does not support the statement"):
        list(carry_out(coordinator))


# -- refusals ---------------------------------------------------------------------------------------------


def refusals(engine: Engine, *, may_move: bool = False) -> str:
    return "; ".join(read_plan(engine, may_move=may_move).refusals)


def test_server_without_citus_is_refused(bare: Engine) -> None:
    with pytest.raises(ConfigurationError, match="the server has no Citus: install it on each node"):
        done(bare)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE pg_extension SET extversion = '11.0-4' WHERE extname = 'citus'", "Citus 11.0-4 is too old"),
        ("UPDATE pg_dist_local_group SET groupid = 1", "this is a node, not the coordinator"),
        ("DELETE FROM pg_dist_node WHERE groupid > 0", "no node takes shards"),
        ("UPDATE pg_dist_node SET isactive = false WHERE groupid = 2", "node-2:5432 is not active"),
        ("UPDATE pg_dist_node SET metadatasynced = false", "node-1:5432 doesn't know the tables"),
        ("UPDATE alembic_version SET version_num = '0007'", "the schema is at 0007"),
        (
            "INSERT INTO pg_dist_partition VALUES ('lots', 'account_id', 9)",
            "lots is distributed by account_id",
        ),
        ("INSERT INTO pg_dist_partition VALUES ('lots', NULL, 9)", "lots is distributed by no column"),
        (
            "INSERT INTO pg_dist_partition VALUES ('accounts', 'slot', 1), ('lots', 'slot', 2)",
            "lots is not co-located with accounts",
        ),
    ],
)
def test_state_that_forbids_it_is_named_with_its_way_out(
    coordinator: Engine, change: str, reason: str
) -> None:
    change_fake(coordinator, change)
    assert reason in refusals(coordinator)
    with pytest.raises(ConfigurationError, match=reason):
        done(coordinator)
    assert rows(coordinator, "SELECT count(*) FROM pg_dist_shard") == [(0,)]


def test_login_that_is_no_superuser_is_refused(coordinator: Engine) -> None:
    with coordinator.connect() as connection:
        role = f"plain_{uuid4().hex[:12]}"
        connection.exec_driver_sql(f"CREATE ROLE {role}; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        connection.exec_driver_sql(f"SET LOCAL ROLE {role}")
        found = plan_of(citus_state(connection, DISTRIBUTED_TABLES)).refusals
        connection.rollback()
    assert found == (f"{role} is no superuser: connect as one, or hand the statements to one",)


def test_connected_worker_is_refused(coordinator: Engine) -> None:
    url = coordinator.url.render_as_string(hide_password=False)
    worker = ledger_engine(url, application_name="billing-worker")
    with worker.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        assert "our own processes are connected: billing-worker (1)" in refusals(coordinator)
    worker.dispose()


def test_rows_are_moved_only_where_somebody_says_so(coordinator: Engine) -> None:
    transacted(Ledger(coordinator), [opening()], OPENED, SMALL_CATALOG)
    assert "they would be copied to the nodes" in refusals(coordinator)
    plan = read_plan(coordinator, may_move=True)
    assert plan.refusals == ()
    assert any("truncate_local_data" in remark for remark in plan.remarks)
    list(carry_out(coordinator, may_move=True))
    assert rows(coordinator, "SELECT user_id FROM claims") == [("u",)]
    assert read_plan(coordinator).refusals == ()


def test_sqlite_is_refused(sqlite_url: str) -> None:
    engine = ledger_engine(sqlite_url)
    with pytest.raises(ConfigurationError, match="only a ledger on PostgreSQL"):
        read_plan(engine)


# -- nodes ------------------------------------------------------------------------------------------------


def test_database_that_is_no_node_is_refused(coordinator: Engine) -> None:
    with pytest.raises(ConfigurationError, match="BILLING_DATABASE_URL names no node of the ledger"):
        require_node(coordinator, coordinator)


def test_node_of_another_cluster_is_refused(coordinator: Engine, postgres_engine: Engine) -> None:
    done(coordinator)
    require_node(coordinator, coordinator)
    with pytest.raises(ConfigurationError, match="lead to different clusters"):
        require_node(coordinator, postgres_engine)
