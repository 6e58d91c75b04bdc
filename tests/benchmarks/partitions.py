"""Partitioned queues beside one queue, and transactions of one slot under an offered load."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from tests.benchmarks.latency import percentile, probed
from tests.benchmarks.loads import deductions, in_turns, outgoing
from tests.benchmarks.probe import Seen, Task
from tests.benchmarks.results import (
    Benchmark,
    BenchmarkContext,
    Figure,
    Goal,
    Result,
    alternately,
    costs,
    rates,
    ratio,
)
from tests.benchmarks.sandbox import Measured, Sandbox, new_sandbox
from worker.ledger.form import LedgerForm

_PARTITIONS, _WORKERS = 16, 2
_OFFERED, _OFFERED_IF_SHORT = (1_000, 5_000, 10_000), (100,)
#: Length of a run at an offered rate, and of its beginning, which doesn't count.
_SECONDS, _SECONDS_BEFORE = 10, 2
#: Time of a lease: shares are even soon after the start, in a run of some seconds.
_LEASE_S = 2.0
_FORMS_IF_SHORT = {"16 partitions, one slot": LedgerForm.ONE_SLOT}
_FORMS = {"16 partitions": LedgerForm.WHOLE, **_FORMS_IF_SHORT}
_GOALS = {"16 partitions": Goal(0.90)}


def run(context: BenchmarkContext) -> Result:
    """Drain one queue and partitions in turn, then offer load to transactions of one slot."""
    messages, users = context.sized(60_000, 600), context.accounts()
    forms = _FORMS_IF_SHORT if context.is_short else _FORMS
    contestants = {"one queue": partial(drained, context, messages, users, 0, LedgerForm.WHOLE)}
    for name, form in forms.items():
        contestants[name] = partial(drained, context, messages, users, _PARTITIONS, form)
    runs = alternately(context, contestants)
    offered = {rate: _offered_in_turn(context, rate, users) for rate in _rates(context)}
    return Result(
        figures=(
            *(
                ratio(f"{name} : one queue", runs[name], runs["one queue"], _GOALS.get(name))
                for name in forms
            ),
            *(rates(name, measured) for name, measured in runs.items()),
            *(cost for name, measured in runs.items() for cost in costs(name, measured)),
            *(figure for rate, seen in offered.items() for figure in _at(rate, seen)),
        ),
        sizes={"messages": messages, "users": users, "workers": _WORKERS, "partitions": _PARTITIONS},
        notes=(
            "two workers each time; the clock begins when their shares are even, on queues that are filled",
            f"leases of {_LEASE_S:g} s: five times as many looks as with the usual 10 s",
            "offered rates: open loop, a latency counts from the time its request was due",
            "one process sends and reads replies; beyond what it or the machine can do requests are late",
        ),
        runs=tuple(run for measured in runs.values() for run in measured),
        details={
            "latencies_ms": {rate: [one.latencies_ms for one in seen] for rate, seen in offered.items()}
        },
    )


def drained(
    context: BenchmarkContext, messages: int, users: int, partitions: int, form: LedgerForm
) -> Measured:
    """Run once in a sandbox of its own: accounts, prefill, drain, check."""
    with _sandbox(context, users, partitions, form) as sandbox:
        commands = deductions(messages, in_turns(users))
        filled = outgoing(commands, partitions=partitions)
        sandbox.prefill(filled, context.progress, total=messages)
        measured = sandbox.drain(
            f"{form}, {partitions} partitions" if partitions else "one queue",
            sandbox.worker(_WORKERS),
            messages,
            consumers=_WORKERS,
            progress=context.progress,
        )
        sandbox.check(used=messages)
        return measured


@contextmanager
def _sandbox(context: BenchmarkContext, users: int, partitions: int, form: LedgerForm) -> Iterator[Sandbox]:
    settings: dict[str, Any] = {"partitions": partitions, "ledger_form": form, "lease_s": _LEASE_S}
    with new_sandbox(context.servers, **settings) as sandbox:
        sandbox.open_accounts(users)
        yield sandbox


# -- offered load ------------------------------------------------------------------------------------------


def _rates(context: BenchmarkContext) -> Sequence[int]:
    return _OFFERED_IF_SHORT if context.is_short else _OFFERED


def _offered_in_turn(context: BenchmarkContext, rate: int, users: int) -> list[Seen]:
    seen: list[Seen] = []
    for number in range(1, context.runs + 1):
        seen.append(offered_once(context, rate, users))
        found = seen[-1].latencies_ms
        said = ", ".join(f"p{rank:g} {percentile(found, rank):.1f} ms" for rank in (50, 99))
        replied = f"{settled_per_second(rate, seen[-1]):,.0f}/s"
        context.reporter.ran(f"run {number} of {context.runs} at {rate:,}/s: {replied}, {said}")
    return seen


def offered_once(context: BenchmarkContext, rate: int, users: int) -> Seen:
    """Offer ``rate`` messages a second to two workers with transactions of one slot."""
    seconds, before = (1, 1) if context.is_short else (_SECONDS, _SECONDS_BEFORE)
    with _sandbox(context, users, _PARTITIONS, LedgerForm.ONE_SLOT) as sandbox:
        task = Task(
            sandbox.broker_url,
            users,
            rate,
            counted=rate * seconds,
            warm_up=rate * before,
            straight=0,
            partitions=_PARTITIONS,
        )
        with sandbox.running("workers", sandbox.worker(_WORKERS)):
            sandbox.await_consumers(_WORKERS)
            seen = probed(context, task)
        sandbox.check(used=task.messages)
    return seen


def settled_per_second(rate: float, seen: Seen) -> float:
    """Return the replies a second, from the first request that was due to the last reply."""
    last_s = max(place / rate + late_ms / 1e3 for place, late_ms in enumerate(seen.latencies_ms))
    return len(seen.latencies_ms) / last_s


def _at(rate: int, seen: Sequence[Seen]) -> Iterator[Figure]:
    """Yield the row of a rate in the table: what was replied to, and how late."""
    name = f"{rate:,}/s offered"
    yield Figure(f"{name}: replies", tuple(settled_per_second(rate, one) for one in seen), "messages/s")
    for rank in (50.0, 99.0):
        ranked = tuple(percentile(one.latencies_ms, rank) for one in seen)
        yield Figure(f"{name}: publish to reply, p{rank:g}", ranked, "ms")
    late = tuple(percentile(one.late_ms, 99.0) for one in seen)
    yield Figure(f"{name}: sent later than due, p99", late, "ms")


PARTITIONS = Benchmark(
    "partitions",
    "What do 16 partitions cost on one PostgreSQL, and what do transactions of one slot under load?",
    "90 % of the rate of one queue",
    run,
)
