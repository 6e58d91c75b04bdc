"""``dead-letters purge``: old dead letters go, after an export."""

from pathlib import Path

import click

from worker.bootstrap import Application, utc_now
from worker.cli.application import with_application
from worker.cli.options import actor_option, as_json, named_operator
from worker.cli.purging import run_purge, with_purge_options
from worker.cli.times import TimeText
from worker.privacy.retention import count_dead_letters, old_dead_letters, purge_dead_letters


@click.command("purge")
@with_purge_options
@click.option("--with-waiting", is_flag=True, help="Also those that still wait for somebody.")
@actor_option(named_operator)
@with_application("database_url")
@as_json
def purge(
    application: Application,
    *,
    older_than: TimeText | None,
    target: Path | None,
    is_meant: bool,
    with_waiting: bool,
    actor: str,
    as_json: bool,
) -> None:
    """Purge old dead letters that are resolved or discarded, after an export.

    Their last failure decides how old they are. They go with their histories, edits and items of replays, and
    only after all of it is in the file, which is read again and compared. `dead-letters import` brings them
    back. The login must have the role billing_privacy. Nothing is purged by itself: cron may call this.

    \b
    Examples:
      billing-worker dead-letters purge --older-than 180d
      billing-worker dead-letters purge --older-than 180d --export letters-2026-11.jsonl --yes
    """
    if older_than is None:
        raise click.UsageError("say how old with --older-than, such as 180d")
    application.require_usable_schema()
    now, engine = utc_now(), application.engine
    filter_ = old_dead_letters(older_than.at(now), with_parked=with_waiting)
    run_purge(
        "dead letters",
        count_dead_letters(engine, filter_),
        target,
        lambda file, on_purged: purge_dead_letters(engine, now, filter_, file, actor, on_purged),
        is_meant=is_meant,
        as_json=as_json,
    )
