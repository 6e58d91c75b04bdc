"""Latency from publish to reply at a steady pace, far below the rate that the worker could reach."""

import subprocess
import sys
from collections.abc import Sequence
from math import ceil

from tests.benchmarks.probe import Seen, Task
from tests.benchmarks.results import Benchmark, BenchmarkContext, Figure, Goal, Result
from tests.benchmarks.sandbox import ROOT, BenchmarkError, new_sandbox

_PER_SECOND = 200.0
_P50, _P99 = Goal(5, "at most"), Goal(25, "at most")
_GRACE_S = 60.0
#: Replies a second at least, where more is asked than can be done.
_SLOWEST_PER_SECOND = 1_000


def run(context: BenchmarkContext) -> Result:
    """Measure some seconds of requests in each run, with percentiles of its own."""
    requests, users = context.sized(6_000, 100), context.accounts()
    before = min(int(_PER_SECOND), requests)
    runs: list[Seen] = []
    for number in range(1, context.runs + 1):
        runs.append(asked(context, requests, users, before))
        found = runs[-1].latencies_ms
        said = ", ".join(f"p{rank:g} {percentile(found, rank):.1f} ms" for rank in (50, 95, 99))
        context.reporter.ran(f"run {number} of {context.runs}: {said}, max {max(found):.1f} ms")
    ranks = {"p50": (50.0, _P50), "p95": (95.0, None), "p99": (99.0, _P99), "max": (100.0, None)}
    return Result(
        figures=(
            *(
                Figure(
                    f"publish to reply, {name}", ranked(rank, [run.latencies_ms for run in runs]), "ms", goal
                )
                for name, (rank, goal) in ranks.items()
            ),
            Figure("without a worker, p50", ranked(50.0, [run.straight_ms for run in runs]), "ms"),
            Figure("without a worker, p99", ranked(99.0, [run.straight_ms for run in runs]), "ms"),
            Figure("sent later than due, p99", ranked(99.0, [run.late_ms for run in runs]), "ms"),
        ),
        sizes={
            "requests": requests,
            "a second": int(_PER_SECOND),
            "requests before, not counted": before,
            "users": users,
        },
        notes=(
            "open loop: a latency counts from the time its request was due, however late it was sent",
            "replies go to a queue of the caller's own, exclusive and classic, as a caller that waits has it",
            "caller and clock are a Python process on the same machine, and what they cost is in the figures",
            "without a worker: the same caller at the same pace publishes into its own queue of replies",
        ),
        details={"latencies_ms": [run.latencies_ms for run in runs]},
    )


def asked(context: BenchmarkContext, requests: int, users: int, before: int) -> Seen:
    """Run once in a sandbox of its own; ``before`` are requests that don't count."""
    with new_sandbox(context.servers) as sandbox:
        sandbox.open_accounts(users)
        task = Task(sandbox.broker_url, users, _PER_SECOND, counted=requests, warm_up=before, straight=before)
        with sandbox.running("worker", sandbox.worker()):
            seen = probed(context, task)
        sandbox.check(used=task.messages)
    return seen


def probed(context: BenchmarkContext, task: Task) -> Seen:
    """Return what a caller in a process of its own saw. Raises BenchmarkError."""
    context.progress("asking at a steady pace", 0, 0)
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.probe"],
        input=task.to_json(),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=(task.messages + task.straight) / min(task.per_second, _SLOWEST_PER_SECOND) + _GRACE_S,
    )
    if done.returncode:
        raise BenchmarkError(f"the caller ended with {done.returncode}: {done.stderr.strip()}")
    return Seen.read(done.stdout)


def percentile(samples: Sequence[float], rank: float) -> float:
    """Return the percentile by nearest rank."""
    place = max(ceil(len(samples) * rank / 100), 1)
    return sorted(samples)[place - 1]


def ranked(rank: float, runs: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return the percentile of each run."""
    return tuple(percentile(samples, rank) for samples in runs)


LATENCY = Benchmark(
    "latency",
    "How long from publish to reply, at 200 messages a second?",
    "p50 5 ms, p99 25 ms",
    run,
)
