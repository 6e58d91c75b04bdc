"""``billing-worker demo``: its options and its exit code."""

import random
import sys
from pathlib import Path

import click

from worker.bootstrap import Application, utc_now
from worker.cli.options import as_json
from worker.demo.day import MESSAGES_MIN, day_scenario
from worker.demo.environment import demo_folder, demo_settings
from worker.demo.json_summary import show_summary_as_json
from worker.demo.runner import run_scenario
from worker.demo.scenario import Scenario
from worker.demo.signals import sigterm_like_ctrl_c
from worker.demo.summary import show_start, show_summary
from worker.demo.trace import trace_scenario
from worker.errors import DemoError
from worker.runtime.logging import configure_logging

_MESSAGES = 2_000
_USERS = 200


@click.command()
@click.option("--messages", type=click.IntRange(MESSAGES_MIN), help=f"Number of messages.  [{_MESSAGES}]")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same day.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="Usage from a real trace instead: TIMESTAMP,ContextTokens,GeneratedTokens.",
)
@click.option("--users", type=click.IntRange(1), help=f"Users that share the trace.  [{_USERS}]")
@click.option("--broker-url", help="Run on this broker; with --database-url.")
@click.option("--database-url", help="Run on this database, which is migrated; with --broker-url.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep the files in this folder: logs and, without servers, ledger and broker.",
)
@as_json
def demo(
    *,
    messages: int | None,
    seed: int,
    trace: Path | None,
    users: int | None,
    broker_url: str | None,
    database_url: str | None,
    workers: int,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Run a realistic day of messages through a worker, and show the result.

    Needs no server and no configuration: the ledger is a SQLite file and the broker another one, in a
    temporary folder. Settings from the environment have no effect. Exit 0 only if every message has its
    reply or its dead letter and the audit holds.
    """
    _check_options(messages, trace, users, broker_url, database_url)
    with sigterm_like_ctrl_c(), demo_folder(keep) as folder:
        settings = demo_settings(folder, broker_url, database_url, workers)
        configure_logging(settings.log_level, settings.log_format)
        application = Application(settings, name="billing-worker demo")
        try:
            if trace is None:
                suffix = "" if broker_url is None else f"-{int(utc_now().timestamp()):x}"
                scenario = _day(application, seed, messages or _MESSAGES, suffix)
            else:
                scenario = _trace(application, trace, seed, users or _USERS)
            if not as_json:
                show_start(settings, scenario, None if broker_url else folder, kept=keep is not None)
            result = run_scenario(application, scenario, folder)
            (show_summary_as_json if as_json else show_summary)(application, scenario, result)
        except DemoError as error:
            click.echo(error.log, err=True)
            raise
        finally:
            application.engine.dispose()
    if result.problems():
        sys.exit(1)


def _check_options(
    messages: int | None,
    trace: Path | None,
    users: int | None,
    broker_url: str | None,
    database_url: str | None,
) -> None:
    if (broker_url is None) != (database_url is None):
        raise click.UsageError("give --broker-url and --database-url, or neither")
    if trace is None and users is not None:
        raise click.UsageError("--users goes with --trace")
    if trace is not None and messages is not None:
        raise click.UsageError("--messages does not go with --trace: every row is one")


def _day(application: Application, seed: int, messages: int, suffix: str) -> Scenario:
    rng = random.Random(seed)  # noqa: S311 - randomness of a demo, no secret
    return day_scenario(rng, utc_now(), application.catalog, messages=messages, suffix=suffix)


def _trace(application: Application, path: Path, seed: int, users: int) -> Scenario:
    return trace_scenario(path, seed=seed, users=users, now=utc_now(), catalog=application.catalog)
