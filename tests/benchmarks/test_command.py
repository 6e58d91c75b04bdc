"""Command line of the benchmarks: names, exit codes, and failures."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.benchmarks.__main__ import BenchmarkSession, main
from tests.benchmarks.registry import BENCHMARKS
from tests.benchmarks.reporters import LineReporter
from tests.benchmarks.results import Benchmark, BenchmarkContext, Figure, Result
from tests.benchmarks.sandbox import IncorrectLedgerError, Servers


def test_list_names_each_benchmark_with_its_question() -> None:
    done = CliRunner().invoke(main, ["list"])
    assert done.exit_code == 0
    for benchmark, line in zip(BENCHMARKS, done.output.splitlines(), strict=True):
        assert line.startswith(benchmark.name)
        assert benchmark.question in line


def test_unknown_name_is_an_error_with_the_list() -> None:
    done = CliRunner().invoke(main, ["first-speed", "warp"])
    assert done.exit_code == 2
    assert "no benchmark warp" in done.output
    assert all(benchmark.question in done.output for benchmark in BENCHMARKS)


def test_help_names_options_and_variables() -> None:
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    for word in ("--runs", "--short", "--output", "BENCH_MESSAGES", "BENCH_USERS", "BENCH_RUNS"):
        assert word in done.output


def test_invalid_number_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["first-speed"], env={"BENCH_RUNS": "many"}).exit_code == 2


def test_every_name_occurs_once() -> None:
    names = [benchmark.name for benchmark in BENCHMARKS]
    assert len(set(names)) == len(names)
    assert "first-speed" in names


def test_other_benchmarks_run_after_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def untrue(_context: BenchmarkContext) -> Result:
        raise IncorrectLedgerError("3 tokens are used, not 4")

    def fine(_context: BenchmarkContext) -> Result:
        return Result((Figure("all of it", (5.0,), "messages/s"),), {"messages": 1})

    context = BenchmarkContext(Servers(None, None), LineReporter(), runs=1)  # type: ignore[arg-type]  # nobody asks them
    session = BenchmarkSession(context, {"machine": "this one"}, tmp_path, with_charts=False)
    session.run([Benchmark("bad", "?", "none", untrue), Benchmark("good", "?", "none", fine)])
    printed = capsys.readouterr()
    assert session.failed == ["bad"]
    assert printed.err == "error: bad: 3 tokens are used, not 4\n"
    assert "machine: this one" in printed.out
    assert "| `good`: all of it | 5 messages/s |" in printed.out
    assert "bad" not in printed.out.partition("| what |")[2]
    assert [path.name for path in tmp_path.iterdir()] == ["good.json"]
    assert "\x1b" not in printed.out + printed.err


def test_failure_is_printed_with_its_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_context: BenchmarkContext) -> Result:
        raise ZeroDivisionError("by chance")

    context = BenchmarkContext(Servers(None, None), LineReporter(), runs=1)  # type: ignore[arg-type]  # nobody asks them
    session = BenchmarkSession(context, {}, tmp_path, with_charts=False)
    session.run([Benchmark("broken", "?", "none", broken)])
    assert session.failed == ["broken"]
    assert "ZeroDivisionError: by chance" in capsys.readouterr().err
