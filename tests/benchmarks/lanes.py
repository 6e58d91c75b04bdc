"""Latency of interactive messages while a backlog drains in the bulk lane."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, sleep

from tests.benchmarks.latency import percentile, probed
from tests.benchmarks.loads import SEED, deductions, in_turns, outgoing
from tests.benchmarks.probe import Seen, Task
from tests.benchmarks.results import Benchmark, BenchmarkContext, Figure, Goal, Result
from tests.benchmarks.sandbox import BenchmarkError, Sandbox, new_sandbox
from worker.broker import BILLING

_PER_SECOND = 50.0
_P99 = Goal(60, "at most")
#: Messages of the backlog for each request: they must not be drained before the last request is answered.
_BULK_A_REQUEST, _BEFORE = 200, 25
_POLL_S, _PATIENCE_S = 0.05, 600.0


@dataclass(frozen=True, slots=True)
class BesideBulk:
    """Times of the caller, the rate at which bulk drained meanwhile, and what was left of it then."""

    seen: Seen
    bulk_per_second: float
    left: int


def run(context: BenchmarkContext) -> Result:
    """Measure requests at a steady pace beside a backlog, in runs of their own."""
    bulk, users = context.sized(200_000, 2_000), context.accounts()
    requests = max(bulk // _BULK_A_REQUEST, 10)
    runs: list[BesideBulk] = []
    alone: list[BesideBulk] = []
    for number in range(1, context.runs + 1):
        alone.append(asked_beside(context, 0, requests, users))
        runs.append(asked_beside(context, bulk, requests, users))
        found = runs[-1].seen.latencies_ms
        said = ", ".join(f"p{rank:g} {percentile(found, rank):.1f} ms" for rank in (50, 95, 99))
        context.reporter.ran(
            f"run {number} of {context.runs}: {said}, max {max(found):.1f} ms, "
            f"bulk {runs[-1].bulk_per_second:,.0f}/s, {runs[-1].left:,} left; without bulk "
            f"p50 {percentile(alone[-1].seen.latencies_ms, 50):.1f} ms, "
            f"p99 {percentile(alone[-1].seen.latencies_ms, 99):.1f} ms"
        )
    return Result(
        figures=(
            _latency("beside bulk, p50", 50.0, runs),
            _latency("beside bulk, p95", 95.0, runs),
            _latency("beside bulk, p99", 99.0, runs, _P99),
            _latency("beside bulk, max", 100.0, runs),
            _latency("without bulk, p50", 50.0, alone),
            _latency("without bulk, p99", 99.0, alone),
            Figure("bulk meanwhile", tuple(run.bulk_per_second for run in runs), "messages/s"),
        ),
        sizes={"bulk": bulk, "requests": requests, "a second": int(_PER_SECOND), "users": users},
        notes=(
            "open loop: a latency counts from the time its request was due, however late it was sent",
            "one worker; the bulk commands are of the same users, and all of them are replied to",
        ),
        details={"latencies_ms": [run.seen.latencies_ms for run in runs]},
    )


def asked_beside(context: BenchmarkContext, bulk: int, requests: int, users: int) -> BesideBulk:
    """Run once in a sandbox of its own; the bulk lane is full when the worker starts."""
    task = Task("", users, _PER_SECOND, counted=requests, warm_up=_BEFORE, straight=0, seed=SEED + 1)
    with new_sandbox(context.servers) as sandbox:
        sandbox.open_accounts(users)
        backlog = outgoing(deductions(bulk, in_turns(users)), BILLING.bulk_exchange)
        sandbox.prefill(backlog, context.progress, total=bulk)
        with sandbox.running("worker", sandbox.worker()):
            context.progress("asking beside bulk", 0, 0)
            began = monotonic()
            seen = probed(context, task.for_broker(sandbox.broker_url))
            left = bulk - replied(sandbox)
            rate = (bulk - left) / (monotonic() - began)
            if bulk and not left and not context.is_short:
                raise BenchmarkError("bulk was drained before the last request; take more --messages")
            context.progress("draining the rest", 0, 0)
            _await(lambda: replied(sandbox) == bulk)
        sandbox.check(used=bulk + task.messages)
    return BesideBulk(seen, rate, left)


def replied(sandbox: Sandbox) -> int:
    """Return the number of bulk messages that are replied to."""
    link = sandbox.application.link()
    try:
        return link.depth(BILLING.replies.name)
    finally:
        link.close()


def _await(is_done: Callable[[], bool]) -> None:
    deadline = monotonic() + _PATIENCE_S
    while not is_done():
        if monotonic() > deadline:
            raise BenchmarkError("bulk was not drained in ten minutes")
        sleep(_POLL_S)


def _latency(name: str, rank: float, runs: list[BesideBulk], goal: Goal | None = None) -> Figure:
    samples = tuple(percentile(run.seen.latencies_ms, rank) for run in runs)
    return Figure(f"publish to reply {name}", samples, "ms", goal)


LANES = Benchmark(
    "lanes",
    "How long from publish to reply, at 50 messages a second, while a bulk backlog drains?",
    "p99 60 ms",
    run,
)
