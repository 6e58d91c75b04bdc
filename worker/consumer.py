"""The loop: receive, hand to the ledger, reply, acknowledge, until it is asked to stop.

A server that goes away is nobody's fault: messages are kept, the log says so once, the loop waits with
back-off and jitter and goes on by itself. Faults of the worker's own pause the lane they came from.
"""

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from worker.batches import Batch, Batches
from worker.broker import Consumes, Delivery, Link
from worker.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    GiveBackError,
    LimitExceededError,
    TransientError,
    UnusableSchemaError,
)
from worker.lanes.control import LaneControl
from worker.lanes.partitions import PartitionShare
from worker.lanes.pausing import Lanes
from worker.lanes.poison import SHRINK, PoisonTrials, may_be_poison
from worker.lanes.schema import SchemaPause
from worker.lanes.sharing import LaneShares
from worker.lanes.trials import TrialRunner
from worker.ledger.store import Ledger
from worker.ledger.workers import WorkerState
from worker.metrics import Metrics, ProcessRole
from worker.pipeline import Item, Pipeline
from worker.runtime.backoff import Backoff, Outage, await_server
from worker.runtime.session import Session
from worker.runtime.stop import Stop

log = logging.getLogger(__name__)

IDLE_S = 0.5
_WHILE_AWAY = "keeping the messages, trying again until it is back"


@dataclass(frozen=True, slots=True)
class ConsumerPace:
    """Batch size, prefetch and waits after a failure (seconds).

    Messages held in an outage are given back after ``hold_most_s``, before the broker takes them back.
    """

    batch_size: int = 500
    prefetch: int = 1500
    retry_first_s: float = 0.1
    retry_most_s: float = 5.0
    hold_most_s: float = 1440.0


class Reload(Protocol):
    """Reload of what may change while a worker runs; it may ask the ledger."""

    @property
    def requested(self) -> bool:
        """True where somebody has asked for it."""
        ...

    def run(self) -> None:
        """Reload; what is bad is logged, and stays as it was."""
        ...


