"""Progress: a bar on a terminal, a line a finished run in a pipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tests.benchmarks.results import Reporter


class Plain:
    """Lines on standard output, without control characters."""

    def progress(self, step: str, done: int, total: int) -> None:
        """See Reporter: a pipe is told of finished runs only."""

    def ran(self, line: str) -> None:
        """See Reporter."""
        click.echo(f"  {line}")


class Bar(Plain):
    """A bar on the terminal, lines above it."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID = bar.add_task("starting", total=None)

    def progress(self, step: str, done: int, total: int) -> None:
        """See Reporter."""
        self._bar.update(self._task, description=step, completed=done, total=total or None)


@contextmanager
def reporting() -> Iterator[Reporter]:
    """The reporter that fits where standard error goes."""
    if not sys.stderr.isatty():
        yield Plain()
        return
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Lines pass above the bar where both go to the terminal; a pipe gets them as they are.
    with Progress(
        *columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty(), transient=True
    ) as bar:
        yield Bar(bar)
