"""Helpers that the commands share: the dead letters after a drain, filters, and the acting user."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import Any

import click

from worker.bootstrap import Application
from worker.broker import BILLING
from worker.cli.asking import as_day_or_moment, begins
from worker.cli.options import operator
from worker.deadletters.models import WAITING, DeadLetterStatus
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.filters import DeadLetterFilter, DeadLetterSelection
from worker.errors import BrokerUnavailableError, NotKeptError
from worker.ledger.queries import zone_of

Number = click.IntRange(1, 2**63 - 1)
Command = Callable[..., Any]

STATUSES = {
    "waiting": WAITING,
    "all": tuple(DeadLetterStatus),
    **{status.value: (status,) for status in DeadLetterStatus},
}


@contextmanager
def service_of(application: Application, *, looking: bool = False) -> Iterator[DeadLetters]:
    """Yield the dead letters, after the queue has been drained.

    With ``looking`` the stored dead letters are shown with a warning where the broker does not answer. A dead
    letter that can't be kept stops no command.
    """
    application.require_newest_schema()
    service = application.service()
    try:
        drain(application, service)
    except (BrokerUnavailableError, NotKeptError) as error:
        if not looking and isinstance(error, BrokerUnavailableError):
            raise
        click.echo(f"{error}: letters that still wait in {BILLING.dead.name} are not among these", err=True)
    service.tidy()
    yield service


def drain(application: Application, service: DeadLetters) -> int:
    """Drain what waits in the queue; returns how many. In an outage of the database nothing is given back."""
    service.probe()
    link = application.link()
    try:
        waiting = link.depth(BILLING.dead.name)
    finally:
        link.close()
    if not waiting:
        return 0
    consumer = application.link(consume=[BILLING.dead.name])
    try:
        return service.drain(consumer, expected=waiting, wait_s=0.02, on_outage=_tell_outage)
    finally:
        with suppress(BrokerUnavailableError):
            consumer.close()


def _tell_outage(error: Exception) -> None:
    click.echo(f"{error}: holding the dead letters until it is back, or until Ctrl-C", err=True)


# -- who --------------------------------------------------------------------------------------------------


with_actor = click.option(
    "--as", "actor", default=operator, show_default="your user name", help="Who does it; goes into the log."
)


# -- which ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Option:
    flags: tuple[str, ...]
    name: str
    help: str


_OPTIONS = (
    _Option(("--group",), "group", "Only letters of this group: its fingerprint, or the beginning of it."),
    _Option(("--code",), "code", "Only letters with this reason code, such as unknown_type."),
    _Option(("--type",), "type_", "Only messages of this type, such as usage.deduct."),
    _Option(("--user",), "user", "Only letters of this user."),
    _Option(("--reference",), "reference", "Only letters with this reference."),
    _Option(("--since",), "since", "Only letters that failed last on this day or later, or at this time."),
    _Option(("--until",), "until", "Only letters that failed last before this day or time (UTC)."),
    _Option(("--text",), "text", "Only letters in which this text stands: message, identities, note, body."),
)


def with_filters(command: Command) -> Command:
    """Give a command the filters as options, and as ``asked`` the filter they make, None without any."""

    @wraps(command)
    def run(*arguments: Any, **parameters: Any) -> Any:
        values = {option.name: parameters.pop(option.name) for option in _OPTIONS}
        return command(*arguments, asked=_asked(values), **parameters)

    wrapped: Command = run
    for option in reversed(_OPTIONS):
        wrapped = click.option(*option.flags, option.name, help=option.help)(wrapped)
    return wrapped


def _asked(values: dict[str, str | None]) -> DeadLetterFilter | None:
    if all(value is None for value in values.values()):
        return None
    return DeadLetterFilter(
        code=values["code"],
        type=values["type_"],
        user_id=values["user"],
        reference_id=values["reference"],
        since=_moment(values["since"]),
        until=_moment(values["until"]),
        text=values["text"] or None,
        fingerprint=values["group"],
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else begins(as_day_or_moment(text), zone_of("UTC"))


def chosen(
    numbers: tuple[int, ...], asked: DeadLetterFilter | None, *, yes: bool, doing: str
) -> DeadLetterSelection:
    """Return the chosen dead letters: by their numbers, or by the filter, which has to be confirmed."""
    if numbers and asked is not None:
        raise click.UsageError("give either numbers or filters")
    if numbers:
        return list(dict.fromkeys(numbers))
    if asked is None:
        raise click.UsageError("give the numbers of letters, or a filter such as --group; see --help")
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"{doing} all letters of a filter: add --yes where nobody can be asked")
        click.confirm(f"{doing} all letters with {asked}?", abort=True, err=True)
    return asked


with_yes = click.option("--yes", is_flag=True, help="Don't ask before acting on all letters of a filter.")
with_numbers = click.argument("numbers", type=Number, nargs=-1)
