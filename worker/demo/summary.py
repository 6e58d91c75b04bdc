"""Summary of a demo for people: the start, the result in tables, and the problems."""

from collections.abc import Sequence
from pathlib import Path

import click

from worker.bootstrap import Application, utc_now
from worker.cli.history import show_history
from worker.cli.totals import show_audit
from worker.cli.usage import show_usage
from worker.demo.collector import Collector
from worker.demo.result import DemoResult
from worker.demo.scenario import Scenario
from worker.demo.statistics import count_outcomes, example_user, example_users
from worker.demo.summary_tables import (
    show_balances,
    show_dead_letters,
    show_heading,
    show_notices,
    show_outcomes,
    show_replies,
)
from worker.ledger.queries import Reader
from worker.settings import Settings, redacted

REPLIES_SHOWN = 14
ENTRIES_SHOWN = 12
DAYS_SHOWN = 14
_PROBLEMS_SHOWN = 20


def show_start(settings: Settings, scenario: Scenario, folder: Path | None, *, kept: bool) -> None:
    """Show the servers or the folder, and the notes and counts of the scenario."""
    if folder is not None:
        click.echo(f"embedded in {folder}" + ("" if kept else ", which is removed at the end"))
    else:
        click.echo(f"on {redacted(settings.broker_url)} and {redacted(settings.database_url)}")
    for note in scenario.notes:
        click.echo(note)
    counts = ", ".join(f"{phase.name} {len(phase.messages):,}" for phase in scenario.phases)
    click.echo(f"{len(scenario.messages):,} messages by phase: {counts}")


def show_summary(application: Application, _scenario: Scenario, result: DemoResult) -> None:
    """Show outcomes, notices, some balances, the history of a user, dead letters, the audit, and problems."""
    collector = result.collector
    replies = list(collector.replies.values())
    show_outcomes("Outcomes by type", count_outcomes(replies))
    if items := collector.item_replies():
        show_outcomes("Outcomes of items in batches", count_outcomes(items))
    show_notices(collector.own_notices())
    show_balances(application, example_users(replies))
    if (user := example_user(replies)) is not None:
        _show_user(application, user, collector)
    show_dead_letters(list(collector.dead_letters.values()))
    show_heading("Audit")
    show_audit(result.report)
    click.echo(_totals(result))
    _show_problems(result.problems())


def _show_user(application: Application, user: str, collector: Collector) -> None:
    reader = Reader(application.engine)
    show_replies(user, collector.of_user(user), REPLIES_SHOWN)
    show_heading(f"History of {user}")
    show_history(reader.history(user, ENTRIES_SHOWN))
    show_heading(f"Usage of {user}")
    show_usage(reader.usage(user, utc_now(), application.catalog, DAYS_SHOWN))


def _totals(result: DemoResult) -> str:
    collector = result.collector
    return (
        f"{len(collector.replies):,} of {len(collector.sent):,} messages have a reply, "
        f"{len(collector.dead_letters):,} of them a dead letter; "
        f"{len(collector.own_notices()):,} notices; "
        f"{result.seconds:.1f} s from the first reply to the last"
    )


def _show_problems(problems: Sequence[str]) -> None:
    for line in problems[:_PROBLEMS_SHOWN]:
        click.echo(f"{click.style('problem', fg='red')}: {line}")
    if len(problems) > _PROBLEMS_SHOWN:
        click.echo(f"and {len(problems) - _PROBLEMS_SHOWN} more")
    if not problems:
        click.echo(click.style("every message has its reply or its dead letter", fg="green"))
