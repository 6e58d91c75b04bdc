"""Progress of long work on standard error: a bar on a terminal, a line now and then elsewhere."""

import sys
from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from worker.cli.text import printable
from worker.runtime.durations import lasting

#: Time between two lines, in seconds: work that is shorter prints none.
_LINE_EVERY_S = 10.0


class WorkProgress(Progress):
    """Bar of one task; where standard error is no terminal, lines such as "publishing: 500 of 2,000"."""

    def __init__(self, *, redirect_stdout: bool, seconds: Callable[[], float] = monotonic) -> None:
        self._seconds, self._is_shown = seconds, sys.stderr.isatty()
        self._line_at = seconds() + _LINE_EVERY_S
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._is_shown,
            redirect_stdout=redirect_stdout,
        )

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Show a change of the task."""
        super().update(task_id, **changes)
        self._print_now_and_then()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Show that more is done."""
        super().advance(task_id, advance)
        self._print_now_and_then()

    def note(self, text: str) -> None:
        """Print a line beside the bar."""
        if self._is_shown:
            self.console.print(printable(text), markup=False, highlight=False)
        else:
            click.echo(printable(text), err=True)

    def _print_now_and_then(self) -> None:
        if self._is_shown or self._seconds() < self._line_at:
            return
        self._line_at = self._seconds() + _LINE_EVERY_S
        for task in self.tasks:
            click.echo(_line(task), err=True)


def _line(task: Task) -> str:
    """Return the state of a task: what is done, how long it took, and how long the rest will take."""
    done = f"{task.completed:,.0f}" + ("" if task.total is None else f" of {task.total:,.0f}")
    parts = [f"{printable(task.description)}: {done}"]
    if task.elapsed is not None:
        parts.append(f"after {lasting(timedelta(seconds=task.elapsed))}")
    if task.time_remaining is not None:
        parts.append(f"about {lasting(timedelta(seconds=task.time_remaining))} left")
    return ", ".join(parts)
