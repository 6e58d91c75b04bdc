"""Ledger without a broker: load, decide, write and commit in one process on one connection."""

from collections.abc import Sequence
from time import monotonic, process_time

from schemas import Command, DeductUsage
from tests.benchmarks import trees
from tests.benchmarks.loads import deductions, in_turns
from tests.benchmarks.results import Benchmark, BenchmarkContext, Goal, Result, alternately, costs, rates
from tests.benchmarks.sandbox import Measured, Sandbox, chunks, collected_as_in_a_worker, new_sandbox
from worker.bootstrap import utc_now
from worker.catalog import Catalog
from worker.core import decide
from worker.ledger.store import Ledger

_BATCH = 500
_GOAL = Goal(10_000)


def run(context: BenchmarkContext) -> Result:
    """Measure some runs, each on a ledger of its own."""
    messages, users = context.sized(30_000, 1_500), context.accounts()
    runs = alternately(context, {"ledger": lambda: written(context, messages, users)})["ledger"]
    return Result(
        figures=(rates("load, decide, write, commit", runs, goal=_GOAL), *costs("ledger", runs)),
        sizes={"commands": messages, "commands a transaction": _BATCH, "users": users},
        notes=(
            "commands are decoded already, and nobody replies",
            "pgledger, of whose 960 a second the goal is ten times, is not run here but measured elsewhere",
        ),
        runs=tuple(runs),
    )


def written(context: BenchmarkContext, messages: int, users: int) -> Measured:
    """Run once in this process, in a sandbox of its own."""
    with new_sandbox(context.servers) as sandbox:
        sandbox.open_accounts(users)
        commands = list(deductions(messages, in_turns(users)))
        measured = _clocked(sandbox, commands)
        sandbox.check(used=messages)
        return measured


def _clocked(sandbox: Sandbox, commands: list[DeductUsage]) -> Measured:
    return clocked(sandbox, sandbox.application.ledger, list(chunks(commands, _BATCH)), "ledger alone")


def clocked(sandbox: Sandbox, ledger: Ledger, batches: Sequence[Sequence[Command]], name: str) -> Measured:
    """Measure ``batches``, each of which is a transaction."""
    application = sandbox.application
    ledger.probe()
    servers = sandbox.servers.process_ids()
    database = servers.get("postgresql")
    with collected_as_in_a_worker():
        database_before = trees.processor_seconds(database) if database else 0.0
        python_before, began = process_time(), monotonic()
        for batch in batches:
            _transact(ledger, batch, application.catalog)
        seconds, python = monotonic() - began, process_time() - python_before
        cpu = {"worker": python}
        if database:
            cpu["postgresql"] = trees.processor_seconds(database) - database_before
    return Measured(name, sum(map(len, batches)), seconds, cpu)


def _transact(ledger: Ledger, batch: Sequence[Command], catalog: Catalog) -> None:
    now = utc_now()
    with ledger.begin(batch, now) as transaction:
        transaction.write(decide(batch, transaction.known, now, catalog))


LEDGER = Benchmark(
    "ledger",
    "How fast is the ledger alone: load, decide, write of 500 commands a transaction, no broker?",
    "10,000 a second, which is 10 × pgledger's 960",
    run,
)
