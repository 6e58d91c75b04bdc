"""Queries: one reader as fast as it goes, and its latency beside a backlog that is worked off."""

from collections.abc import Iterator
from contextlib import closing

from schemas import QueryBalance
from tests.benchmarks.latency import percentile, probed, ranked
from tests.benchmarks.loads import deductions, in_turns, outgoing
from tests.benchmarks.probe import Seen, Task
from tests.benchmarks.results import Benchmark, BenchmarkContext, Figure, Goal, Result, costs, rates
from tests.benchmarks.sandbox import BenchmarkError, Measured, new_sandbox, user_id
from tests.support.rabbit_client import user_of
from worker.broker import BILLING, Outgoing

_PER_SECOND = 200.0
_P50, _P99, _RATE = Goal(5, "at most"), Goal(30, "at most"), Goal(4_000)


def run(context: BenchmarkContext) -> Result:
    """Measure the rate of one reader, and the latency beside a backlog, in turn."""
    queries, users = context.sized(30_000, 600), context.accounts()
    asked, backlog = (100, 2_000) if context.is_short else (3_000, 200_000)
    rate: list[Measured] = []
    seen: list[Seen] = []
    for number in range(1, context.runs + 1):
        rate.append(answered(context, queries, users))
        seen.append(beside_backlog(context, asked, users, backlog))
        found = seen[-1].latencies_ms
        context.reporter.ran(
            f"run {number} of {context.runs}: {rate[-1].per_second:,.0f} a second; "
            f"p50 {percentile(found, 50):.1f} ms, p99 {percentile(found, 99):.1f} ms"
        )
    latencies = [each.latencies_ms for each in seen]
    return Result(
        figures=(
            rates("balances, one reader", rate, goal=_RATE),
            *costs("balances", rate),
            Figure("publish to answer, p50", ranked(50.0, latencies), "ms", _P50),
            Figure("publish to answer, p99", ranked(99.0, latencies), "ms", _P99),
            Figure("without a reader, p99", ranked(99.0, [each.straight_ms for each in seen]), "ms"),
        ),
        sizes={"queries": queries, "users": users, "asked a second": int(_PER_SECOND), "backlog": backlog},
        notes=("latency: open loop beside a backlog that one worker works off on the same machine",),
        runs=tuple(rate),
    )


def answered(context: BenchmarkContext, queries: int, users: int) -> Measured:
    """Let one reader answer queries that wait already."""
    with new_sandbox(context.servers) as sandbox:
        sandbox.open_accounts(users)
        queue = f"{BILLING.replies.name}.{user_of(sandbox.broker_url)}.bench"
        with closing(sandbox.application.link()) as link:
            link.declare_temporary(queue)
        sandbox.prefill(balances_asked(queries, users, queue, user_of(sandbox.broker_url)), context.progress)
        return sandbox.drain(
            "one reader", sandbox.readers(), queries, replies_queue=queue, progress=context.progress
        )


def beside_backlog(context: BenchmarkContext, asked: int, users: int, backlog: int) -> Seen:
    """Ask at a steady pace while a worker works off a backlog that outlasts the questions."""
    with new_sandbox(context.servers, readers=1) as sandbox:
        sandbox.open_accounts(users)
        sandbox.prefill(outgoing(deductions(backlog, in_turns(users))), context.progress, total=backlog)
        before = min(int(_PER_SECOND), asked)
        task = Task(
            sandbox.broker_url,
            users,
            _PER_SECOND,
            asked,
            warm_up=before,
            straight=before,
            type="query.balance",
        )
        with sandbox.running("worker", sandbox.worker()):
            seen = probed(context, task)
            with closing(sandbox.application.link()) as link:
                left = link.depth("billing.usage")
        if not left and not context.is_short:
            raise BenchmarkError("the backlog was over before the questions; make it larger")
        return seen


def balances_asked(count: int, users: int, reply_to: str, user: str) -> Iterator[Outgoing]:
    """Yield questions for balances, as their asker publishes them."""
    pick = in_turns(users)
    for number in range(count):
        query = QueryBalance(user_id=user_id(pick()))
        properties = {
            "message_id": f"query-{number:08}",
            "correlation_id": f"query-{number:08}",
            "reply_to": reply_to,
            "user_id": user,
        }
        yield Outgoing(query.to_json(), BILLING.exchange, query.type, properties)


QUERIES = Benchmark(
    "queries",
    "How many balances does one reader answer, and how soon beside a backlog?",
    "4,000 a second; p50 5 ms, p99 30 ms at 200 a second",
    run,
)
