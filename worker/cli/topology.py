"""``topology``: the exchanges and the queues on the broker."""

import json
import shlex
import sys
from collections.abc import Mapping
from contextlib import closing

import click

from worker.bootstrap import Application
from worker.broker import BILLING, JournalLimits, Topology, broker_is_embedded
from worker.cli.application import with_application
from worker.cli.definitions import definitions_command
from worker.cli.journal_options import with_journal
from worker.cli.options import as_json
from worker.cli.output import show_json


@click.group()
def topology() -> None:
    """Declare or verify the exchanges and queues on the broker."""


topology.add_command(definitions_command)


@topology.command()
@with_application("broker_url", "partitions")
@click.option("--policies", is_flag=True, help="Set the policies as well, through the management API.")
@with_journal
@as_json
def declare(
    application: Application, *, policies: bool, journal: JournalLimits | None, as_json: bool
) -> None:
    """Declare what is missing. Needs the right to configure; safe to run again.

    Prints the policies that an operator should set beside it, or sets them with --policies, which needs
    RabbitMQ's management API (BILLING_MANAGEMENT_URL) and the tag `policymaker`. Policies can be changed
    later, arguments of a queue can't.

    With --journal the broker keeps every command for some days in the stream `billing.journal`, from which
    `billing-worker recover` publishes again what a restored ledger has forgotten. Its limits are fixed; the
    broker drops whole segments that are beyond one of them.

    With --partitions each lane has so many queues more, as `billing.usage.07`; those that are there stay.
    Start workers with the same number before anybody publishes to them.

    \b
    Examples:
      billing-worker topology declare --policies
      billing-worker topology declare --partitions 16 --journal
    """
    wanted = application.topology
    with closing(application.link()) as link:
        link.declare(wanted)
        if journal is not None:
            link.declare_journal(wanted, journal)
    is_embedded = broker_is_embedded(application.settings.broker_url.get_secret_value())
    advised = {} if is_embedded else wanted.policies()
    if not as_json:
        _show_declared(wanted)
        if journal is not None:
            _show_journal(wanted, journal)
    for name, (pattern, definition) in advised.items():
        if policies:
            application.management.set_policy(name, pattern, definition)
        if not as_json:
            _show_policy(name, pattern, definition, is_set=policies)
    if as_json:
        kept = None if journal is None else {"name": BILLING.journal, "arguments": dict(journal.arguments)}
        show_json({**_declared(wanted, advised, are_set=policies), "journal": kept})


def _show_declared(wanted: Topology) -> None:
    for queue in wanted.queues:
        bound = f", bound to {', '.join(queue.routing_keys)}" if queue.routing_keys else ""
        click.echo(f"{queue.name}: declared{bound}")
    for exchange, what in (
        (BILLING.exchange, "commands and queries"),
        (BILLING.bulk_exchange, "usage that nobody waits for"),
        (BILLING.events, "notices; bind a queue to receive them"),
    ):
        click.echo(f"exchange {exchange}: declared, for {what}")


def _show_journal(wanted: Topology, journal: JournalLimits) -> None:
    limits = ", ".join(f"{name} {value}" for name, value in journal.arguments.items())
    bound = ", ".join(f"{exchange} {key}" for exchange, key in wanted.journal_bindings)
    click.echo(f"{BILLING.journal}: declared ({limits}), bound to {bound}")


def _show_policy(name: str, pattern: str, definition: Mapping[str, str | int], *, is_set: bool) -> None:
    if is_set:
        click.echo(f"policy {name}: set")
    else:
        click.echo(f"policy to set: {_policy_command(name, pattern, definition)}")


def _declared(
    wanted: Topology, advised: Mapping[str, tuple[str, Mapping[str, str | int]]], *, are_set: bool
) -> dict[str, object]:
    return {
        "partitions": wanted.partitions,
        "queues": [{"name": queue.name, "routingKeys": list(queue.routing_keys)} for queue in wanted.queues],
        "exchanges": list(BILLING.exchanges),
        "policies": [
            {
                "name": name,
                "pattern": pattern,
                "definition": dict(definition),
                "isSet": are_set,
                "command": _policy_command(name, pattern, definition),
            }
            for name, (pattern, definition) in advised.items()
        ],
    }


def _policy_command(name: str, pattern: str, definition: Mapping[str, str | int]) -> str:
    words = ["rabbitmqctl", "set_policy", name, pattern, json.dumps(dict(definition)), "--apply-to", "queues"]
    return shlex.join(words)


@topology.command()
@with_application("broker_url", "partitions")
@as_json
def verify(application: Application, *, as_json: bool) -> None:
    """List what is missing or differs. Exit 1 if anything does."""
    with closing(application.link()) as link:
        found = link.differences(application.topology)
        is_compared = bool(found) or link.can_compare(application.topology)
    if as_json:
        show_json({"differences": found, "isCompared": is_compared})
        sys.exit(1 if found else 0)
    for line in found:
        click.echo(line)
    if not is_compared:
        click.echo("all of it is there; to compare it takes the right to configure")
    elif not found:
        click.echo("the topology is as it must be (bindings can't be read over AMQP; declare makes them)")
    sys.exit(1 if found else 0)
