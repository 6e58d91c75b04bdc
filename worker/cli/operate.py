"""Running it: ``run``, ``scheduler``, ``migrate``, ``check``, ``topology``."""

import gc
import json
import logging
import random
import shlex
import sys
from collections.abc import Mapping
from contextlib import closing

import click

from worker.bootstrap import Application, utc_now
from worker.broker import BILLING, broker_is_embedded
from worker.checks import health_of
from worker.cli.options import operator, with_application
from worker.errors import ConfigurationError, LimitExceededError, NotFoundError
from worker.ledger.migrations import current_revision, migrate
from worker.processes import run_scheduler, run_worker
from worker.runtime.health import Health, HealthState
from worker.runtime.stop import SignalStop
from worker.runtime.supervisor import LIMIT_EXIT, Supervisor, follow_parent
from worker.settings import Settings, environment_of

log = logging.getLogger(__name__)


@click.command()
@with_application(
    "broker_url",
    "database_url",
    "catalog",
    "workers",
    "batch_size",
    "prefetch",
    "on_limit",
    "metrics_port",
    "log_level",
    "log_format",
)
@click.option("--drain", is_flag=True, help="Apply what is waiting, then end; schedules nothing.")
@click.option(
    "--with-scheduler",
    is_flag=True,
    help="Also do what `billing-worker scheduler` does, in one of the workers  [BILLING_WITH_SCHEDULER]",
)
@click.option("--supervised", type=int, hidden=True, help="The supervisor's process id.")
def run(application: Application, *, drain: bool, with_scheduler: bool, supervised: int | None) -> None:
    """Consume messages, apply them to the ledger, reply; until SIGTERM.

    The first SIGTERM (or Ctrl-C) finishes the batch, replies, acknowledges and exits 0; a second one ends
    at once. An outage of the database or the broker is waited out.

    When more than BILLING_MAX_CONSECUTIVE_FAULTS messages (100) of a queue in a row met a fault of the
    worker's, as after a bad deploy, that queue is paused: what waits stays there, the other queues go on, and
    one message is tried at growing intervals. It goes on by itself, or at `billing-worker resume`;
    `billing-worker check` says what is paused and why. With --on-limit exit (and with --drain) the worker
    exits with 5 instead; where something restarts it by itself, leave out 5 (systemd:
    RestartPreventExitStatus=5).
    """
    stop = SignalStop()
    stop.install()
    if supervised is not None:
        follow_parent(supervised)
    settings = application.settings
    with_scheduler |= settings.with_scheduler
    if settings.workers > 1:
        if drain:
            raise ConfigurationError("--drain runs one worker; leave --workers out")
        environments = _environments(settings, with_scheduler=with_scheduler)
        sys.exit(Supervisor(environments, random.Random()).run(stop))  # noqa: S311 - jitter, no secrets
    _run_worker(application, stop, drain=drain, with_scheduler=with_scheduler and not drain)


def _run_worker(application: Application, stop: SignalStop, *, drain: bool, with_scheduler: bool) -> None:
    application.metrics.serve(application.settings.metrics_port)
    # The objects that exist by now stay, and a batch leaves no cycles: the search for them after every 700
    # objects took 5 of 95 µs a message.
    gc.freeze()
    gc.set_threshold(OBJECTS_A_COLLECTION)
    try:
        run_worker(application, stop, drain=drain, with_scheduler=with_scheduler)
    except LimitExceededError as error:
        log.critical("%s", error)
        sys.exit(LIMIT_EXIT)


OBJECTS_A_COLLECTION = 50_000


def _environments(settings: Settings, *, with_scheduler: bool) -> list[dict[str, str]]:
    """Return one environment for each worker.

    Each serves its metrics on a port of its own, from the configured one on; the first runs the scheduler.
    """
    port = settings.metrics_port
    return [
        environment_of(
            settings.model_copy(
                update={
                    "metrics_port": port + n if port else 0,
                    "with_scheduler": with_scheduler and n == 0,
                }
            )
        )
        for n in range(settings.workers)
    ]


@click.command()
@with_application("broker_url", "database_url", "metrics_port", "log_level", "log_format")
@click.option(
    "--once", is_flag=True, help="Publish what is due now, as much as one interval allows; then end."
)
def scheduler(application: Application, *, once: bool) -> None:
    """Publish a command for each account of which something falls due; until SIGTERM.

    Holds run out, credit expires or takes effect, a free tier's period begins: nothing sends a message then,
    so this sends `account.settle`, which the workers apply like any other command, with a reference of the
    account and the time. Several may run: each reference is applied once. None is needed for the balances to
    be right, which count what is due; but notices, statistics and the next allocation come when it is booked.

    It looks every BILLING_SCHEDULER_INTERVAL_S seconds (5) and publishes at most BILLING_SCHEDULER_RATE
    commands a second (200), after a day of standing still as well. An outage of the database or the broker
    is waited out; SIGTERM (or Ctrl-C) ends it with 0.
    """
    if once:
        application.require_newest_schema()
        published = application.scheduler().tick_now()
        click.echo(f"published {published} commands for what fell due")
        return
    stop = SignalStop()
    stop.install()
    application.metrics.serve(application.settings.metrics_port)
    run_scheduler(application, stop)


