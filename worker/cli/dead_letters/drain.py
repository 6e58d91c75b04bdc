"""``dead-letters drain``: the dead-letter queue into the database, by hand."""

from contextlib import closing

import click

from worker.bootstrap import Application
from worker.broker import BILLING
from worker.cli.application import with_application
from worker.cli.dead_letters.options import service_of
from worker.cli.options import as_json
from worker.cli.output import show_json
from worker.deadletters.models import Counts
from worker.deadletters.service import DeadLetters
from worker.errors import NotKeptError


@click.command()
@with_application("broker_url", "database_url", "catalog")
@as_json
def drain(application: Application, *, as_json: bool) -> None:
    """Drain the dead-letter queue into the database, by hand.

    It also ends the dead letters of replays that nobody runs any more, as far as the ledger shows their
    outcome. `billing-worker scheduler` does both by itself. Exit 1 where a dead letter can't be stored: it
    stays in the queue.

    \b
    Example:
      billing-worker dead-letters drain && billing-worker dead-letters groups
    """
    service = service_of(application)
    drained, problem = _drained(application, service)
    ended, counts = service.tidy(), service.counts()
    if as_json:
        show_json({"drained": drained, "ended": ended, **counts.to_dict()})
    else:
        click.echo(
            f"drained {'unknown' if drained is None else drained}, {_ended(ended)}; {_waiting(counts)}"
        )
    if problem is not None:
        raise problem


def _drained(application: Application, service: DeadLetters) -> tuple[int | None, NotKeptError | None]:
    """Drain what waits in the queue now; returns how many came, or None and why some could not be stored."""
    service.probe()
    with closing(application.link()) as link:
        waiting = link.depth(BILLING.dead.name)
    if not waiting:
        return 0, None
    with closing(service.link_drainer(application.link(consume=[BILLING.dead.name]))) as drainer:
        try:
            return drainer.drain_all(expected=waiting, wait_s=0.02, on_outage=_show_outage), None
        except NotKeptError as error:
            return None, error


def _show_outage(error: Exception) -> None:
    click.echo(f"{error}: holding the dead letters until it is back, or until Ctrl-C", err=True)


def _ended(count: int) -> str:
    return f"ended {count} of replays that nobody runs"


def _waiting(counts: Counts) -> str:
    waiting = counts.parked + counts.replaying
    wait = "1 dead letter waits" if waiting == 1 else f"{waiting} dead letters wait"
    return f"{wait}, in {counts.groups} group{'' if counts.groups == 1 else 's'}"
