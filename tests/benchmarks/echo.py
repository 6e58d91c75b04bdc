"""Worker against an echo: the cost of the ledger beside that of the broker."""

from tests.benchmarks.contenders import CONTENDERS
from tests.benchmarks.first_speed import processed_deductions
from tests.benchmarks.loads import deductions, in_turns
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

_GOAL = Goal(0.75)
_ECHO = next(contender for contender in CONTENDERS if not contender.keeps_ledger)


def run(context: BenchmarkContext) -> Result:
    """Measure worker and echo in turn."""
    messages, users = context.sized(30_000, 600), context.accounts()
    runs = alternately(
        context,
        {
            "worker": lambda: processed_deductions(context, messages, users),
            "echo": lambda: echoed(context, messages, users),
        },
    )
    worker, echo = runs["worker"], runs["echo"]
    return Result(
        figures=(
            ratio("worker : echo", worker, echo, _GOAL),
            rates("worker", worker),
            rates("echo", echo),
            *costs("worker", worker),
            *costs("echo", echo),
        ),
        sizes={"messages": messages, "users": users},
        notes=(
            f"the echo: {_ECHO.settings()}",
            "the echo decodes nothing and leaves PostgreSQL idle: on two cores it has more of them to itself",
        ),
        runs=(*worker, *echo),
    )


def echoed(context: BenchmarkContext, messages: int, users: int) -> Measured:
    """Run the echo once; it keeps no ledger."""
    with new_sandbox(context.servers) as sandbox:
        sent = _ECHO.prefill(sandbox, deductions(messages, in_turns(users)), context.progress)
        return sandbox.drain(_ECHO.name, _ECHO.commands(sandbox), sent, progress=context.progress)


ECHO = Benchmark(
    "echo",
    "How near does the worker come to an echo of the same messages, through the same client, with no ledger?",
    "75 % of the echo's rate",
    run,
)
