"""The only place that builds engines, connections, clocks and random numbers, from the settings."""

import logging
import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property

from sqlalchemy import Engine

from schemas import Limits
from worker.broker import BILLING, Link, open_link
from worker.catalog import Catalog, load_catalog
from worker.consumer import Consumer, ConsumerPace
from worker.deadletters.drainer import Drainer
from worker.deadletters.link_drainer import LinkDrainer
from worker.deadletters.replay.runner import ReplayRunner, RunnerResources
from worker.deadletters.service import DeadLetters
from worker.errors import BrokerUnavailableError, ConfigurationError, TransientError
from worker.lanes.pausing import Lanes
from worker.lanes.poison import Suspects
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import current_revision, newest_revision
from worker.ledger.pauses import Pauses
from worker.ledger.primary import DatabaseGuard
from worker.ledger.store import Ledger
from worker.ledger.trials import Trials
from worker.messages.dead_letter_limit import DeadLetterLimit
from worker.messages.policy import Policy
from worker.messages.receiving import message_in
from worker.metrics import Metrics
from worker.pipeline import Pipeline
from worker.runtime.backoff import Outage
from worker.runtime.stop import SignalStop
from worker.scheduler import Scheduler
from worker.settings import Settings, broker_user, config_digest, redacted

log = logging.getLogger(__name__)

#: Share of the broker's consumer timeout after which an outage's held messages are given back.
_HELD_SHARE = 0.8
#: Factor on the database's deadlines for work that is no batch: a page of due accounts, a replay.
_PATIENCE = 3
#: Longest wait for the database once the process is to end, in seconds.
_HURRY_S = 3.0


def utc_now() -> datetime:
    """The clock: aware, UTC."""
    return datetime.now(UTC)


