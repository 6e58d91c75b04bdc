"""Running it: ``run``, ``migrate``, ``check``, ``topology``."""

import json
import shlex
import sys
from collections.abc import Callable, Mapping

import click

from worker.bootstrap import Application, SignalStop
from worker.broker import BILLING, broker_is_embedded
from worker.cli.options import with_application
from worker.errors import BillingError, ConfigurationError, TransientError
from worker.ledger.migrations import current_revision, migrate, newest_revision
from worker.ledger.store import Ledger
from worker.settings import Settings, environment_of, redacted
from worker.supervisor import follow_parent, supervise


@click.command()
@with_application(
    "broker_url",
    "database_url",
    "catalog",
    "workers",
    "batch_size",
    "prefetch",
    "metrics_port",
    "log_level",
    "log_format",
)
@click.option("--drain", is_flag=True, help="Apply what is waiting, then end.")
@click.option("--supervised", type=int, hidden=True, help="The supervisor's process id.")
def run(application: Application, *, drain: bool, supervised: int | None) -> None:
    """Consume messages, apply them to the ledger, reply; until SIGTERM.

    The first SIGTERM (or Ctrl-C) finishes the batch, replies, acknowledges and exits 0; a second one ends
    at once. An outage of the database or the broker is waited out.
    """
    stop = SignalStop()
    stop.install()
    if supervised is not None:
        follow_parent(supervised)
    settings = application.settings
    if settings.workers > 1:
        if drain:
            raise ConfigurationError("--drain runs one worker; leave --workers out")
        sys.exit(supervise(_environments(settings), stop))
    application.serve_metrics()
    application.run_worker(stop, drain=drain)


def _environments(settings: Settings) -> list[dict[str, str]]:
    """One environment a worker; each serves its metrics on a port of its own, from the one that is set on."""
    port = settings.metrics_port
    return [
        environment_of(settings.model_copy(update={"metrics_port": port + n if port else 0}))
        for n in range(settings.workers)
    ]


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
    """Check configuration, connections, topology and schema; one line each. Exit 1 if one is bad."""
    settings = application.settings
    checks: list[tuple[str, Callable[[], str]]] = [
        ("catalog", lambda: _catalog_line(application)),
        (f"database {redacted(settings.database_url)}", lambda: _database_line(application)),
        ("schema", lambda: _schema_line(application)),
        (f"broker {redacted(settings.broker_url)}", lambda: _broker_line(application)),
        ("topology", lambda: _topology_line(application)),
    ]
    failed = False
    for name, look in checks:
        try:
            line = look()
        except TransientError as error:
            failed = True
            click.echo(f"{click.style('bad', fg='red')}  {name}: {error}; start it, or set its URL")
        except BillingError as error:
            failed = True
            click.echo(f"{click.style('bad', fg='red')}  {name}: {error}")
        else:
            click.echo(f"{click.style('ok', fg='green')}   {name}: {line}")
    sys.exit(1 if failed else 0)


def _catalog_line(application: Application) -> str:
    catalog = application.catalog
    return (
        f"{len(catalog.tiers)} tiers, {len(catalog.packages)} packages, {len(catalog.pricing)} pricing rules"
    )


def _database_line(application: Application) -> str:
    Ledger(application.engine).probe()
    return "answers"


def _schema_line(application: Application) -> str:
    application.require_newest_schema()
    return f"at {newest_revision()}"


def _broker_line(application: Application) -> str:
    application.link().close()
    return "answers"


def _topology_line(application: Application) -> str:
    differences = _differences(application)
    if differences:
        raise ConfigurationError("; ".join(differences))
    return "as it must be"


def _differences(application: Application) -> list[str]:
    link = application.link()
    try:
        return link.differences(BILLING)
    finally:
        link.close()


@click.group()
def topology() -> None:
    """The exchange and the queues on the broker."""


@topology.command()
@with_application("broker_url")
def declare(application: Application) -> None:
    """Make what is missing. Needs the right to configure; safe to run again.

    Prints the policy that an operator should set beside it: policies can be changed later, arguments of a
    queue can't.
    """
    link = application.link()
    try:
        link.declare(BILLING)
    finally:
        link.close()
    for queue in BILLING.queues:
        click.echo(
            f"{queue.name}: declared"
            + (f", bound to {', '.join(queue.routing_keys)}" if queue.routing_keys else "")
        )
    if not broker_is_embedded(application.settings.broker_url.get_secret_value()):
        for name, (pattern, definition) in BILLING.policies().items():
            click.echo(f"policy to set: {_policy_command(name, pattern, definition)}")


@topology.command()
@with_application("broker_url")
def verify(application: Application) -> None:
    """Say what is missing or differs. Exit 1 if anything does."""
    differences = _differences(application)
    for line in differences:
        click.echo(line)
    if not differences:
        click.echo("the topology is as it must be (bindings can't be read over AMQP; declare makes them)")
    sys.exit(1 if differences else 0)


def _policy_command(name: str, pattern: str, definition: Mapping[str, str | int]) -> str:
    words = ["rabbitmqctl", "set_policy", name, pattern, json.dumps(dict(definition)), "--apply-to", "queues"]
    return shlex.join(words)
