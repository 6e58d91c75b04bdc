"""Loops that run until SIGTERM: ``run``, ``readers`` and ``scheduler``."""

import gc
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import click

from worker.bootstrap import Application
from worker.cli.application import with_application
from worker.cli.options import Command
from worker.cli.output import show_json
from worker.errors import ConfigurationError, LimitExceededError, UnsupportedStatementError
from worker.metrics import ProcessRole
from worker.processes import run_reader, run_scheduler, run_worker
from worker.runtime.service_manager import ServiceManager, reported
from worker.runtime.stop import SignalStop
from worker.runtime.supervisor import LIMIT_EXIT, UNSUPPORTED_EXIT, Program, Supervisor, follow_parent
from worker.settings import Settings, environment_of

log = logging.getLogger(__name__)


def _of_the_supervisor(command: Command) -> Command:
    """Give a command the options that a supervisor passes to the processes under it."""
    report = click.option("--report", type=int, hidden=True, help="The pipe for reports of the loop's turns.")
    supervised = click.option("--supervised", type=int, hidden=True, help="The supervisor's process id.")
    return supervised(report(command))


@click.command()
@with_application(
    "broker_url",
    "database_url",
    "catalog",
    "workers",
    "readers",
    "batch_size",
    "prefetch",
    "on_limit",
    "wait_for_schema",
    "metrics_port",
    "log_level",
    "log_format",
    "log_references",
)
@click.option("--drain", is_flag=True, help="Apply what is waiting, then end; schedules nothing.")
@click.option(
    "--with-scheduler",
    is_flag=True,
    help="Also do what `billing-worker scheduler` does, in one of the workers  [BILLING_WITH_SCHEDULER]",
)
@_of_the_supervisor
def run(
    application: Application,
    *,
    drain: bool,
    with_scheduler: bool,
    supervised: int | None,
    report: int | None,
) -> None:
    """Consume messages, apply them to the ledger, reply; until SIGTERM.

    Beside the workers it runs --readers processes that answer queries, see `billing-worker readers`.

    The first SIGTERM (or Ctrl-C) finishes the batch, replies, acknowledges and exits 0; a second one ends
    at once. An outage of the database or the broker is waited out.

    When more than BILLING_MAX_CONSECUTIVE_FAULTS messages (100) of a queue in a row met a fault of the
    worker's, as after a bad deploy, that queue is paused: what waits stays there, the other queues go on, and
    one message is tried at growing intervals. It goes on by itself, or at `billing-worker resume`;
    `billing-worker check` says what is paused and why. With --on-limit exit (and with --drain) the worker
    exits with 5 instead. It exits with 6 where the database does not support a statement. Where something
    restarts it by itself, leave out both (systemd: RestartPreventExitStatus=5 6).

    SIGHUP reads the catalog again, between two batches; one that is bad is logged, and the old one stays.
    Under systemd (Type=notify) it reports when it is ready, what it waits for, and signs of life, as long as
    the loop of each process turns.
    """
    stop = _prepared(application, supervised, report)
    settings = application.settings
    with_scheduler |= settings.with_scheduler
    if drain and settings.workers > 1:
        raise ConfigurationError("--drain runs one worker; leave --workers out")
    if supervised is None and not drain and settings.workers + settings.readers > 1:
        programs = (*_workers(settings, with_scheduler=with_scheduler), *_readers(settings, settings.workers))
        sys.exit(_supervised(application, programs, stop))
    with_scheduler &= not drain
    with reported(ServiceManager.take(os.environ), application.health, stop):
        _run_worker(application, stop, drain=drain, with_scheduler=with_scheduler, supervisor=supervised)


def _run_worker(
    application: Application, stop: SignalStop, *, drain: bool, with_scheduler: bool, supervisor: int | None
) -> None:
    application.serve_metrics(ProcessRole.WORKER, *([ProcessRole.SCHEDULER] if with_scheduler else ()))
    collect_seldom()
    try:
        run_worker(application, stop, drain=drain, with_scheduler=with_scheduler, supervisor=supervisor)
    except LimitExceededError as error:
        log.critical("%s", error)
        sys.exit(LIMIT_EXIT)
    except UnsupportedStatementError as error:
        log.critical("%s", error)
        sys.exit(UNSUPPORTED_EXIT)


OBJECTS_A_COLLECTION = 50_000


def collect_seldom() -> None:
    """Search for cycles of objects seldom, and not among those that exist by now.

    They stay, and a batch leaves no cycles: the search after every 700 objects took 5 of 95 µs a message, and
    showed in the slowest requests.
    """
    gc.freeze()
    gc.set_threshold(OBJECTS_A_COLLECTION)