class Application:
    """Parts that the commands work with, each built from the settings when it is first asked for."""

    def __init__(self, settings: Settings, *, name: str = "billing-worker") -> None:
        self.settings = settings
        self._name = name

    @cached_property
    def catalog(self) -> Catalog:
        """Tiers, packages and pricing rules for sale."""
        return load_catalog(self.settings.catalog)

    @cached_property
    def engine(self) -> Engine:
        """The ledger's database."""
        return ledger_engine(self.settings.database_url.get_secret_value(), application_name=self._name)

    @cached_property
    def metrics(self) -> Metrics:
        """This process's counters."""
        return Metrics()

    @cached_property
    def guard(self) -> DatabaseGuard:
        """Deadlines for the database, and the newest primary seen."""
        return DatabaseGuard(self.settings.database_timeout_s)

    @cached_property
    def service_engine(self) -> Engine:
        """The database as loops use it: the primary alone, and no wait without a deadline."""
        url = self.settings.database_url.get_secret_value()
        return ledger_engine(url, application_name=self._name, guard=self.guard, patience=_PATIENCE)

    @cached_property
    def batch_engine(self) -> Engine:
        """The database as batches use it: everything by its key, and no longer than a batch ever should."""
        url = self.settings.database_url.get_secret_value()
        return ledger_engine(url, application_name=self._name, only_by_key=True, guard=self.guard)

    @property
    def ledger(self) -> Ledger:
        """The worker's way to the ledger."""
        return Ledger(self.batch_engine)

    @property
    def pauses(self) -> Pauses:
        """The lanes that workers have paused."""
        return Pauses(self.engine)

    @cached_property
    def process_name(self) -> str:
        """This process, for people: host and process id."""
        return f"{socket.gethostname()}:{os.getpid()}"

    @property
    def _hold_most_s(self) -> float:
        return self.settings.consumer_timeout_s * _HELD_SHARE

    def link(self, *, consume: Sequence[str] = (), prefetch: int | Mapping[str, int] | None = None) -> Link:
        """A new link to the broker, which holds ``prefetch`` messages a queue (or as many as is set)."""
        return open_link(
            self.settings.broker_url.get_secret_value(),
            consume=consume,
            prefetch=self.settings.prefetch if prefetch is None else prefetch,
            name=self._name,
        )

    def consumer(self, stop: SignalStop) -> Consumer:
        """The worker's loop, ready to run."""
        work = [queue.name for queue in BILLING.work]
        config = config_digest(self.settings, self.catalog)
        settings = self.settings
        return Consumer(
            lambda held: self.link(consume=work, prefetch=held),
            self.ledger,
            self.pipeline(self.ledger, is_new_config=self._is_new(config)),
            suspects=Suspects(Trials(self.batch_engine, self.process_name), utc_now),
            lanes=Lanes(
                Pauses(self.batch_engine),
                worker=self.process_name,
                config=config,
                clock=utc_now,
                rng=random.Random(),  # noqa: S311 - jitter, no secrets
                metrics=self.metrics,
            ),
            queues=work,
            pace=ConsumerPace(
                batch_size=settings.batch_size, prefetch=settings.prefetch, hold_most_s=self._hold_most_s
            ),
            stop=stop,
            rng=random.Random(),  # noqa: S311 - jitter, no secrets
            metrics=self.metrics,
            exits_on_limit=settings.on_limit == "exit",
        )

    def _is_new(self, config: str) -> bool:
        """Return True for a configuration new to this database. The first one of all is taken as right."""
        pauses = Pauses(self.batch_engine)
        with suppress(TransientError):  # an outage at the start: nobody can tell
            if pauses.is_new(config):
                return True
            pauses.accept(config, self.process_name, utc_now())
        return False

    def scheduler(self) -> Scheduler:
        """Scheduler of commands for what falls due, ready to run."""
        settings = self.settings
        name = "billing-scheduler"
        url = settings.database_url.get_secret_value()
        return Scheduler(
            lambda: open_link(settings.broker_url.get_secret_value(), name=name),
            ledger_engine(url, application_name=name, guard=self.guard, patience=_PATIENCE),
            interval_s=settings.scheduler_interval_s,
            rate=settings.scheduler_rate,
            clock=utc_now,
            rng=random.Random(),  # noqa: S311 - jitter, no secrets
            metrics=self.metrics,
            sent_as=broker_user(settings.broker_url),
        )

    def drainer(self) -> Drainer:
        """Drainer of the dead-letter queue into the ledger's database, ready to run."""
        return Drainer(
            lambda: self.link(consume=[BILLING.dead.name]),
            self._service(self.service_engine),
            random.Random(),  # noqa: S311 - jitter, no secrets
            hold_most_s=self._hold_most_s,
        )

    def run_scheduler(self, stop: SignalStop) -> None:
        """Run the scheduler in this process until ``stop``, and drain dead letters as they come."""
        stop.on_request(self._hurry)
        self._await_schema(stop)
        log.info(
            "scheduling what falls due in %s through %s",
            redacted(self.settings.database_url),
            redacted(self.settings.broker_url),
        )
        with self._beside(stop, drainer=self.drainer().run):
            self.scheduler().run(stop)
        log.info("stopped")

    def run_worker(self, stop: SignalStop, *, drain: bool = False, with_scheduler: bool = False) -> None:
        """Run one worker in this process until ``stop``, or until nothing is left with ``drain``.

        ``with_scheduler`` also runs a scheduler and a drainer, each in a thread.
        """
        stop.on_request(self._hurry)
        self._await_schema(stop)
        log.info(
            "consuming from %s into %s",
            redacted(self.settings.broker_url),
            redacted(self.settings.database_url),
        )
        self._tell_differences()
        beside = {"scheduler": self.scheduler().run, "drainer": self.drainer().run} if with_scheduler else {}
        with self._beside(stop, **beside):
            self.consumer(stop).run(drain=drain)
        log.info("stopped")

    def _hurry(self) -> None:
        self.guard.hurry(_HURRY_S)

    @contextmanager
    def _beside(self, stop: SignalStop, **loops: Callable[[SignalStop], None]) -> Iterator[None]:
        """Run loops in threads of their names, which end with the block; the error of one ends the block."""
        with ExitStack() as threads:
            running = []
            for name, loop in loops.items():
                thread = threads.enter_context(ThreadPoolExecutor(1, name))
                running.append(thread.submit(loop, stop))
                running[-1].add_done_callback(lambda _: stop.end())
            try:
                yield
            finally:
                if running:
                    stop.end()
        for ended in running:
            ended.result()

    def _tell_differences(self) -> None:
        """Log the differences of the topology. The consumer waits for what it can't do without."""
        with suppress(BrokerUnavailableError):
            link = self.link()
            try:
                for line in link.differences(BILLING):
                    log.warning("topology: %s", line)
            finally:
                link.close()

    def serve_metrics(self) -> None:
        """Serve the counters where a port is set. Raises ConfigurationError where it is taken."""
        port = self.settings.metrics_port
        if not port:
            return
        try:
            self.metrics.serve(port)
        except OSError as error:
            raise ConfigurationError(
                f"metrics can't be served on port {port}: {error.strerror}; set another BILLING_METRICS_PORT"
            ) from error

    def _await_schema(self, stop: SignalStop) -> None:
        """Wait out an outage at the start. Raises ConfigurationError for another schema than ours."""
        outage = Outage("database", "waiting for it", logger=log)
        while not stop.requested:
            try:
                self.require_newest_schema(self.batch_engine)
            except TransientError as error:
                outage.began(error)
                stop.wait(1.0)
            else:
                outage.ended()
                return

    def pipeline(self, ledger: Ledger, *, is_new_config: bool = False) -> Pipeline:
        """Pipeline of batches, with the dead-letter limit of each lane."""
        return Pipeline(
            ledger,
            self.catalog,
            self.policy,
            clock=utc_now,
            pause=time.sleep,
            metrics=self.metrics,
            limit=DeadLetterLimit(self.settings.max_consecutive_faults, is_new_config=is_new_config),
        )

    @property
    def policy(self) -> Policy:
        """Message-handling policy from the settings."""
        settings = self.settings
        return Policy(
            limits=Limits(max_quantity=settings.max_quantity),
            tries=settings.tries,
            reply_queue=settings.reply_queue,
            reply_to_prefixes=settings.reply_to_prefixes,
            senders=settings.senders,
        )

    def service(self) -> DeadLetters:
        """The dead letters, judged by this worker's own rules."""
        return self._service(self.engine)

    def _service(self, engine: Engine) -> DeadLetters:
        policy = self.policy
        return DeadLetters(
            engine,
            catalog=self.catalog,
            receive=lambda delivery, now: message_in(delivery, policy, now),
            clock=utc_now,
            sent_as=broker_user(self.settings.broker_url),
        )

    def replayer(self, name: str | None = None) -> ReplayRunner:
        """Runner of replays. ``name`` is unique to it, made up where none is given."""
        made_up = f"{socket.gethostname()}:{os.getpid()}:{random.randrange(16**6):06x}"  # noqa: S311 - no secret
        return ReplayRunner(
            RunnerResources(
                engine=self.service_engine,
                connect=self.link,
                drain=self._link_drainer,
                name=name or made_up,
                clock=utc_now,
                seconds=time.monotonic,
                rng=random.Random(),  # noqa: S311 - jitter, no secrets
                sent_as=broker_user(self.settings.broker_url),
                hold_most_s=self._hold_most_s,
            )
        )

    def _link_drainer(self) -> LinkDrainer:
        service = self._service(self.service_engine)
        service.probe()
        return service.link_drainer(self.link(consume=[BILLING.dead.name]))

    def require_newest_schema(self, engine: Engine | None = None) -> None:
        """Raise ConfigurationError unless the database is at the revision this version needs."""
        current, newest = current_revision(engine or self.engine), newest_revision()
        if current != newest:
            raise ConfigurationError(
                f"the ledger's schema is at {current or 'nothing'}, this version needs {newest}: "
                "run `billing-worker migrate`"
            )
