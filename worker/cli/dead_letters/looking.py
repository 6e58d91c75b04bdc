"""``dead-letters groups``, ``list`` and ``show``."""

import json
import sys
from dataclasses import replace
from datetime import datetime
from typing import Any, NoReturn

import click
from pydantic.alias_generators import to_camel

from worker.bootstrap import Application
from worker.cli.dead_letters.bodies import lines, readable
from worker.cli.dead_letters.common import STATUSES, Number, service_of, with_filters
from worker.cli.options import as_json, with_application
from worker.cli.output import is_terminal, show_fields, show_json, show_table
from worker.deadletters.models import (
    DeadLetterDetails,
    DeadLetterGroup,
    DeadLetterPage,
    GroupDrift,
    GroupOrder,
    GroupPage,
    StoredDeadLetter,
)
from worker.deadletters.store.filters import DeadLetterFilter
from worker.messages.dead_letters import EPOCH

_DIGITS = 8


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also groups of which nothing waits any more.")
@click.option(
    "--order",
    type=click.Choice(["last", "count", "tokens"]),
    default="last",
    show_default=True,
    help="What failed last first, or of what most waits.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Groups a page.")
@click.option("--verify", is_flag=True, help="Count all letters anew instead; exit 1 if a group is wrong.")
@click.option("--after", help="Where the page before this one ended, as it said.")
@with_application("broker_url", "database_url", "catalog")
@as_json
def groups(
    application: Application,
    *,
    everything: bool,
    order: GroupOrder,
    limit: int,
    verify: bool,
    after: str | None,
    as_json: bool,
) -> None:
    """Groups of dead letters that failed in the same way: how many wait, of how many users, tokens at stake.

    A group is known by its fingerprint, of which the first digits will do. Tokens at stake are what the
    waiting letters ask to move; where that can't be read off a letter it is counted as not known.

    \b
    Examples:
      billing-worker dead-letters groups --order tokens
      billing-worker dead-letters list --group 3f2a91c0
    """
    with service_of(application, looking=True) as service:
        if verify:
            _show_drifts(service.drifts(), as_json=as_json)
        page = service.groups(waiting_only=not everything, order=order, limit=limit, after=after)
    if as_json:
        show_json(page.to_dict())
        return
    _show_groups(page)


def _show_drifts(found: list[GroupDrift], *, as_json: bool) -> NoReturn:
    if as_json:
        show_json([drift.to_dict() for drift in found])
    elif not found:
        click.echo("the groups are what their letters come to")
    for drift in [] if as_json else found:
        click.echo(f"{drift.fingerprint}: {drift.name} is {drift.actual}, and must be {drift.expected}")
    sys.exit(1 if found else 0)


def _show_groups(page: GroupPage) -> None:
    show_table(
        f"Groups of dead letters: {len(page.groups)} of {page.total}",
        (
            "group",
            "reason",
            "type",
            "waiting",
            "users",
            "tokens at stake",
            "first",
            "last",
            "letter",
            "message",
        ),
        [
            (
                group.fingerprint[:_DIGITS],
                group.reason,
                group.type,
                group.waiting,
                f"{group.users}+" if group.users_is_least else group.users,
                at_stake(group),
                moment(group.first_failed_at),
                moment(group.last_failed_at),
                group.sample,
                group.message,
            )
            for group in page.groups
        ],
    )
    if page.next is not None:
        click.echo(f"more with --after '{page.next}'", err=True)


def at_stake(group: DeadLetterGroup) -> str:
    """Return the tokens affected, with the number of dead letters of which they are unknown."""
    known = f"{group.tokens_at_stake:,}" if is_terminal() else str(group.tokens_at_stake)
    if not group.tokens_unknown:
        return known
    if group.tokens_unknown == group.waiting:
        return "not known"
    return f"{known} and not known of {group.tokens_unknown}"


def moment(at: datetime | None) -> str:
    """Return a time in UTC, to the second."""
    return "not known" if at is None or at == EPOCH else f"{at:%Y-%m-%d %H:%M:%S}Z"


@click.command("list")
@click.option(
    "--status",
    type=click.Choice([*STATUSES]),
    default="waiting",
    show_default=True,
    help="Waiting ones are parked, or under way in a replay.",
)
@click.option("--reason", help="The same as --code.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Letters a page.")
@click.option("--before", type=Number, help="Only letters with smaller numbers: the next page.")
@with_filters
@with_application("broker_url", "database_url", "catalog")
@as_json
def list_dead_letters(
    application: Application,
    *,
    status: str,
    reason: str | None,
    limit: int,
    before: int | None,
    asked: DeadLetterFilter | None,
    as_json: bool,
) -> None:
    """The letters, newest first, page by page.

    A text is looked for in the next few thousand letters at a time: a page may be short and say how to go on.

    \b
    Examples:
      billing-worker dead-letters list --code unknown_field --since 2026-11-01
      billing-worker dead-letters list --user ann --status all
      billing-worker dead-letters list --json | jq '.letters[].number'
    """
    filter_ = replace(asked or DeadLetterFilter(), status=STATUSES[status])
    if reason is not None:
        filter_ = replace(filter_, code=reason)
    with service_of(application, looking=True) as service:
        page = service.page(filter_, limit=limit, before=before)
    if as_json:
        show_json(page.to_dict())
        return
    show_dead_letters(page)


