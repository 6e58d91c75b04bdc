"""Runs too short for a tick of processor time: the figures that need it are unknown, and said to be."""

from typing import Any

import pytest

from tests.benchmarks import budget, workers
from tests.benchmarks.budget import Inside
from tests.benchmarks.phases import STEPS, Spent
from tests.benchmarks.reporters import LineReporter
from tests.benchmarks.results import UNKNOWN_COST, BenchmarkContext, Result
from tests.benchmarks.sandbox import Measured, Servers


def _too_short(*_: Any, **__: Any) -> Measured:
    return Measured("worker", 600, 0.1, {"worker": 0.0, "postgresql": 0.0, "rabbitmq": 0.0})


def _inside(*_: Any) -> Inside:
    return Inside({name: Spent(0.0) for name in (*STEPS, "everything else")}, {})


def _labels(result: Result) -> str:
    return " ".join(figure.label for figure in result.figures)


@pytest.fixture
def context() -> BenchmarkContext:
    return BenchmarkContext(Servers(None, None), LineReporter(), runs=2, is_short=True)  # type: ignore[arg-type]


def test_budget_without_processor_time_says_unknown(
    context: BenchmarkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "processed_deductions", _too_short)
    monkeypatch.setattr(budget, "looked_into", _inside)
    result = budget.run(context)
    assert "cores allow" not in _labels(result)
    assert "all parts" not in _labels(result)
    assert UNKNOWN_COST in result.notes


def test_workers_without_processor_time_say_unknown(
    context: BenchmarkContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        workers, "processed_deductions", lambda *_, look, **__: (look(_Stage()), _too_short())[1]
    )
    result = workers.run(context)
    assert "processor time a message" not in _labels(result)
    assert UNKNOWN_COST in result.notes


class _Stage:
    def deadlocks(self) -> int:
        return 0
