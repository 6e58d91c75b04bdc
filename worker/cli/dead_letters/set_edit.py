"""``dead-letters edit`` of many: fields set, renamed and dropped; shown, judged, saved and undone as one."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import click

from worker.cli.dead_letters.dry_run import WOULD, comes_back, show_forecasts
from worker.cli.dead_letters.forms import body_as_dict
from worker.cli.options import Decorator, options_as, required_reason
from worker.cli.output import progress, show_json, show_table
from worker.cli.table_width import Column
from worker.cli.text import printable
from worker.deadletters.body_diff import DiffLine, diff_of
from worker.deadletters.body_fields import BodyChanges
from worker.deadletters.models import EditSample, SetEdit, SetEditPreview, UneditedCause
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.filters import DeadLetterSelection
from worker.errors import QueryError

_OPTIONS: dict[str, Decorator] = {
    "sets": click.option(
        "--set", "sets", multiple=True, metavar="FIELD=VALUE", help="Set a field. May be given several times."
    ),
    "renames": click.option(
        "--rename", "renames", multiple=True, metavar="OLD=NEW", help="Rename a field; both whole paths."
    ),
    "drops": click.option("--drop", "drops", multiple=True, metavar="FIELD", help="Drop a field."),
}


def _changes(sets: Sequence[str], renames: Sequence[str], drops: Sequence[str]) -> BodyChanges | None:
    if not (sets or renames or drops):
        return None
    try:
        return BodyChanges.read(sets=sets, renames=renames, drops=drops)
    except QueryError as error:
        raise click.UsageError(str(error)) from error


#: Give a command the changes of fields as options, and as ``changes`` all of them, None without any.
with_changes = options_as("changes", _OPTIONS, _changes)


@dataclass(frozen=True, slots=True)
class ManyEdits:
    """An edit of many as it is asked for; without ``saves`` it is only shown."""

    reason: str | None
    actor: str
    unchecked: bool
    saves: bool


def edit_many(
    service: DeadLetters,
    dead_letters: DeadLetterSelection,
    changes: BodyChanges,
    edits: ManyEdits,
    *,
    as_json: bool,
) -> NoReturn:
    """Show the edit of many dead letters, or save it; exit 1 where some would stay or come back."""
    if not edits.saves:
        _preview(service, dead_letters, changes, as_json=as_json)
    reason = required_reason(edits.reason)
    with _bar("editing") as on_progress:
        done = service.edit_set(
            dead_letters, changes, reason, edits.actor, unchecked=edits.unchecked, on_progress=on_progress
        )
    _show_done("edited", done, as_json=as_json)


def undo_many(service: DeadLetters, number: int, reason: str, actor: str, *, as_json: bool) -> NoReturn:
    """Take back an edit of many dead letters; exit 1 where some stay as they are."""
    with _bar("undoing") as on_progress:
        done = service.undo_set_edit(number, reason, actor, on_progress=on_progress)
    _show_done("given their bodies back:", done, as_json=as_json)


@contextmanager
def _bar(doing: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar in the block, which gets the function that moves it."""
    with progress(doing, None) as bar:
        yield lambda done, total: bar.update(bar.task_ids[0], completed=done, total=total)


# -- shown before -----------------------------------------------------------------------------------------


def _preview(
    service: DeadLetters, dead_letters: DeadLetterSelection, changes: BodyChanges, *, as_json: bool
) -> NoReturn:
    with _bar("judging") as on_progress:
        found = service.preview_set_edit(dead_letters, changes, on_progress=on_progress)
    if as_json:
        show_json(_as_dict(found, changes))
    else:
        _show_preview(found, changes)
    is_good = found.judged.total and not found.unedited and not comes_back(found.judged)
    sys.exit(0 if is_good else 1)


def _as_dict(found: SetEditPreview, changes: BodyChanges) -> dict[str, Any]:
    return {
        "changes": changes.to_dict(),
        "total": found.total,
        "changed": found.judged.total,
        "decodes": found.decodes,
        "unchanged": found.unchanged,
        "skipped": found.skipped,
        "unedited": [cause.to_dict() for cause in found.unedited],
        "judged": found.judged.to_dict(),
        "samples": [
            {
                **sample.forecast.to_dict(),
                **body_as_dict("before", sample.before),
                **body_as_dict("after", sample.after),
            }
            for sample in found.samples
        ],
    }


def _show_preview(found: SetEditPreview, changes: BodyChanges) -> None:
    for sample in found.samples:
        _show_sample(sample)
    if found.judged.total:
        show_forecasts(f"Dry run of the {found.judged.total} changed bodies; nothing was saved", found.judged)
    _show_unedited(found.unedited)
    click.echo(
        f"{printable(str(changes))}: {found.judged.total:,} of {found.total:,} dead letters change, "
        f"{found.decodes:,} of these decode; {found.unchanged:,} stay as they are"
        + (f", {found.skipped:,} are not parked" if found.skipped else ""),
        err=True,
    )
    if found.judged.total:
        click.echo("save it with the same command and --yes --reason …", err=True)


_COLOURS = {"added": "green", "removed": "red", "place": "cyan"}
_MARKS = {"added": "+", "removed": "-", "same": " ", "place": "@"}


def _show_sample(sample: EditSample) -> None:
    forecast = sample.forecast
    click.echo(f"dead letter {forecast.number} {WOULD[forecast.would]}: {printable(forecast.text)}")
    for line in diff_of(sample.before, sample.after):
        click.echo(_shown(line))
    click.echo()


def _shown(line: DiffLine) -> str:
    return click.style(f"{_MARKS[line.kind]} {printable(line.text)}", fg=_COLOURS.get(line.kind))


def _show_unedited(causes: Sequence[UneditedCause]) -> None:
    if causes:
        show_table(
            "Left as they are",
            ("dead letters", Column("cause", 1, text=True), "sample"),
            [(cause.dead_letters, cause.text, cause.sample) for cause in causes],
        )


# -- shown after ------------------------------------------------------------------------------------------


def _show_done(what: str, done: SetEdit, *, as_json: bool) -> NoReturn:
    if as_json:
        show_json(done.to_dict())
    else:
        _show_unedited(done.unedited)
        left = f", {done.unchanged:,} need no change" if done.unchanged else ""
        left += f", skipped {done.skipped:,} not parked or edited since" if done.skipped else ""
        click.echo(f"{what} {done.changed:,} dead letters{left}")
    if done.number is not None:
        click.echo(
            f"undo it with: billing-worker dead-letters edit --undo {done.number} --reason …", err=True
        )
    sys.exit(0 if done.changed and not done.unedited and not done.skipped else 1)