def show_dead_letters(page: DeadLetterPage) -> None:
    """Show a page of dead letters to people."""
    total = "more than 10,000" if page.total is None else str(page.total)
    of = f" of {total}" if page.searched_to is None and page.total != 0 else ""
    show_table(
        f"Dead letters: {len(page.dead_letters)}{of}",
        ("number", "status", "reason", "message", "reference", "user", "tokens", "tries", "last failed"),
        [
            (
                dead_letter.number,
                dead_letter.status,
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
    if page.next is not None:
        looked = "" if page.searched_to is None else f"looked through down to {page.searched_to}; "
        click.echo(f"{looked}more with --before {page.next}", err=True)


@click.command()
@click.argument("number", type=Number)
@with_application("broker_url", "database_url", "catalog")
@as_json
def show(application: Application, *, number: int, as_json: bool) -> None:
    """One letter whole: why, whence, when, the message itself, its story, and what the ledger knows.

    \b
    Example:
      billing-worker dead-letters show 7
    """
    with service_of(application, looking=True) as service:
        details = service.details(number)
    if as_json:
        show_json(details_as_dict(details))
        return
    _show_details(details)


_LONG = ("body", "edited_body", "properties", "traceback")


def _show_details(details: DeadLetterDetails) -> None:
    dead_letter = details.dead_letter
    show_fields(f"Dead letter {dead_letter.number}", _fields(details))
    if dead_letter.traceback:
        click.echo(f"\n{lines(dead_letter.traceback.rstrip())}")
    properties = json.dumps(dead_letter.properties, indent=2, ensure_ascii=False)
    click.echo(f"\nproperties {lines(properties)}")
    if dead_letter.edited_body is not None:
        edited = dead_letter.edited_body
        click.echo(f"\nbody as it was edited, {len(edited)} bytes\n{readable(edited)}")
    click.echo(f"\nbody, {len(dead_letter.body)} bytes\n{readable(dead_letter.body)}")
    click.echo()
    show_table(
        "What happened",
        ("when", "what", "who", "replay", "text"),
        [
            (moment(event.at), event.kind.replace("_", " "), event.actor, event.replay_id, event.text)
            for event in details.events
        ],
    )
    if details.ledger:
        click.echo()
        show_table(
            "What the ledger has",
            ("reference", "status", "code", "same content", "message"),
            [
                (line.reference_id, line.status or "nothing", line.code, line.agrees, line.message)
                for line in details.ledger
            ],
        )


def _fields(details: DeadLetterDetails) -> list[tuple[str, Any]]:
    dead_letter = details.dead_letter
    fields = []
    for name in StoredDeadLetter.__slots__:
        value = getattr(dead_letter, name)
        if name not in _LONG and value is not None:
            fields.append((name.replace("_", " "), moment(value) if isinstance(value, datetime) else value))
    if details.problem is not None:
        fields.append(("a worker would refuse it", f"{details.problem.code}: {details.problem.way_out}"))
    return fields


def details_as_dict(details: DeadLetterDetails) -> dict[str, Any]:
    """Return a dead letter and its history for scripts."""
    problem = details.problem
    return {
        **dead_letter_as_dict(details.dead_letter),
        "events": [event.to_dict() for event in details.events],
        "edits": [
            {
                "number": edit.number,
                "at": edit.at.isoformat(),
                "actor": edit.actor,
                "reason": edit.reason,
                **body_as_dict("before", edit.before),
                **body_as_dict("after", edit.after),
            }
            for edit in details.edits
        ],
        "ledger": [line.to_dict() for line in details.ledger],
        "problem": None
        if problem is None
        else {"code": problem.code, "field": problem.field, "message": problem.way_out},
    }


def dead_letter_as_dict(dead_letter: StoredDeadLetter) -> dict[str, Any]:
    """Return a dead letter for scripts; bytes that are no text are hexadecimal."""
    fields: dict[str, Any] = {}
    for name in StoredDeadLetter.__slots__:
        value = getattr(dead_letter, name)
        if name in {"body", "edited_body"}:
            fields |= {} if value is None else body_as_dict(to_camel(name), value)
        else:
            fields[to_camel(name)] = _rfc3339(value) if isinstance(value, datetime) else value
    return fields


def _rfc3339(at: datetime) -> str | None:
    """Return a dead letter's time; None where unknown."""
    return None if at == EPOCH else at.isoformat()


def body_as_dict(name: str, body: bytes) -> dict[str, str]:
    """Return a body under its name as text, or under another one as hexadecimal."""
    try:
        return {name: body.decode()}
    except UnicodeDecodeError:
        return {f"{name}Hex": body.hex()}