@click.command("migrate")
@with_application("database_url")
def migrate_command(application: Application) -> None:
    """Bring the ledger's database to the newest schema. Safe to run again, and by several at once."""
    before = current_revision(application.engine)
    migrate(application.engine)
    after = current_revision(application.engine)
    click.echo(f"schema at {after}" + (" already" if before == after else f", was {before or 'empty'}"))


@click.command()
@with_application("broker_url", "database_url", "catalog")
def check(application: Application) -> None:
    """Check configuration, connections, topology, schema and workers; a line each. Exit 1 if one is bad.

    A queue that is paused is bad, and so is one in which messages wait while nobody consumes it; without
    messages that is only noted: workers may be about to start. Delivery limits are asked of RabbitMQ's
    management API (BILLING_MANAGEMENT_URL; the broker's host with port 15672 where it isn't set), which needs
    the tag `monitoring`; where it doesn't answer they are noted as unknown.
    """
    states = [_show(health) for health in health_of(application)]
    sys.exit(1 if HealthState.BAD in states else 0)


_COLOURS = {HealthState.OK: "green", HealthState.NOTE: "yellow", HealthState.BAD: "red"}


def _show(health: Health) -> HealthState:
    """Print a line about one part; an unknown state is a note."""
    is_unknown = health.state is HealthState.UNKNOWN
    state = HealthState.NOTE if is_unknown else health.state
    name = f"{health.name} {health.place}" if health.place else health.name
    gap = " " * (5 - len(state))
    text = f"unknown: {health.text}" if is_unknown else health.text
    click.echo(f"{click.style(state, fg=_COLOURS[state])}{gap}{name}: {text}")
    return state


@click.command()
@with_application("database_url")
@click.argument("queue", required=False)
def resume(application: Application, *, queue: str | None) -> None:
    """Resume a queue that workers have paused, such as billing.usage; all of them where none is named.

    The workers hear of it within some seconds. A version, a catalog or settings that were suspected are taken
    as right from then on. Exit 4 where nothing is paused.
    """
    application.require_newest_schema()
    resumed = application.pauses.resume(queue, operator(), utc_now())
    if not resumed:
        raise NotFoundError(
            f"{queue or 'no queue'} is {'not ' if queue else ''}paused: see `billing-worker check`"
        )
    for pause in resumed:
        click.echo(
            f"resumed {pause.queue}, paused by {pause.worker} since {pause.began_at:%Y-%m-%d %H:%M:%S}Z"
        )


@click.group()
def topology() -> None:
    """The exchanges and the queues on the broker."""


@topology.command()
@with_application("broker_url")
@click.option("--policies", is_flag=True, help="Set the policies too, through the management API.")
def declare(application: Application, *, policies: bool) -> None:
    """Make what is missing. Needs the right to configure; safe to run again.

    Prints the policies that an operator should set beside it, or sets them with --policies, which needs
    RabbitMQ's management API (BILLING_MANAGEMENT_URL) and the tag `policymaker`. Policies can be changed
    later, arguments of a queue can't.
    """
    with closing(application.link()) as link:
        link.declare(BILLING)
    for queue in BILLING.queues:
        click.echo(
            f"{queue.name}: declared"
            + (f", bound to {', '.join(queue.routing_keys)}" if queue.routing_keys else "")
        )
    for exchange, what in (
        (BILLING.exchange, "commands"),
        (BILLING.events, "notices; bind a queue to hear them"),
    ):
        click.echo(f"exchange {exchange}: declared, for {what}")
    if broker_is_embedded(application.settings.broker_url.get_secret_value()):
        return
    for name, (pattern, definition) in BILLING.policies().items():
        if policies:
            application.management.set_policy(name, pattern, definition)
            click.echo(f"policy {name}: set")
        else:
            click.echo(f"policy to set: {_policy_command(name, pattern, definition)}")


@topology.command()
@with_application("broker_url")
def verify(application: Application) -> None:
    """Say what is missing or differs. Exit 1 if anything does."""
    with closing(application.link()) as link:
        differences = link.differences(BILLING)
    for line in differences:
        click.echo(line)
    if not differences:
        click.echo("the topology is as it must be (bindings can't be read over AMQP; declare makes them)")
    sys.exit(1 if differences else 0)


def _policy_command(name: str, pattern: str, definition: Mapping[str, str | int]) -> str:
    words = ["rabbitmqctl", "set_policy", name, pattern, json.dumps(dict(definition)), "--apply-to", "queues"]
    return shlex.join(words)
