"""Reports of a session: lines for a person, JSON with every sample, a table for the README."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.results import Benchmark, Figure, Goal, Result

_TABLE_HEAD = ("| what | measured | ratio | goal | reached |", "| --- | --- | --- | --- | --- |")


def lines(benchmark: Benchmark, result: Result) -> Iterator[str]:
    """A result, for a person."""
    yield f"{benchmark.name}: {benchmark.question}"
    yield f"  goal: {benchmark.goal}"
    yield "  sizes: " + ", ".join(f"{name} {_number_or_text(size)}" for name, size in result.sizes.items())
    width = max(len(figure.label) for figure in result.figures)
    for figure in result.figures:
        yield f"  {figure.label:{width}}  {_line(figure)}"
    for note in result.notes:
        yield f"  note: {note}"


def table(results: Iterable[tuple[Benchmark, Result]]) -> Iterator[str]:
    """Table in Markdown: figures that have a goal; the first figure of a result that has none."""
    yield from _TABLE_HEAD
    for benchmark, result in results:
        with_goal = [figure for figure in result.figures if figure.goal is not None]
        for figure in with_goal or result.figures[:1]:
            yield _row(benchmark.name, figure)


def written(folder: Path, conditions: Mapping[str, Any], benchmark: Benchmark, result: Result) -> Path:
    """Write the JSON report of one benchmark; returns where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{benchmark.name}.json"
    content = {
        "benchmark": benchmark.name,
        "question": benchmark.question,
        "goal": benchmark.goal,
        "conditions": dict(conditions),
        **result.to_dict(),
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


def amount(value: float, unit: str) -> str:
    """A value with its unit: as many digits as it can bear."""
    return f"{_digits(value)} {unit}" if unit else _digits(value)


def bound(goal: Goal, unit: str) -> str:
    """A goal as a table says it."""
    return f"{'≥' if goal.sense == 'at least' else '≤'} {amount(goal.bound, unit)}"


def _row(name: str, figure: Figure) -> str:
    is_ratio = figure.unit == "×"
    cells = (
        f"`{name}`: {figure.label}",
        figure.of if is_ratio else amount(figure.median, figure.unit),
        amount(figure.median, figure.unit) if is_ratio else "",
        "" if figure.goal is None else bound(figure.goal, figure.unit),
        _goal_result(figure),
    )
    return "| " + " | ".join(cells) + " |"


def _line(figure: Figure) -> str:
    said = f"{amount(figure.median, figure.unit):>20}"
    if len(figure.samples) > 1:
        ends = f"{_digits(min(figure.samples))} … {_digits(max(figure.samples))}"
        said += f"  median of {len(figure.samples)}, {ends}"
    if figure.of:
        said += f"  ({figure.of})"
    if figure.goal is not None:
        said += f"  goal {bound(figure.goal, figure.unit)}: {'reached' if figure.reached else 'not reached'}"
    return said


def _goal_result(figure: Figure) -> str:
    return {True: "yes", False: "no", None: ""}[figure.reached]


def _digits(value: float) -> str:
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"


def _number_or_text(size: int | str) -> str:
    return f"{size:,}" if isinstance(size, int) else size


def listed(benchmarks: Iterable[Benchmark]) -> Iterator[str]:
    """The names with one line each."""
    known = list(benchmarks)
    width = max(len(benchmark.name) for benchmark in known)
    return (f"{benchmark.name:{width}}  {benchmark.question} Goal: {benchmark.goal}." for benchmark in known)
