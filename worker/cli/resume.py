"""``resume``: paused lanes go on."""

from typing import Any

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.options import as_json, with_actor
from worker.cli.output import show_json
from worker.cli.times import moment, stamp
from worker.errors import NotFoundError
from worker.steering import Resumed, queue_of_lane, resume_lanes


@click.command()
@with_application("database_url")
@click.argument("lane", required=False)
@click.option("--type", "type_", help="Only messages of this type, such as usage.deduct.")
@click.option("--reason", help="Why; kept in the activity log.")
@with_actor
@as_json
def resume(
    application: Application,
    *,
    lane: str | None,
    type_: str | None,
    reason: str | None,
    actor: str,
    as_json: bool,
) -> None:
    """Resume a LANE that operators or workers have paused, such as usage; without LANE all of them.

    The workers go on within some seconds, and return what they held of a paused type. A version, a catalog or
    settings that were suspected are taken as right from then on. Exit 4 where nothing is paused.

    \b
    Examples:
      billing-worker resume usage
      billing-worker resume usage --type usage.deduct
    """
    application.require_usable_schema()
    resumed = resume_lanes(application, lane, type_, actor=actor, reason=reason)
    if resumed.is_empty:
        what = "no queue is paused" if lane is None else f"{queue_of_lane(lane)} is not paused"
        of_type = f" for {type_}" if type_ else ""
        raise NotFoundError(f"{what}{of_type}: see `billing-worker check`")
    if as_json:
        show_json({"resumed": _listed(resumed)})
        return
    for own in resumed.by_operators:
        what = f"{own.type} of {own.queue}" if own.type else own.queue
        returns = "; what was held of it returns" if own.type else ""
        click.echo(f"resumed {what}, paused by {own.actor} since {moment(own.began_at)}{returns}")
    for pause in resumed.by_workers:
        click.echo(f"resumed {pause.queue}, paused by {pause.worker} since {moment(pause.began_at)}")


def _listed(resumed: Resumed) -> list[dict[str, Any]]:
    return [
        *(
            {
                "queue": own.queue,
                "type": own.type,
                "actor": own.actor,
                "reason": own.reason,
                "pausedAt": stamp(own.began_at),
            }
            for own in resumed.by_operators
        ),
        *(
            {"queue": pause.queue, "worker": pause.worker, "pausedAt": stamp(pause.began_at)}
            for pause in resumed.by_workers
        ),
    ]
