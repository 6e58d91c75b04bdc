"""``dead-letters park``, ``export`` and ``import``: drain, take out, put in."""

import io
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import click

from worker.bootstrap import Application
from worker.cli.dead_letters.common import STATUSES, service_of, with_actor, with_filters, with_numbers
from worker.cli.options import as_json, with_application
from worker.cli.output import show_json
from worker.deadletters.store.filters import DeadLetterFilter, DeadLetterSelection
from worker.errors import ConfigurationError


@click.command()
@with_application("broker_url", "database_url", "catalog")
@as_json
def park(application: Application, *, as_json: bool) -> None:
    """Drain the dead-letter queue into the ledger's database, and say how many letters wait.

    Every other command does so too, and so does the scheduler while it runs.
    """
    with service_of(application) as service:
        counts = service.counts()
    if as_json:
        show_json(counts.to_dict())
    else:
        waiting = counts.parked + counts.replaying
        dead_letters = "1 letter waits" if waiting == 1 else f"{waiting} letters wait"
        click.echo(f"{dead_letters}, in {counts.groups} group{'' if counts.groups == 1 else 's'}")


@click.command()
@with_numbers
@click.option(
    "--status",
    type=click.Choice([*STATUSES]),
    default="waiting",
    show_default=True,
    help="Waiting ones are parked, or under way in a replay.",
)
@click.option(
    "--output", "target", type=click.Path(path_type=Path), help="Write there and not to standard output."
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
    """Write letters as JSON lines, whole: all that wait, those of the numbers, or those of a filter.

    The body is text where it is UTF-8 and base64 where not; `import` restores it byte by byte.

    \b
    Examples:
      billing-worker dead-letters export --status all > letters.jsonl
      billing-worker dead-letters export 7 --output 7.json
    """
    if numbers and asked is not None:
        raise click.UsageError("give either numbers or filters")
    dead_letters: DeadLetterSelection = numbers or replace(
        asked or DeadLetterFilter(), status=STATUSES[status]
    )
    with service_of(application, looking=True) as service:
        lines = service.export(dead_letters, actor)
        if target is None:
            for line in lines:
                click.echo(line)
            return
        _write(target, lines)


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
    """Add letters of an export that are not here yet; again it changes nothing.

    They wait here if they waited there. A line that is no letter ends it and is named; what came before it
    is in.

    \b
    Example:
      billing-worker dead-letters import letters.jsonl
    """
    with service_of(application) as service:
        done = service.import_lines(_lines(source), actor)
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
