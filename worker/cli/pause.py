"""``pause`` and ``quiesce``: lanes that take nothing until an operator resumes them."""

from collections.abc import Sequence

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.options import actor_option, as_json, named_operator
from worker.cli.output import show_json
from worker.cli.times import stamp
from worker.errors import TransientError
from worker.ledger.operator_pauses import OperatorPause, PauseKind
from worker.ledger.workers import WorkerKind
from worker.steering import pause_lanes

_REASON = click.option(
    "--reason", required=True, help="Why; everybody sees it, and the activity log keeps it."
)


@click.command()
@click.argument("lane", required=False)
@_REASON
@click.option("--type", "type_", help="Only messages of this type, such as usage.deduct.")
@actor_option(named_operator)
@with_application("broker_url", "database_url")
@as_json
def pause(
    application: Application, *, lane: str | None, reason: str, type_: str | None, actor: str, as_json: bool
) -> None:
    """Pause a LANE (payments, usage or bulk; without LANE all three) until `billing-worker resume`.

    Running workers obey within about two seconds, others when they start. They finish the batch that is in
    the ledger, and give back what else they hold, which the broker counts as one delivery of each message.
    What waits stays in its queue, in its order. `quiesce` gives nothing back.

    With --type the lane goes on: messages of that type are moved to the queue billing.held, confirmed before
    they are acknowledged, and `resume` returns them in their order, behind what waits in the lane by then.
    They are no dead letters and nothing expires there, but a `validUntil` passes. Messages that are refused
    (malformed, no right) are refused all the same; a usage.batch is a type of its own.

    Nothing resumes it but an operator. It is kept in the database: while that is away this exits with 3 and
    nothing is paused (workers take nothing then either); the broker may be away.

    \b
    Examples:
      billing-worker pause usage --reason "wrong price of ocr_page"
      billing-worker pause --type usage.deduct --reason "wrong price of ocr_page"
      billing-worker resume usage
    """
    application.require_usable_schema()
    begun = pause_lanes(application, lane, type_, PauseKind.PAUSE, reason=reason, actor=actor)
    _show(application, begun, PauseKind.PAUSE, as_json=as_json)


@click.command()
@click.argument("lane", required=False)
@_REASON
@actor_option(named_operator)
@with_application("broker_url", "database_url")
@as_json
def quiesce(application: Application, *, lane: str | None, reason: str, actor: str, as_json: bool) -> None:
    """Finish what workers hold of a LANE and take nothing more, until `billing-worker resume`.

    Without LANE that is payments, usage and bulk: then every worker is idle, before a migration, say.
    `billing-worker status` shows when each of them is quiesced. No message is given back, so that none counts
    a delivery more; what waits stays in its queue.

    \b
    Examples:
      billing-worker quiesce --reason "move the database"
      billing-worker status --watch
      billing-worker resume
    """
    application.require_usable_schema()
    begun = pause_lanes(application, lane, None, PauseKind.QUIESCE, reason=reason, actor=actor)
    _show(application, begun, PauseKind.QUIESCE, as_json=as_json)


def _show(
    application: Application, begun: Sequence[OperatorPause], kind: PauseKind, *, as_json: bool
) -> None:
    done = "quiesced" if kind is PauseKind.QUIESCE else "paused"
    count = _living_workers(application)
    if as_json:
        listed = [
            {"queue": one.queue, "type": one.type, "kind": one.kind, "pausedAt": stamp(one.began_at)}
            for one in begun
        ]
        show_json({"paused": listed, "workers": count})
        return
    for one in begun:
        click.echo(f"{done} {one.queue}{f', {one.type} alone' if one.type else ''}")
    if not begun:
        click.echo(f"nothing to do: it is {done} already, see `billing-worker status`")
        return
    if count:
        obey = f"{count} worker{'s' if count > 1 else ''} obey{'' if count > 1 else 's'} within seconds"
        click.echo(f"{obey}; workers of 0.3.0 and before are unknown and go on")
    else:
        click.echo("no worker is known to run; those that start obey")


def _living_workers(application: Application) -> int:
    now = application.clock()
    try:
        found = application.workers.all(now)
    except TransientError:
        return 0
    return sum(one.kind is WorkerKind.WORKER and one.is_alive(now) for one in found)
