"""``usage.batch`` against the same items in single messages."""

from functools import partial

from tests.benchmarks.first_speed import processed_deductions
from tests.benchmarks.loads import batches, outgoing
from tests.benchmarks.results import (
    Benchmark,
    BenchmarkContext,
    Goal,
    Result,
    alternately,
    costs,
    rates,
    ratio,
)
from tests.benchmarks.sandbox import Measured, new_sandbox

_ITEMS = 100
_GOAL_RATE, _GOAL_RATIO = Goal(10_000), Goal(5)
_OF_ONE, _OF_MANY, _SINGLES = "batches of one user", "batches of many users", "single messages"
_BY_TWO = "batches of many users, two workers"


def run(context: BenchmarkContext) -> Result:
    """Measure batches of one user, of many, with two workers, and single messages; items count."""
    singles, users = context.sized(30_000, 600), context.accounts(short=200)
    count = max(singles * 3 // _ITEMS, 1)

    def batched(name: str) -> Measured:
        workers = 2 if name == _BY_TWO else 1
        return processed_batches(context, name, count, users, of_one_user=name == _OF_ONE, workers=workers)

    runs = alternately(
        context,
        {
            _OF_ONE: partial(batched, _OF_ONE),
            _OF_MANY: partial(batched, _OF_MANY),
            _BY_TWO: partial(batched, _BY_TWO),
            _SINGLES: lambda: processed_deductions(context, singles, users, name=_SINGLES),
        },
    )
    ways = (_OF_ONE, _OF_MANY, _BY_TWO)
    return Result(
        figures=(
            *(rates(name, runs[name], goal=_GOAL_RATE, each=_ITEMS) for name in ways),
            *(
                ratio(f"{name} : {_SINGLES}", runs[name], runs[_SINGLES], _GOAL_RATIO, each=_ITEMS)
                for name in ways
            ),
            rates(_SINGLES, runs[_SINGLES]),
            *(cost for name, measured in runs.items() for cost in costs(name, measured)),
        ),
        sizes={"batches": count, "items a batch": _ITEMS, "single messages": singles, "users": users},
        notes=(
            "every item has its own reference, outcome and reply; the replies travel in that of the batch",
            "an upload pipeline sends batches of one user, a meter that collects sends batches of many",
        ),
        runs=tuple(run for measured in runs.values() for run in measured),
    )


def processed_batches(
    context: BenchmarkContext, name: str, count: int, users: int, *, of_one_user: bool, workers: int = 1
) -> Measured:
    """Run once in a sandbox of its own."""
    with new_sandbox(context.servers) as sandbox:
        sandbox.open_accounts(users)
        messages = outgoing(batches(count, _ITEMS, users, of_one_user=of_one_user))
        sandbox.prefill(messages, context.progress, total=count)
        measured = sandbox.drain(
            name, sandbox.worker(workers), count, consumers=workers, progress=context.progress
        )
        sandbox.check(used=count * _ITEMS)
        return measured


BATCH = Benchmark(
    "batch",
    "What do usage.batch messages of 100 items bring?",
    "10,000 items a second, 5 × the single messages",
    run,
)
