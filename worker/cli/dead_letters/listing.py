"""``dead-letters list``: dead letters, newest first."""

from dataclasses import replace

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.dead_letters.forms import moment
from worker.cli.dead_letters.options import (
    Number,
    hint_at_drain,
    of_status,
    service_of,
    with_filters,
    with_status,
)
from worker.cli.options import as_json, cursor_option, limit_option, show_next, with_wide
from worker.cli.output import show_json, show_table
from worker.cli.table_width import Column
from worker.deadletters.models import DeadLetterPage
from worker.deadletters.store.filters import DeadLetterFilter


@click.command("list")
@with_status
@limit_option(50, "Dead letters")
@cursor_option(Number, aliases=["--before"])
@click.option("--reason", "code_before", hidden=True, help="The name that --code had before.")
@with_wide
@with_filters
@with_application("broker_url", "database_url", "catalog")
@as_json
def list_dead_letters(
    application: Application,
    *,
    status: str,
    code_before: str | None,
    limit: int,
    cursor: int | None,
    asked: DeadLetterFilter | None,
    as_json: bool,
) -> None:
    """List dead letters, newest first, page by page.

    A text is searched for in a few thousand dead letters at a time: a page may be short, and name the cursor
    of the next one.

    \b
    Examples:
      billing-worker dead-letters list --code unknown_field --from 2026-11-01
      billing-worker dead-letters list --from 2h --status all
      billing-worker dead-letters list --user ann --status all
      billing-worker dead-letters list --json | jq '.deadLetters[].number'
    """
    filter_ = of_status(asked, status)
    if code_before is not None:
        filter_ = replace(filter_, code=code_before)
    page = service_of(application).page(filter_, limit=limit, before=cursor)
    if as_json:
        show_json(page.to_dict())
        return
    show_dead_letters(page)
    if page.searched_to is not None and page.next is not None:
        click.echo(f"searched down to dead letter {page.searched_to}", err=True)
    show_next(page.next)
    if not page.dead_letters and page.next is None:
        hint_at_drain()


_DEAD_LETTERS = (
    Column("number"),
    Column("status", 5),
    Column("code"),
    Column("message", 1, text=True),
    Column("reference", 2),
    Column("user", 4),
    Column("tokens", 6),
    Column("tries", 7),
    Column("last failed", 3),
)


def show_dead_letters(page: DeadLetterPage) -> None:
    """Show a page of dead letters to people."""
    total = "more than 10,000" if page.total is None else str(page.total)
    of = f" of {total}" if page.searched_to is None and page.total != 0 else ""
    show_table(
        f"Dead letters: {len(page.dead_letters)}{of}",
        _DEAD_LETTERS,
        [
            (
                dead_letter.number,
                dead_letter.state,
                dead_letter.reason,
                dead_letter.message,
                dead_letter.reference_id,
                dead_letter.user_id,
                dead_letter.tokens_at_stake,
                dead_letter.attempts,
                moment(dead_letter.last_failed_at),
            )
            for dead_letter in page.dead_letters
        ],
    )
