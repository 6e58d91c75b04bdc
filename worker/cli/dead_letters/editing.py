"""``dead-letters edit``, ``note``, ``discard`` and ``restore``: actions by hand."""

import sys
from pathlib import Path

import click

from worker.bootstrap import Application
from worker.cli.dead_letters.common import (
    Number,
    chosen,
    service_of,
    with_actor,
    with_filters,
    with_numbers,
    with_yes,
)
from worker.cli.dead_letters.looking import dead_letter_as_dict
from worker.cli.options import as_json, with_application
from worker.cli.output import printable, show_json
from worker.deadletters.body_text import editable
from worker.deadletters.models import Done, StoredDeadLetter
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.filters import DeadLetterFilter
from worker.errors import ConfigurationError, NotPossibleError, RefusedBodyError


@click.command()
@click.argument("number", type=Number)
@click.option("--reason", required=True, help="Why; kept with the letter.")
@click.option(
    "--from-file",
    "source",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Take the body from there, byte by byte (- is standard input); no editor is opened.",
)
@click.option("--unchecked", is_flag=True, help="Also a body that a worker would refuse.")
@with_actor
@with_application("broker_url", "database_url", "catalog")
@as_json
def edit(
    application: Application,
    *,
    number: int,
    reason: str,
    source: Path | None,
    unchecked: bool,
    actor: str,
    as_json: bool,
) -> None:
    """Mend the body that a replay sends, in $EDITOR; the original is kept beside it, and so is who did it.

    The body is judged as a worker would before it is taken. Given back as it first came, the edit is undone.

    \b
    Examples:
      EDITOR=nano billing-worker dead-letters edit 7 --reason "tokens as a number, see T-17"
      jq '.tokens = 5' old.json | billing-worker dead-letters edit 7 --from-file - --reason "T-17"
    """
    with service_of(application) as service:
        dead_letter = service.dead_letter(number)
        body = _edited(service, dead_letter, unchecked=unchecked) if source is None else _read(source)
        if body is None:
            click.echo("nothing was changed", err=True)
            sys.exit(1)
        edited = service.edit(
            number, body, reason, actor, instead_of=dead_letter.current_body, unchecked=unchecked
        )
    if as_json:
        show_json(dead_letter_as_dict(edited))
    elif edited.edited_body is None:
        click.echo(f"letter {number} is as it came again")
    else:
        click.echo(f"letter {number} is edited; send it with `billing-worker dead-letters replay {number}`")


def _read(source: Path) -> bytes:
    if str(source) == "-":
        return sys.stdin.buffer.read()
    try:
        return source.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{source} can't be read: {error.strerror}") from error


def _edited(service: DeadLetters, dead_letter: StoredDeadLetter, *, unchecked: bool) -> bytes | None:
    """Return the body from an editor; None where it is unchanged. Repeats until a worker would accept it."""
    shown = editable(dead_letter.current_body)
    if shown is None:
        raise NotPossibleError(
            f"the body of letter {dead_letter.number} holds bytes that no editor keeps: take it out with "
            f"`billing-worker dead-letters export {dead_letter.number}`, and give it back with --from-file"
        )
    text = shown
    while True:
        written = click.edit(text, extension=".json", require_save=False)
        if written is None or written.rstrip("\n") == shown.rstrip("\n"):
            return None
        body = written.rstrip("\n").encode()
        problem = None if unchecked else service.problem_with(dead_letter.number, body)
        if problem is None:
            return body
        _tell(problem)
        if not sys.stdin.isatty() or not click.confirm("Edit it again?", default=True, err=True):
            raise problem
        text = written


def _tell(problem: RefusedBodyError) -> None:
    place = "" if problem.field is None else f" at {printable(problem.field)}"
    click.echo(f"a worker would refuse it{place} ({problem.code}): {printable(problem.way_out)}", err=True)


@click.command()
@click.argument("number", type=Number)
@click.argument("text")
@with_actor
@with_application("broker_url", "database_url", "catalog")
@as_json
def note(application: Application, *, number: int, text: str, actor: str, as_json: bool) -> None:
    """Write a note on a letter, for whoever looks at it next.

    \b
    Example:
      billing-worker dead-letters note 7 "asked the upload team, T-17"
    """
    with service_of(application) as service:
        service.note(number, text, actor)
    if as_json:
        show_json({"number": number, "note": text})
    else:
        click.echo(f"noted on letter {number}")


@click.command()
@with_numbers
@click.option("--reason", required=True, help="Why; kept with the letter.")
@with_yes
@with_actor
@with_filters
@with_application("broker_url", "database_url", "catalog")
@as_json
def discard(
    application: Application,
    *,
    numbers: tuple[int, ...],
    reason: str,
    yes: bool,
    actor: str,
    asked: DeadLetterFilter | None,
    as_json: bool,
) -> None:
    """Put letters away; they are kept, can be listed, and `restore` brings them back.

    \b
    Examples:
      billing-worker dead-letters discard 7 8 --reason "tests of Ann's"
      billing-worker dead-letters discard --group 3f2a91c0 --reason "the feature is gone"
    """
    dead_letters = chosen(numbers, asked, yes=yes, doing="discard")
    with service_of(application) as service:
        done = service.discard(dead_letters, reason, actor)
    _show_done("discarded", done, as_json=as_json)


@click.command()
@with_numbers
@click.option("--reason", help="Why; kept with the letter.")
@with_yes
@with_actor
@with_filters
@with_application("broker_url", "database_url", "catalog")
@as_json
def restore(
    application: Application,
    *,
    numbers: tuple[int, ...],
    reason: str | None,
    yes: bool,
    actor: str,
    asked: DeadLetterFilter | None,
    as_json: bool,
) -> None:
    """Bring discarded letters back; also those that a replay left under way and nobody runs any more.

    \b
    Example:
      billing-worker dead-letters restore 7 8
    """
    dead_letters = chosen(numbers, asked, yes=yes, doing="restore")
    with service_of(application) as service:
        done = service.restore(dead_letters, reason, actor)
    _show_done("restored", done, as_json=as_json)


def _show_done(what: str, done: Done, *, as_json: bool) -> None:
    """Show the result. Exit 1 where no dead letter was changed."""
    if as_json:
        show_json(done.to_dict())
    else:
        skipped = f", left out {done.skipped} that are in another state" if done.skipped else ""
        click.echo(f"{what} {done.done}{skipped}")
    sys.exit(0 if done.done else 1)
