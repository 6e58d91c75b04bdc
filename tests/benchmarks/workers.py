"""One, two, four worker processes on the same queues."""

from collections.abc import Sequence
from functools import partial

from tests.benchmarks.first_speed import processed_deductions
from tests.benchmarks.loads import uniform
from tests.benchmarks.results import (
    UNKNOWN_COST,
    Benchmark,
    BenchmarkContext,
    Figure,
    Goal,
    Result,
    alternately,
    costs,
    figures_known,
    neighbours,
    rates,
    ratio,
)
from tests.benchmarks.sandbox import Measured

_COUNTS, _COUNTS_IF_SHORT = (1, 2, 4), (1, 2)
_NEVER_SLOWER, _SAME_COST, _NO_DEADLOCK = Goal(1.0), Goal(1.15, "at most"), Goal(0, "at most")


def run(context: BenchmarkContext) -> Result:
    """Measure one, two and four workers in turn."""
    messages, users = context.sized(30_000, 600), context.accounts()
    counts = _COUNTS_IF_SHORT if context.is_short else _COUNTS
    deadlocks: list[float] = []

    def processed(workers: int) -> Measured:
        return processed_deductions(
            context,
            messages,
            users,
            name=f"workers: {workers}",
            pick=uniform(users),
            workers=workers,
            look=lambda sandbox: deadlocks.append(sandbox.deadlocks()),
        )

    runs = alternately(context, {str(count): partial(processed, count) for count in counts})
    one, more = runs["1"], {count: runs[str(count)] for count in counts[1:]}
    return Result(
        figures=(
            *(
                ratio(f"{count} workers : 1", measured, one, _NEVER_SLOWER)
                for count, measured in more.items()
            ),
            *(cost for count, measured in more.items() for cost in _costs(count, measured, one)),
            Figure("deadlocks", tuple(deadlocks), "a run", _NO_DEADLOCK),
            *(rates(f"workers: {count}", measured) for count, measured in runs.items()),
            *(cost for count, measured in runs.items() for cost in costs(f"workers: {count}", measured)),
        ),
        sizes={"messages": messages, "users": users, "workers": ", ".join(map(str, counts))},
        notes=(
            "the cost of a message is the processor time of workers, database and broker together",
            "on a machine whose cores are busy with one worker, two can't be much faster",
            *(
                ()
                if all(run.total_cpu_us for measured in runs.values() for run in measured)
                else (UNKNOWN_COST,)
            ),
        ),
        runs=tuple(run for measured in runs.values() for run in measured),
    )


def _costs(count: int, measured: Sequence[Measured], one: Sequence[Measured]) -> list[Figure]:
    """Return the ratio of processor time; nothing where it is unknown."""
    ours, theirs = [run.total_cpu_us for run in measured], [run.total_cpu_us for run in one]
    label = f"processor time a message, {count} workers : 1"
    return figures_known(label, neighbours(ours, theirs), "×", _SAME_COST)


WORKERS = Benchmark(
    "workers",
    "Do more workers hurt?",
    "2 and 4 never slower than 1, no deadlock, processor time a message within 15 %",
    run,
)
