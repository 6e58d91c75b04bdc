"""Skew of the users: uniform, mostly a few users, or one user."""

from collections.abc import Callable
from functools import partial

from tests.benchmarks.first_speed import processed_deductions
from tests.benchmarks.loads import Pick, hot, uniform, zipf
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
from tests.benchmarks.sandbox import Measured

_GOAL = Goal(0.95)
_SKEW = 1.2
_UNIFORM = "uniform"


def run(context: BenchmarkContext) -> Result:
    """Measure uniform, Zipf and hot loads in turn."""
    messages, users = context.sized(30_000, 600), context.accounts()
    picks: dict[str, Callable[[], Pick]] = {
        _UNIFORM: partial(uniform, users),
        f"Zipf {_SKEW}": partial(zipf, users, _SKEW),
        "one hot account": hot,
    }

    def processed(name: str) -> Measured:
        return processed_deductions(context, messages, users, name=name, pick=picks[name]())

    runs = alternately(context, {name: partial(processed, name) for name in picks})
    skewed = [name for name in picks if name != _UNIFORM]
    return Result(
        figures=(
            *(ratio(f"{name} : {_UNIFORM}", runs[name], runs[_UNIFORM], _GOAL) for name in skewed),
            *(rates(name, measured) for name, measured in runs.items()),
            *(cost for name, measured in runs.items() for cost in costs(name, measured)),
        ),
        sizes={"messages": messages, "users": users},
        notes=("one worker; several on one hot account wait for each other's locks",),
        runs=tuple(run for measured in runs.values() for run in measured),
    )


SKEW = Benchmark(
    "skew",
    "Does it matter whose the messages are?",
    "one hot account, and Zipf 1.2: 95 % of uniform each",
    run,
)
