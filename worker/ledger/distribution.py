"""Distribution of a ledger over the nodes of a Citus cluster, by slot.

A plan is made from the state of the coordinator: what forbids it, and the statements that are still to be
run. Each of these may be interrupted, and the next plan goes on from there. Tables without a slot stay on the
coordinator. The figures and the refusals of Citus behind the order are in DISTRIBUTED.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from schemas import SLOTS
from worker.errors import ConfigurationError
from worker.ledger.citus import COORDINATOR, CitusState, citus_state, nodes_known
from worker.ledger.engine import translated_errors
from worker.ledger.form import LedgerForm, require_form, statements_of_distribution
from worker.ledger.revisions import MIGRATION_LOCK, newest_revision
from worker.ledger.session_settings import needed, plans_by_key
from worker.ledger.tables import LEDGER, write_probes

#: Tables of a node, each after those that it refers to. A row of the last one lies with the slot of its id.
DISTRIBUTED_TABLES = (*(table.name for table in LEDGER), write_probes.name)
_COLUMNS = dict.fromkeys(DISTRIBUTED_TABLES, "slot") | {write_probes.name: "id"}
_FIRST = DISTRIBUTED_TABLES[0]

#: Shards before the slots get their own: enough that a few nodes all have some.
_SHARDS = 32
_POSTGRESQL = 15
#: The first version whose isolation of a tenant can do without logical replication.
_CITUS = (11, 1)

#: Settings of the session that distributes: the triggers of the ledger only refuse, so they are safe.
_SESSION = (
    "SET citus.enable_unsafe_triggers = on",
    "SET lock_timeout = 0",
    "SET statement_timeout = 0",
    f"SELECT pg_advisory_lock({MIGRATION_LOCK})",  # nobody migrates or distributes meanwhile
)


@dataclass(frozen=True, slots=True)
class Step:
    """Statements that are run together: in one transaction, or each by itself where there is one alone."""

    statements: Sequence[str]

    @property
    def text(self) -> list[str]:
        """The statements as they can be handed to psql."""
        lines = [f"{statement};" for statement in self.statements]
        return lines if len(lines) == 1 else ["BEGIN;", *lines, "COMMIT;"]


@dataclass(frozen=True, slots=True)
class DistributionPlan:
    """Reasons against a distribution, the steps that are left of it, and remarks."""

    refusals: Sequence[str]
    steps: Sequence[Step]
    remarks: Sequence[str]

    @property
    def is_done(self) -> bool:
        """True where nothing is left to do."""
        return not self.steps

    @property
    def text(self) -> list[str]:
        """All statements, with those of the session first."""
        return [
            *(f"{statement};" for statement in _SESSION),
            *(line for step in self.steps for line in step.text),
        ]

    def require_possible(self) -> None:
        """Raise ConfigurationError with all reasons against it."""
        if self.refusals:
            raise ConfigurationError(f"the ledger can't be distributed here: {'; '.join(self.refusals)}")


def plan_of(state: CitusState, *, may_move: bool = False) -> DistributionPlan:
    """Return the plan for a database in this state; ``may_move`` allows to copy rows to the nodes."""
    return DistributionPlan(
        tuple(_refusals(state, may_move=may_move)), tuple(_steps(state)), tuple(_remarks(state))
    )


def read_plan(engine: Engine, *, may_move: bool = False) -> DistributionPlan:
    """Return the plan for a database, which must be PostgreSQL."""
    if engine.dialect.name != "postgresql":
        raise ConfigurationError("only a ledger on PostgreSQL can be distributed")
    with translated_errors(), engine.connect() as connection:
        return plan_of(citus_state(connection, DISTRIBUTED_TABLES), may_move=may_move)


def carry_out(engine: Engine, *, may_move: bool = False) -> Iterator[Step]:
    """Run the steps that are left, where that is possible; yield each one when it is done.

    A step is committed before the next begins. Raises ConfigurationError where the ledger can't be
    distributed, or is not distributed afterwards.
    """
    read_plan(engine, may_move=may_move).require_possible()
    with translated_errors(), engine.connect() as connection:
        try:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            for statement in _SESSION:
                connection.exec_driver_sql(statement)
            # Another run may have ended while this one waited for the lock.
            now = plan_of(citus_state(connection, DISTRIBUTED_TABLES), may_move=may_move)
            now.require_possible()
            for step in now.steps:
                _run(connection, step)
                yield step
            left = plan_of(citus_state(connection, DISTRIBUTED_TABLES), may_move=True)
        finally:
            connection.invalidate()  # the session ends, and with it its settings
    if not left.is_done:
        raise ConfigurationError(
            f"the ledger is not distributed as it must be, {len(left.steps)} steps are left: run it again"
        )


def _run(connection: Connection, step: Step) -> None:
    if len(step.statements) == 1:
        connection.exec_driver_sql(step.statements[0])
        return
    connection.exec_driver_sql("BEGIN")
    try:
        for statement in step.statements:
            connection.exec_driver_sql(statement)
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")


# -- what forbids it ------------------------------------------------------------------------------------


def _refusals(state: CitusState, *, may_move: bool) -> Iterator[str]:
    if state.server < _POSTGRESQL:
        yield f"PostgreSQL {state.server} is too old, {_POSTGRESQL} is needed"
    if state.schema != newest_revision():
        yield (
            f"the schema is at {state.schema or 'nothing'}, and {newest_revision()} is needed: run "
            "`billing-worker migrate` first"
        )
    if state.citus is None:
        if state.is_available:
            yield "Citus is not in this database: CREATE EXTENSION citus, on each node"
        else:
            yield (
                "the server has no Citus: install it on each node, set shared_preload_libraries = 'citus' "
                "and CREATE EXTENSION citus"
            )
        return
    if state.citus_version < _CITUS:
        yield f"Citus {state.citus} is too old, {'.'.join(map(str, _CITUS))} is needed"
    if state.group != COORDINATOR:
        yield "this is a node, not the coordinator: name the coordinator in BILLING_COORDINATOR_URL"
        return
    if not state.is_superuser:
        yield f"{state.login} is no superuser: connect as one, or hand the statements to one"
    yield from _refusals_of_nodes(state)
    yield from _refusals_of_tables(state, may_move=may_move)
    if state.sessions:
        listed = ", ".join(f"{name} ({count})" for name, count in state.sessions.items())
        yield f"our own processes are connected: {listed}; stop all workers, schedulers, readers and consoles"


def _refusals_of_nodes(state: CitusState) -> Iterator[str]:
    if not any(node.keeps_shards for node in state.nodes):
        yield (
            "no node takes shards: SELECT citus_set_coordinator_host('HOST'), then SELECT "
            "citus_add_node('HOST', 5432) for each node; or, for one machine, SELECT "
            "citus_set_node_property('HOST', 5432, 'shouldhaveshards', true)"
        )
    for node in state.nodes:
        if not node.is_active:
            yield f"the node {node} is not active: SELECT citus_activate_node('{node.host}', {node.port})"
        elif not node.knows_tables:
            yield f"the node {node} doesn't know the tables: SELECT start_metadata_sync_to_all_nodes()"


def _refusals_of_tables(state: CitusState, *, may_move: bool) -> Iterator[str]:
    tables = state.tables or {}
    for name, table in tables.items():
        if table.column != _COLUMNS[name]:
            by = table.column or "no column"
            way_out = f"SELECT undistribute_table('{name}')"
            yield f"{name} is distributed by {by}, not by {_COLUMNS[name]}: {way_out}"
        elif _FIRST in tables and table.group != tables[_FIRST].group:
            yield f"{name} is not co-located with {_FIRST}: SELECT undistribute_table('{name}')"
    if state.bytes and not may_move and not _is_distributed(state):
        yield (
            f"the tables have rows ({state.bytes / 2**20:,.0f} MB): they would be copied to the nodes while "
            "nobody may write; add --yes-move, after a backup"
        )


def _is_distributed(state: CitusState) -> bool:
    return (state.tables or {}).keys() >= set(DISTRIBUTED_TABLES)


# -- what is left to do ---------------------------------------------------------------------------------


def _steps(state: CitusState) -> Iterator[Step]:
    """Yield the steps in their order: the key, the settings, the tables, a shard for each slot."""
    if not state.has_new_key:
        yield Step(statements_of_distribution())
    if _is_distributed(state) and len(state.isolated) == SLOTS:
        return
    yield from (Step([statement]) for statement in settings_of_database(state.database))
    yield from (Step([_distributed(name)]) for name in DISTRIBUTED_TABLES if name not in (state.tables or {}))
    yield from (Step([_isolated(slot)]) for slot in range(SLOTS) if slot not in state.isolated)


def settings_of_database(database: str) -> list[str]:
    """Return the statements that give sessions on all nodes their settings: a connection's reach its own."""
    name = '"{}"'.format(database.replace('"', '""'))
    settings = {
        "citus.enable_unsafe_triggers": "on",  # for later migrations, too
        "plan_cache_mode": "auto",
        "lock_timeout": needed(0)["lock_timeout"],
        **plans_by_key(distributed=True),
    }
    return [f"ALTER DATABASE {name} SET {setting} = '{value}'" for setting, value in settings.items()]


