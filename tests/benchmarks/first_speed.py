"""Rate of one worker on a prefilled queue of ``usage.deduct``, everything durable.

RabbitMQ quorum queues with persistent messages, PostgreSQL with fsync and synchronous commit, replies
confirmed before the acknowledgement; broker, database, and worker share the machine. Afterwards every
message must have its reply and the audit must be clean.
"""

from collections.abc import Callable

from tests.benchmarks.loads import Pick, deductions, in_turns, outgoing
from tests.benchmarks.results import Benchmark, BenchmarkContext, Result, alternately, costs, rates
from tests.benchmarks.sandbox import Measured, Sandbox, new_sandbox


def processed_deductions(
    context: BenchmarkContext,
    messages: int,
    users: int,
    *,
    name: str = "worker",
    pick: Pick | None = None,
    workers: int = 1,
    look: Callable[[Sandbox], None] | None = None,
) -> Measured:
    """Run once in a sandbox of its own: accounts, prefill, drain, check.

    The users of the messages take turns, or ``pick`` chooses. ``look`` gets the sandbox afterwards.
    """
    with new_sandbox(context.servers) as sandbox:
        sandbox.open_accounts(users)
        commands = deductions(messages, pick or in_turns(users))
        sandbox.prefill(outgoing(commands), context.progress, total=messages)
        measured = sandbox.drain(
            name, sandbox.worker(workers), messages, consumers=workers, progress=context.progress
        )
        sandbox.check(used=messages)
        if look is not None:
            look(sandbox)
        return measured


def run(context: BenchmarkContext) -> Result:
    """Measure the worker alone."""
    messages, users = context.sized(50_000, 600), context.accounts()
    runs = alternately(context, {"worker": lambda: processed_deductions(context, messages, users)})["worker"]
    return Result(
        figures=(rates("usage.deduct, one worker", runs), *costs("one worker", runs)),
        sizes={"messages": messages, "users": users, "workers": 1},
        notes=("a figure of this machine in this hour: only what ran in one session can be compared",),
        runs=tuple(runs),
    )


FIRST_SPEED = Benchmark(
    "first-speed",
    "How fast does one worker drain a prefilled queue of usage.deduct?",
    "none of its own, the others are compared with it",
    run,
)
