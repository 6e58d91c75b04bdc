"""Rate and memory over a backlog of a million messages."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from time import monotonic

from tests.benchmarks import trees
from tests.benchmarks.loads import deductions, in_turns, outgoing
from tests.benchmarks.results import Benchmark, BenchmarkContext, Figure, Goal, Result, costs, rates, said
from tests.benchmarks.sandbox import Measured, new_sandbox

_PARTS = 10
_EVERY_S, _EVERY_S_IF_SHORT = 1.0, 0.0
_STEADY, _PEAK, _FLAT = Goal(0.8), Goal(150, "at most"), Goal(1.1, "at most")


@dataclass(slots=True)
class Log:
    """Log of a run: replies so far, and resident memory in MB, each with its time."""

    every_s: float = _EVERY_S
    replies: list[tuple[float, int]] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)

    def record(self, replied: int, processes: Sequence[int]) -> None:
        """Record the replies so far and, every few seconds, the memory of the processes."""
        now = monotonic()
        self.replies.append((now, replied))
        if not self.memory or now - self.memory[-1][0] >= self.every_s:
            self.memory.append((now, trees.resident_bytes(processes) / 1e6))

    def rates(self, parts: int = _PARTS) -> list[float]:
        """Return the rate of each of ``parts`` equal parts of the messages."""
        first, last = self.replies[0][1], self.replies[-1][1]
        marks = [self._when(first + (last - first) * part / parts) for part in range(parts + 1)]
        return [(last - first) / parts / max(end - start, 1e-9) for start, end in pairwise(marks)]

    def memory_of_parts(self, parts: int = _PARTS) -> list[float]:
        """Return the maximum memory of each of ``parts`` equal parts of the time, in MB."""
        start, end = self.memory[0][0], self.memory[-1][0]
        most = [0.0] * parts
        for at, megabytes in self.memory:
            place = min(int((at - start) / max(end - start, 1e-9) * parts), parts - 1)
            most[place] = max(most[place], megabytes)
        return [each for each in most if each]

    def _when(self, replied: float) -> float:
        """Return the time of so many replies, interpolated between the samples."""
        for (start, low), (end, high) in pairwise(self.replies):
            if low <= replied <= high and high > low:
                return start + (end - start) * (replied - low) / (high - low)
        return self.replies[-1][0]


def run(context: BenchmarkContext) -> Result:
    """Measure once; the run is long enough to be its own median."""
    messages, users = context.sized(1_000_000, 3_000), context.accounts()
    log = Log(_EVERY_S_IF_SHORT if context.is_short else _EVERY_S)
    measured = processed_backlog(context, messages, users, log)
    context.reporter.ran(said(measured))
    found, memory = log.rates(), log.memory_of_parts()
    return Result(
        figures=(
            Figure(
                "slowest tenth : median tenth", (min(found) / median(found),), "×", _STEADY, _rates(found)
            ),
            Figure("memory of the worker, most", (max(memory),), "MB", _PEAK),
            Figure(
                "memory, last tenth : second tenth",
                (memory[-1] / memory[min(1, len(memory) - 1)],),
                "×",
                _FLAT,
                f"{memory[-1]:.1f} : {memory[min(1, len(memory) - 1)]:.1f} MB",
            ),
            rates("all of it", [measured]),
            *costs("all of it", [measured]),
        ),
        sizes={"messages": messages, "users": users},
        notes=(
            "one run; replies pile up in their queue meanwhile, as many as there were messages",
            "the ledger grows from nothing to as many entries: what gets slower may be the database",
        ),
        runs=(measured,),
        details={
            "rate of each tenth": [round(rate) for rate in found],
            "memory of each tenth, MB": [round(each, 1) for each in memory],
        },
    )


def processed_backlog(context: BenchmarkContext, messages: int, users: int, log: Log) -> Measured:
    """Run once in a sandbox of its own, watched by ``log``."""
    with new_sandbox(context.servers) as sandbox:
        sandbox.open_accounts(users)
        sandbox.prefill(outgoing(deductions(messages, in_turns(users))), context.progress, total=messages)
        measured = sandbox.drain(
            "worker", sandbox.worker(), messages, progress=context.progress, watch=log.record
        )
        context.progress("auditing", 0, 0)
        sandbox.check(used=messages)
        return measured


def _rates(found: Sequence[float]) -> str:
    return f"{min(found):,.0f} : {median(found):,.0f} messages/s"


BACKLOG = Benchmark(
    "backlog",
    "A backlog of 1,000,000 messages: is the rate steady, is the memory flat?",
    "a steady rate (slowest tenth 80 % of the median one), memory below 150 MB and flat (within 10 %)",
    run,
)
