"""Databases with a distributed ledger: how a cluster is made of the servers that are given."""

from tests.support.distributed_database import citus_servers, cluster_statements
from tests.support.postgres_server import PostgresAddress
from tests.support.provision import PostgresServer

COORDINATOR = PostgresAddress("db", 5432, "u", "p")


def test_nodes_are_added_to_their_coordinator() -> None:
    nodes = [PostgresAddress("n1", 5433, "u", "p"), PostgresAddress("n2", 5434, "u", "p")]
    assert cluster_statements(COORDINATOR, nodes) == [
        "SELECT citus_set_coordinator_host('db', 5432)",
        "SELECT citus_add_node('n1', 5433)",
        "SELECT citus_add_node('n2', 5434)",
    ]


def test_coordinator_without_nodes_keeps_shards_itself() -> None:
    assert cluster_statements(COORDINATOR, []) == [
        "SELECT citus_set_coordinator_host('db', 5432)",
        "SELECT citus_set_node_property('db', 5432, 'shouldhaveshards', true)",
    ]


def test_server_without_citus_is_no_cluster(postgres: PostgresServer) -> None:
    assert citus_servers(None) is None
    assert citus_servers(postgres.address.url("postgres")) is None
