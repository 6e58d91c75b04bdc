"""Ratios of neighbours, medians, goals."""

from collections.abc import Callable

import pytest

from tests.benchmarks.reporters import LineReporter
from tests.benchmarks.results import (
    BenchmarkContext,
    Figure,
    Goal,
    alternately,
    figures_known,
    neighbours,
    rates,
    ratio,
    said,
)
from tests.benchmarks.sandbox import Measured, Servers


@pytest.mark.parametrize(
    ("firsts", "seconds", "ratios"),
    [
        ([10.0], [5.0], (2.0,)),
        ([10.0, 20.0], [5.0, 40.0], (2.0, 4.0, 0.5)),  # 10/5, 20/5, 20/40
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], (1.0,) * 5),
        ([None, 20.0], [5.0, None], (4.0,)),
        ([10.0], [None], ()),
    ],
)
def test_run_is_compared_with_its_neighbours(
    firsts: list[float | None], seconds: list[float | None], ratios: tuple[float, ...]
) -> None:
    assert neighbours(firsts, seconds) == ratios


@pytest.mark.parametrize(
    ("goal", "median", "reached"),
    [
        (Goal(2), 2.0, True),
        (Goal(2), 1.99, False),
        (Goal(2, "at most"), 2.0, True),
        (Goal(2, "at most"), 2.01, False),
        (Goal(0, "at most"), 0.0, True),
    ],
)
def test_median_decides_whether_a_goal_is_reached(goal: Goal, median: float, reached: bool) -> None:
    figure = Figure("it", (0.0, median, 1e9), "ms", goal)
    assert figure.median == median
    assert figure.reached is reached


def test_figure_without_a_goal_is_neither_reached_nor_missed() -> None:
    assert Figure("it", (1.0,), "ms").reached is None


def test_figure_has_samples() -> None:
    with pytest.raises(ValueError, match="needs a sample"):
        Figure("it", (), "ms")


def test_rates_count_the_commands_of_a_message() -> None:
    runs = [Measured("batches", messages=50, seconds=0.5)]
    assert rates("batches", runs).samples == (100.0,)
    of_items = rates("batches", runs, each=100)
    assert (of_items.samples, of_items.unit) == ((10_000.0,), "items/s")


def test_ratio_names_both_sides() -> None:
    fast, slow = Measured("a", 3_000, 1.0), Measured("b", 30, 0.1)
    figure = ratio("a : b", [fast], [slow], Goal(10))
    assert (figure.median, figure.of, figure.reached) == (10.0, "3,000 : 300 messages/s", True)


def test_cost_of_a_message_is_by_part_and_in_total() -> None:
    run = Measured("worker", 1_000, 1.0, {"worker": 0.1, "postgresql": 0.05})
    assert run.cpu_us("worker") == pytest.approx(100)
    assert run.total_cpu_us == pytest.approx(150)
    assert said(run) == "worker: 1,000 messages/s; µs of processor a message: worker 100, postgresql 50"


def test_run_too_short_for_a_tick_has_an_unknown_cost() -> None:
    assert Measured("worker", 600, 0.1, {"worker": 0.0, "postgresql": 0.0}).total_cpu_us is None


def test_unknown_sample_is_left_out_of_a_figure() -> None:
    (figure,) = figures_known("it", [None, 2.0], "ms", Goal(1))
    assert (figure.samples, figure.reached) == ((2.0,), True)
    assert figures_known("it", [None], "ms") == []


def test_contestants_alternate() -> None:
    turns: list[str] = []

    def contestant(name: str) -> Callable[[], Measured]:
        def run() -> Measured:
            turns.append(name)
            return Measured(name, 1, 1.0, {"worker": 0.0})

        return run

    context = BenchmarkContext(_no_servers(), LineReporter(), runs=3)
    measured = alternately(context, {name: contestant(name) for name in "ab"})
    assert turns == ["a", "b"] * 3
    assert [run.name for run in measured["b"]] == ["b"] * 3


@pytest.mark.parametrize(
    ("asked", "is_short", "size"), [(None, False, 1_000), (None, True, 10), (7, False, 7), (7, True, 7)]
)
def test_size_is_the_requested_one(asked: int | None, is_short: bool, size: int) -> None:
    context = BenchmarkContext(_no_servers(), LineReporter(), messages=asked, users=asked, is_short=is_short)
    assert context.sized(1_000, 10) == context.accounts(1_000, 10) == size


def _no_servers() -> Servers:
    return Servers(None, None)  # type: ignore[arg-type]  # nobody asks them for anything
