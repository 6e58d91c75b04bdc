"""``dead-letters export`` and ``import``: JSON lines out and in."""

import io
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.dead_letters.options import of_status, service_of, with_filters, with_numbers, with_status
from worker.cli.options import as_json, with_actor
from worker.cli.output import echo_json, show_json
from worker.deadletters.store.filters import DeadLetterFilter, DeadLetterSelection
from worker.errors import ConfigurationError


@click.command()
@with_numbers
@with_status
@click.option(
    "--output",
    "target",
    type=click.Path(path_type=Path),
    help="Write to this file and not to standard output.",
)
@with_actor
@with_filters
@with_application("broker_url", "database_url", "catalog")
def export(
    application: Application,
    *,
    numbers: tuple[int, ...],
    status: str,
    target: Path | None,
    actor: str,
    asked: DeadLetterFilter | None,
) -> None:
    """Write dead letters as JSON lines, whole.

    All that wait, those of the numbers, or those of a filter. A stream of JSON lines by nature: it needs no
    --json. The body is text where it is UTF-8 and base64 where not; `import` restores it byte by byte.

    \b
    Examples:
      billing-worker dead-letters export --status all > dead-letters.jsonl
      billing-worker dead-letters export 7 --output 7.json
    """
    if numbers and asked is not None:
        raise click.UsageError("give either numbers or filters")
    dead_letters: DeadLetterSelection = numbers or of_status(asked, status)
    lines = service_of(application).export(dead_letters, actor)
    if target is not None:
        _write(target, lines)
        return
    for line in lines:
        echo_json(line)


def _write(target: Path, lines: Iterable[str]) -> None:
    count = 0
    written = iter(lines)
    first = list(islice(written, 1))  # a missing dead letter must not empty a file that exists
    try:
        with target.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
            for line in chain(first, written):
                file.write(line + "\n")
                count += 1
    except OSError as error:
        raise ConfigurationError(f"{target} can't be written: {error.strerror}") from error
    click.echo(f"exported {count}")


@click.command("import")
@click.argument("source", metavar="FILE|-", type=click.Path(path_type=Path, allow_dash=True))
@with_actor
@with_application("broker_url", "database_url", "catalog")
@as_json
def import_dead_letters(application: Application, *, source: Path, actor: str, as_json: bool) -> None:
    """Add the dead letters of an export that are not here yet.

    The same import again changes nothing. A dead letter that waited there waits here. A line that is no dead
    letter ends the import and is named; the lines before it are in.

    \b
    Example:
      billing-worker dead-letters import dead-letters.jsonl
    """
    done = service_of(application).import_lines(_lines(source), actor)
    if as_json:
        show_json(done.to_dict())
    else:
        click.echo(f"added {done.added}, known already {done.known}")


def _lines(source: Path) -> Iterator[str]:
    try:
        if str(source) == "-":
            yield from io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="surrogateescape")
            return
        with source.open(encoding="utf-8", errors="surrogateescape") as file:
            yield from file
    except OSError as error:
        raise ConfigurationError(f"{source} can't be read: {error.strerror}") from error
