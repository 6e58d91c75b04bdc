"""Reporters of progress: a bar on a terminal, a line for each finished run in a pipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tests.benchmarks.results import Reporter


class LineReporter:
    """Reporter of lines on standard output, without control characters."""

    def progress(self, step: str, done: int, total: int) -> None:
        """Ignore progress: a pipe gets finished runs only."""

    def ran(self, line: str) -> None:
        """Print the line."""
        click.echo(f"  {line}")


class BarReporter(LineReporter):
    """Bar on the terminal, with lines above it."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID = bar.add_task("starting", total=None)

    def progress(self, step: str, done: int, total: int) -> None:
        """Show the step on the bar."""
        self._bar.update(self._task, description=step, completed=done, total=total or None)


@contextmanager
def reporting() -> Iterator[Reporter]:
    """Yield a reporter for a terminal or a pipe, by standard error."""
    if not sys.stderr.isatty():
        yield LineReporter()
        return
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Lines pass above the bar where both go to the terminal; a pipe gets them as they are.
    with Progress(
        *columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty(), transient=True
    ) as bar:
        yield BarReporter(bar)
