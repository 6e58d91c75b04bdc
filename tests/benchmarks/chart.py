"""Chart of one result: bars are medians, dots are runs, a line is a goal. Needs the extra ``bench``."""

from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from typing import Any

from tests.benchmarks.report import amount, bound
from tests.benchmarks.results import Benchmark, Figure, Goal, Result

_BAR_IN, _HEAD_IN, _WIDTH_IN = 0.34, 0.95, 10.0
_TITLE_CHARACTERS = 100
_PLAIN, _REACHED, _MISSED = "#8fa3b8", "#4f9d69", "#c8694f"
_INK, _FAINT = "#22303c", "#d8dee4"
_OF_GOAL = "of the goal"
_AXES = {
    "×": "× (ratio of neighbouring runs)",
    _OF_GOAL: "measured : goal, or goal : measured where less is better",
}
_OPAQUE = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}


def can_be_drawn() -> bool:
    """Return True where matplotlib is installed."""
    return find_spec("matplotlib") is not None


def drawn(folder: Path, conditions: str, benchmark: Benchmark, result: Result) -> Path:
    """Draw ``result`` as a PNG and return its path; ``conditions`` is a line below it.

    A panel a unit, each from zero.
    """
    return _sheet(folder / f"{benchmark.name}.png", benchmark.question, conditions, _panels(result.figures))


def overview(folder: Path, conditions: str, results: Iterable[tuple[Benchmark, Result]]) -> Path | None:
    """Draw every goal of a session with its share reached; None without goals.

    Of what must be at most so much, the goal in what was measured: beyond the line is better everywhere.
    """
    shares = [
        share
        for benchmark, result in results
        for figure in result.figures
        if (share := _share(benchmark, figure)) is not None
    ]
    if not shares:
        return None
    return _sheet(folder / "benchmarks.png", "How much of each goal is reached?", conditions, [shares])


def _share(benchmark: Benchmark, figure: Figure) -> Figure | None:
    goal = figure.goal
    if goal is None or not goal.bound or not all(figure.samples):
        return None
    samples = (
        sample / goal.bound if goal.sense == "at least" else goal.bound / sample for sample in figure.samples
    )
    said = f"{amount(figure.median, figure.unit)} (goal {bound(goal, figure.unit)})"
    return Figure(f"{benchmark.name}: {figure.label}", tuple(samples), _OF_GOAL, Goal(1), of=said)


def _sheet(path: Path, title: str, conditions: str, panels: Iterable[Sequence[Figure]]) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    shown = list(panels)
    heights = [len(figures) * _BAR_IN + _HEAD_IN for figures in shown]
    sheet = Sheet(figsize=(_WIDTH_IN, sum(heights) + 1.1), layout="constrained")
    FigureCanvasAgg(sheet)
    sheet.suptitle(fill(title, _TITLE_CHARACTERS), x=0.01, ha="left", fontsize=11, color=_INK, weight="bold")
    axes = sheet.subplots(len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axis, figures in zip(axes[:, 0], shown, strict=True):
        _panel(axis, figures)
    legend = f"bars: medians, dots: runs, lines: goals (green: reached) · {conditions}"
    sheet.supxlabel(legend, x=0.01, ha="left", fontsize=7, color=_INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.savefig(path, dpi=130)
    return path


def _panels(figures: Sequence[Figure]) -> Iterator[list[Figure]]:
    """Return the figures grouped by unit, in order."""
    for unit in dict.fromkeys(figure.unit for figure in figures):
        yield [figure for figure in figures if figure.unit == unit]


def _panel(axis: Any, figures: Sequence[Figure]) -> None:
    unit = figures[0].unit
    most = max(max(*figure.samples, figure.goal.bound if figure.goal else 0) for figure in figures) or 1.0
    for place, figure in enumerate(figures):
        axis.barh(place, figure.median, height=0.62, color=_color(figure), zorder=2)
        axis.plot(
            figure.samples,
            [place] * len(figure.samples),
            "o",
            markersize=3.5,
            color=_INK,
            alpha=0.6,
            zorder=3,
        )
        if figure.goal is not None:
            axis.plot([figure.goal.bound] * 2, [place - 0.45, place + 0.45], color=_INK, zorder=4)
        axis.text(most * 1.03, place, _beside(figure), va="center", fontsize=8, color=_INK, bbox=_OPAQUE)
    axis.set_yticks(range(len(figures)), [figure.label for figure in figures], fontsize=8, color=_INK)
    axis.set_xlim(0, most * (1.6 if unit == _OF_GOAL else 1.32))
    axis.set_ylim(len(figures) - 0.4, -0.6)
    axis.set_xlabel(_AXES.get(unit, unit), fontsize=8, color=_INK, loc="left")
    axis.xaxis.set_major_formatter("{x:,.12g}")
    axis.tick_params(axis="x", labelsize=8, colors=_INK)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=_FAINT, zorder=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(_FAINT)


def _beside(figure: Figure) -> str:
    if figure.unit == _OF_GOAL:
        return figure.of
    said = amount(figure.median, figure.unit)
    return said if figure.goal is None else f"{said}  (goal {bound(figure.goal, figure.unit)})"


def _color(figure: Figure) -> str:
    return {True: _REACHED, False: _MISSED, None: _PLAIN}[figure.reached]
