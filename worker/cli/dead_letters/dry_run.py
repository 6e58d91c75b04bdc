"""``dead-letters replay --dry-run``: the effect that a replay would have today."""

import sys
from typing import NoReturn

import click

from worker.cli.dead_letters.forms import DROPPED
from worker.cli.output import is_terminal, progress, show_json, show_table
from worker.cli.table_width import Column
from worker.deadletters.models import DryRun
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.filters import DeadLetterSelection


def show_dry_run(service: DeadLetters, dead_letters: DeadLetterSelection, *, as_json: bool) -> NoReturn:
    """Judge dead letters and show the result. Exit 1 where some would come back."""
    with progress("judging", None) as bar:
        judged = service.dry_run(
            dead_letters,
            on_progress=lambda done, total: bar.update(bar.task_ids[0], completed=done, total=total),
        )
    if as_json:
        show_json(judged.to_dict())
    else:
        show_forecasts(f"Dry run of {judged.total} dead letters; nothing was sent", judged)
    sys.exit(1 if comes_back(judged) else 0)


def comes_back(judged: DryRun) -> bool:
    """Return True where some dead letters would come back."""
    return any(forecast.would in _COMES_BACK for forecast in judged.forecasts)


_COMES_BACK = frozenset(("conflict", "fault", "malformed"))
WOULD = {
    "apply": "would be applied",
    "reject": "would be rejected",
    "duplicate": "would change nothing",
    "conflict": "would come back",
    "fault": "would come back",
    "malformed": "would come back",
    "deliver": "would be delivered",
}


def show_forecasts(title: str, judged: DryRun) -> None:
    """Show the expected results as a table."""
    show_table(
        title,
        (
            Column("dead letters"),
            Column("result"),
            Column("code"),
            Column("field", 3),
            Column("tokens", 1),
            Column("sample", 2),
            Column("text", 4, text=True),
        ),
        [
            (
                forecast.dead_letters,
                WOULD[forecast.would] if is_terminal() else forecast.would,
                forecast.code,
                forecast.field,
                forecast.tokens,
                forecast.sample,
                forecast.text,
            )
            for forecast in judged.forecasts
        ],
    )
    if judged.past_deadline:
        click.echo(f"validUntil of {judged.past_deadline} has passed; {DROPPED}", err=True)
