"""Lines, JSON report and table of a session."""

import json
from pathlib import Path

from tests.benchmarks import report
from tests.benchmarks.results import Benchmark, BenchmarkContext, Figure, Goal, Result
from tests.benchmarks.sandbox import Measured


def _never(_context: BenchmarkContext) -> Result:
    raise AssertionError("nobody runs this one")


BENCHMARK = Benchmark("race", "Who is faster?", "twice as fast", _never)
RESULT = Result(
    figures=(
        Figure("a : b", (1.9, 2.1, 2.2), "×", Goal(2), of="2,100 : 1,000 messages/s"),
        Figure("a, p99", (31.25,), "ms", Goal(25, "at most")),
        Figure("a", (2_000.0, 2_100.0, 2_200.0), "messages/s"),
    ),
    sizes={"messages": 30_000, "users": 10},
    notes=("b was tired",),
    runs=(Measured("a", 30_000, 14.0, {"worker": 3.0}),),
    details={"kinds": {"deduct": 1}},
)


def test_text_report_has_median_spread_and_result() -> None:
    text = "\n".join(report.lines(BENCHMARK, RESULT))
    assert "Who is faster?" in text
    assert "messages 30,000, users 10" in text
    assert "2.10 ×  median of 3, 1.90 … 2.20  (2,100 : 1,000 messages/s)  goal ≥ 2 ×: reached" in text
    assert "31.2 ms  goal ≤ 25 ms: not reached" in text
    assert "2,100 messages/s  median of 3" in text
    assert "note: b was tired" in text


def test_table_has_a_row_for_each_goal() -> None:
    assert list(report.table([(BENCHMARK, RESULT)])) == [
        "| what | measured | ratio | goal | reached |",
        "| --- | --- | --- | --- | --- |",
        "| `race`: a : b | 2,100 : 1,000 messages/s | 2.10 × | ≥ 2 × | yes |",
        "| `race`: a, p99 | 31.2 ms |  | ≤ 25 ms | no |",
    ]


def test_table_has_the_first_figure_of_a_result_without_a_goal() -> None:
    result = Result(figures=RESULT.figures[2:], sizes={})
    assert list(report.table([(BENCHMARK, result)]))[2:] == ["| `race`: a | 2,100 messages/s |  |  |  |"]


def test_json_report_has_every_figure(tmp_path: Path) -> None:
    path = report.written(tmp_path / "new", {"machine": {"cores": 2}}, BENCHMARK, RESULT)
    content = json.loads(path.read_text())
    assert path.name == "race.json"
    assert content["conditions"] == {"machine": {"cores": 2}}
    assert (content["question"], content["goal"]) == ("Who is faster?", "twice as fast")
    assert content["sizes"] == {"messages": 30_000, "users": 10}
    assert content["notes"] == ["b was tired"]
    assert content["details"] == {"kinds": {"deduct": 1}}
    assert content["runs"][0]["cpu_us"] == {"worker": 100.0}
    assert content["figures"][0] == {
        "label": "a : b",
        "unit": "×",
        "of": "2,100 : 1,000 messages/s",
        "median": 2.1,
        "samples": [1.9, 2.1, 2.2],
        "goal": {"sense": "at least", "bound": 2},
        "reached": True,
    }
