"""``dead-letters edit``: the body that a replay sends, changed by hand."""

import sys
from pathlib import Path

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.dead_letters.forms import dead_letter_as_dict
from worker.cli.dead_letters.options import Number, service_of, with_reason
from worker.cli.options import as_json, with_actor
from worker.cli.output import show_json
from worker.cli.text import printable
from worker.deadletters.body_text import editable
from worker.deadletters.models import StoredDeadLetter
from worker.deadletters.service import DeadLetters
from worker.errors import ConfigurationError, NotPossibleError, RefusedBodyError


@click.command()
@click.argument("number", type=Number)
@with_reason
@click.option(
    "--from-file",
    "source",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Take the body from this file, byte by byte (- is standard input); no editor is opened.",
)
@click.option("--unchecked", is_flag=True, help="Save a body that a worker would refuse as well.")
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
    """Edit the body that a replay sends, in $EDITOR or from a file.

    The original is kept beside it, and so is who did it. A body that a worker would refuse is not saved. To
    undo the edit, give the original body.

    \b
    Examples:
      EDITOR=nano billing-worker dead-letters edit 7 --reason "tokens as a number, see T-17"
      jq '.tokens = 5' old.json | billing-worker dead-letters edit 7 --from-file - --reason "T-17"
    """
    service = service_of(application)
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
        click.echo(f"dead letter {number} has its original body again")
    else:
        click.echo(
            f"dead letter {number} is edited; send it with `billing-worker dead-letters replay {number}`"
        )


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
            f"the body of dead letter {dead_letter.number} holds bytes that no editor keeps: export it with "
            f"`billing-worker dead-letters export {dead_letter.number}`, and save it with --from-file"
        )
    text = shown
    while True:
        written = _from_editor(text)
        if written is None or written.rstrip("\n") == shown.rstrip("\n"):
            return None
        body = written.rstrip("\n").encode()
        problem = None if unchecked else service.problem_with(dead_letter.number, body)
        if problem is None:
            return body
        _show_problem(problem)
        if not sys.stdin.isatty() or not click.confirm("Edit it again?", default=True, err=True):
            raise problem
        text = written


def _from_editor(text: str) -> str | None:
    try:
        return click.edit(text, extension=".json", require_save=False)
    except UnicodeDecodeError as error:
        raise NotPossibleError(
            "the editor has saved bytes that are not UTF-8: nothing was changed"
        ) from error


def _show_problem(problem: RefusedBodyError) -> None:
    place = "" if problem.field is None else f" at {printable(problem.field)}"
    click.echo(f"a worker would refuse it{place} ({problem.code}): {printable(problem.way_out)}", err=True)
