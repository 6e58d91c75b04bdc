"""``resume``: paused queues go on."""

import click

from worker.bootstrap import Application, utc_now
from worker.cli.application import with_application
from worker.cli.options import as_json, with_actor
from worker.cli.output import show_json
from worker.cli.times import moment, stamp
from worker.errors import NotFoundError


@click.command()
@with_application("database_url")
@click.argument("queue", required=False)
@with_actor
@as_json
def resume(application: Application, *, queue: str | None, actor: str, as_json: bool) -> None:
    """Resume a queue that workers have paused, such as billing.usage; without QUEUE all of them.

    The workers go on within some seconds. A version, a catalog or settings that were suspected are taken as
    right from then on. Exit 4 where nothing is paused.
    """
    application.require_usable_schema()
    resumed = application.pauses.resume(queue, actor, utc_now())
    if not resumed:
        raise NotFoundError(
            f"{queue or 'no queue'} is {'not ' if queue else ''}paused: see `billing-worker check`"
        )
    if as_json:
        listed = [
            {"queue": pause.queue, "worker": pause.worker, "pausedAt": stamp(pause.began_at)}
            for pause in resumed
        ]
        show_json({"resumed": listed})
        return
    for pause in resumed:
        click.echo(f"resumed {pause.queue}, paused by {pause.worker} since {moment(pause.began_at)}")
