"""``dead-letters groups``: dead letters that failed in the same way."""

import sys
from typing import Any, NoReturn

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.dead_letters.forms import moment
from worker.cli.dead_letters.options import hint_at_drain, service_of
from worker.cli.options import as_json, cursor_option, limit_option, show_next, with_wide
from worker.cli.output import is_terminal, show_fields, show_json, show_table
from worker.cli.table_width import Column
from worker.deadletters.models import DeadLetterGroup, GroupDrift, GroupOrder, GroupPage, GroupParts

_DIGITS = 8


@click.command()
@click.option(
    "--all", "everything", is_flag=True, help="List groups of which nothing waits any more as well."
)
@click.option(
    "--order",
    type=click.Choice(["tokens", "users", "count", "last"]),
    default="tokens",
    show_default=True,
    help="Order: by the tokens, the users or the dead letters that wait, or by the last failure.",
)
@limit_option(50, "Groups")
@cursor_option(aliases=["--after"])
@click.option(
    "--verify", is_flag=True, help="Count all dead letters anew instead; exit 1 if a group is wrong."
)
@with_wide
@with_application("broker_url", "database_url", "catalog")
@as_json
def groups(
    application: Application,
    *,
    everything: bool,
    order: GroupOrder,
    limit: int,
    verify: bool,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List groups of dead letters that failed in the same way.

    Of each group: how many dead letters wait, of how many users, and the tokens affected. A group is known
    by its fingerprint, of which the first digits are enough. The tokens affected are those that the waiting
    dead letters ask to move; a dead letter from which they can't be read counts as unknown.

    \b
    Examples:
      billing-worker dead-letters groups --order users
      billing-worker dead-letters group 3f2a91c0
    """
    service = service_of(application)
    if verify:
        _show_drifts(service.drifts(), as_json=as_json)
    page = service.groups(waiting_only=not everything, order=order, limit=limit, after=cursor)
    if as_json:
        show_json(page.to_dict())
        return
    _show_groups(page, order)
    show_next(page.next)
    if not page.total:
        hint_at_drain()


def _show_drifts(found: list[GroupDrift], *, as_json: bool) -> NoReturn:
    if as_json:
        show_json({"drifts": [drift.to_dict() for drift in found]})
    elif not found:
        click.echo("the groups are what their dead letters add up to")
    for drift in [] if as_json else found:
        click.echo(f"{drift.fingerprint}: {drift.name} is {drift.actual}, and must be {drift.expected}")
    sys.exit(1 if found else 0)


_GROUPS = (
    Column("group"),
    Column("code"),
    Column("type", 5),
    Column("waiting"),
    Column("users", 4),
    Column("tokens affected", 2),
    Column("first", 7),
    Column("last", 3),
    Column("sample", 6),
    Column("message", 1, text=True),
    Column("applied", 8),
)


_BY = {
    "tokens": "by tokens affected",
    "users": "by users that wait",
    "count": "by number that waits",
    "last": "by last failure",
}


def _show_groups(page: GroupPage, order: GroupOrder) -> None:
    show_table(
        f"Groups of dead letters, {_BY[order]}: {len(page.groups)} of {page.total}",
        _GROUPS,
        [
            (
                group.fingerprint[:_DIGITS],
                group.reason,
                group.type,
                group.waiting,
                f"{group.users}+" if group.users_is_least else group.users,
                tokens_affected(group),
                moment(group.first_failed_at),
                moment(group.last_failed_at),
                group.sample,
                group.message,
                group.applied,
            )
            for group in page.groups
        ],
    )


def tokens_affected(group: DeadLetterGroup) -> str:
    """Return the tokens affected, with the number of dead letters of which they are unknown."""
    known = f"{group.tokens_at_stake:,}" if is_terminal() else str(group.tokens_at_stake)
    if not group.tokens_unknown:
        return known
    if group.tokens_unknown == group.waiting:
        return "unknown"
    return f"{known}, unknown of {group.tokens_unknown}"


# -- one group --------------------------------------------------------------------------------------------


@click.command()
@click.argument("fingerprint")
@with_wide
@with_application("broker_url", "database_url", "catalog")
@as_json
def group(application: Application, *, fingerprint: str, as_json: bool) -> None:
    """Show one group: its senders, its worker versions and its messages, each with its number.

    They are counted among the newest 10,000 dead letters that wait in it, or of all where none waits. The
    first digits of the fingerprint are enough.

    \b
    Example:
      billing-worker dead-letters group 3f2a91c0
    """
    service = service_of(application)
    found, parts = service.group(fingerprint), service.group_parts(fingerprint)
    if as_json:
        show_json({**found.to_dict(), "parts": parts.to_dict()})
        return
    show_fields(f"Group {found.fingerprint[:_DIGITS]}", _fields(found, parts))
    for name, counts in (
        ("sender", parts.senders),
        ("worker version", parts.worker_versions),
        ("message", parts.messages),
    ):
        if not is_terminal():
            click.echo()
        rows = [(one.dead_letters, one.value or "unknown") for one in counts]
        show_table("", ("dead letters", Column(name, 1, text=True)), rows)


def _fields(found: DeadLetterGroup, parts: GroupParts) -> list[tuple[str, Any]]:
    return [
        ("group", found.fingerprint),
        ("code", found.reason),
        ("type", found.type),
        ("field", found.field),
        ("waiting", found.waiting),
        ("users", f"{found.users}+" if found.users_is_least else found.users),
        ("tokens affected", tokens_affected(found)),
        ("resolved", found.resolved),
        ("of these applied, to confirm", found.applied),
        ("discarded", found.discarded),
        ("first failed", moment(found.first_failed_at)),
        ("last failed", moment(found.last_failed_at)),
        ("sample", found.sample),
        ("counted below", f"{parts.looked_at}" + ("" if parts.is_all else ", the newest")),
    ]
