"""``status``: lanes, workers, and what somebody should do."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import click

from worker.bootstrap import Application
from worker.catalog import short_digest
from worker.cli.application import with_application
from worker.cli.options import as_json, with_wide
from worker.cli.output import is_terminal, show_json, show_table
from worker.cli.table_width import Column
from worker.cli.text import printable
from worker.cli.times import moment
from worker.ledger.workers import KnownWorker
from worker.runtime.durations import lasting
from worker.status import InstallationStatus, LaneStatus, lane_name
from worker.status_probe import StatusProbe

#: Time between two looks at depths, where the broker counts no rates.
_APART_S = 1.0


@click.command()
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(0.5, 3_600),
    default=2.0,
    show_default=True,
    help="Seconds between two looks of --watch.",
)
@with_wide
@with_application("broker_url", "database_url")
@as_json
def status(application: Application, *, watch: bool, every_s: float, as_json: bool) -> None:
    """Show lanes and workers, and what needs somebody. Exit 0 where nothing does, 1 where something does.

    Of each lane: messages that wait, arrivals and departures a second, the age of the oldest message (lag),
    when nothing waits at these rates (eta), and why it is paused. Rates are those of RabbitMQ's management
    API where it counts them (BILLING_MANAGEMENT_URL), else of the workers and of two looks a second apart.
    What nobody knows is "unknown": RabbitMQ can't tell how old the oldest message of a paused lane is.

    Each process writes a row every five seconds; one that doesn't any more is "not seen since".

    A paused lane needs somebody, and so does a server that doesn't answer, or a backlog that nobody takes.
    With --watch --json it prints an object a line.

    \b
    Examples:
      billing-worker status --watch
      billing-worker status --json | jq '.lanes[] | select(.depth > 1000)'
      billing-worker status > /dev/null || page-somebody
    """
    probe = StatusProbe(application)
    try:
        found = _first(probe)
        _show(found, as_json=as_json)
        with suppress(KeyboardInterrupt):
            while watch:
                time.sleep(every_s)
                found = probe.read()
                if is_terminal() and not as_json:
                    click.clear()
                _show(found, as_json=as_json)
    finally:
        probe.close()
    sys.exit(1 if found.needs_somebody else 0)


def _first(probe: StatusProbe) -> InstallationStatus:
    """Return the status after two looks; after one where the broker counts rates, or nothing is known."""
    found = probe.read()
    if probe.counts_rates or all(lane.depth is None for lane in found.lanes):
        return found
    time.sleep(_APART_S)
    return probe.read()


def _show(found: InstallationStatus, *, as_json: bool) -> None:
    if as_json:
        show_json(found.to_dict())
        return
    columns = (
        Column("lane"),
        Column("waiting"),
        Column("in/s", 2),
        Column("out/s", 2),
        Column("lag", 1),
        Column("eta", 1),
        Column("workers", 3),
        Column("consumers", 4),
        Column("state", text=True),
    )
    show_table(f"Lanes at {moment(found.at)}", columns, map(_lane_row, found.lanes))
    if found.held:
        click.echo(f"held, of paused types: {found.held:,}")
    if found.workers:
        show_table("Processes", _WORKER_COLUMNS, [_worker_row(worker, found.at) for worker in found.workers])
    for advice in found.advice:
        mark = "! " if advice.needs_somebody else "- "
        click.secho(f"{mark}{printable(advice.text)}", fg="red" if advice.needs_somebody else "yellow")


def _lane_row(lane: LaneStatus) -> Sequence[object]:
    if lane.pauses:
        state = "; ".join(map(str, lane.pauses))
    elif lane.workers is None:
        state = "unknown"
    else:
        state = "consuming" if lane.workers else "nobody consumes"
    return (
        lane.name,
        _known(lane.depth),
        _rate(lane.arrivals),
        _rate(lane.departures),
        _lasting(lane.lag),
        "paused" if lane.is_paused and lane.depth else _eta(lane),
        _known(lane.workers),
        _known(lane.consumers),
        state,
    )


_WORKER_COLUMNS = (
    Column("process"),
    Column("kind"),
    Column("state", text=True),
    Column("version", 1),
    Column("last batch", 2),
    Column("lanes", 3, text=True),
    Column("settings", 4),
    Column("catalog", 5),
    Column("started", 6),
    Column("supervisor", 7),
)


def _worker_row(worker: KnownWorker, now: datetime) -> Sequence[object]:
    why = f" ({worker.why})" if worker.why else ""
    is_silent = worker.is_silent(now)
    state = f"not seen since {moment(worker.seen_at)}" if is_silent else f"{worker.state}{why}"
    batch = f"{worker.last_batch_size} at {moment(worker.last_batch_at)}" if worker.last_batch_at else "none"
    lanes = ", ".join(
        lane_name(queue) if lane.paused is None else f"{lane_name(queue)} (paused)"
        for queue, lane in worker.lanes.items()
    )
    return (
        f"{worker.host}:{worker.pid}",
        worker.kind,
        state,
        worker.version,
        batch,
        lanes,
        worker.settings_hash[:8],
        "unknown" if worker.catalog_hash is None else short_digest(worker.catalog_hash),
        moment(worker.started_at),
        str(worker.supervisor or ""),
    )


def _known(value: int | None) -> object:
    return "unknown" if value is None else value


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"


def _eta(lane: LaneStatus) -> str:
    if lane.eta is None and lane.growth is not None and lane.depth:
        return "never: it grows" if lane.growth > 0 else "never: it stands still"
    return _lasting(lane.eta)


def _lasting(length: timedelta | None) -> str:
    return "unknown" if length is None else lasting(length)
