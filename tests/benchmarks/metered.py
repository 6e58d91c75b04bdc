"""Metered usage beside plain deductions: what a price rule and a meter cost more, in time and on disk."""

import random
from collections.abc import Callable, Iterable, Iterator
from uuid import UUID

from sqlalchemy import text

from schemas import DeductUsage, RecordUsage
from tests.benchmarks.ledger_alone import clocked
from tests.benchmarks.loads import SEED, Pick, deductions, in_turns
from tests.benchmarks.results import Benchmark, BenchmarkContext, Figure, Result, alternately, costs, rates
from tests.benchmarks.sandbox import Measured, Sandbox, chunks, new_sandbox, user_id
from worker.bootstrap import utc_now

_BATCH = 500
_PLAIN, _METERED = "usage.deduct", "usage.record"
_SIZE = "SELECT pg_total_relation_size('operations') + pg_total_relation_size('entries')"


def run(context: BenchmarkContext) -> Result:
    """Measure both in turn, each run on a ledger of its own."""
    messages, users = context.sized(16_000, 600), context.accounts()
    disk: dict[str, list[float]] = {_PLAIN: [], _METERED: []}

    def written(name: str, make: Callable[[int, Pick], Iterable[DeductUsage | RecordUsage]]) -> Measured:
        with new_sandbox(context.servers) as sandbox:
            sandbox.open_accounts(users)
            before = _bytes(sandbox)
            batches = list(chunks(make(messages, in_turns(users)), _BATCH))
            measured = clocked(sandbox, sandbox.application.ledger, batches, name)
            disk[name].append((_bytes(sandbox) - before) / messages)
            sandbox.check()
            return measured

    runs = alternately(
        context,
        {_PLAIN: lambda: written(_PLAIN, deductions), _METERED: lambda: written(_METERED, records)},
    )
    return Result(
        figures=(
            *(rates(name, measured) for name, measured in runs.items()),
            *(cost for name, measured in runs.items() for cost in costs(name, measured)),
            *(Figure(f"{name}, on disk", tuple(samples), "bytes/message") for name, samples in disk.items()),
        ),
        sizes={"commands": messages, "commands a transaction": _BATCH, "users": users},
        notes=(
            "commands are decoded already, and nobody replies",
            "nothing of it is free: all is for tokens",
        ),
        runs=tuple(run for measured in runs.values() for run in measured),
    )


def records(count: int, pick: Pick, seed: int = SEED) -> Iterator[RecordUsage]:
    """Yield ``count`` records of one page each; references are as random as a UUID."""
    rng = random.Random(seed)
    for number in range(count):
        yield RecordUsage(
            reference_id=f"upload-{number:08}-{UUID(int=rng.getrandbits(128), version=4)}",
            user_id=user_id(pick()),
            meter="ocr",
            quantity=1,
            occurred_at=utc_now(),
        )


def _bytes(sandbox: Sandbox) -> int:
    with sandbox.application.engine.connect() as connection:
        return int(connection.execute(text(_SIZE)).scalar_one())


METERED = Benchmark(
    "metered",
    "What does a metered usage.record cost more than a usage.deduct?",
    "none, the plan of capacity counts with it",
    run,
)
