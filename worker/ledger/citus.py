"""State of a database as a coordinator of Citus: versions, nodes, distributed tables, isolated slots.

Only catalogs are read here. Outside Citus there is a state as well: it says that Citus is missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sqlalchemy import Connection, text

from schemas import SLOTS
from worker.ledger.form import is_distributed
from worker.ledger.revisions import newest_revision, revision_in

#: Group of the coordinator among the nodes.
COORDINATOR = 0


class CitusNode(NamedTuple):
    """Server of a cluster; ``keeps_shards`` is False for one that gets none."""

    host: str
    port: int
    group: int
    is_active: bool
    keeps_shards: bool
    knows_tables: bool

    def __str__(self) -> str:
        """Return the address."""
        return f"{self.host}:{self.port}"


class DistributedTable(NamedTuple):
    """Table that is distributed, with its column and the group that it is co-located in."""

    column: str | None
    group: int


@dataclass(frozen=True, slots=True)
class CitusState:
    """State of a database before, or after, its ledger is distributed.

    ``schema`` is the revision of the ledger's tables, ``citus`` the version of the extension, None where it
    isn't installed, ``group`` this server's own. ``sessions`` are those of our processes, by name. ``bytes``
    is the size of the ledger's rows and indexes, 0 where it has no rows.
    """

    schema: str | None
    database: str
    login: str
    is_superuser: bool
    server: int
    is_available: bool
    has_new_key: bool
    sessions: Mapping[str, int]
    bytes: int = 0
    citus: str | None = None
    group: int | None = None
    nodes: Sequence[CitusNode] = ()
    tables: Mapping[str, DistributedTable] | None = None
    isolated: frozenset[int] = frozenset()

    @property
    def citus_version(self) -> tuple[int, int]:
        """Version of the extension: its first two numbers."""
        major, _, rest = (self.citus or "0.0").partition(".")
        minor = rest.partition("-")[0].partition(".")[0]
        return int(major), int(minor or 0)


def citus_state(connection: Connection, names: Sequence[str]) -> CitusState:
    """Return the state of the database, as far as it matters to tables of these ``names``."""
    server = connection.execute(_SERVER).one()
    sessions = {row.application_name: row.sessions for row in connection.execute(_SESSIONS)}
    schema = revision_in(connection)
    plain = CitusState(
        **server._asdict(),
        schema=schema,
        has_new_key=is_distributed(connection),
        sessions=sessions,
        bytes=_bytes(connection, names) if schema == newest_revision() else 0,
    )
    if plain.citus is None:
        return plain
    tables = {
        row.name: DistributedTable(row.distributed_by, row.colocated)
        for row in connection.execute(_TABLES)
        if row.name in names
    }
    return replace(
        plain,
        group=connection.execute(_GROUP).scalar_one(),
        nodes=tuple(CitusNode(*row) for row in connection.execute(_NODES)),
        tables=tables,
        isolated=_isolated(connection, names[0]) if names[0] in tables else frozenset(),
    )


def nodes_known(connection: Connection) -> list[CitusNode] | None:
    """Return the nodes of the cluster as this server knows them; None outside Citus."""
    if connection.execute(_SERVER).one().citus is None:
        return None
    return [CitusNode(*row) for row in connection.execute(_NODES)]


def _bytes(connection: Connection, names: Sequence[str]) -> int:
    """Return the size of tables of which one has a row; 0 where none has."""
    first = (text(f"SELECT 1 FROM {name} LIMIT 1") for name in names)  # noqa: S608 - names of ours
    if all(connection.execute(statement).first() is None for statement in first):
        return 0
    return int(connection.execute(_BYTES, {"names": list(names)}).scalar_one())


def _isolated(connection: Connection, table: str) -> frozenset[int]:
    return frozenset(connection.execute(_ISOLATED, {"table": table, "last": SLOTS - 1}).scalars())


_SERVER = text(
    "SELECT current_database() AS database, current_user AS login,"
    " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,"
    " current_setting('server_version_num')::int / 10000 AS server,"
    " EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citus') AS is_available,"
    " (SELECT extversion FROM pg_extension WHERE extname = 'citus') AS citus"
)
#: Our processes; Citus has sessions of its own, which are called otherwise.
_SESSIONS = text(
    "SELECT application_name, count(*) AS sessions FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'billing%'"
    " GROUP BY 1 ORDER BY 1"
)
_BYTES = text(
    "SELECT coalesce(sum(pg_total_relation_size(to_regclass(name))), 0)"
    " FROM unnest(CAST(:names AS text[])) AS name"
)
_GROUP = text("SELECT groupid FROM pg_dist_local_group")
_NODES = text(
    "SELECT nodename, nodeport, groupid, isactive, shouldhaveshards, hasmetadata AND metadatasynced"
    " FROM pg_dist_node WHERE noderole = 'primary' ORDER BY groupid"
)
_TABLES = text(
    "SELECT c.relname AS name, column_to_column_name(p.logicalrelid, p.partkey) AS distributed_by,"
    " p.colocationid AS colocated"
    " FROM pg_dist_partition AS p JOIN pg_class AS c ON c.oid = p.logicalrelid"
    " WHERE c.relnamespace = current_schema()::regnamespace"
)
#: A slot has a shard of its own where the shard holds a single hash value.
_ISOLATED = text(
    "WITH places AS MATERIALIZED (SELECT slot,"
    " get_shard_id_for_distribution_column(CAST(:table AS regclass), CAST(slot AS smallint)) AS shardid"
    " FROM generate_series(0, :last) AS slot)"
    " SELECT slot FROM places JOIN pg_dist_shard USING (shardid) WHERE shardminvalue = shardmaxvalue"
)
