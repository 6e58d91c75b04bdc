"""``config``: the effective settings, where each comes from, and how other workers differ."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.options import as_json, with_wide
from worker.cli.output import show_json, show_table
from worker.cli.table_width import Column
from worker.ledger.workers import KnownWorker
from worker.settings import given_variables
from worker.settings_report import (
    ReportedSetting,
    changed_settings,
    differences,
    report,
    settings_hash,
    unknown_names,
)


@click.command()
@click.option("--changed", is_flag=True, help="Only what differs from the defaults.")
@click.option("--compare", is_flag=True, help="Compare with the processes that run; asks the database.")
@with_wide
@with_application()
@as_json
def config(application: Application, *, changed: bool, compare: bool, as_json: bool) -> None:
    """Show the effective settings: each with its value, its default, and where it comes from.

    Sources are the environment, a .env file in this folder, the file of a secret, and the default; flags of
    other commands come before all of them. Passwords and options of URLs are not shown. A variable that no
    setting has is named with the nearest one that exists. The hash is the same for all workers with the same
    settings.

    --compare lists the settings in which processes that run differ from those here, as their rows say; it
    exits with 1 where one does.

    \b
    Examples:
      billing-worker config --changed
      billing-worker config --compare --json
      BILLING_BATCH_SIZE=200 billing-worker config
    """
    environment, lines = given_variables()
    settings = report(application.settings, environment, lines)
    shown = [one for one in settings if one.is_changed or not changed]
    others = _others(application) if compare else None
    found = [] if others is None else list(_differences(application, others))
    if as_json:
        _show_as_json(application, shown, [str(one) for one in unknown_names([*environment, *lines])], found)
    elif compare:
        _show_differences(found, len(others or ()))
    else:
        _show(application, shown)
    sys.exit(1 if found else 0)


def _others(application: Application) -> Sequence[KnownWorker]:
    """Return the processes that run."""
    application.require_readable_schema()
    now = application.clock()
    return [one for one in application.workers.all(now) if one.is_alive(now)]


def _differences(application: Application, others: Sequence[KnownWorker]) -> Iterator[dict[str, Any]]:
    own = changed_settings(application.settings)
    for other in others:
        for variable, (here, there) in differences(own, other.settings).items():
            yield {
                "worker": other.name,
                "kind": other.kind.value,
                "version": other.version,
                "variable": variable,
                "here": here,
                "there": there,
            }


def _show(application: Application, shown: Sequence[ReportedSetting]) -> None:
    show_table(
        f"Settings, hash {settings_hash(application.settings)}",
        (Column("setting"), Column("value", text=True), Column("default", 2, text=True), Column("from", 1)),
        [(one.variable, _text(one.value), _text(one.default), one.source) for one in shown],
    )


def _show_differences(found: Sequence[Mapping[str, Any]], compared: int) -> None:
    if not found:
        click.echo(f"compared with {compared} processes that run: none differs")
        return
    show_table(
        f"Differences from {compared} processes that run",
        (Column("setting"), Column("here", text=True), Column("there", text=True), Column("process"), "kind"),
        [
            (one["variable"], _text(one["here"]), _text(one["there"]), one["worker"], one["kind"])
            for one in found
        ],
    )


def _show_as_json(
    application: Application,
    shown: Sequence[ReportedSetting],
    unknown: Sequence[str],
    found: Sequence[Mapping[str, Any]],
) -> None:
    show_json(
        {
            "hash": settings_hash(application.settings),
            "settings": [
                {
                    "variable": one.variable,
                    "value": one.value,
                    "default": one.default,
                    "changed": one.is_changed,
                    "from": one.source,
                }
                for one in shown
            ],
            "unknown": unknown,
            "differences": found,
        }
    )


def _text(value: Any) -> str | None:
    """Return a value as it is written in the environment; None for one that is not set."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case list():
            return ",".join(map(str, value))
        case dict():
            return ", ".join(f"{name}: {_text(item)}" for name, item in value.items())
        case _:
            return str(value)
