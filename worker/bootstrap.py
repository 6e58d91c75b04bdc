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
from worker.ledger.session_settings import SessionSettings, needed, server_timeout_s
from worker.ledger.slots import slot_by_slot
from worker.runtime.identity import process_name, runner_name
from worker.settings import Settings, broker_user, config_digest, own_users

if TYPE_CHECKING:
    from pydantic import SecretStr
    from sqlalchemy import Engine

    from worker.broker import Link, Topology
    from worker.broker.management import Management
    from worker.consumer import Consumer
    from worker.deadletters.drainer import Drainer
    from worker.deadletters.link_drainer import LinkDrainer
    from worker.deadletters.replay.runner import ReplayRunner
    from worker.deadletters.service import DeadLetters
    from worker.lanes.partitions import PartitionShare
    from worker.lanes.pausing import Lanes
    from worker.ledger.partition_leases import PartitionLeases
    from worker.ledger.pauses import Pauses
    from worker.ledger.roles import RoleNames
    from worker.ledger.store import Ledger
    from worker.messages.policy import Policy
    from worker.messages.reply_queue import ReplyQueueWatch
    from worker.metrics import Metrics
    from worker.pipeline import Pipeline
    from worker.queries import QueryService
    from worker.queries.reader import QueryReader
    from worker.queries.sources import Database
    from worker.recovery.run import RecoveryResources
    from worker.runtime.stop import Stop
    from worker.scheduler import Scheduler
    from worker.waiting_watch import WaitingWatch

#: Share of the broker's consumer timeout after which an outage's held messages are given back.
_HELD_SHARE = 0.8
#: Factor on the database's deadlines for work that is no batch: a page of due accounts, a replay.
_PATIENCE = 3
#: Longest statement of a query, in seconds.
_QUERY_TIMEOUT_S = 15.0


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

    def _database_url(self, replica: SecretStr | None) -> str:
        """Return the URL of the database, or of its replica, with the files of its certificates."""
        url = (replica or self.settings.database_url).get_secret_value()
        if replica is None:
            url = of_primary(url)
        return with_certificates(url, self.settings.certificates)

    @property
    def unsafe_way_to_the_broker(self) -> str | None:
        """Sentence about what is unsafe on the way to the broker; None where nothing is."""
        return BrokerAddress.parse(self.broker_url).warning() if is_amqp(self.broker_url) else None

    @property
    def unsafe_way_to_the_database(self) -> str | None:
        """Sentence about what is unsafe on the way to the database; None where nothing is."""
        url = self._database_url(None)
        return DatabaseAddress.parse(url).warning() if is_postgresql(url) else None

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
        from worker.ledger.replica import part_of

        def ask(url: str) -> str:
            engine = ledger_engine(
                url, application_name=self._name, settings_on=self.settings.session_settings
            )
            try:
                return part_of(engine)
            finally:
                engine.dispose()

        url = self._database_url(None)
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
    def engine(self) -> Engine:
        """The ledger's database."""
        return self._engine()

    @cached_property
    def metrics(self) -> Metrics:
        """This process's counters."""
        from worker.metrics import Metrics

        return Metrics()

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
        """The database as batches use it: everything by its key, and no longer than a batch ever should."""
        return self._engine(only_by_key=True, guard=self.guard)

    def _engine(
        self,
        name: str | None = None,
        *,
        url: SecretStr | None = None,
        statement_timeout_s: float = 0,
        only_by_key: bool = False,
        only_reads: bool = False,
        guard: DatabaseGuard | None = None,
        patience: int = 1,
    ) -> Engine:
        engine = ledger_engine(
            self._database_url(url),
            application_name=name or self._name,
            statement_timeout_s=statement_timeout_s,
            only_by_key=only_by_key,
            only_reads=only_reads,
            guard=guard,
            patience=patience,
            settings_on=self.settings.session_settings,
        )
        return slot_by_slot(engine) if self.settings.ledger_form is LedgerForm.DISTRIBUTED else engine

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

        return Ledger(self.batch_engine, self.settings.ledger_form)

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

    def consumer(self, stop: Stop) -> Consumer:
        """The worker's loop, ready to run."""
        from worker.broker import BILLING
        from worker.consumer import Consumer, ConsumerPace
        from worker.lanes.pausing import Lanes, is_new_config
        from worker.lanes.poison import PoisonTrials
        from worker.lanes.schema import SchemaPause
        from worker.ledger.pauses import Pauses
        from worker.ledger.trials import Trials

        work = [queue.name for queue in BILLING.work]  # those of partitions come by leases
        config = config_digest(self.settings, self.catalog)
        settings = self.settings
        worker, pauses = process_name(), Pauses(self.batch_engine)
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
            seconds=self._seconds,
        )
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
            poison=PoisonTrials(Trials(self.batch_engine, worker), self.clock),
            lanes=lanes,
            partitions=self._partition_share(lanes),
            schema=SchemaPause(
                ledger.require_usable,
                work,
                pauses,
                worker=worker,
                config=config,
                clock=self.clock,
                metrics=self.metrics,
                seconds=self._seconds,
            ),
            pace=ConsumerPace(
                batch_size=settings.batch_size, prefetch=settings.prefetch, hold_most_s=self._hold_most_s
            ),
            stop=stop,
            rng=self.rng(),
            metrics=self.metrics,
            exits_on_limit=settings.on_limit == "exit",
            bulk=BILLING.bulk.name,
        )

    def _partition_share(self, lanes: Lanes) -> PartitionShare:
        from worker.lanes.partitions import PartitionShare, SharePace, prefetch_of
        from worker.ledger.partition_leases import PartitionLeases

        settings = self.settings
        partitions = self.served_topology().partitions
        return PartitionShare(
            PartitionLeases(self.batch_engine, lease_s=settings.lease_s),
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

    def scheduler(self) -> Scheduler:
        """Scheduler of commands for what falls due, ready to run."""
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
        return QueryService(sources, self.catalog, clock=self.clock, sleep=self._sleep)

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
        )

    def reply_queue_watch(self) -> ReplyQueueWatch:
        """Watch over the default reply queue, ready to run."""
        from worker.messages.reply_queue import ReplyQueueWatch

        return ReplyQueueWatch(self.link, self.settings.reply_queue, self.metrics)

    def waiting_watch(self) -> WaitingWatch:
        """Watch over events that wait for their payment, ready to run."""
        from worker.waiting_watch import WaitingWatch

        days = self.catalog.payments.waiting_days
        return WaitingWatch(self.service_engine, days, self.metrics, self.clock)

    def drainer(self) -> Drainer:
        """Drainer of the dead-letter queue into the ledger's database, ready to run."""
        from worker.broker import BILLING
        from worker.deadletters.drainer import Drainer

        return Drainer(
            lambda: self.link(consume=[BILLING.dead.name]),
            self._service(self.service_engine),
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

    def _service(self, engine: Engine) -> DeadLetters:
        from worker.deadletters.service import DeadLetters
        from worker.ledger.known_ids import known_ids
        from worker.messages.known_ids import received

        policy = self.policy_of_commands
        return DeadLetters(
            engine,
            catalog=self.catalog,
            receive=lambda delivery, now: received(delivery, policy, now, partial(known_ids, engine)),
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

    def require_readable_schema(self) -> None:
        """Raise ConfigurationError unless this version may read the schema; see ``require_usable_schema``."""
        self.require_usable_schema(use=SchemaUse.READ)
