"""Progress of a demo on standard error: a bar on a terminal, a line now and then in a pipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

import click
from rich.progress import Progress

from worker.cli.output import progress
from worker.demo.collector import Collector

_LINE_EVERY_S = 2.0


class DemoProgress(Protocol):
    """Display of the current phase and the replies so far."""

    def begin(self, phase: str) -> None:
        """Show the beginning of a phase."""

    def update(self) -> None:
        """Show the current count of replies."""


@contextmanager
def demo_progress(collector: Collector) -> Iterator[DemoProgress]:
    """Yield a display for standard error."""
    if not sys.stderr.isatty():
        yield _ProgressLines(collector)
        return
    with progress("", len(collector.sent)) as bar:
        yield _ProgressBar(collector, bar)


class _ProgressBar(DemoProgress):
    def __init__(self, collector: Collector, bar: Progress) -> None:
        self._collector, self._bar = collector, bar
        (self._task,) = bar.task_ids

    def begin(self, phase: str) -> None:
        self._bar.update(self._task, description=f"{phase:<16}")
        self.update()

    def update(self) -> None:
        self._bar.update(self._task, completed=len(self._collector.replies))


class _ProgressLines(DemoProgress):
    def __init__(self, collector: Collector) -> None:
        self._collector, self._phase, self._printed_at = collector, "", monotonic()

    def begin(self, phase: str) -> None:
        self._phase = phase
        self._print()

    def update(self) -> None:
        if monotonic() - self._printed_at >= _LINE_EVERY_S:
            self._print()

    def _print(self) -> None:
        self._printed_at = monotonic()
        replies, sent = len(self._collector.replies), len(self._collector.sent)
        click.echo(f"{self._phase}: {replies} of {sent} replies", err=True)
