"""``check``: configuration, servers, topology and workers, a line each."""

import sys
from collections.abc import Callable

import click

from worker.bootstrap import Application, utc_now
from worker.broker import BILLING, broker_is_embedded
from worker.cli.application import with_application
from worker.cli.options import as_json
from worker.cli.output import show_json
from worker.cli.topology import differences, management
from worker.errors import BillingError, ConfigurationError, TransientError
from worker.ledger.revisions import current_revision, newest_revision
from worker.ledger.store import Ledger
from worker.settings import redacted


@click.command()
@with_application("broker_url", "database_url", "catalog")
@as_json
def check(application: Application, *, as_json: bool) -> None:
    """Check configuration, connections, topology, schema and workers; a line each. Exit 1 if one is bad.

    A paused queue is bad, and so is one in which messages wait while nobody consumes it; without messages
    that is only noted: workers may be about to start. Delivery limits come from RabbitMQ's management API
    (BILLING_MANAGEMENT_URL; the broker's host with port 15672 where it isn't set), which needs the tag
    `monitoring`; where it doesn't answer they are noted as unknown.
    """
    settings = application.settings
    checks: list[tuple[str, Callable[[], str]]] = [
        ("catalog", lambda: _catalog_line(application)),
        (f"database {redacted(settings.database_url)}", lambda: _database_line(application)),
        ("schema", lambda: _schema_line(application)),
        ("writes", lambda: _writes_line(application)),
        (f"broker {redacted(settings.broker_url)}", lambda: _broker_line(application)),
        ("topology", lambda: _topology_line(application)),
        ("delivery limits", lambda: _limits_line(application)),
        ("workers", lambda: _workers_line(application)),
        ("paused", lambda: _paused_line(application)),
    ]
    found = []
    for name, look in checks:
        state, text = _state(look)
        found.append({"name": name, "state": state, "text": text})
        if not as_json:
            click.echo(f"{click.style(state, fg=_COLOURS[state])}{' ' * (4 - len(state))} {name}: {text}")
    if as_json:
        show_json({"checks": found})
    sys.exit(1 if any(one["state"] == "bad" for one in found) else 0)


_COLOURS = {"ok": "green", "note": "yellow", "bad": "red"}


class _WorthANoteError(BillingError):
    """A note for operators: a worker can run without a change."""


def _state(look: Callable[[], str]) -> tuple[str, str]:
    """Return the state of a check (ok, note or bad) and its text."""
    try:
        return "ok", look()
    except TransientError as error:
        return "bad", f"{error}; start it, or set its URL"
    except _WorthANoteError as note:
        return "note", str(note)
    except BillingError as error:
        return "bad", str(error)


def _catalog_line(application: Application) -> str:
    catalog = application.catalog
    return (
        f"{len(catalog.tiers)} tiers, {len(catalog.packages)} packages, {len(catalog.pricing)} pricing rules"
    )


def _database_line(application: Application) -> str:
    current_revision(application.engine)
    return "answers"


def _schema_line(application: Application) -> str:
    application.require_newest_schema()
    return f"at {newest_revision()}"


def _writes_line(application: Application) -> str:
    """Check that the database takes writes: a standby, or a server without disk, still answers."""
    try:
        application.require_newest_schema()
    except BillingError as error:
        raise _WorthANoteError("unknown: see the lines above") from error
    Ledger(application.engine).probe()
    return "taken"


def _broker_line(application: Application) -> str:
    application.link().close()
    return "answers"


def _topology_line(application: Application) -> str:
    found = differences(application)
    if found:
        raise ConfigurationError("; ".join(found))
    return "as it must be"


def _workers_line(application: Application) -> str:
    """Return the consumers of the queues of work, and the messages that wait there."""
    try:
        queues = _queues_of_work(application)
    except (ConfigurationError, TransientError) as error:
        raise _WorthANoteError(f"unknown: {error}") from error  # the lines above say that it is bad
    said = ", ".join(f"{name} has {_consumers(count)}, {depth} waiting" for name, count, depth in queues)
    if any(count == 0 and depth for _, count, depth in queues):
        raise BillingError(f"{said}: messages wait and nobody consumes them; start a worker, see its log")
    if any(count == 0 for _, count, _ in queues):
        raise _WorthANoteError(f"{said}: a queue without a consumer waits until a worker runs")
    return said


def _limits_line(application: Application) -> str:
    """Return the broker's delivery limits; 4.0 and later drop a message after 20 returns by default."""
    if broker_is_embedded(application.settings.broker_url.get_secret_value()):
        return "none on an embedded broker"
    least = BILLING.least_delivery_limits()
    try:
        limits = management(application).delivery_limits(*least)
    except TransientError as error:
        raise _WorthANoteError(f"unknown: {error}") from error
    low = {queue: limit for queue, limit in limits.items() if limit is not None and limit < least[queue]}
    said = ", ".join(f"{queue} {limit} (at least {least[queue]})" for queue, limit in low.items())
    way_out = "set the policies that `billing-worker topology declare` prints"
    if low.keys() & {BILLING.dead.name, BILLING.replies.name}:
        raise ConfigurationError(f"messages would be dropped for being looked at: {said}; {way_out}")
    if low:
        raise _WorthANoteError(
            f"restarts and lost connections would dead-letter good messages: {said}; {way_out}"
        )
    return "high enough"


def _paused_line(application: Application) -> str:
    """Check that no queue is paused; the error names the queues and the reasons."""
    try:
        pauses = application.pauses.lasting(utc_now())
    except (ConfigurationError, TransientError) as error:
        raise _WorthANoteError(f"unknown: {error}") from error  # the lines above say that it is bad
    if pauses:
        raise BillingError(
            "; ".join(f"{pause.queue} by {pause.worker} ({pause.code}): {pause.text}" for pause in pauses)
        )
    return "nothing"


def _queues_of_work(application: Application) -> list[tuple[str, int | None, int]]:
    """Return the queues of work, the consumers of each (None: unknown), and how many messages wait."""
    link = application.link()
    try:
        return [(queue.name, link.consumers(queue.name), link.depth(queue.name)) for queue in BILLING.work]
    finally:
        link.close()


def _consumers(count: int | None) -> str:
    if count is None:
        return "consumers that an embedded broker doesn't know"
    return "1 consumer" if count == 1 else f"{count or 'no'} consumers"