def _prepared(application: Application, supervised: int | None, report: int | None) -> SignalStop:
    """Return the stop of this process, which takes its signals and reports to its supervisor."""
    stop = SignalStop()
    stop.install()
    application.hang_up.install()
    if supervised is not None:
        follow_parent(supervised)
    if report is not None:
        application.health.report_to(report)
    return stop


def _supervised(application: Application, programs: Sequence[Program], stop: SignalStop) -> int:
    supervisor = Supervisor(
        programs,
        application.rng(),
        service=ServiceManager.take(os.environ),
        live_s=application.health.live_s,
        hang_up=application.hang_up,
        judge=application.catalog_reload.is_good,
    )
    return supervisor.run(stop)


def _workers(settings: Settings, *, with_scheduler: bool) -> Iterator[Program]:
    """Yield the workers; the first runs the scheduler."""
    for place in range(settings.workers):
        changes = {"with_scheduler": with_scheduler and place == 0}
        yield Program("run", ("--workers", "1"), _environment(settings, place, changes))


def _readers(settings: Settings, place: int) -> Iterator[Program]:
    """Yield the readers, behind ``place`` other processes."""
    for number in range(settings.readers):
        yield Program("readers", ("--readers", "1"), _environment(settings, place + number))


def _environment(
    settings: Settings, place: int, changes: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, str]:
    """Return the environment of a process; each serves its metrics on a port of its own."""
    port = settings.metrics_port
    return environment_of(
        settings.model_copy(update={"metrics_port": port + place if port else 0, **changes})
    )


@click.command()
@with_application(
    "broker_url",
    "database_url",
    "catalog",
    "readers",
    "wait_for_schema",
    "metrics_port",
    "log_level",
    "log_format",
)
@_of_the_supervisor
def readers(application: Application, *, supervised: int | None, report: int | None) -> None:
    """Answer queries; until SIGTERM.

    A query (`query.balance`, `query.afford`, `query.history`, `query.usage`, `query.stats`,
    `query.operation`, `query.catalog`) asks about the ledger and moves nothing; its answer goes to its
    `reply_to`. Each process takes what has arrived and answers it together. It reads
    BILLING_READ_DATABASE_URL, a replica, where that is set and not more than BILLING_READ_MAX_LAG_S
    seconds (10) behind; else the primary.

    `billing-worker run` runs one of them beside the workers. Run them alone where reading has machines of its
    own, and `run --readers 0` there.
    """
    stop = _prepared(application, supervised, report)
    settings = application.settings
    if supervised is None and settings.readers > 1:
        sys.exit(_supervised(application, list(_readers(settings, 0)), stop))
    if supervised is None and not settings.readers:
        raise ConfigurationError("--readers 0 answers nothing; give 1 or more")
    application.serve_metrics(ProcessRole.READER)
    collect_seldom()
    with reported(ServiceManager.take(os.environ), application.health, stop):
        run_reader(application, stop, supervised)


@click.command()
@with_application(
    "broker_url", "database_url", "catalog", "wait_for_schema", "metrics_port", "log_level", "log_format"
)
@click.option(
    "--once", is_flag=True, help="Publish what is due now, as much as one interval allows; then end."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts; with --once.")
def scheduler(application: Application, *, once: bool, as_json: bool) -> None:
    """Publish a command for each account of which something falls due; until SIGTERM.

    Holds run out, credit expires or takes effect, a free tier's period begins: nothing sends a message then,
    so this sends `account.settle`, which the workers apply like any other command, with a reference of the
    account and the time. Several may run: each reference is applied once. Balances are right without it, for
    they count what is due; but notices, statistics and the next allocation come when it is posted. It also
    drains the dead-letter queue, as dead letters come, and tells of events that wait for their payment longer
    than the catalog's waiting_days.

    It looks every BILLING_SCHEDULER_INTERVAL_S seconds (5) and publishes at most BILLING_SCHEDULER_RATE
    commands a second (200), after a day of standing still as well. An outage of the database or the broker
    is waited out; SIGTERM (or Ctrl-C) ends it with 0.
    """
    if as_json and not once:
        raise click.UsageError("--json goes with --once")
    if once:
        application.require_usable_schema()
        published = application.scheduler().tick_now()
        if as_json:
            show_json({"published": published})
        else:
            click.echo(f"published {published} commands for what fell due")
        return
    stop = _prepared(application, None, None)
    application.serve_metrics(ProcessRole.SCHEDULER)
    with reported(ServiceManager.take(os.environ), application.health, stop):
        run_scheduler(application, stop)
