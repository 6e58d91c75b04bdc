"""The model: cores, memory and disk that a rate of messages takes. Pure; the costs come in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, log10

from schemas.slots import SLOTS
from worker.cli.capacity.costs import Costs

DAY_S = 86_400
#: Accounts of the two measurements of PostgreSQL's time; between them it grows with their logarithm.
FEW_ACCOUNTS, MANY_ACCOUNTS = 10_000, 1_000_000
#: Messages of a full batch, and of those that a worker holds of a queue: the defaults of the settings.
FULL_BATCH, PREFETCH = 500, 1_500
#: Share of its cores that a part may use once bulk is served as well, which can wait.
BUSY_WITH_BULK = 0.9


@dataclass(frozen=True, slots=True)
class PlannedLoad:
    """Load that is planned for: a rate at its peak, its kinds, and the form of the installation.

    ``metered`` and ``bulk`` are shares of the messages. ``messages_per_day`` is None where the peak lasts all
    day; ``database_nodes`` is None where as many are taken as are needed.
    """

    messages_per_second: float
    messages_per_day: int | None = None
    partitions: int = 0
    users: int = FEW_ACCOUNTS
    metered: float = 0.0
    bulk: float = 0.0
    broker_nodes: int = 1
    is_distributed: bool = False
    database_nodes: int | None = None
    machine_cores: int = 8
    utilization: float = 0.6

    @property
    def daily(self) -> float:
        """Messages of a day."""
        if self.messages_per_day is None:
            return self.messages_per_second * DAY_S
        return float(self.messages_per_day)

    @property
    def slots_a_queue(self) -> int:
        """Slots whose messages wait in one queue."""
        return SLOTS // max(self.partitions, 1)

    @property
    def held_a_queue(self) -> int:
        """Messages that a worker holds of one queue, as ``worker.lanes.partitions.prefetch_of`` says."""
        return max(4 * PREFETCH // self.partitions, 100) if self.partitions else PREFETCH


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the installation: processor time of a message, cores that it keeps busy, cores to have.

    ``cores`` are those with head room, rounded up; ``machines`` have so many.
    """

    name: str
    us_a_message: float
    busy_cores: float
    with_head_room: float
    cores: int
    machines: int


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """Machines that a load takes. ``limits`` are those that it passes: with any of them it doesn't hold."""

    parts: Sequence[Part]
    worker_processes: int
    worker_megabytes: int
    disk_bytes_a_day: int
    reference_bytes_a_day: int
    account_bytes: int
    messages_a_transaction: int
    limits: Sequence[str]
    assumptions: Sequence[str]

    @property
    def cores(self) -> int:
        """Cores of all parts, each on machines of its own."""
        return sum(part.cores for part in self.parts)

    @property
    def shared_cores(self) -> int:
        """Cores of all parts on one machine."""
        return ceil(sum(part.with_head_room for part in self.parts))

    def fits_one_machine(self, load: PlannedLoad) -> bool:
        """Return True where one machine of the load's size has room for all parts."""
        has_one_of_each = load.broker_nodes == 1 and not load.is_distributed
        return has_one_of_each and self.shared_cores <= load.machine_cores

    @property
    def holds(self) -> bool:
        """True where no limit is passed."""
        return not self.limits


def plan_for(load: PlannedLoad, costs: Costs) -> CapacityPlan:
    """Return the machines that ``load`` takes at these costs."""
    worker_us = _worker_us(load, costs)
    parts = [
        _part(load, "workers", worker_us),
        *_database(load, costs),
        _part(load, "broker", _broker_us(load, costs), least_machines=load.broker_nodes),
    ]
    processes = _processes(load, costs, worker_us)
    return CapacityPlan(
        parts=parts,
        worker_processes=processes,
        worker_megabytes=ceil(processes * costs.process_megabytes),
        disk_bytes_a_day=ceil(load.daily * (costs.operation_bytes + load.metered * costs.metered_bytes)),
        reference_bytes_a_day=ceil(load.daily * costs.reference_bytes),
        account_bytes=ceil(load.users * costs.account_bytes),
        messages_a_transaction=_transaction(load),
        limits=tuple(_limits(load, costs, parts, processes)),
        assumptions=tuple(_assumptions(load)),
    )


# -- time of a message ------------------------------------------------------------------------------------


