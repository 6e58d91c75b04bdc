"""``dead-letters edit``: the body that a replay sends, changed by hand; many of them alike."""

import sys
from pathlib import Path

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.dead_letters.forms import dead_letter_as_dict
from worker.cli.dead_letters.options import Number, selected, service_of, with_filters, with_numbers
from worker.cli.dead_letters.set_edit import ManyEdits, edit_many, undo_many, with_changes
from worker.cli.options import as_json, required_reason, with_actor
from worker.cli.output import show_json
from worker.cli.text import printable
from worker.deadletters.body_fields import BodyChanges
from worker.deadletters.body_text import editable
from worker.deadletters.models import StoredDeadLetter
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.filters import DeadLetterFilter
from worker.errors import ConfigurationError, NotPossibleError, RefusedBodyError


@click.command()
@with_numbers
@click.option("--reason", help="Why; kept with each dead letter. Required to save.")
@click.option(
    "--from-file",
    "source",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Take the body from this file, byte by byte (- is standard input); no editor is opened.",
)
@with_changes
@click.option("--undo", type=Number, metavar="EDIT", help="Take back this edit of many dead letters.")
@click.option("--unchecked", is_flag=True, help="Save bodies that a worker would refuse as well.")
@click.option("--yes", is_flag=True, help="Save; without it an edit of many is only shown and judged.")
@with_actor
@with_filters
@with_application("broker_url", "database_url", "catalog")
@as_json
def edit(
    application: Application,
    *,
    numbers: tuple[int, ...],
    reason: str | None,
    source: Path | None,
    changes: BodyChanges | None,
    undo: int | None,
    unchecked: bool,
    yes: bool,
    actor: str,
    asked: DeadLetterFilter | None,
    as_json: bool,
) -> None:
    """Edit the body that a replay sends: one by hand, or many alike.

    The original is kept beside it, and so is who did it. A body that a worker would refuse is not saved.

    One: in $EDITOR, or from a file. To undo the edit, give the original body.

    Many: --drop, --rename and --set, in this order. A field is a name, or names with dots between them:
    metadata.job. A number is an item of a list, * is all of them: items.*.tokens. A value is JSON where it
    is JSON (5, true, null, '"5"', '{"a": 1}'), else it is the text itself (ocr). Without --yes samples are
    shown, and all changed bodies are judged on today's ledger; nothing is saved.

    \b
    Examples:
      EDITOR=nano billing-worker dead-letters edit 7 --reason "tokens as a number, see T-17"
      jq '.tokens = 5' old.json | billing-worker dead-letters edit 7 --from-file - --reason "T-17"
      billing-worker dead-letters edit --group 3f2a --rename featureName=feature --set metadata.job=7
      billing-worker dead-letters edit --group 3f2a --rename featureName=feature --yes --reason "T-17"
      billing-worker dead-letters edit --undo 3 --reason "the wrong group"

    Exit codes: 0 all is edited, or would be; 1 nothing was edited, or some stay as they are or would come
    back.
    """
    service = service_of(application)
    if undo is not None:
        _refuse_beside_undo(numbers, asked, changes, source)
        undo_many(service, undo, required_reason(reason), actor, as_json=as_json)
    if changes is not None:
        if source is not None:
            raise click.UsageError("give either --from-file, or --set, --rename and --drop")
        selection = selected(numbers, asked)
        edit_many(
            service,
            selection,
            changes,
            ManyEdits(reason, actor, unchecked=unchecked, saves=yes),
            as_json=as_json,
        )
    if len(numbers) != 1 or asked is not None:
        raise click.UsageError("say what to change in many: --set, --rename or --drop; or give one number")
    _edit_one(
        service, numbers[0], required_reason(reason), source, actor, unchecked=unchecked, as_json=as_json
    )


def _refuse_beside_undo(*others: object) -> None:
    if any(others):
        raise click.UsageError("--undo takes back all of an edit: give nothing beside it but --reason")


def _edit_one(
    service: DeadLetters,
    number: int,
    reason: str,
    source: Path | None,
    actor: str,
    *,
    unchecked: bool,
    as_json: bool,
) -> None:
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
