"""``activity purge``: old entries of the activity log go, after an export."""

from pathlib import Path

import click

from worker.bootstrap import Application, utc_now
from worker.cli.application import with_application
from worker.cli.options import actor_option, as_json, named_operator
from worker.cli.purging import run_purge, with_purge_options
from worker.cli.times import TimeText
from worker.privacy.retention import count_activity, purge_activity


@click.command("purge")
@with_purge_options
@actor_option(named_operator)
@with_application("database_url")
@as_json
def purge(
    application: Application,
    *,
    older_than: TimeText | None,
    target: Path | None,
    is_meant: bool,
    actor: str,
    as_json: bool,
) -> None:
    """Purge old entries of the activity log, after an export.

    The purge itself is an entry. Entries go only after all of them are in the file, which is read again and
    compared. A discard whose entry is gone can't be undone by its number any more. The login must have the
    role billing_privacy. Nothing is purged by itself: cron may call this.

    \b
    Examples:
      billing-worker activity purge --older-than 730d
      billing-worker activity purge --older-than 730d --export activity-2024.jsonl --yes
    """
    if older_than is None:
        raise click.UsageError("say how old with --older-than, such as 730d")
    application.require_usable_schema()
    now, engine = utc_now(), application.engine
    before = older_than.at(now)
    run_purge(
        "entries",
        count_activity(engine, before),
        target,
        lambda file, on_purged: purge_activity(engine, now, before, file, actor, on_purged),
        is_meant=is_meant,
        as_json=as_json,
    )
