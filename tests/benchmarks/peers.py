"""Worker against common frameworks and a handwritten loop."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError

from tests.benchmarks.contenders import CONTENDERS, Contender
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
from tests.benchmarks.sandbox import BenchmarkError, Measured, new_sandbox

_GOALS = {"Celery": Goal(20)}
_GOAL_OF_OTHERS = Goal(10)
#: Peers are slow: as many as they process in about the time of the worker.
_SHARE = 10

_WORKER, _PROCESSES = "worker", 2  # its own best setting on two cores, as the peers have theirs
_SAME_WORK = (
    "each peer does the same work on the same tables: one transaction a message, idempotent, reply "
    "confirmed, acknowledged late, its ledger audited"
)


def run(context: BenchmarkContext) -> Result:
    """Measure the worker and each peer that keeps a ledger, in turn."""
    return against(context, [contender for contender in CONTENDERS if contender.keeps_ledger])


def against(context: BenchmarkContext, peers: list[Contender]) -> Result:
    """Measure the worker and ``peers``. Raises BenchmarkError where one isn't installed."""
    versions = {peer.name: _versions(peer) for peer in peers}
    messages, users = context.sized(30_000, 600), context.accounts()
    fewer = max(messages // _SHARE, 100)
    contestants: dict[str, Callable[[], Measured]] = {
        _WORKER: lambda: processed_deductions(context, messages, users, workers=_PROCESSES)
    }
    for peer in peers:
        contestants[peer.name] = partial(processed_by, peer, context, fewer, users)
    runs = alternately(context, contestants)
    ratios = [
        ratio(f"worker : {peer.name}", runs[_WORKER], runs[peer.name], _GOALS.get(peer.name, _GOAL_OF_OTHERS))
        for peer in peers
    ]
    return Result(
        figures=(
            *ratios,
            *(rates(name, measured) for name, measured in runs.items()),
            *(cost for name, measured in runs.items() for cost in costs(name, measured)),
        ),
        sizes={"messages": messages, "messages of a peer": fewer, "users": users},
        notes=(
            f"the worker: {_PROCESSES} processes, all else as it is by default",
            *(f"{peer.name} {versions[peer.name]}: {peer.settings()}" for peer in peers),
            _SAME_WORK,
            "peers get fewer messages; rates are of what was processed between the first and the last reply",
        ),
        runs=tuple(run for measured in runs.values() for run in measured),
    )


def processed_by(peer: Contender, context: BenchmarkContext, messages: int, users: int) -> Measured:
    """Run a peer once in a sandbox of its own: accounts, prefill, drain, check."""
    with new_sandbox(context.servers) as sandbox:
        sandbox.open_accounts(users)
        sent = peer.prefill(sandbox, deductions(messages, in_turns(users)), context.progress)
        measured = sandbox.drain(peer.name, peer.commands(sandbox), sent, progress=context.progress)
        if peer.keeps_ledger:
            sandbox.check(used=messages)
        return measured


def _versions(peer: Contender) -> str:
    try:
        return ", ".join(f"{name} {version}" for name, version in peer.versions().items())
    except PackageNotFoundError as error:
        raise BenchmarkError(
            f"{peer.name} needs the package {error.name}: `make bench` installs it"
        ) from error


PEERS = Benchmark(
    "peers",
    "How much faster is it than Celery, Dramatiq, FastStream, and a loop written with pika and SQLAlchemy?",
    "20 × Celery, 10 × each of the others",
    run,
)
