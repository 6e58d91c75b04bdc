"""``make bench``: measure, check the ledger, print the figures with their conditions."""

import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from pika.exceptions import AMQPError
from sqlalchemy.exc import DBAPIError

from tests.benchmarks import chart, conditions, report
from tests.benchmarks.first_speed import processed_deductions
from tests.benchmarks.registry import BENCHMARKS
from tests.benchmarks.reporters import reporting
from tests.benchmarks.results import Benchmark, BenchmarkContext, Result
from tests.benchmarks.sandbox import BenchmarkError, started_servers
from tests.support.private_server import ServerError
from tests.support.rabbitmq_management import ManagementError
from worker.errors import BillingError

#: Errors that a run may meet without a fault in the benchmark; each is reported in one line.
_EXPECTED = (BenchmarkError, BillingError, ServerError, ManagementError, DBAPIError, AMQPError, OSError)

#: Messages and users of the run before all others, which is not counted: servers are slow at first.
_WARM_UP = 3_000, 1_000

_EPILOG = """\b
Examples:
  python -m tests.benchmarks list
  python -m tests.benchmarks skew mixed --runs 5
  BENCH_MESSAGES=16000 python -m tests.benchmarks first-speed
  BENCH_ENTRIES=1000000 BENCH_ACCOUNTS=100000 python -m tests.benchmarks large

Exit codes: 0 all ran and every ledger was true · 1 a run failed or a ledger was not true · 2 usage."""


@click.command(epilog=_EPILOG)
@click.argument("what", nargs=-1)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    envvar="BENCH_RUNS",
    show_envvar=True,
    help="Of each contestant; figures are medians.",
)
@click.option(
    "--messages",
    type=click.IntRange(min=1),
    envvar="BENCH_MESSAGES",
    show_envvar=True,
    help="A run, instead of each benchmark's own number.",
)
@click.option(
    "--users",
    type=click.IntRange(min=1),
    envvar="BENCH_USERS",
    show_envvar=True,
    help="Accounts in the ledger, instead of each benchmark's own number.",
)
@click.option("--short", is_flag=True, help="One run of the smallest sizes, without a chart: does it work?")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/benchmarks"),
    show_default=True,
    help="Where JSON and charts go.",
)
def main(
    what: tuple[str, ...], runs: int, messages: int | None, users: int | None, *, short: bool, output: Path
) -> None:
    """Run the benchmarks named in WHAT, or all of them; `list` names them.

    Each starts from an empty ledger on a PostgreSQL and a RabbitMQ of its own session, everything durable,
    and ends with an audit of the ledger. What is compared runs alternately, side by side; a ratio is the
    median of the ratios of neighbouring runs. `backlog` and `large` take the longest by far.
    """
    if "list" in what:
        click.echo("\n".join(report.listed(BENCHMARKS)))
        return
    wanted = _named(what)
    try:
        with started_servers() as servers, reporting() as reporter:
            context = BenchmarkContext(servers, reporter, 1 if short else runs, messages, users, short)
            session = BenchmarkSession(context, conditions.conditions(servers), output, with_charts=not short)
            if not short:
                processed_deductions(context, *_WARM_UP)
            session.run(wanted)
    except _EXPECTED as error:
        raise click.ClickException(str(error)) from error
    sys.exit(1 if session.failed else 0)


class BenchmarkSession:
    """Run of several benchmarks under the same conditions; a failed one stops no other."""

    def __init__(
        self, context: BenchmarkContext, found: Mapping[str, Any], output: Path, *, with_charts: bool
    ) -> None:
        self.failed: list[str] = []
        self._context, self._conditions = context, found
        self._output, self._with_charts = output, with_charts
        self._results: dict[str, tuple[Benchmark, Result]] = {}

    def run(self, benchmarks: Sequence[Benchmark]) -> None:
        """Run the benchmarks, show and store their results; ``failed`` names those without one."""
        click.echo("\n".join(conditions.lines(self._conditions)))
        for number, benchmark in enumerate(benchmarks, 1):
            click.echo(f"\n[{number}/{len(benchmarks)}] {benchmark.name}")
            try:
                self._show(benchmark, benchmark.run(self._context))
            except _EXPECTED as error:
                self._fail(benchmark, str(error))
            except Exception:  # noqa: BLE001 - a fault in one benchmark stops no other
                self._fail(benchmark, traceback.format_exc())
        results = list(self._results.values())
        if results:
            click.echo("\n" + "\n".join(report.table(results)))
        if self._with_charts and chart.can_be_drawn() and len(results) > 1:
            line = conditions.one_line(self._conditions)
            if (path := chart.overview(self._output, line, results)) is not None:
                click.echo(f"\ndrawn to {path}")

    def _show(self, benchmark: Benchmark, result: Result) -> None:
        self._results[benchmark.name] = benchmark, result
        click.echo("\n".join(report.lines(benchmark, result)))
        click.echo(f"  written to {report.written(self._output, self._conditions, benchmark, result)}")
        if not self._with_charts:
            return
        if chart.can_be_drawn():
            line = conditions.one_line(self._conditions)
            click.echo(f"  drawn to {chart.drawn(self._output, line, benchmark, result)}")
        else:
            click.echo("  no chart: matplotlib is missing, `make bench` installs it")

    def _fail(self, benchmark: Benchmark, why: str) -> None:
        self.failed.append(benchmark.name)
        click.echo(f"error: {benchmark.name}: {why}", err=True)


def _named(names: Sequence[str]) -> Sequence[Benchmark]:
    """Return the benchmarks of these names, in their own order; all without names."""
    known = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    if unknown := [name for name in names if name not in known]:
        listed = "\n".join(report.listed(BENCHMARKS))
        raise click.UsageError(f"no benchmark {', '.join(unknown)}; there are\n{listed}")
    return [benchmark for benchmark in BENCHMARKS if not names or benchmark.name in names]


if __name__ == "__main__":
    main(prog_name="python -m tests.benchmarks")