class Consumer:
    """Runs the pipeline on what a broker delivers, over one link after the other.

    ``connect`` opens a link that holds at most so many messages of each queue. ``exits_on_limit`` ends the
    loop where a lane would be paused. ``bulk`` is the queue that is served last. ``turned`` is called
    while it waits for the ledger; ``reload`` is run between batches; ``on_done`` gets the items of each batch
    that is acknowledged.
    """

    def __init__(
        self,
        connect: Callable[[Mapping[str, int]], Link],
        ledger: Ledger,
        pipeline: Pipeline,
        *,
        poison: PoisonTrials,
        lanes: Lanes,
        partitions: PartitionShare,
        schema: SchemaPause,
        pace: ConsumerPace,
        stop: Stop,
        rng: random.Random,
        metrics: Metrics,
        exits_on_limit: bool = False,
        bulk: str | None = None,
        turned: Callable[[], None] = lambda: None,
        reload: Reload | None = None,
        on_done: Callable[[Sequence[Item]], None] = lambda _: None,
    ) -> None:
        self._connect, self._ledger, self._pipeline = connect, ledger, pipeline
        self._poison, self._lanes, self._schema = poison, lanes, schema
        self._partitions = partitions
        self._pace, self._stop, self._rng, self._metrics = pace, stop, rng, metrics
        self._exits_on_limit = exits_on_limit
        self._shares = LaneShares(bulk, pace.batch_size)
        self._broker, self._database = self._outage("broker"), self._outage("database")
        self._relinking = self._backoff()
        self._has_been_linked = self._is_linked = False
        self._turned, self._reload, self._on_done = turned, reload, on_done

    @property
    def obstacle(self) -> str | None:
        """Reason why it does not take every message now; None while it does. Any thread may ask."""
        if away := [outage.server for outage in (self._broker, self._database) if outage.lasts]:
            return f"the {' and the '.join(away)} is away"
        if self._schema.text is not None:
            return f"paused: {self._schema.text}"
        if not self._is_linked:
            return "it consumes nothing yet"
        if paused := self._lanes.reasons():
            return f"paused: {', '.join(paused)}"
        return None

    def run(self, *, drain: bool = False) -> None:
        """Consume until stopped; with ``drain``, until nothing more arrives.

        Raises LimitExceededError where a lane's limit is passed and no lane is to be paused: with
        ``exits_on_limit``, and with ``drain``, which nobody watches.
        """
        self._exits_on_limit |= drain
        try:
            done = False
            while not (done or self._stop.requested):
                done = self._consume_until_lost(drain=drain)
        finally:
            self._pipeline.write_log(all_=True)
            self._partitions.end()
            self._lanes.end()
            self._schema.end()

    def state(self) -> tuple[WorkerState, str | None]:
        """Return what the loop does, and why where it isn't consuming; any thread may ask."""
        waits_for = next((one.server for one in (self._database, self._broker) if one.lasts), None)
        paused = self._lanes.reasons()
        if self._stop.requested:
            return WorkerState.STOPPING, None
        if self._schema.text is not None:
            return WorkerState.PAUSED, self._schema.text
        if waits_for is not None:
            return WorkerState.WAITING, f"the {waits_for}"
        if not self._has_been_linked:
            return WorkerState.STARTING, None
        if len(paused) < len(self._lanes.queues):
            return WorkerState.CONSUMING, None
        is_quiesced = all(map(self._lanes.operator.is_quiesced, self._lanes.queues))
        return (WorkerState.QUIESCED if is_quiesced else WorkerState.PAUSED), None

    def obeyed_at(self) -> datetime | None:
        """Return when the pauses that it obeys were read; any thread may ask."""
        return self._lanes.operator.obeyed_at

    def paused(self) -> dict[str, str]:
        """Return why each paused lane takes nothing; any thread may ask."""
        return self._lanes.reasons()

    # -- links --------------------------------------------------------------------------------------------

    def _consume_until_lost(self, *, drain: bool) -> bool:
        """Consume over one link; True when ``drain`` is done."""
        try:
            # Nothing is taken from the broker before the ledger takes writes: what is taken and brought back
            # counts as a delivery.
            await_server(self._probe, self._database, self._backoff(), self._stop)
            if self._stop.requested:
                return False
            with self._linked() as link, ThreadPoolExecutor(1, "ledger") as ledger:
                return self._consume(link, ledger, drain=drain)
        except (GiveBackError, UnusableSchemaError):
            return False
        except BrokerUnavailableError as error:
            self._relink_later(self._broker, error)
        except TransientError as error:
            self._relink_later(self._database, error)
        except ConfigurationError as error:
            if not self._has_been_linked:
                raise
            self._relink_later(self._broker, error)  # it was right once: one that starts up refuses anyone
        return False

    def _probe(self) -> None:
        """Wait until the schema is for this version. Raises LedgerUnavailableError unless it takes writes."""
        self._schema.await_usable(self._backoff(), self._stop, exits=self._exits_on_limit)
        if not self._stop.requested:
            self._ledger.probe()

    def _relink_later(self, outage: Outage, error: Exception) -> None:
        outage.began(error)
        self._stop.wait(self._relinking.next())

    @contextmanager
    def _linked(self) -> Iterator[Link]:
        prefetch = self._poison.first_prefetch(self._pace.prefetch)
        self._lanes.adopt_pauses()
        if self._lanes.paused and self._exits_on_limit:
            raise LimitExceededError(
                f"stopped: {self._lanes.paused[0]} is paused, see `billing-worker check`"
            )
        link = self._connect(self._lanes.open(prefetch))
        self._partitions.begin()
        self._has_been_linked = self._is_linked = True
        try:
            yield link
        finally:
            self._is_linked = False
            with suppress(BrokerUnavailableError):
                link.close()

    def _outage(self, server: str) -> Outage:
        return Outage(server, _WHILE_AWAY, **self._metrics.notes(ProcessRole.WORKER, server), logger=log)

    def _backoff(self) -> Backoff:
        return Backoff(self._pace.retry_first_s, self._pace.retry_most_s, self._rng)

    # -- the loop -----------------------------------------------------------------------------------------

    def _consume(self, link: Link, ledger: Executor, *, drain: bool) -> bool:
        """Run batches until the stop. Returns True when ``drain`` is set and nothing comes any more."""
        batches, control = self._parts_on(link, ledger)
        while not self._may_end(batches):
            self._reload_between(batches)
            is_idle, is_settled = batches.is_idle, self._partitions.is_settled
            # A drain ends where nothing comes for the whole time.
            wait_s = IDLE_S if drain else self._partitions.wait_s(IDLE_S)
            deliveries = self._receive(link, self._pace.batch_size, wait_s if is_idle else 0)
            batch, on_record = _decoded(batches, control, deliveries)
            batches.await_in_flight()
            if self._stop.requested and not self._partitions.takes_any:
                break  # what was just received goes back
            if room := self._shares.room_for_late(deliveries):
                late, on_record_too = _decoded(batches, control, self._receive_late(link, room))
                batch.items = self._shares.joined(batch.items, late.items)
                on_record += on_record_too
            batches.start(batch)
            if on_record or self._lanes.needs_attention():
                batches.finish()
                control.try_on_record(on_record)
                control.attend()
            elif batch.is_lone:
                # To read on would take the processor from the ledger's thread, and hold up the reply.
                batches.finish()
            if self._partitions.is_due:
                self._partitions.attend(batches)
            if self._schema.is_due:
                batches.finish()
                batches.session.in_ledger(self._schema.look)
            self._lanes.raise_prefetch(link, self._pace.prefetch, factor=SHRINK if on_record else None)
            self._pipeline.write_log()
            if drain and is_idle and not deliveries and is_settled:
                return True
            link.keep_alive()
        batches.finish()
        return False

    def _reload_between(self, batches: Batches) -> None:
        """Reload what may change while it runs, where that is asked for: between batches, never in one."""
        if self._reload is not None and self._reload.requested:
            batches.finish()
            batches.session.in_ledger(self._reload.run)

    def _may_end(self, batches: Batches) -> bool:
        """Return True once a stop is requested and the partitions are handed over."""
        return self._stop.requested and self._partitions.has_handed_over_all(batches)

    def _receive(self, link: Consumes, most: int, wait_s: float) -> Sequence[Delivery]:
        deliveries = link.receive(most, wait_s, self._shares.next())
        self._broker.ended()
        self._relinking.reset()
        self._shares.note(deliveries)
        return deliveries

    def _receive_late(self, link: Consumes, room: int) -> Sequence[Delivery]:
        """Return what has come for the other lanes while a batch with bulk waited to begin."""
        late = link.receive(room, 0, self._shares.of_late())
        self._shares.note(late)
        return late

    def _parts_on(self, link: Link, ledger: Executor) -> tuple[Batches, LaneControl]:
        session = Session(
            link,
            ledger,
            broker=self._broker,
            database=self._database,
            backoff=self._backoff,
            stop=self._stop,
            hold_most_s=self._pace.hold_most_s,
            look=self._schema.look,
            turned=self._turned,
        )
        batches = Batches(link, session, self._pipeline, self._metrics, on_done=self._on_done)
        trials = TrialRunner(self._poison, batches)
        return batches, LaneControl(self._lanes, trials, batches, exits_on_limit=self._exits_on_limit)


def _decoded(
    batches: Batches, control: LaneControl, deliveries: Sequence[Delivery]
) -> tuple[Batch, list[Delivery]]:
    """Return the batch of ``deliveries`` that lanes take now, and those to be tried on record."""
    on_record = [delivery for delivery in deliveries if may_be_poison(delivery)]
    batch = batches.decode([one for one in deliveries if not may_be_poison(one)] if on_record else deliveries)
    batch.items = control.without_paused(batch.items)
    return batch, on_record
