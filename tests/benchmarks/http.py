"""Balances over HTTP, on connections that are kept, beside an empty route of the same libraries."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from schemas.http import TokenScope
from tests.benchmarks.empty_route import PATH
from tests.benchmarks.http_probe import HttpSeen, HttpTask
from tests.benchmarks.latency import percentile
from tests.benchmarks.results import Benchmark, BenchmarkContext, Figure, Goal, Result, neighbours
from tests.benchmarks.sandbox import ROOT, BenchmarkError, ProcessCommand, Sandbox, new_sandbox, user_id
from tests.support.private_server import free_port
from tests.support.waiting import eventually
from worker.bootstrap import utc_now
from worker.http.tokens import add_token
from worker.settings import environment_of

_CONNECTIONS = 4
_RATE, _P99 = Goal(400), Goal(30, "at most")
_GRACE_S = 120.0


def run(context: BenchmarkContext) -> Result:
    """Measure both servers in turn, each alone on the machine."""
    requests, users = context.sized(4_000, 80), context.accounts()
    warm_up = requests // 4
    ours: list[HttpSeen] = []
    empty: list[HttpSeen] = []
    with new_sandbox(context.servers) as sandbox, TemporaryDirectory() as folder:
        sandbox.open_accounts(users)
        path = Path(folder) / "tokens"
        secret = add_token(path, "bench", [TokenScope.ACCOUNTS], utc_now())
        balances = [f"/v1/balance?userId={user_id(number)}" for number in range(users)]
        for number in range(1, context.runs + 1):
            context.progress("asking for balances", number, context.runs)
            with _served(sandbox, "serve", _serve_command(sandbox, path, port := free_port()), port):
                ours.append(
                    _asked(HttpTask(port, balances, f"Bearer {secret}", _CONNECTIONS, warm_up, requests))
                )
            with _served(sandbox, "empty route", _empty_command(port := free_port()), port):
                empty.append(_asked(HttpTask(port, [PATH], "none", _CONNECTIONS, warm_up, requests)))
            context.reporter.ran(
                f"run {number} of {context.runs}: {_said(ours[-1])}; empty route: {_said(empty[-1])}"
            )
        sandbox.check()
    return Result(
        figures=(
            Figure("balances", tuple(run.per_second for run in ours), "requests/s", _RATE),
            Figure("balances, p50", _ranked(50, ours), "ms"),
            Figure("balances, p99", _ranked(99, ours), "ms", _P99),
            Figure("empty route", tuple(run.per_second for run in empty), "requests/s"),
            Figure("empty route, p99", _ranked(99, empty), "ms"),
            Figure(
                "balances : empty route",
                neighbours([run.per_second for run in ours], [run.per_second for run in empty]),
                "×",
            ),
        ),
        sizes={"requests": requests, "connections": _CONNECTIONS, "users": users, "not counted": warm_up},
        notes=(
            "closed loop: a connection sends its next request when it has the answer of the one before",
            "the caller is a Python process on the same machine, with plain sockets",
            "the empty route is Flask behind waitress, with as many threads and no checks",
        ),
        details={"latencies_ms": [run.latencies_ms for run in ours]},
    )


def _serve_command(sandbox: Sandbox, tokens: Path, port: int) -> ProcessCommand:
    arguments = ["serve", "--listen", f"127.0.0.1:{port}", "--tokens", str(tokens)]
    return [sys.executable, "-m", "worker", *arguments], environment_of(sandbox.application.settings)


def _empty_command(port: int) -> ProcessCommand:
    return [sys.executable, "-m", "tests.benchmarks.empty_route", str(port)], {}


@contextmanager
def _served(sandbox: Sandbox, name: str, command: ProcessCommand, port: int) -> Iterator[None]:
    """Run the server during the block, which begins when it takes connections."""
    with sandbox.running(name, [command]):
        eventually(lambda: _takes_connections(port), what=f"{name} listens")
        yield


def _takes_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def _asked(task: HttpTask) -> HttpSeen:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.http_probe"],
        input=task.to_json(),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=_GRACE_S,
    )
    if done.returncode:
        raise BenchmarkError(f"the caller ended with {done.returncode}: {done.stderr.strip()}")
    return HttpSeen.read(done.stdout)


def _ranked(rank: float, runs: list[HttpSeen]) -> tuple[float, ...]:
    return tuple(percentile(run.latencies_ms, rank) for run in runs)


def _said(run: HttpSeen) -> str:
    return f"{run.per_second:,.0f} requests/s, p99 {percentile(run.latencies_ms, 99):.1f} ms"


HTTP = Benchmark(
    "http",
    "How many balances a second over HTTP, on 4 connections that are kept?",
    "400 a second, p99 30 ms",
    run,
)
