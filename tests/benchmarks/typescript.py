"""Latency of the TypeScript client: a deduct beside an echo through the same kind of queue."""

import json

from tests.benchmarks.latency import percentile, ranked
from tests.benchmarks.results import Benchmark, BenchmarkContext, Figure, Goal, Result
from tests.benchmarks.sandbox import new_sandbox
from tests.typescript.npm_package import compile_package, run

_RATIO = Goal(2.5, "at most")


def run_requests(context: BenchmarkContext) -> Result:
    """Measure requests one after the other, each deduct followed by an echo."""
    compile_package()
    requests, warm_up = (50, 10) if context.is_short else (3_000, 300)
    deducts: list[list[float]] = []
    echoes: list[list[float]] = []
    for number in range(1, context.runs + 1):
        found = _latencies(context, requests, warm_up)
        deducts.append(found["deduct"])
        echoes.append(found["echo"])
        context.reporter.ran(
            f"run {number} of {context.runs}: deduct p50 {percentile(deducts[-1], 50):.2f} ms, "
            f"echo p50 {percentile(echoes[-1], 50):.2f} ms"
        )
    ratios = tuple(
        percentile(deduct, 50) / percentile(echo, 50) for deduct, echo in zip(deducts, echoes, strict=True)
    )
    return Result(
        figures=(
            Figure("deduct : echo, p50", ratios, "×", _RATIO, of="the echo through the same kind of queue"),
            *(Figure(f"deduct, p{rank:g}", ranked(rank, deducts), "ms") for rank in (50.0, 99.0)),
            *(Figure(f"echo, p{rank:g}", ranked(rank, echoes), "ms") for rank in (50.0, 99.0)),
        ),
        sizes={"requests": requests, "requests before, not counted": warm_up},
        notes=(
            "the same client sends both, in turn",
            "the echo is a Node process: on a quorum queue it replies, waits for the confirm, acknowledges",
        ),
    )


def _latencies(context: BenchmarkContext, requests: int, warm_up: int) -> dict[str, list[float]]:
    with new_sandbox(context.servers) as sandbox:
        sandbox.open_accounts(1)
        with sandbox.running("worker", sandbox.worker()):
            context.progress("asking one after the other", 0, 0)
            program = "build/benchmark/sequential.js"
            found: dict[str, list[float]] = json.loads(
                run("node", program, sandbox.broker_url, str(requests), str(warm_up))
            )
        sandbox.check(used=requests + warm_up)
    return found


TYPESCRIPT = Benchmark(
    "typescript",
    "How long does the TypeScript client wait for a deduct, beside an echo?",
    "p50 2.5 × the echo's",
    run_requests,
)