def _transaction(load: PlannedLoad) -> int:
    """Return the messages of a full transaction: in a distributed ledger those of one slot of one queue."""
    if not load.is_distributed:
        return FULL_BATCH
    return max(min(FULL_BATCH, load.held_a_queue) // load.slots_a_queue, 1)


def _worker_us(load: PlannedLoad, costs: Costs) -> float:
    us = costs.worker_us + load.metered * costs.metered_worker_us
    if load.is_distributed:
        fixed = costs.transaction_worker_us + costs.claims_worker_us
        us += costs.one_slot_worker_us + costs.claim_worker_us + fixed / _transaction(load)
    return us


def _database_us(load: PlannedLoad, costs: Costs) -> float:
    """Return PostgreSQL's time without claims and Citus."""
    grown = (log10(max(load.users, 1)) - log10(FEW_ACCOUNTS)) / log10(MANY_ACCOUNTS / FEW_ACCOUNTS)
    more = max(costs.large_database_us - costs.database_us, 0.0) * min(max(grown, 0.0), 1.0)
    us = costs.database_us + more + load.metered * costs.metered_database_us
    if load.is_distributed:
        us += costs.one_slot_database_us + costs.transaction_database_us / _transaction(load)
    return us


def _broker_us(load: PlannedLoad, costs: Costs) -> float:
    return costs.broker_us + (load.broker_nodes - 1) * costs.replica_us


# -- cores ------------------------------------------------------------------------------------------------


def _busy(load: PlannedLoad, us: float) -> float:
    return load.messages_per_second * us / 1e6


def _with_head_room(load: PlannedLoad, amount: float) -> float:
    """Return ``amount`` with head room: bulk may use it, since bulk can wait."""
    return max(amount * (1 - load.bulk) / load.utilization, amount / max(BUSY_WITH_BULK, load.utilization))


def _part(load: PlannedLoad, name: str, us: float, *, least_machines: int = 1) -> Part:
    busy = _busy(load, us)
    needed = _with_head_room(load, busy)
    cores = max(ceil(needed), least_machines)
    return Part(name, us, busy, needed, cores, max(ceil(cores / load.machine_cores), least_machines))


def _database(load: PlannedLoad, costs: Costs) -> list[Part]:
    us = _database_us(load, costs)
    if not load.is_distributed:
        return [_part(load, "database", us)]
    claims = costs.claim_database_us + costs.claims_database_us / _transaction(load)
    if load.database_nodes == 1:
        return [_part(load, "database", us * costs.one_node_factor + claims)]
    us *= costs.nodes_factor
    nodes = _part(
        load,
        "database nodes",
        us * (1 - costs.coordinator_share),
        least_machines=load.database_nodes or 2,
    )
    return [_part(load, "coordinator", us * costs.coordinator_share + claims), nodes]


def _processes(load: PlannedLoad, costs: Costs, worker_us: float) -> int:
    """Return the worker processes: each waits for servers, so it applies less than its core could."""
    rate = costs.messages_a_process * costs.worker_us / worker_us
    return max(ceil(_with_head_room(load, load.messages_per_second) / rate), 1)


# -- limits and assumptions -------------------------------------------------------------------------------


def _limits(load: PlannedLoad, costs: Costs, parts: Sequence[Part], processes: int) -> Iterator[str]:
    a_queue = load.messages_per_second / max(load.partitions, 1)
    if a_queue > costs.messages_a_queue:
        yield (
            f"a queue gets {a_queue:,.0f} messages a second, no more than {costs.messages_a_queue:,.0f} "
            "were tried: take more --partitions"
        )
    if 0 < load.partitions < processes:
        yield (
            f"{processes} worker processes share {load.partitions} partitions, and a partition has one "
            "worker: take more --partitions"
        )
    for part in parts:
        if part.name in ("database", "coordinator") and part.machines > 1:
            yield f"the {part.name} takes {part.cores} cores of one machine: {_WAYS_OUT[part.name]}"
    for part in parts:
        if part.name == "broker" and part.machines > load.broker_nodes:
            yield (
                f"the broker takes {part.cores} cores, and {load.broker_nodes} of its nodes have "
                f"{load.broker_nodes * load.machine_cores}: take more --machine-cores"
            )
    if load.is_distributed and not load.partitions:
        yield (
            f"without partitions a batch falls into {SLOTS} transactions of some {_transaction(load)} "
            "messages, which are dear: take --partitions"
        )


_WAYS_OUT = {
    "database": "take --distributed, or more --machine-cores",
    "coordinator": "let workers connect to the nodes that own their slots, or take more --machine-cores",
}


def _assumptions(load: PlannedLoad) -> Iterator[str]:
    yield "costs drift by a third from machine to machine: measure yours (--show-costs, --costs)"
    yield (
        f"cores are busy to {load.utilization:.0%} at that rate; the rest is for what waits after an outage, "
        "vacuum and checkpoints"
    )
    if load.bulk:
        yield f"bulk waits and uses that rest: with it cores are busy to {BUSY_WITH_BULK:.0%}"
    yield "users are alike: one busy user's messages are of one slot, one queue and one worker at a time"
    if load.messages_per_day is None:
        yield "the rate lasts all day (--messages-per-day says otherwise)"
    yield "not counted: queries, PostgreSQL's log (WAL), standbys, backups, the journal, the system itself"
    yield "the broker's memory is unknown: it grows with what waits in the queues"
    if load.users > MANY_ACCOUNTS:
        yield f"more than {MANY_ACCOUNTS:,} accounts were never measured: taken as {MANY_ACCOUNTS:,}"
    if load.broker_nodes > 3:
        yield "more than 3 broker nodes were never measured"
    if load.is_distributed:
        yield "the ledger was never run on Citus in production: its factors are of a trial on one machine"
