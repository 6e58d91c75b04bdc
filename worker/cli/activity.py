"""``activity``: the activity log, which says what operators did, who, where and why; and its purge."""

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.lazy import Lazy, LazyGroup
from worker.cli.options import as_json, cursor_option, limit_option, show_next, with_wide
from worker.cli.output import show_json, show_table
from worker.cli.table_width import Column
from worker.cli.times import moment
from worker.deadletters.models import ActivityEntry

_COMMANDS = {
    "purge": Lazy(
        "worker.cli.activity_purge:purge", "Purge old entries of the activity log, after an export."
    )
}


@click.group("activity", cls=LazyGroup, lazy=_COMMANDS, invoke_without_command=True)
@click.option("--actor", help="Only what this one did.")
@click.option("--action", help="Only this action, such as replay, publish or adjust.")
@click.option("--subject", help="Only what was done to this, such as a reference.")
@limit_option(50, "Entries")
@cursor_option(click.IntRange(min=1))
@with_wide
@with_application("database_url")
@as_json
def activity(
    application: Application,
    *,
    actor: str | None,
    action: str | None,
    subject: str | None,
    limit: int,
    cursor: int | None,
    as_json: bool,
) -> None:
    """List what operators did, newest first: who, on which host, to what, and why.

    User and host are unknown for what is done in the console, and for what earlier versions did.

    \b
    Examples:
      billing-worker activity --action publish
      billing-worker activity --subject stripe:pi_1 --json
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    application.require_readable_schema()
    page = application.service().activity_log(
        limit=limit, before=cursor, actor=actor, action=action, subject=subject
    )
    if as_json:
        show_json(page.to_dict())
        return
    show_table(
        "Activity log",
        (
            Column("at"),
            Column("actor"),
            Column("system user", 3),
            Column("host", 4),
            Column("action"),
            Column("subject", 1),
            Column("reason", 2, text=True),
            Column("detail", 5, text=True),
        ),
        map(_row, page.entries),
    )
    show_next(page.next)


def _row(entry: ActivityEntry) -> tuple[str | None, ...]:
    detail = ", ".join(f"{name} {value}" for name, value in entry.detail.items() if value is not None)
    where = (entry.os_user or "unknown", entry.host or "unknown")
    return (moment(entry.at), entry.actor, *where, entry.action, entry.subject, entry.reason, detail)
