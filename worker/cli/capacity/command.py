"""``plan`` itself: the load as options, the plan as a table or JSON."""

import sys
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import click

from schemas.partitions import PARTITIONS
from worker.cli.capacity.costs import MEASURED, costs_file, load_costs
from worker.cli.capacity.model import DAY_S, CapacityPlan, Part, PlannedLoad, plan_for
from worker.cli.options import as_json
from worker.cli.output import show_fields, show_json, show_table
from worker.cli.rates import RATE

_MOST_A_SECOND = 10**9
_MOST_USERS = 10**12


class _Share(click.ParamType[float, str]):
    """Share as people write it: 0.3 or 30%."""

    name = "share"

    def __init__(self, least: float = 0.0) -> None:
        self._least = least

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the share, or fail with the forms that are taken."""
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not self._least <= share <= 1:
            self.fail(f"{text!r} must be from {self._least:g} to 1, as 0.3 or 30%", param, ctx)
        return share


@click.command()
@click.option(
    "--messages-per-second",
    type=RATE,
    metavar="RATE",
    help="Rate at the peak: 5000, 5000/s or 300000/min.",
)
@click.option(
    "--messages-per-day",
    type=click.IntRange(1, _MOST_A_SECOND * DAY_S),
    help="Messages of a day, for the disk.  [default: the peak, all day]",
)
@click.option(
    "--partitions",
    type=click.Choice(["0", *map(str, PARTITIONS)]),
    default="0",
    show_default=True,
    help="Partitions of the queues; 0: none.",
)
@click.option(
    "--users", type=click.IntRange(1, _MOST_USERS), default=10_000, show_default=True, help="Accounts."
)
@click.option(
    "--metered", type=_Share(), default=0, help="Share of `usage.record`, as 0.3 or 30%.  [default: 0]"
)
@click.option("--bulk", type=_Share(), default=0, help="Share that comes in bulk and may wait.  [default: 0]")
@click.option(
    "--broker-nodes",
    type=click.Choice(["1", "3", "5"]),
    default="1",
    show_default=True,
    help="Nodes of RabbitMQ.",
)
@click.option("--distributed", is_flag=True, help="The ledger is on a Citus coordinator and its nodes.")
@click.option(
    "--database-nodes",
    type=click.IntRange(1, 64),
    help="With --distributed: nodes beside the coordinator; 1: all is on one.  [default: what it takes]",
)
@click.option(
    "--machine-cores", type=click.IntRange(1, 1024), default=8, show_default=True, help="Cores of a machine."
)
@click.option(
    "--utilization",
    type=_Share(0.1),
    default=0.6,
    help="Share of the cores that may be busy at the peak.  [default: 0.6]",
)
@click.option(
    "--costs",
    "costs_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Costs measured on your machines, a TOML file.",
)
@click.option(
    "--show-costs",
    is_flag=True,
    help="Print the costs as such a file, with the command that measures each, instead of a plan.",
)
@as_json
def plan(
    *,
    messages_per_second: float | None,
    partitions: str,
    broker_nodes: str,
    distributed: bool,
    costs_path: Path | None,
    show_costs: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Plan the machines for a rate of messages: cores, worker processes, memory and disk.

    It counts with the measured costs of a message and says what it assumes. It asks no server. Exit 1
    where the plan passes a limit, such as the cores of one database.

    \b
    Examples:
      billing-worker plan --messages-per-second 2000
      billing-worker plan --messages-per-second 10000 --partitions 16 --broker-nodes 3 --bulk 30%
      billing-worker plan --messages-per-second 50000 --partitions 64 --distributed --json
      billing-worker plan --show-costs > costs.toml
    """
    costs = MEASURED if costs_path is None else load_costs(costs_path)
    if show_costs:
        click.echo(costs_file(costs))
        return
    if messages_per_second is None:
        raise click.UsageError("say --messages-per-second, the rate at the peak, such as 5000 or 300000/min")
    load = PlannedLoad(
        messages_per_second=messages_per_second,
        partitions=int(partitions),
        broker_nodes=int(broker_nodes),
        is_distributed=distributed,
        **asked,
    )
    _require_sense(load)
    found = plan_for(load, costs)
    if as_json:
        show_json(_as_dict(load, found))
    else:
        _show(load, found)
    sys.exit(0 if found.holds else 1)


