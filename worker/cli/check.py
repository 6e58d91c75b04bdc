"""``check``: configuration, servers, topology and workers, a line each."""

import sys

import click

from worker.bootstrap import Application
from worker.checks import health_of
from worker.cli.application import with_application
from worker.cli.options import as_json
from worker.cli.output import show_json
from worker.runtime.health import Health, HealthState


@click.command()
@with_application("broker_url", "database_url", "catalog")
@as_json
def check(application: Application, *, as_json: bool) -> None:
    """Check configuration, connections, topology, schema and workers; a line each. Exit 1 if one is bad.

    A paused queue is bad, and so is one in which messages wait while nobody consumes it; without messages
    that is only noted: workers may be about to start. Delivery limits come from RabbitMQ's management API
    (BILLING_MANAGEMENT_URL; the broker's host with port 15672 where it isn't set), which needs the tag
    `management` or `monitoring`; where it doesn't answer they are noted as unknown.
    """
    found = []
    for health in health_of(application, with_scans=True):
        found.append(health)
        if not as_json:
            _show(health)
    if as_json:
        show_json({"checks": [_as_dict(health) for health in found]})
    sys.exit(1 if any(health.state is HealthState.BAD for health in found) else 0)


_SHOWN = {HealthState.OK: "ok", HealthState.NOTE: "note", HealthState.UNKNOWN: "note", HealthState.BAD: "bad"}
_COLOURS = {"ok": "green", "note": "yellow", "bad": "red"}


def _show(health: Health) -> None:
    """Print a line about one part; an unknown state is a note."""
    shown = _SHOWN[health.state]
    text = f"unknown: {health.text}" if health.state is HealthState.UNKNOWN else health.text
    click.echo(f"{click.style(shown, fg=_COLOURS[shown])}{' ' * (5 - len(shown))}{_name(health)}: {text}")


def _as_dict(health: Health) -> dict[str, str]:
    return {"name": _name(health), "state": health.state.value, "text": health.text}


def _name(health: Health) -> str:
    return f"{health.name} {health.place}" if health.place else health.name
