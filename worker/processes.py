"""The processes that run until they are stopped: worker, reader, and scheduler with its drainer."""

import logging
from collections.abc import Callable
from contextlib import closing, suppress

from worker.bootstrap import Application
from worker.errors import BrokerUnavailableError, ConfigurationError
from worker.runtime.backoff import Backoff, Outage, await_server
from worker.runtime.stop import SignalStop
from worker.runtime.threads import beside
from worker.settings import redacted

log = logging.getLogger(__name__)

#: Longest wait for the database once the process is to end, in seconds.
_HURRY_S = 3.0
_RETRY_FIRST_S, _RETRY_MOST_S = 0.5, 2.0


def run_worker(
    application: Application, stop: SignalStop, *, drain: bool = False, with_scheduler: bool = False
) -> None:
    """Run one worker in this process until ``stop``, or until nothing is left with ``drain``.

    ``with_scheduler`` also runs a scheduler and a drainer, each in a thread.
    """
    settings = application.settings
    _begin(application, stop)
    log.info("consuming from %s into %s", redacted(settings.broker_url), redacted(settings.database_url))
    _log_differences(application)
    loops: dict[str, Callable[[SignalStop], None]] = {}
    if with_scheduler:
        loops = {
            "scheduler": application.scheduler().run,
            "drainer": application.drainer().run,
            "replies": application.reply_queue_watch().run,
            "payments": application.waiting_watch().run,
        }
    with beside(stop, **loops):
        application.consumer(stop).run(drain=drain)
    log.info("stopped")


def run_scheduler(application: Application, stop: SignalStop) -> None:
    """Run the scheduler in this process until ``stop``, and drain dead letters as they come."""
    settings = application.settings
    _begin(application, stop)
    log.info(
        "scheduling what falls due in %s through %s",
        redacted(settings.database_url),
        redacted(settings.broker_url),
    )
    loops = {
        "drainer": application.drainer().run,
        "replies": application.reply_queue_watch().run,
        "payments": application.waiting_watch().run,
    }
    with beside(stop, **loops):
        application.scheduler().run(stop)
    log.info("stopped")


def run_reader(application: Application, stop: SignalStop) -> None:
    """Answer queries in this process until ``stop``."""
    settings = application.settings
    _await_schema(application, application.require_readable_schema, stop)
    log.info("answering queries of %s", redacted(settings.broker_url))
    application.query_reader().run(stop)
    log.info("stopped")


def _begin(application: Application, stop: SignalStop) -> None:
    """Wait out an outage at the start. Raises ConfigurationError where the schema isn't for this version."""
    stop.on_request(lambda: application.guard.hurry(_HURRY_S))
    _await_schema(application, lambda: application.require_usable_schema(application.batch_engine), stop)


def _await_schema(application: Application, require: Callable[[], None], stop: SignalStop) -> None:
    """Wait out an outage, and a schema that isn't for this version where the settings say so.

    Raises ConfigurationError otherwise.
    """
    outage = Outage("database", "waiting for it", logger=log)
    backoff = Backoff(_RETRY_FIRST_S, _RETRY_MOST_S, application.rng())
    waits_for: str | None = None
    while not stop.requested:
        try:
            await_server(require, outage, backoff, stop)
        except ConfigurationError as error:
            if not application.settings.wait_for_schema:
                raise
            if str(error) != waits_for:
                waits_for = str(error)
                log.warning("waiting for the schema: %s", error)
            stop.wait(backoff.next())
        else:
            return


def _log_differences(application: Application) -> None:
    """Log the differences of the topology. The consumer waits for what it can't do without."""
    with suppress(BrokerUnavailableError), closing(application.link()) as link:
        for line in link.differences(application.topology):
            log.warning("topology: %s", line)
