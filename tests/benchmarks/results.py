"""Benchmarks and their results: figures with all their samples, some of them with a goal."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal, Protocol

from tests.benchmarks.sandbox import Measured, Progress, Servers


@dataclass(frozen=True, slots=True)
class Goal:
    """Bound that a figure's median must keep, in the figure's unit."""

    bound: float
    sense: Literal["at least", "at most"] = "at least"

    def is_reached_by(self, value: float) -> bool:
        """True if ``value`` is on the right side of the bound, or on it."""
        return value >= self.bound if self.sense == "at least" else value <= self.bound


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a result: the samples of one quantity, one a run.

    A ratio has the unit ``×``; ``of`` says what it is a ratio of.
    """

    label: str
    samples: tuple[float, ...]
    unit: str
    goal: Goal | None = None
    of: str = ""

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError(f"{self.label}: a figure needs a sample")

    @property
    def median(self) -> float:
        """Median of the samples, which is compared with the goal."""
        return median(self.samples)

    @property
    def reached(self) -> bool | None:
        """True if the goal is reached; None where there is none."""
        return None if self.goal is None else self.goal.is_reached_by(self.median)

    def to_dict(self) -> dict[str, Any]:
        """Form for the JSON report, with every sample."""
        return {
            "label": self.label,
            "unit": self.unit,
            "of": self.of,
            "median": self.median,
            "samples": list(self.samples),
            "goal": None if self.goal is None else {"sense": self.goal.sense, "bound": self.goal.bound},
            "reached": self.reached,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """Measurements of one benchmark.

    ``sizes`` say how much was measured, by name; ``notes`` say what the figures do not show (the bias);
    ``runs`` are those behind the figures, as they came; ``details`` go into the JSON report and nowhere else.
    """

    figures: tuple[Figure, ...]
    sizes: Mapping[str, int | str]
    notes: tuple[str, ...] = ()
    runs: tuple[Measured, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Form for the JSON report."""
        return {
            "sizes": dict(self.sizes),
            "figures": [figure.to_dict() for figure in self.figures],
            "notes": list(self.notes),
            "runs": [run.to_dict() for run in self.runs],
            "details": dict(self.details),
        }


class Reporter(Protocol):
    """Receiver of a benchmark's progress."""

    def progress(self, step: str, done: int, total: int) -> None:
        """Report that so much of ``total`` (0: unknown) is done of ``step``."""
        ...

    def ran(self, line: str) -> None:
        """Report the end of a run; ``line`` says its result."""
        ...


@dataclass(frozen=True, slots=True)
class BenchmarkContext:
    """Servers, reporter and sizes of a benchmark.

    ``messages`` and ``users`` are what was asked for, None where nothing was; ``is_short`` asks for the
    smallest sizes that make sense, for the tests.
    """

    servers: Servers
    reporter: Reporter
    runs: int = 3
    messages: int | None = None
    users: int | None = None
    is_short: bool = False

    @property
    def progress(self) -> Progress:
        """Callback that the steps of a run report to."""
        return self.reporter.progress

    def sized(self, normal: int, short: int) -> int:
        """Number of messages: as asked for, or the benchmark's own size."""
        return self.messages or (short if self.is_short else normal)

    def accounts(self, normal: int = 10_000, short: int = 50) -> int:
        """Number of users: as asked for, or the benchmark's own size."""
        return self.users or (short if self.is_short else normal)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Benchmark with its ``name`` and its ``goal`` in words; the figures have the numbers."""

    name: str
    question: str
    goal: str
    run: Callable[[BenchmarkContext], Result]


def alternately(
    context: BenchmarkContext, contestants: Mapping[str, Callable[[], Measured]]
) -> dict[str, list[Measured]]:
    """Run the contestants in turn, so that a disturbance of the machine hits neighbours alike."""
    measured: dict[str, list[Measured]] = {name: [] for name in contestants}
    for number in range(1, context.runs + 1):
        for name, run in contestants.items():
            done = run()
            measured[name].append(done)
            context.reporter.ran(f"run {number} of {context.runs}, {said(done)}")
    return measured


def said(run: Measured) -> str:
    """Return one line about a run."""
    cpu = ", ".join(f"{part} {run.cpu_us(part):.0f}" for part in run.cpu)
    return f"{run.name}: {run.per_second:,.0f} messages/s; µs of processor a message: {cpu}"


def neighbours(firsts: Sequence[float | None], seconds: Sequence[float | None]) -> tuple[float, ...]:
    """Return the ratios of neighbouring runs A B A B …, each with the one before and after.

    ``firsts`` are the As, as many as there are ``seconds``; a ratio is A / B. An unknown
    number (None) has none.
    """
    ratios: list[float] = []
    for place, second in enumerate(seconds):
        if second is not None:
            ratios += [first / second for first in firsts[place : place + 2] if first is not None]
    return tuple(ratios)


def figures_known(
    label: str, samples: Sequence[float | None], unit: str, goal: Goal | None = None
) -> list[Figure]:
    """Return the figure of the samples that are known; none where all are unknown."""
    known = tuple(sample for sample in samples if sample is not None)
    return [Figure(label, known, unit, goal)] if known else []


#: Note for a result that lacks figures of processor time.
UNKNOWN_COST = "a run was too short for the system to measure its processor time: that is unknown"


def rates(label: str, runs: Sequence[Measured], *, goal: Goal | None = None, each: int = 1) -> Figure:
    """Return messages a second; for messages with ``each`` items, items a second."""
    unit = "messages/s" if each == 1 else "items/s"
    return Figure(label, tuple(run.per_second * each for run in runs), unit, goal)


def costs(label: str, runs: Sequence[Measured]) -> tuple[Figure, ...]:
    """Return the processor time a message, by part."""
    return tuple(
        Figure(f"{label}, processor: {_PARTS[part]}", tuple(run.cpu_us(part) for run in runs), "µs/message")
        for part in runs[0].cpu
    )


_PARTS = {"worker": "itself", "postgresql": "PostgreSQL", "rabbitmq": "RabbitMQ"}


def ratio(
    label: str,
    firsts: Sequence[Measured],
    seconds: Sequence[Measured],
    goal: Goal | None = None,
    *,
    each: int = 1,
) -> Figure:
    """Return the ratio of the rates of ``firsts``, with ``each`` items a message, and ``seconds``."""
    ours, theirs = [run.per_second * each for run in firsts], [run.per_second for run in seconds]
    of = f"{median(ours):,.0f} : {median(theirs):,.0f} {'messages/s' if each == 1 else 'items/s'}"
    return Figure(label, neighbours(ours, theirs), "×", goal, of)