def _distributed(name: str) -> str:
    column = _COLUMNS[name]
    if name == _FIRST:
        return (
            f"SELECT create_distributed_table('{name}', '{column}', colocate_with => 'none',"
            f" shard_count => {_SHARDS})"
        )
    return f"SELECT create_distributed_table('{name}', '{column}', colocate_with => '{_FIRST}')"


def _isolated(slot: int) -> str:
    # Without writers nothing is gained by logical replication, which waits silently for free processes.
    return (
        f"SELECT isolate_tenant_to_new_shard('{_FIRST}', {slot}, 'CASCADE',"
        " shard_transfer_mode => 'block_writes')"
    )


def _remarks(state: CitusState) -> Iterator[str]:
    if state.citus is not None and state.citus_version != (13, 2):
        yield f"this was tried on Citus 13.2 with PostgreSQL 15, not on {state.citus} with {state.server}"
    if state.bytes and not _is_distributed(state):
        yield "the copied rows also stay where they were: see truncate_local_data_after_distributing_table"
    yield "then spread the shards over the nodes: SELECT citus_rebalance_start()"


# -- a worker on a node ---------------------------------------------------------------------------------


def require_node(node: Engine, coordinator: Engine) -> None:
    """Raise ConfigurationError unless ``node`` has the ledger's tables and is one of ``coordinator``'s."""
    try:
        require_form(node, LedgerForm.DISTRIBUTED)
    except ConfigurationError as error:
        raise ConfigurationError(f"BILLING_DATABASE_URL names no node of the ledger: {error}") from None
    with translated_errors(), node.connect() as connection:
        known = nodes_known(connection)
    with translated_errors(), coordinator.connect() as connection:
        expected = nodes_known(connection)
    if known != expected:
        raise ConfigurationError(
            "BILLING_DATABASE_URL and BILLING_COORDINATOR_URL lead to different clusters, or the node does "
            "not know the others: SELECT start_metadata_sync_to_all_nodes()"
        )
