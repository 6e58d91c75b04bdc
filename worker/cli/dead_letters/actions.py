"""``dead-letters note``, ``discard`` and ``restore``."""

import sys

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.dead_letters.options import (
    Number,
    chosen,
    service_of,
    with_filters,
    with_numbers,
    with_reason,
    with_yes,
)
from worker.cli.options import as_json, with_actor
from worker.cli.output import progress, show_json
from worker.deadletters.models import RESTORABLE, Done
from worker.deadletters.store.filters import DeadLetterFilter


@click.command()
@click.argument("number", type=Number)
@click.argument("text")
@with_actor
@with_application("broker_url", "database_url", "catalog")
@as_json
def note(application: Application, *, number: int, text: str, actor: str, as_json: bool) -> None:
    """Write a note on a dead letter, for the next operator.

    \b
    Example:
      billing-worker dead-letters note 7 "asked the upload team, T-17"
    """
    service_of(application).note(number, text, actor)
    if as_json:
        show_json({"number": number, "note": text})
    else:
        click.echo(f"noted on dead letter {number}")


@click.command()
@with_numbers
@with_reason
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
    """Discard dead letters; they are kept, and `restore` brings them back.

    \b
    Examples:
      billing-worker dead-letters discard 7 8 --reason "tests of Ann's"
      billing-worker dead-letters discard --group 3f2a91c0 --reason "the feature is gone"
    """
    dead_letters = chosen(numbers, asked, yes=yes, doing="discard")
    done = service_of(application).discard(dead_letters, reason, actor)
    _show_done("discarded", done, as_json=as_json)


@click.command()
@with_numbers
@click.option("--reason", help="Why; kept with the dead letter.")
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
    """Restore discarded dead letters: they wait again.

    Restores also dead letters of a replay that nobody runs any more.

    \b
    Example:
      billing-worker dead-letters restore 7 8
    """
    dead_letters = chosen(numbers, asked, yes=yes, doing="restore", statuses=RESTORABLE)
    done = service_of(application).restore(dead_letters, reason, actor)
    _show_done("restored", done, as_json=as_json)


@click.command()
@with_numbers
@click.option(
    "--applied", is_flag=True, required=True, help="Those that the ledger has applied with the same content."
)
@with_reason
@with_yes
@with_actor
@with_filters
@with_application("broker_url", "database_url", "catalog")
@as_json
def resolve(
    application: Application,
    *,
    numbers: tuple[int, ...],
    applied: bool,
    reason: str,
    yes: bool,
    actor: str,
    asked: DeadLetterFilter | None,
    as_json: bool,
) -> None:
    """Resolve dead letters whose operation the ledger has by now.

    The drainer finds most of them by itself: they are counted as resolved, and `list --status applied` has
    them until this command confirms them. It looks at the parked ones as well. Another content under the
    same reference is a conflict, and is left.

    \b
    Examples:
      billing-worker dead-letters list --status applied
      billing-worker dead-letters resolve --applied --yes --reason "the producer has sent them again"
      billing-worker dead-letters resolve --applied --group 3f2a --reason "sent again, T-17"
    """
    del applied  # said, so that nobody takes it for a way to resolve others
    everything = None if numbers else asked or DeadLetterFilter()
    dead_letters = chosen(numbers, everything, yes=yes, doing="resolve the applied ones of")
    with progress("looking", None) as bar:
        done = service_of(application).resolve_applied(
            dead_letters,
            reason,
            actor,
            on_progress=lambda count, total: bar.update(bar.task_ids[0], completed=count, total=total),
        )
    if as_json:
        show_json(done.to_dict())
    else:
        click.echo(f"resolved {done.done}; {done.skipped} not applied")
    sys.exit(0 if done.done else 1)


def _show_done(what: str, done: Done, *, as_json: bool) -> None:
    """Show the result. Exit 1 where no dead letter was changed."""
    if as_json:
        show_json(done.to_dict())
    else:
        skipped = f", skipped {done.skipped} in another state" if done.skipped else ""
        click.echo(f"{what} {done.done}{skipped}")
    sys.exit(0 if done.done else 1)
