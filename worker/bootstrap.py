"""The only place that builds engines, connections, loops and random numbers, from the settings.

Methods import what they build: a command that asks for a balance starts without the loops, the broker's
client and the dead letters.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING

from worker.addresses import (
    BrokerAddress,
    DatabaseAddress,
    is_amqp,
    is_postgresql,
    of_primary,
    with_certificates,
)
from worker.catalog import Catalog, load_catalog
from worker.errors import BrokerUnavailableError, ConfigurationError
from worker.ledger.compatibility import SchemaUse, compatibility_of
from worker.ledger.engine import ledger_engine
from worker.ledger.form import LedgerForm, require_form
from worker.ledger.primary import DatabaseGuard
from worker.ledger.revisions import newest_revision
from worker.ledger.session_settings import SessionSettings, needed, plans_by_key, server_timeout_s
from worker.ledger.slots import slot_by_slot
from worker.runtime.hang_up import HangUp
from worker.runtime.identity import process_name, runner_name
from worker.runtime.process_health import LIVE_S, ProcessHealth, WatchedStop
from worker.settings import Settings, broker_user, config_digest, own_users

if TYPE_CHECKING:
    from pydantic import SecretStr
    from sqlalchemy import Engine

    from worker.broker import Link, Topology
    from worker.broker.management import Management
    from worker.catalog_reload import CatalogReload
    from worker.consumer import Consumer
    from worker.deadletters.body_check import Receive
    from worker.deadletters.drainer import Drainer
    from worker.deadletters.link_drainer import LinkDrainer
    from worker.deadletters.replay.runner import ReplayRunner
    from worker.deadletters.service import DeadLetters
    from worker.lanes.operator_pauses import PauseWatch
    from worker.lanes.partitions import PartitionShare
    from worker.lanes.pausing import Lanes
    from worker.lanes.returning import HeldReturner
    from worker.lanes.tally import LaneTally
    from worker.ledger.partition_leases import PartitionLeases
    from worker.ledger.pauses import Pauses
    from worker.ledger.roles import RoleNames
    from worker.ledger.store import Ledger
    from worker.ledger.workers import KnownWorker, WorkerKind, Workers
    from worker.messages.policy import Policy
    from worker.messages.reply_queue import ReplyQueueWatch
    from worker.metrics import Metrics, ProcessRole
    from worker.pipeline import Pipeline
    from worker.presence import Presence
    from worker.queries import QueryService
    from worker.queries.reader import QueryReader
    from worker.queries.sources import Database
    from worker.recovery.run import RecoveryResources
    from worker.reversing.run import ReverseResources
    from worker.reversing.survey import SurveyRules
    from worker.runtime.stop import Stop
    from worker.scheduler import Scheduler
    from worker.waiting_watch import WaitingWatch
    from worker.watches import Watches

#: Share of the broker's consumer timeout after which an outage's held messages are given back.
_HELD_SHARE = 0.8
#: Factor on the database's deadlines for work that is no batch: a page of due accounts, a replay.
_PATIENCE = 3
#: Waits for the database, each as long as may be, after which a loop has surely turned.
_WAITS_A_TURN = 2
#: Longest statement of a query, in seconds.
_QUERY_TIMEOUT_S = 15.0
#: Longest statement of a check, which has its own deadline a little later.
_SCAN_TIMEOUT_S = 10.0


def utc_now() -> datetime:
    """Return the time: aware, UTC."""
    return datetime.now(UTC)


class Application:
    """Parts that the commands work with, each built from the settings when it is first asked for."""

    def __init__(
        self,
        settings: Settings,
        *,
        name: str = "billing-worker",
        clock: Callable[[], datetime] = utc_now,
        seconds: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.settings = settings
        self.clock, self._seconds, self._sleep = clock, seconds, sleep
        self._name = name

    @staticmethod
    def rng() -> random.Random:
        """Return a source of random numbers for jitter; not for secrets."""
        return random.Random()  # noqa: S311 - jitter, no secrets

    @cached_property
    def broker_url(self) -> str:
        """The broker's URL, with the files of its certificates."""
        return with_certificates(self.settings.broker_url.get_secret_value(), self.settings.certificates)

    def _database_url(self, replica: SecretStr | None = None) -> str:
        """Return the URL of the database, or of its replica, with the files of its certificates.

        Of a distributed ledger it is the coordinator's: all tables are seen from there.
        """
        if replica is not None:
            return with_certificates(replica.get_secret_value(), self.settings.certificates)
        return self._primary_url(self.settings.coordinator_url or self.settings.database_url)

    def _primary_url(self, url: SecretStr) -> str:
        return with_certificates(of_primary(url.get_secret_value()), self.settings.certificates)

    @property
    def unsafe_way_to_the_broker(self) -> str | None:
        """Sentence about what is unsafe on the way to the broker; None where nothing is."""
        return BrokerAddress.parse(self.broker_url).warning() if is_amqp(self.broker_url) else None

    @property
    def unsafe_way_to_the_database(self) -> str | None:
        """Sentence about what is unsafe on the way to the database; None where nothing is."""
        urls = (self._database_url(), self._primary_url(self.settings.database_url))
        warnings = (DatabaseAddress.parse(url).warning() for url in urls if is_postgresql(url))
        return next((warning for warning in warnings if warning is not None), None)

    def broker_nodes(self) -> dict[str, Callable[[], str]]:
        """Questions to each node of the broker, by its name; each raises BillingError where it is away."""
        from worker.broker import open_link

        def ask(url: str) -> str:
            open_link(url, name=self._name).close()
            return "answers"

        if not is_amqp(self.broker_url):
            return {}
        address = BrokerAddress.parse(self.broker_url)
        return {str(node): partial(ask, address.url_of(node)) for node in address.nodes}

    def database_servers(self) -> dict[str, Callable[[], str]]:
        """Questions to each server of the database, by name; each raises BillingError where it is away."""
        return self._servers_of(self._database_url())

    def node_servers(self) -> dict[str, Callable[[], str]]:
        """Questions to each server of the node whose slots batches use; none where there is no coordinator.

        Each raises BillingError where it is away.
        """
        if self.settings.coordinator_url is None:
            return {}
        return self._servers_of(self._primary_url(self.settings.database_url))

    def _servers_of(self, url: str) -> dict[str, Callable[[], str]]:
        from worker.ledger.replica import part_of

        def ask(url: str) -> str:
            engine = ledger_engine(
                url, application_name=self._name, settings_on=self.settings.session_settings
            )
            try:
                return part_of(engine)
            finally:
                engine.dispose()

        if not is_postgresql(url):
            return {}
        address = DatabaseAddress.parse(url)
        return {str(server): partial(ask, address.url_of(server)) for server in address.servers}

    @cached_property
    def topology(self) -> Topology:
        """The topology that messages are published to, with the partitions that are set."""
        from worker.broker import BILLING

        return BILLING.partitioned(self.settings.partitions)

    def served_topology(self) -> Topology:
        """Return the topology that workers serve: with all partitions that are there, at least those set.

        After their number was lowered, what waits in the others is served until they are deleted. Where the
        broker is away nobody knows of more than are set.
        """
        if not self.settings.partitions:
            return self.topology
        with suppress(BrokerUnavailableError), closing(self.link()) as link:
            return self.topology.partitioned(max(self.settings.partitions, link.partitions(self.topology)))
        return self.topology

    @cached_property
    def catalog(self) -> Catalog:
        """Tiers, packages and pricing rules for sale."""
        return load_catalog(self.settings.catalog)

    @cached_property
    def hang_up(self) -> HangUp:
        """Request to read the catalog again."""
        return HangUp()

    @cached_property
    def catalog_reload(self) -> CatalogReload:
        """Reload of the catalog, for all parts of this process that hold one."""
        from worker.catalog_reload import CatalogReload

        reload = CatalogReload(
            lambda: load_catalog(self.settings.catalog), lambda: self.catalog, self.hang_up
        )
        reload.add(self._use_catalog)
        return reload

    def _use_catalog(self, catalog: Catalog) -> None:
        self.catalog = catalog

    @cached_property
    def health(self) -> ProcessHealth:
        """Health of this process: the turns of its main loop, and what keeps it from its work."""
        longest_wait_s = self.settings.database_timeout_s * _PATIENCE
        return ProcessHealth(max(LIVE_S, _WAITS_A_TURN * longest_wait_s), seconds=self._seconds)

    def loop_stop(self, stop: Stop) -> Stop:
        """Return ``stop`` for a main loop between whose turns the catalog may be reloaded."""
        return WatchedStop(stop, self.turned)

    def turned(self) -> None:
        """Note a turn of the main loop, and reload the catalog where that is asked for."""
        self.health.turned()
        if self.hang_up.requested:
            self.catalog_reload.run()

    def writable(self) -> Callable[[], str | None]:
        """Return a probe of the ledger: the reason why it takes no writes, not older than some seconds."""
        from worker.ledger.store import Ledger

        return self._probed(Ledger(self.service_engine, self.settings.ledger_form).probe)

    def readable(self) -> Callable[[], str | None]:
        """Return a probe of the ledger: the reason why it can't be read, not older than some seconds."""
        return self._probed(self.require_readable_schema)

    def _probed(self, probe: Callable[[], None]) -> Callable[[], str | None]:
        from worker.runtime.cached_value import CachedValue, probe_text

        cached = CachedValue(
            probe, name="the ledger", max_age_s=1.0, timeout_s=2.0, clock=self.clock, pause_factor=1
        )
        return lambda: probe_text(cached.get(), self.clock())

    @cached_property
    def engine(self) -> Engine:
        """The ledger's database; of a distributed ledger the coordinator."""
        return self._engine()

    @cached_property
    def metrics(self) -> Metrics:
        """This process's metrics."""
        from worker.broker import BILLING
        from worker.metrics import Metrics

        return Metrics([queue.name for queue in BILLING.work])

    def serve_metrics(self, *roles: ProcessRole) -> None:
        """Serve this process's metrics and health, where a port is set. Raises ConfigurationError."""
        settings = self.settings
        if settings.metrics_port:
            self._describe_catalog(self.catalog)
            self.catalog_reload.add(self._describe_catalog)
        self.metrics.serve(settings.metrics_listen, settings.metrics_port, *roles, health=self.health)

    def _describe_catalog(self, catalog: Catalog) -> None:
        """Set the digests that the metrics show."""
        self.metrics.describe(catalog=catalog.short_digest, config=config_digest(self.settings, catalog))

    @cached_property
    def guard(self) -> DatabaseGuard:
        """Deadlines for the database, and the newest primary seen."""
        return DatabaseGuard(self.settings.database_timeout_s)

    @cached_property
    def service_engine(self) -> Engine:
        """The database as loops use it: the primary alone, and no wait without a deadline."""
        return self._engine(guard=self.guard, patience=_PATIENCE)

    @cached_property
    def batch_engine(self) -> Engine:
        """The database as batches use it: everything by its key, and no longer than a batch ever should.

        Of a distributed ledger it may be the node that owns the slots.
        """
        node = self._primary_url(self.settings.database_url)
        return self._engine(node=node, only_by_key=True, guard=self.guard)

    @cached_property
    def coordinator_engine(self) -> Engine:
        """The tables beside the ledger, as batches use them: in the same database, or on the coordinator."""
        if self.settings.coordinator_url is None:
            return self.batch_engine
        return self._engine(only_by_key=True, guard=self.guard)

    def _engine(
        self,
        name: str | None = None,
        *,
        url: SecretStr | None = None,
        node: str | None = None,
        statement_timeout_s: float = 0,
        only_by_key: bool = False,
        only_reads: bool = False,
        guard: DatabaseGuard | None = None,
        patience: int = 1,
    ) -> Engine:
        is_distributed = self.settings.ledger_form is LedgerForm.DISTRIBUTED
        engine = ledger_engine(
            node or self._database_url(url),
            application_name=name or self._name,
            statement_timeout_s=statement_timeout_s,
            only_by_key=only_by_key,
            only_reads=only_reads,
            guard=guard,
            patience=patience,
            settings_on=self.settings.session_settings,
            plans=plans_by_key(distributed=is_distributed),
        )
        return slot_by_slot(engine) if is_distributed else engine

    @property
    def needed_settings(self) -> SessionSettings:
        """Settings that sessions of all loops need; times are those of the loop that waits longest."""
        return needed(server_timeout_s(self.settings.database_timeout_s, _PATIENCE))

    def settings_of_roles(self, names: RoleNames) -> Mapping[str, SessionSettings]:
        """Settings of the sessions of workers and of readers, by their role."""
        from worker.ledger.roles import settings_of_roles

        is_distributed = self.settings.ledger_form is LedgerForm.DISTRIBUTED
        return settings_of_roles(names, self.needed_settings, _QUERY_TIMEOUT_S, distributed=is_distributed)

    @property
    def ledger(self) -> Ledger:
        """The worker's way to the ledger."""
        from worker.ledger.store import Ledger

        return Ledger(self.batch_engine, self.settings.ledger_form, self.coordinator_engine)

    @property
    def pauses(self) -> Pauses:
        """The lanes that workers have paused."""
        from worker.ledger.pauses import Pauses

        return Pauses(self.engine)

    @property
    def management(self) -> Management:
        """The management API of the broker."""
        from worker.broker.management import Management

        url = self.settings.management_url
        return Management(self.broker_url, None if url is None else url.get_secret_value())

    @property
    def _hold_most_s(self) -> float:
        return self.settings.consumer_timeout_s * _HELD_SHARE

    def link(
        self,
        *,
        consume: Sequence[str] = (),
        prefetch: int | Mapping[str, int] | None = None,
        bulk: str | None = None,
        one_partition: bool = False,
    ) -> Link:
        """A new link to the broker, which holds ``prefetch`` messages a queue (or as many as is set).

        The queue ``bulk`` may be missing. With ``one_partition`` a batch is of one.
        """
        from worker.broker import open_link

        return open_link(
            self.broker_url,
            consume=consume,
            prefetch=self.settings.prefetch if prefetch is None else prefetch,
            bulk=bulk,
            name=self._name,
            one_partition=one_partition,
        )

    @cached_property
    def pause_watch(self) -> PauseWatch:
        """Pauses of operators, as this process last read them."""
        from worker.lanes.operator_pauses import PauseWatch
        from worker.ledger.operator_pauses import OperatorPauses

        return PauseWatch(OperatorPauses(self.coordinator_engine), self.clock)

    @cached_property
    def tally(self) -> LaneTally:
        """Tally of what this worker has done of each lane."""
        from worker.broker import BILLING
        from worker.lanes.tally import LaneTally

        return LaneTally([queue.name for queue in BILLING.work], self.clock, self._seconds)

    @property
    def workers(self) -> Workers:
        """The processes that run, as they described themselves."""
        from worker.ledger.workers import Workers

        return Workers(self.engine)

    def presence_of_worker(self, consumer: Consumer, supervisor: int | None = None) -> Presence:
        """Presence of the worker in this process, which also reads pauses and returns held messages."""
        from worker.ledger.workers import WorkerKind, Workers
        from worker.presence import Presence

        describe = self._describing(WorkerKind.WORKER, supervisor)

        def described() -> KnownWorker:
            state, why = consumer.state()
            batch_at, batch_size = self.tally.last_batch or (None, None)
            return replace(
                describe(),
                state=state,
                why=why,
                lanes=self.tally.progress(consumer.paused()),
                last_batch_at=batch_at,
                last_batch_size=batch_size,
                pauses_seen_at=consumer.obeyed_at(),
            )

        workers = Workers(self.coordinator_engine)
        return Presence(
            described,
            workers,
            clock=self.clock,
            watch=self.pause_watch,
            returner=self._held_returner(workers),
            seconds=self._seconds,
        )

    def presence(self, kind: WorkerKind, supervisor: int | None = None) -> Presence:
        """Presence of a process of another kind."""
        from worker.ledger.workers import Workers
        from worker.presence import Presence

        describe, workers = self._describing(kind, supervisor), Workers(self.service_engine)
        return Presence(describe, workers, clock=self.clock, seconds=self._seconds)

    def _describing(self, kind: WorkerKind, supervisor: int | None) -> Callable[[], KnownWorker]:
        """Return a function that describes this process as it is now."""
        import os
        import socket

        from worker import __version__
        from worker.ledger.workers import KnownWorker, WorkerState
        from worker.settings_report import changed_settings, settings_hash

        settings = self.settings
        first = KnownWorker(
            name=runner_name(),
            kind=kind,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            settings_hash=settings_hash(settings),
            started_at=self.clock(),
            seen_at=self.clock(),
            state=WorkerState.RUNNING,
            settings=changed_settings(settings),
            supervisor=supervisor,
        )
        return lambda: replace(first, seen_at=self.clock(), catalog_hash=self.catalog.digest)

    def _held_returner(self, workers: Workers) -> HeldReturner:
        from worker.broker import BILLING
        from worker.lanes.returning import HeldReturner
        from worker.ledger.operator_pauses import OperatorPauses
        from worker.ledger.workers import seen_by_all

        return HeldReturner(
            lambda: self.link(consume=[BILLING.held.name], prefetch=0),
            self.pause_watch,
            OperatorPauses(self.coordinator_engine),
            self.policy,
            clock=self.clock,
            seen_by_all=lambda now: seen_by_all(workers.all(now), now),
        )

    def consumer(self, stop: Stop) -> Consumer:
        """The worker's loop, ready to run."""
        from worker.broker import BILLING
        from worker.consumer import Consumer, ConsumerPace
        from worker.lanes.operator_pauses import OperatorPausedLanes
        from worker.lanes.pausing import Lanes, is_new_config
        from worker.lanes.poison import PoisonTrials
        from worker.lanes.schema import SchemaPause
        from worker.ledger.pauses import Pauses
        from worker.ledger.trials import Trials

        work = [queue.name for queue in BILLING.work]  # those of partitions come by leases
        config = config_digest(self.settings, self.catalog)
        settings = self.settings
        worker, pauses = process_name(), Pauses(self.coordinator_engine)
        is_new = is_new_config(pauses, config, worker, self.clock())
        ledger = self.ledger
        pipeline = self.pipeline(ledger, is_new_config=is_new)
        lanes = Lanes(
            work,
            pipeline.limit,
            pauses,
            worker=worker,
            config=config,
            clock=self.clock,
            rng=self.rng(),
            metrics=self.metrics,
            operator=OperatorPausedLanes(work, self.pause_watch, self.metrics),
            seconds=self._seconds,
        )
        schema = SchemaPause(
            ledger.require_usable,
            work,
            pauses,
            worker=worker,
            config=config,
            clock=self.clock,
            metrics=self.metrics,
            seconds=self._seconds,
        )

        def use(catalog: Catalog) -> None:
            config = config_digest(settings, catalog)
            pipeline.use(catalog, self.policy_of_commands)
            lanes.use_config(config, is_new=is_new_config(pauses, config, worker, self.clock()))
            schema.use_config(config)

        self.catalog_reload.add(use)
        return Consumer(
            # A broker that was declared for the version before has no bulk queue: that stops no other lane.
            lambda prefetch: self.link(
                consume=work,
                prefetch=prefetch,
                bulk=BILLING.bulk.name,
                one_partition=settings.ledger_form.has_one_slot,
            ),
            ledger,
            pipeline,
            poison=PoisonTrials(Trials(self.coordinator_engine, worker), self.clock),
            lanes=lanes,
            partitions=self._partition_share(lanes),
            schema=schema,
            pace=ConsumerPace(
                batch_size=settings.batch_size, prefetch=settings.prefetch, hold_most_s=self._hold_most_s
            ),
            stop=stop,
            rng=self.rng(),
            metrics=self.metrics,
            exits_on_limit=settings.on_limit == "exit",
            bulk=BILLING.bulk.name,
            turned=self.health.turned,
            reload=self.catalog_reload,
            on_done=self.tally.note,
        )

    def _partition_share(self, lanes: Lanes) -> PartitionShare:
        from worker.lanes.partitions import PartitionShare, SharePace, prefetch_of
        from worker.ledger.partition_leases import PartitionLeases

        settings = self.settings
        partitions = self.served_topology().partitions
        return PartitionShare(
            PartitionLeases(self.coordinator_engine, lease_s=settings.lease_s),
            lanes,
            worker=runner_name(),
            partitions=partitions,
            prefetch=prefetch_of(partitions, settings.prefetch),
            metrics=self.metrics,
            pace=SharePace(settings.lease_s),
            seconds=self._seconds,
        )

    @property
    def partition_leases(self) -> PartitionLeases:
        """The leases of partitions, as people look at them."""
        from worker.ledger.partition_leases import PartitionLeases

        return PartitionLeases(self.engine, lease_s=self.settings.lease_s)

    def scheduler(self, turned: Callable[[], None] = lambda: None) -> Scheduler:
        """Scheduler of commands for what falls due, ready to run; ``turned`` is called between its steps."""
        from worker.broker import open_link
        from worker.scheduler import Scheduler

        settings = self.settings
        name = "billing-scheduler"
        return Scheduler(
            lambda: open_link(self.broker_url, name=name),
            self._engine(name, guard=self.guard, patience=_PATIENCE),
            interval_s=settings.scheduler_interval_s,
            rate=settings.scheduler_rate,
            clock=self.clock,
            rng=self.rng(),
            metrics=self.metrics,
            sent_as=broker_user(settings.broker_url),
            turned=turned,
            topology=self.topology,
        )

    def queries(self) -> QueryService:
        """Answers to queries, from the replica where there is one."""
        from worker.queries import QueryService
        from worker.queries.sources import Sources

        replica = self.settings.read_database_url
        sources = Sources(
            self._read_database(None),
            None if replica is None else self._read_database(replica),
            max_lag=timedelta(seconds=self.settings.read_max_lag_s),
            clock=self.clock,
        )
        service = QueryService(sources, self.catalog, clock=self.clock, sleep=self._sleep)
        self.catalog_reload.add(service.use)
        return service

    @cached_property
    def scan_engine(self) -> Engine:
        """The database as checks that read whole tables use it: the server ends what takes long."""
        return self._engine(statement_timeout_s=_SCAN_TIMEOUT_S, only_reads=True)

    @cached_property
    def replica_engine(self) -> Engine | None:
        """The replica that queries read, as checks use it; None where there is none."""
        url = self.settings.read_database_url
        return None if url is None else self._engine(url=url, statement_timeout_s=_QUERY_TIMEOUT_S)

    def _read_database(self, url: SecretStr | None) -> Database:
        from worker.queries.sources import Database

        return Database(
            *(
                self._engine(
                    "billing-reader",
                    url=url,
                    statement_timeout_s=_QUERY_TIMEOUT_S,
                    only_by_key=only_by_key,
                    only_reads=True,
                )
                for only_by_key in (True, False)
            )
        )

    def query_reader(self) -> QueryReader:
        """Reader that answers the broker's queries, ready to run."""
        from worker.queries.reader import PREFETCH, QUEUE, QueryReader

        return QueryReader(
            lambda: self.link(consume=[QUEUE], prefetch=PREFETCH),
            self.queries(),
            self.policy,
            clock=self.clock,
            rng=self.rng(),
            metrics=self.metrics,
            turned=self.health.turned,
        )

    def reply_queue_watch(self) -> ReplyQueueWatch:
        """Watch over the default reply queue, ready to run."""
        from worker.messages.reply_queue import ReplyQueueWatch

        return ReplyQueueWatch(self.link, self.settings.reply_queue, self.metrics)

    def waiting_watch(self) -> WaitingWatch:
        """Watch over events that wait for their payment, ready to run."""
        from worker.waiting_watch import WaitingWatch

        days = self.catalog.payments.waiting_days
        watch = WaitingWatch(self.service_engine, days, self.metrics, self.clock)
        self.catalog_reload.add(lambda catalog: watch.use(catalog.payments.waiting_days))
        return watch

    def watches(self) -> Watches:
        """Watches of the scheduler's gauges, ready to run."""
        from worker.broker import BILLING
        from worker.watches import Watches
        from worker.watches.dead_letters import DeadLetterWatch
        from worker.watches.durability import DurabilityWatch
        from worker.watches.payments import RejectedPaymentWatch
        from worker.watches.queues import QueueWatch
        from worker.watches.totals import TotalsWatch

        metrics, engine = self.metrics, self.service_engine
        queues = [queue.name for queue in (*BILLING.work, BILLING.queries, BILLING.dead)]
        return Watches(
            [
                QueueWatch(self.link, queues, metrics, self.topology),
                DeadLetterWatch(engine, metrics),
                RejectedPaymentWatch(engine, metrics, self.clock),
                DurabilityWatch(engine, len(self.database_servers()), metrics),
                TotalsWatch(engine, metrics, self.clock),
            ]
        )

    def drainer(self) -> Drainer:
        """Drainer of the dead-letter queue into the ledger's database, ready to run."""
        from worker.broker import BILLING
        from worker.deadletters.drainer import Drainer

        return Drainer(
            lambda: self.link(consume=[BILLING.dead.name]),
            self.reloading(self._service(self.service_engine), self.service_engine),
            self.rng(),
            hold_most_s=self._hold_most_s,
        )

    def pipeline(self, ledger: Ledger, *, is_new_config: bool = False) -> Pipeline:
        """Pipeline of batches, with the dead-letter limit of each lane."""
        from worker.messages.dead_letter_limit import DeadLetterLimit
        from worker.pipeline import Pipeline

        return Pipeline(
            ledger,
            self.catalog,
            self.policy_of_commands,
            clock=self.clock,
            pause=self._sleep,
            metrics=self.metrics,
            limit=DeadLetterLimit(self.settings.max_consecutive_faults, is_new_config=is_new_config),
            log_references=self.settings.log_references,
        )

    @property
    def policy(self) -> Policy:
        """Message-handling policy from the settings."""
        from schemas import Limits
        from schemas.identifiers import IdRule
        from worker.messages.policy import Policy

        settings = self.settings
        return Policy(
            limits=Limits(max_quantity=settings.max_quantity, ids=IdRule(settings.id_pattern)),
            tries=settings.tries,
            reply_queue=settings.reply_queue,
            reply_to_prefixes=settings.reply_to_prefixes,
            senders=settings.senders,
            topology=self.topology,
            user=broker_user(settings.broker_url),
            worker_users=own_users(settings),
        )

    @property
    def policy_of_commands(self) -> Policy:
        """The policy, with the ids that the catalog sells under: they are no new ones."""
        from worker.messages.known_ids import with_known

        policy = self.policy
        return replace(policy, limits=with_known(policy.limits, self.catalog.ids))

    def service(self) -> DeadLetters:
        """The dead letters, judged by this worker's own rules."""
        return self._service(self.engine)

    def reloading(self, service: DeadLetters, engine: Engine | None = None) -> DeadLetters:
        """Return ``service``, which judges by each catalog that is loaded later."""
        self.catalog_reload.add(lambda catalog: service.use(catalog, self._receive(engine or self.engine)))
        return service

    def _receive(self, engine: Engine) -> Receive:
        """Return the judgement of deliveries by this worker's own rules."""
        from worker.ledger.known_ids import known_ids
        from worker.messages.known_ids import received

        policy = self.policy_of_commands
        return lambda delivery, now: received(delivery, policy, now, partial(known_ids, engine))

    def _service(self, engine: Engine) -> DeadLetters:
        from worker.deadletters.service import DeadLetters

        policy = self.policy_of_commands
        return DeadLetters(
            engine,
            catalog=self.catalog,
            receive=self._receive(engine),
            clock=self.clock,
            sent_as=policy.user,
            worker_users=policy.worker_users,
        )

    def replayer(self, name: str | None = None) -> ReplayRunner:
        """Runner of replays. ``name`` is unique to it, made up where none is given."""
        from worker.deadletters.replay.run import RunnerResources
        from worker.deadletters.replay.runner import ReplayRunner

        return ReplayRunner(
            RunnerResources(
                engine=self.service_engine,
                connect=self.link,
                drain=self._link_drainer,
                name=name or runner_name(),
                clock=self.clock,
                seconds=self._seconds,
                rng=self.rng(),
                sent_as=broker_user(self.settings.broker_url),
                hold_most_s=self._hold_most_s,
                partitions=self.settings.partitions,
            )
        )

    @property
    def survey_rules(self) -> SurveyRules:
        """Rules by which charges are judged before they are reversed."""
        from worker.reversing.survey import SurveyRules

        return SurveyRules(self._receive(self.engine), self.catalog, broker_user(self.settings.broker_url))

    def reverse_resources(self) -> ReverseResources:
        """Resources of runs that reverse charges."""
        from worker.reversing.run import ReverseResources

        return ReverseResources(
            engine=self.service_engine,
            connect=self.link,
            clock=self.clock,
            seconds=self._seconds,
            rng=self.rng(),
            sent_as=broker_user(self.settings.broker_url),
            partitions=self.settings.partitions,
        )

    def recovery_resources(self) -> RecoveryResources:
        """Resources of a recovery: the journal and a link, opened now. The caller closes both."""
        from worker.broker import BILLING
        from worker.broker.journal import open_journal
        from worker.recovery.run import RecoveryResources

        url = self.settings.broker_url
        journal = open_journal(url.get_secret_value(), BILLING.journal, name=self._name)
        try:
            link = self.link()
        except BaseException:
            journal.close()
            raise
        return RecoveryResources(
            journal=journal,
            link=link,
            engine=self.engine,
            policy=self.policy,
            clock=self.clock,
            seconds=self._seconds,
            sent_as=broker_user(url),
        )

    def _link_drainer(self) -> LinkDrainer:
        from worker.broker import BILLING

        service = self._service(self.service_engine)
        service.probe()
        return service.link_drainer(self.link(consume=[BILLING.dead.name]))

    def require_usable_schema(self, engine: Engine | None = None, use: SchemaUse = SchemaUse.WRITE) -> None:
        """Raise ConfigurationError unless the schema is for this version, and in the form that is set."""
        engine = engine or self.engine
        if (misfit := compatibility_of(engine).misfit(newest_revision(), use)) is not None:
            raise ConfigurationError(misfit)
        require_form(engine, self.settings.ledger_form)

    def require_ledger_of_batches(self) -> None:
        """Raise ConfigurationError unless batches can use the database, or the node and its coordinator."""
        self.require_usable_schema(self.coordinator_engine)
        if self.settings.coordinator_url is not None:
            from worker.ledger.distribution import require_node

            require_node(self.batch_engine, self.coordinator_engine)

    def require_readable_schema(self) -> None:
        """Raise ConfigurationError unless this version may read the schema; see ``require_usable_schema``."""
        self.require_usable_schema(use=SchemaUse.READ)
