"""Options that the commands share: which dead letters, and a confirmation before many are changed."""

from dataclasses import replace

import click

from worker.bootstrap import Application, utc_now
from worker.cli.options import Decorator, confirm, options_as, time_option
from worker.cli.text import printable
from worker.cli.times import TimeText, time_range
from worker.deadletters.models import APPLIED, WAITING, DeadLetterStatus
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.filters import DeadLetterFilter, DeadLetterSelection

Number = click.IntRange(1, 2**63 - 1)

STATUSES = {
    "waiting": WAITING,
    "all": tuple(DeadLetterStatus),
    **{status.value: (status,) for status in DeadLetterStatus},
    APPLIED: (DeadLetterStatus.RESOLVED,),
}

with_status = click.option(
    "--status",
    type=click.Choice([*STATUSES]),
    default="waiting",
    show_default=True,
    help="Waiting ones are parked, or under way in a replay; applied ones are resolved, not yet confirmed.",
)


def of_status(asked: DeadLetterFilter | None, status: str) -> DeadLetterFilter:
    """Return the filter, of dead letters with a status of ``with_status``."""
    applied = True if status == APPLIED else None
    return replace(asked or DeadLetterFilter(), status=STATUSES[status], applied=applied)


def service_of(application: Application) -> DeadLetters:
    """Return the dead letters in a database that is at the newest schema."""
    application.require_usable_schema()
    return application.service()


def hint_at_drain() -> None:
    """Say on standard error that dead letters may wait in their queue; the broker isn't asked."""
    click.echo(
        "listed are the drained ones: `billing-worker scheduler` drains dead letters as they come, "
        "`billing-worker dead-letters drain` by hand",
        err=True,
    )


# -- which ------------------------------------------------------------------------------------------------


_FILTERS: dict[str, Decorator] = {
    "group": click.option(
        "--group", help="Only dead letters of this group: its fingerprint, or the beginning of it."
    ),
    "code": click.option("--code", help="Only dead letters with this reason code, such as unknown_type."),
    "type_": click.option("--type", "type_", help="Only messages of this type, such as usage.deduct."),
    "user": click.option("--user", help="Only dead letters of this user."),
    "reference": click.option("--reference", help="Only dead letters with this reference."),
    "start": time_option(
        "--from",
        "start",
        "Only last failures from this time on: 2h, today, 2026-11-26 11:03 (UTC).",
        aliases=["--since"],
    ),
    "end": time_option("--to", "end", "Only last failures before this time.", aliases=["--until"]),
    "text": click.option(
        "--text", help="Only dead letters with this text in message, identities, note or body."
    ),
}


def _asked(*, start: TimeText | None, end: TimeText | None, **values: str | None) -> DeadLetterFilter | None:
    if start is None and end is None and all(value is None for value in values.values()):
        return None
    for name, value in values.items():
        if value == "":  # a variable of a shell that isn't set: left out it would find everything
            option = name.rstrip("_")
            raise click.UsageError(f"--{option} must not be empty: leave it out, or give one")
    since, until = time_range(start, end, utc_now())
    return DeadLetterFilter(
        code=values["code"],
        type=values["type_"],
        user_id=values["user"],
        reference_id=values["reference"],
        since=since,
        until=until,
        text=values["text"],
        fingerprint=values["group"],
    )


#: Give a command the filters as options, and as ``asked`` the filter they make, None without any.
with_filters = options_as("asked", _FILTERS, _asked)


def selected(numbers: tuple[int, ...], asked: DeadLetterFilter | None) -> DeadLetterSelection:
    """Return the dead letters by their numbers, or by the filter. Raises UsageError without either."""
    if numbers and asked is not None:
        raise click.UsageError("give either numbers or filters")
    if asked is not None:
        return asked
    if not numbers:
        raise click.UsageError("give the numbers of dead letters, or a filter such as --group; see --help")
    return list(dict.fromkeys(numbers))


def chosen(
    numbers: tuple[int, ...],
    asked: DeadLetterFilter | None,
    *,
    yes: bool,
    doing: str,
    statuses: tuple[DeadLetterStatus, ...] = (DeadLetterStatus.PARKED,),
) -> DeadLetterSelection:
    """Return the chosen dead letters: by their numbers, or by the filter, which has to be confirmed.

    ``statuses`` are those of the dead letters on which the action really acts.
    """
    selection = selected(numbers, asked)
    if not isinstance(selection, DeadLetterFilter):
        return selection
    if not yes:
        question = f"{doing} all dead letters with {replace(selection, status=statuses)}?"
        confirm(printable(question), refusal=f"{doing} all dead letters of a filter")
    return selection


with_yes = click.option(
    "--yes", is_flag=True, help="Don't ask before acting on all dead letters of a filter."
)
with_reason = click.option("--reason", required=True, help="Why; kept with the dead letter.")
with_numbers = click.argument("numbers", type=Number, nargs=-1)