def _require_sense(load: PlannedLoad) -> None:
    """Raise UsageError where options contradict each other."""
    if not isfinite(load.messages_per_second) or load.messages_per_second > _MOST_A_SECOND:
        raise click.UsageError(f"--messages-per-second: at most {_MOST_A_SECOND:,} are planned for")
    if load.database_nodes is not None and not load.is_distributed:
        raise click.UsageError("--database-nodes goes with --distributed")
    if load.daily > load.messages_per_second * DAY_S:
        raise click.UsageError(
            f"--messages-per-day: {load.daily:,.0f} are more than the peak all day long, "
            f"{load.messages_per_second * DAY_S:,.0f}: raise --messages-per-second"
        )


# -- output -----------------------------------------------------------------------------------------------

_COLUMNS = ("part", "µs a message", "busy cores", "cores", "machines")


def _show(load: PlannedLoad, found: CapacityPlan) -> None:
    rows = [
        (part.name, f"{part.us_a_message:.0f}", f"{part.busy_cores:.2f}", part.cores, part.machines)
        for part in found.parts
    ]
    show_table(f"Plan for {load.messages_per_second:,.10g} messages a second", _COLUMNS, rows)
    show_fields("", [(name, show(found)) for name, show in _FIELDS.items()])
    click.echo()
    click.echo(_conclusion(load, found))
    for text in found.limits:
        click.echo(f"{click.style('limit', fg='red')}       {text}")
    for text in found.assumptions:
        click.echo(f"{click.style('assumption', fg='yellow')}  {text}")


_FIELDS: Mapping[str, Callable[[CapacityPlan], str]] = {
    "worker processes": lambda found: f"{found.worker_processes:,}",
    "their memory": lambda found: _size(found.worker_megabytes * 10**6),
    "messages a transaction": lambda found: f"{found.messages_a_transaction:,}",
    "disk a day": lambda found: _size(found.disk_bytes_a_day),
    "of it the index of references": lambda found: _size(found.reference_bytes_a_day),
    "accounts, to be in memory": lambda found: _size(found.account_bytes),
    "the broker's memory": lambda _: "unknown",
}


def _conclusion(load: PlannedLoad, found: CapacityPlan) -> str:
    if not found.holds:
        return "The plan doesn't hold: it passes a limit."
    if found.fits_one_machine(load):
        return (
            f"One machine of {load.machine_cores} cores is enough: together they take {found.shared_cores}."
        )
    return f"It takes {found.cores} cores, on several machines of {load.machine_cores}."


def _size(count: int) -> str:
    """Return a number of bytes as people read it."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1_000:
            return f"{size:.3g} {unit}"
        size /= 1_000
    return f"{size:,.1f} TB"


def _as_dict(load: PlannedLoad, found: CapacityPlan) -> dict[str, Any]:
    return {
        "holds": found.holds,
        "messagesPerSecond": load.messages_per_second,
        "messagesPerDay": round(load.daily),
        "parts": [_part_as_dict(part) for part in found.parts],
        "cores": found.cores,
        "sharedCores": found.shared_cores,
        "fitsOneMachine": found.fits_one_machine(load),
        "workerProcesses": found.worker_processes,
        "workerMegabytes": found.worker_megabytes,
        "messagesPerTransaction": found.messages_a_transaction,
        "diskBytesPerDay": found.disk_bytes_a_day,
        "referenceBytesPerDay": found.reference_bytes_a_day,
        "accountBytes": found.account_bytes,
        "brokerMemoryBytes": None,
        "limits": list(found.limits),
        "assumptions": list(found.assumptions),
    }


def _part_as_dict(part: Part) -> dict[str, Any]:
    return {
        "name": part.name,
        "usPerMessage": round(part.us_a_message, 1),
        "busyCores": round(part.busy_cores, 3),
        "cores": part.cores,
        "machines": part.machines,
    }
