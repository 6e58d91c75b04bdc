"""Databases with a distributed ledger: on Citus where the given server has it, else on the stand-in.

The URL in BILLING_TEST_DATABASE_URL may name a database of a coordinator, with Citus and its nodes in it.
Each database of a test is then made on all these nodes, under the same login, and distributed as
`migrate --distribute --yes` does it. Elsewhere its tables are partitioned.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from uuid import uuid4

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from tests.support.partitioned_ledger import partition_ledger
from tests.support.postgres_server import Databases, PostgresAddress
from tests.support.provision import DATABASE_URL, PostgresServer
from worker.ledger.distribution import carry_out
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.ledger.session_settings import plans_by_key
from worker.ledger.slots import slot_by_slot

_HAS_CITUS = "SELECT count(*) FROM pg_extension WHERE extname = 'citus'"
#: The coordinator may be no node of the cluster; it is, for itself, where no other keeps shards.
_NODES = "SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0 ORDER BY groupid"


@dataclass(frozen=True)
class CitusServers:
    """Coordinator and nodes of a cluster, each with the login of the tests."""

    coordinator: PostgresAddress
    nodes: Sequence[PostgresAddress]

    def create(self, name: str) -> None:
        """Make a database with Citus on each server, and make them one cluster."""
        for address in (self.coordinator, *self.nodes):
            Databases(address).create_database(name)
            _run(address.url(name), ["CREATE EXTENSION citus"])
        _run(self.coordinator.url(name), cluster_statements(self.coordinator, self.nodes))

    def drop(self, name: str) -> None:
        """Drop the database on each server."""
        for address in (self.coordinator, *self.nodes):
            Databases(address).drop_database(name)


def cluster_statements(coordinator: PostgresAddress, nodes: Sequence[PostgresAddress]) -> list[str]:
    """Return the statements that make a coordinator and its nodes a cluster, be it of one machine."""
    place = f"'{coordinator.host}', {coordinator.port}"
    statements = [f"SELECT citus_set_coordinator_host({place})"]
    if not nodes:
        return [*statements, f"SELECT citus_set_node_property({place}, 'shouldhaveshards', true)"]
    return [*statements, *(f"SELECT citus_add_node('{node.host}', {node.port})" for node in nodes)]


@cache
def citus_servers(url: str | None) -> CitusServers | None:
    """Return the cluster whose coordinator ``url`` names; None where its database has no Citus."""
    if not url:
        return None
    coordinator = PostgresAddress.parse(url)
    own = make_url(url)
    with _connection(coordinator.url(own.database or "postgres")).connect() as connection:
        if not connection.exec_driver_sql(_HAS_CITUS).scalar_one():
            return None
        found = connection.exec_driver_sql(_NODES).all()
    return CitusServers(
        coordinator,
        [PostgresAddress(host, port, coordinator.user, coordinator.password) for host, port in found],
    )


def is_on_citus() -> bool:
    """Return True where distributed ledgers of the tests are on Citus."""
    return citus_servers(os.environ.get(DATABASE_URL)) is not None


@contextmanager
def distributed_database(postgres: PostgresServer, *, only_by_key: bool = False) -> Iterator[Engine]:
    """Yield an engine on a migrated, distributed, empty ledger, which is read slot by slot."""
    name = f"distributed_{uuid4().hex[:12]}"
    servers = citus_servers(os.environ.get(DATABASE_URL))
    if servers is None:
        postgres.databases.create_database(name)
    else:
        servers.create(name)
    # The stand-in keeps generic plans: they show what a statement touches whatever its values are.
    plans = plans_by_key(distributed=servers is not None)
    engine = ledger_engine(postgres.address.url(name), only_by_key=only_by_key, plans=plans)
    try:
        migrate(engine)
        if servers is None:
            partition_ledger(engine)
        else:
            _distribute(postgres.address.url(name))
        yield slot_by_slot(engine)
    finally:
        engine.dispose()
        (postgres.databases.drop_database if servers is None else servers.drop)(name)


def _distribute(url: str) -> None:
    engine = ledger_engine(url, application_name="tests")
    for _ in carry_out(engine):
        pass
    engine.dispose()


def _run(url: str, statements: Sequence[str]) -> None:
    with _connection(url).connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def _connection(url: str | URL) -> Engine:
    return create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
