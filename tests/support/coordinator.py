"""Stand-in for a Citus cluster: a node, which has the ledger's tables alone, and a coordinator.

The coordinator has all other tables, and sees the node's as foreign tables, as Citus' coordinator sees those
of its nodes. A statement that goes to the wrong one of the two fails: the table isn't there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from uuid import uuid4

from sqlalchemy import Engine, make_url

from tests.support.partitioned_ledger import partition_ledger
from tests.support.provision import PostgresServer
from worker.ledger.distribution import DISTRIBUTED_TABLES
from worker.ledger.engine import ledger_engine
from worker.ledger.form import distribute


class LedgerCluster(NamedTuple):
    """URLs of a node and of its coordinator."""

    node: str
    coordinator: str


@contextmanager
def cluster(postgres: PostgresServer, template: str) -> Iterator[LedgerCluster]:
    """Yield a migrated, distributed, empty ledger on a node and a coordinator."""
    name = uuid4().hex[:12]
    node, coordinator = f"node_{name}", f"coordinator_{name}"
    for database in (node, coordinator):
        postgres.databases.create_database(database, template=template)
    found = LedgerCluster(postgres.address.url(node), postgres.address.url(coordinator))
    try:
        _make_node(found.node)
        _make_coordinator(found)
        yield found
    finally:
        for database in (coordinator, node):
            postgres.databases.drop_database(database)


def _make_node(url: str) -> None:
    engine = ledger_engine(url)
    partition_ledger(engine)
    with engine.begin() as connection:
        rest = set(_tables(engine)) - set(DISTRIBUTED_TABLES)
        own = [name for name in rest if name.rpartition("_")[0] not in DISTRIBUTED_TABLES]
        connection.exec_driver_sql(f"DROP TABLE {', '.join(sorted(own))} CASCADE")
    engine.dispose()


def _make_coordinator(urls: LedgerCluster) -> None:
    engine = ledger_engine(urls.coordinator)
    place = make_url(urls.node)
    options = {"host": place.host, "port": place.port, "dbname": place.database}
    names = ", ".join(DISTRIBUTED_TABLES)
    with engine.begin() as connection:
        distribute(connection)
        connection.exec_driver_sql(f"DROP TABLE {names} CASCADE")
        connection.exec_driver_sql("CREATE EXTENSION postgres_fdw")
        listed = ", ".join(f"{name} '{value}'" for name, value in options.items() if value)
        connection.exec_driver_sql(f"CREATE SERVER node FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({listed})")
        connection.exec_driver_sql(
            "CREATE USER MAPPING FOR CURRENT_USER SERVER node"
            f" OPTIONS (user '{place.username}', password '{place.password or ''}')"
        )
        connection.exec_driver_sql(
            f"IMPORT FOREIGN SCHEMA public LIMIT TO ({names}) FROM SERVER node INTO public"
        )
        # A foreign table has no unique key: one of this name and these columns says what the node's says.
        connection.exec_driver_sql(
            "ALTER FOREIGN TABLE operations ADD CONSTRAINT uq_operations_reference_id_is_taken"
            " CHECK (num_nulls(reference_id, is_taken, slot) = 0)"
        )
    engine.dispose()


def _tables(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        statement = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        return list(connection.exec_driver_sql(statement).scalars())
