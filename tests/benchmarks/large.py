"""Worker and queries on a ledger with a year of entries, beside an empty one.

It is filled once. The worker then processes deductions of anybody among its accounts, and the same on empty
ledgers: with the 10,000 users of the other benchmarks, and with a user for each message, since that is what
messages of a million users come to.

On the filled ledger that is two things. Right behind a checkpoint nearly every message touches pages that are
written to the log in full; once most pages have been, until the next checkpoint, it is seldom one. At full
speed the first is some seconds of every checkpoint_timeout (five minutes), the second is the rest of it.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from time import perf_counter

import pika
from sqlalchemy import select, text
from sqlalchemy.sql.functions import sum as sum_of

from tests.benchmarks.filling import Filling, fill
from tests.benchmarks.loads import deductions, in_turns, outgoing, uniform
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
from tests.benchmarks.sandbox import IncorrectLedgerError, Measured, Sandbox, new_sandbox
from worker.bootstrap import utc_now
from worker.broker import BILLING
from worker.ledger.audit import AuditProgress, audit
from worker.ledger.queries import Reader
from worker.ledger.tables import accounts

_RATE = Goal(0.90)
_FILLED, _USUAL, _EACH_ONCE = "filled", "empty", "empty, a user a message"
_BEHIND = "filled, right behind a checkpoint"
_TOUCHED = 5  # times as many messages as are measured
_PAGE = 50


def run(context: BenchmarkContext) -> Result:
    """Measure the worker on the filled ledger and on empty ones in turn, then queries and the audit."""
    messages, filling = context.sized(20_000, 200), _filling(context)
    with new_sandbox(context.servers) as sandbox:
        began = perf_counter()
        fill(sandbox.application.engine, filling, context.progress)
        context.reporter.ran(f"filled with {filling.entries:,} entries in {perf_counter() - began:.0f} s")
        used_before = _used(sandbox)
        load = _Load(context, sandbox, filling, messages)
        load.on_filled("warming up")
        runs = alternately(
            context,
            {
                _BEHIND: lambda: load.on_filled(_BEHIND),
                _FILLED: lambda: load.on_touched(_FILLED),
                _USUAL: lambda: load.on_empty(_USUAL, context.accounts()),
                _EACH_ONCE: lambda: load.on_empty(_EACH_ONCE, messages),
            },
        )
        answers = _asked(context, sandbox, filling)
        audited = _audited(context, sandbox)
        if (used := _used(sandbox) - used_before) != load.processed:
            raise IncorrectLedgerError(f"{used} tokens are used, not {load.processed}")
    return Result(
        figures=(
            ratio(f"{_FILLED} : {_USUAL}", runs[_FILLED], runs[_USUAL], _RATE),
            ratio(f"{_FILLED} : {_EACH_ONCE}", runs[_FILLED], runs[_EACH_ONCE], _RATE),
            ratio(f"{_BEHIND} : {_USUAL}", runs[_BEHIND], runs[_USUAL]),
            *answers,
            *(rates(name, measured) for name, measured in runs.items()),
            *(cost for name, measured in runs.items() for cost in costs(name, measured)),
            Figure("audit of the whole ledger", (audited,), "s"),
        ),
        sizes={
            "entries": filling.entries,
            "accounts": filling.accounts,
            "heavy accounts": filling.heavy,
            "entries of each of these": filling.heavy_entries,
            "messages": messages,
            "users of the empty ledger": context.accounts(),
        },
        notes=(
            "the year was filled in by SQL, row for row as the worker leaves it; keys are as small as can be",
            "messages of the filled ledger are of as many users",
            "all runs begin behind a checkpoint, where pages are written to the log in full again",
            f"but where it says {_FILLED!r}, {_TOUCHED} times as many messages have touched the pages since",
            "answers are asked by one process and clocked with its own time; what they read is in memory",
        ),
        runs=tuple(run for measured in runs.values() for run in measured),
        details={"entries of a page": _PAGE},
    )


def _filling(context: BenchmarkContext) -> Filling:
    entries = int(os.environ.get("BENCH_ENTRIES") or (2_000 if context.is_short else 10_000_000))
    users = int(os.environ.get("BENCH_ACCOUNTS") or entries // 10)
    heavy_entries = min(100_000, entries // 100)
    return Filling(entries, users, utc_now().replace(microsecond=0), heavy_entries=heavy_entries)


@dataclass(slots=True)
class _Load:
    """Random deductions, different ones in each run."""

    context: BenchmarkContext
    sandbox: Sandbox
    filling: Filling
    messages: int
    processed: int = 0

    def on_filled(self, name: str) -> Measured:
        """Measure deductions of any account of the filled ledger."""
        return self._drained(name, self.sandbox, self._anybody(), self._next_seed())

    def on_touched(self, name: str) -> Measured:
        """Measure the same after most pages have been touched since the checkpoint."""
        _checkpoint(self.sandbox)
        for _ in range(_TOUCHED):
            self._unmeasured()
        return self._drained(name, self.sandbox, self._anybody(), self._next_seed(), behind=False)

    def on_empty(self, name: str, users: int) -> Measured:
        """Measure deductions of ``users`` in turns, on a ledger of their own."""
        with new_sandbox(self.context.servers) as sandbox:
            sandbox.open_accounts(users)
            run = self._drained(name, sandbox, in_turns(users), seed=0)
            sandbox.check(used=self.messages)
            return run

    def _anybody(self) -> Callable[[], int]:
        _purge_replies(self.sandbox)
        return uniform(self.filling.accounts, self.processed)

    def _next_seed(self) -> int:
        seed = self.processed
        self.processed += self.messages
        return seed

    def _unmeasured(self) -> None:
        """Write as many messages straight into the ledger, without a broker."""
        pick = uniform(self.filling.accounts, self.processed)
        self.sandbox.apply(deductions(self.messages, pick, self._next_seed()))

    def _drained(
        self, name: str, sandbox: Sandbox, pick: Callable[[], int], seed: int, *, behind: bool = True
    ) -> Measured:
        progress = self.context.progress
        loaded = outgoing(deductions(self.messages, pick, seed))
        sandbox.prefill(loaded, progress, total=self.messages)
        if behind:
            _checkpoint(sandbox)
        return sandbox.drain(name, sandbox.worker(), self.messages, progress=progress)


def _checkpoint(sandbox: Sandbox) -> None:
    """Make a checkpoint before a run, so that it falls into none of them, or into each alike."""
    with sandbox.application.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("CHECKPOINT"))


def _purge_replies(sandbox: Sandbox) -> None:
    with pika.BlockingConnection(pika.URLParameters(sandbox.broker_url)) as connection:
        connection.channel().queue_purge(BILLING.replies.name)


def _used(sandbox: Sandbox) -> int:
    with sandbox.application.engine.connect() as connection:
        return int(connection.execute(select(sum_of(accounts.c.used))).scalar_one())


# -- answers ----------------------------------------------------------------------------------------------


def _asked(context: BenchmarkContext, sandbox: Sandbox, filling: Filling) -> tuple[Figure, ...]:
    """Time of the read side's answers, in milliseconds; a sample for each run."""
    reader, catalog, now = Reader(sandbox.application.engine), sandbox.application.catalog, utc_now()
    chance = random.Random()

    def anybody() -> str:
        return filling.user(chance.randint(1, filling.accounts))

    def heavy() -> str:
        return filling.user(chance.randint(1, filling.heavy))

    def balance() -> None:
        reader.balance(anybody(), now, catalog)

    def deep_page() -> None:
        reader.history(
            heavy(), _PAGE, offset=chance.randrange(filling.heavy_entries // 2, filling.heavy_entries)
        )

    def analytics() -> None:
        reader.usage(heavy(), now, catalog, days=30)

    def statement() -> None:
        with reader.statement(heavy(), now - timedelta(days=60), now - timedelta(days=30)) as period:
            for _ in period.transactions:
                pass

    def times(number: int) -> int:
        return 20 if context.is_short else number

    asked: tuple[tuple[str, Callable[[], None], int, Goal | None], ...] = (
        ("balance, p99", balance, times(2_000), Goal(2, "at most")),
        ("a deep page of history, p99", deep_page, times(500), Goal(5, "at most")),
        ("30 days of analytics, p99", analytics, times(50), Goal(50, "at most")),
        ("30 days of a statement, p99", statement, times(5), None),
    )
    return tuple(
        Figure(name, tuple(_p99(question, number, chance) for _ in range(context.runs)), "ms", goal)
        for name, question, number, goal in asked
    )


def _p99(question: Callable[[], None], times: int, chance: random.Random) -> float:
    """p99 of the second round of queries: the first round brings the pages into memory."""
    taken: list[float] = []
    for _ in range(2):
        chance.seed(times)
        taken = [_milliseconds(question) for _ in range(times)]
    return sorted(taken)[int(times * 0.99)]


def _milliseconds(question: Callable[[], None]) -> float:
    began = perf_counter()
    question()
    return (perf_counter() - began) * 1e3


def _audited(context: BenchmarkContext, sandbox: Sandbox) -> float:
    """Duration of the audit in seconds. Raises IncorrectLedgerError."""

    def reported(step: AuditProgress) -> None:
        context.progress(f"auditing {step.step}", step.done, step.total)

    began = perf_counter()
    report = audit(sandbox.application.engine, reported)
    if not report.is_clean:
        raise IncorrectLedgerError(f"the audit found {dict(report.found)}, {report.findings[0]}")
    return perf_counter() - began


LARGE = Benchmark(
    "large",
    "What does a ledger with a year behind it change?",
    "90 % of the rate on an empty one; balance p99 2 ms, a deep page of history 5 ms, analytics 50 ms",
    run,
)
