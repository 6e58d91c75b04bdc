"""Options and output of the commands that purge what is old."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from worker.cli.options import Command, Decorator, time_option
from worker.cli.output import progress, show_json
from worker.errors import ConfigurationError
from worker.privacy.retention import OnPurged, Purge

_OPTIONS: tuple[Decorator, ...] = (
    time_option("--older-than", "older_than", "Only what is older, such as 180d, or before a day."),
    click.option(
        "--export",
        "target",
        type=click.Path(path_type=Path, dir_okay=False),
        help="New file to which all of it is written first, which only you may read. Needed with --yes.",
    ),
    click.option("--yes", "is_meant", is_flag=True, help="Do it. Without it: count, and change nothing."),
)


def with_purge_options(command: Command) -> Command:
    """Give a command the age, the file of the export, and the word that it is meant."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def run_purge(
    what: str,
    count: int,
    target: Path | None,
    purge: Callable[[Path, OnPurged], Purge],
    *,
    is_meant: bool,
    as_json: bool,
) -> None:
    """Purge ``count`` rows, or say how many it would be, and show the result. Raises ConfigurationError."""
    if not is_meant:
        if as_json:
            show_json({"done": False, "found": count})
        else:
            click.echo(f"{count:,} {what} would go; nothing changed: give --export FILE and --yes to do it")
        return
    if target is None:
        raise ConfigurationError("nothing is purged without an export: name a new file with --export")
    with _counting(count) as on_purged:
        done = purge(target, on_purged)
    file = done.file
    if as_json:
        written = {"file": str(file.path), "lines": file.lines, "sha256": file.digest}
        show_json({"done": True, "exported": done.exported, "purged": done.purged, "export": written})
        return
    click.echo(f"exported {file.lines:,} to {file.path}, sha256 {file.digest}")
    stayed = done.exported - done.purged
    click.echo(
        f"purged {done.purged:,} {what}" + (f"; {stayed:,} changed meanwhile and stay" if stayed else "")
    )


@contextmanager
def _counting(count: int) -> Iterator[OnPurged]:
    with progress("purging", count) as bar:
        yield lambda purged: bar.advance(bar.task_ids[0], purged)
