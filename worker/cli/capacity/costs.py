"""Measured costs of a message, each with the command that measures it, and a file of a user's own."""

import tomllib
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from worker.errors import ConfigurationError

_BENCHMARK = "python -m tests.benchmarks {}"
_BUDGET, _SLOTS, _FIRST_SPEED = map(_BENCHMARK.format, ("budget", "slots", "first-speed"))
_BYTES = "python -m pytest tests/ledger/test_bytes.py"
_BROKERS = _BENCHMARK.format("brokers")
_TRIAL = "none here: a trial on Citus 13.2, see worker/GROWING.md"

#: Bounds of a cost by its unit, and the sentence about a value outside of them.
_BOUNDS = {
    "×": (1.0, 100.0, "a factor from 1 to 100"),
    "share": (0.0, 1.0, "a share from 0 to 1"),
}
_ANY = (0.0, 1e9, "a number from 0 to 1,000,000,000")
_ABOVE_ZERO = ("worker_us", "database_us", "broker_us", "messages_a_process", "messages_a_queue")


def _cost(default: float, unit: str, means: str, command: str) -> Any:
    return field(default=default, metadata={"unit": unit, "means": means, "command": command})


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of one message: a `usage.deduct`, 500 a transaction, everything durable.

    Times are processor time in microseconds. The defaults are of two cores of a shared machine, with RabbitMQ
    3.10 and PostgreSQL 15: they drift by a third.
    """

    worker_us: float = _cost(86, "µs", "worker, a message", _BUDGET)
    database_us: float = _cost(52, "µs", "PostgreSQL, a message, 10,000 accounts", _BUDGET)
    broker_us: float = _cost(36, "µs", "RabbitMQ, a message and its reply, one node", _BUDGET)
    replica_us: float = _cost(24, "µs", "RabbitMQ, the same on each further node", _BROKERS)
    large_database_us: float = _cost(
        84, "µs", "PostgreSQL, a message, 1,000,000 accounts", _BENCHMARK.format("large")
    )
    metered_worker_us: float = _cost(
        12, "µs", "worker, more for `usage.record`", _BENCHMARK.format("metered")
    )
    metered_database_us: float = _cost(
        3, "µs", "PostgreSQL, more for `usage.record`", _BENCHMARK.format("metered")
    )
    one_slot_worker_us: float = _cost(10, "µs", "worker, more where a transaction is of one slot", _SLOTS)
    one_slot_database_us: float = _cost(11, "µs", "PostgreSQL, the same", _SLOTS)
    transaction_worker_us: float = _cost(610, "µs", "worker, a transaction of one slot", _SLOTS)
    transaction_database_us: float = _cost(500, "µs", "PostgreSQL, the same", _SLOTS)
    claim_worker_us: float = _cost(14, "µs", "worker, the claim of a reference", _SLOTS)
    claim_database_us: float = _cost(16, "µs", "PostgreSQL, the same", _SLOTS)
    claims_worker_us: float = _cost(190, "µs", "worker, the claims of a transaction", _SLOTS)
    claims_database_us: float = _cost(205, "µs", "PostgreSQL, the same", _SLOTS)
    one_node_factor: float = _cost(1.6, "×", "PostgreSQL's time on one Citus node", _TRIAL)
    nodes_factor: float = _cost(2.1, "×", "PostgreSQL's time on a coordinator and its nodes", _TRIAL)
    coordinator_share: float = _cost(0.45, "share", "part of that time on the coordinator", _TRIAL)
    messages_a_process: float = _cost(7_351, "messages/s", "one worker process, two cores", _FIRST_SPEED)
    messages_a_queue: float = _cost(
        24_402, "messages/s", "one queue: an echo, the most that was tried", _BENCHMARK.format("echo")
    )
    operation_bytes: float = _cost(469, "bytes", "disk, an operation with its entry and indexes", _BYTES)
    metered_bytes: float = _cost(151, "bytes", "disk, more for `usage.record`", _BENCHMARK.format("metered"))
    reference_bytes: float = _cost(66, "bytes", "of these the index of references", _BYTES)
    account_bytes: float = _cost(927, "bytes", "an account with its lot and their indexes", _BYTES)
    process_megabytes: float = _cost(101, "MB", "memory of a worker process", _BENCHMARK.format("backlog"))


#: Costs as measured here.
MEASURED = Costs()

CostField = Field[float]


def cost_fields() -> Iterator[CostField]:
    """Yield the fields of the costs, whose metadata are unit, meaning and command."""
    yield from fields(Costs)


def load_costs(path: Path) -> Costs:
    """Return the measured costs with those of a TOML file in their places. Raises ConfigurationError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"costs: {path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"costs: {path} is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"costs: {path} is no TOML: {error}") from error
    known = {each.name: each for each in cost_fields()}
    if unknown := values.keys() - known.keys():
        raise ConfigurationError(
            f"costs: {path}: nobody knows {', '.join(sorted(unknown))}; "
            "`billing-worker plan --show-costs` prints a file with all names"
        )
    checked = partial(_checked, path)
    return replace(MEASURED, **{name: checked(known[name], value) for name, value in values.items()})


def _checked(path: Path, cost: CostField, value: Any) -> float:
    least, most, sentence = _BOUNDS.get(cost.metadata["unit"], _ANY)
    if type(value) not in (int, float) or not least <= value <= most:
        raise ConfigurationError(f"costs: {path}: {cost.name}: {value!r} is not {sentence}")
    if not value and cost.name in _ABOVE_ZERO:
        raise ConfigurationError(
            f"costs: {path}: {cost.name}: must be above 0; leave the line out to keep it"
        )
    return float(value)


def costs_file(costs: Costs) -> str:
    """Return a TOML file of costs, with the command that measures each."""
    lines = ["# Costs of a message. Measure them on your machines, and leave out the lines that you keep."]
    for cost in cost_fields():
        about = cost.metadata
        lines += [
            "",
            f"# {about['means']}, {about['unit']} ({about['command']})",
            f"{cost.name} = {getattr(costs, cost.name)}",
        ]
    return "\n".join(lines)
