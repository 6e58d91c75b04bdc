"""The loop: it takes batches, through outages of either server, until it is asked to stop.

A server that goes away is nobody's fault: messages are kept, the log says so once, the loop waits with
back-off and jitter and goes on by itself. Faults of the worker's own pause the lane they came from.
"""

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic, time
from typing import TypeVar

from worker.broker import Delivery, Link
from worker.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    LimitExceededError,
    TransientError,
    UnansweredError,
)
from worker.lanes.pausing import Lanes
from worker.lanes.poison import SHRINK, Suspects, TrialGroup, is_suspect
from worker.ledger.store import Ledger
from worker.messages.dead_letter_limit import LimitExceeded, PauseCode
from worker.metrics import Metrics
from worker.pipeline import Item, Pipeline
from worker.runtime.backoff import Backoff, Outage
from worker.runtime.stop import Stop

log = logging.getLogger(__name__)

R = TypeVar("R")

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


class _StoppedError(Exception):
    """The stop came in an outage: held messages stay unacknowledged, and another worker gets them."""


class _HeldTooLongError(Exception):
    """An outage lasts so long that the broker would take back what is held: give it back, then wait."""


@dataclass(slots=True)
class _Batch:
    """Items that go through together, when they came, and the ledger's thread's work on them."""

    items: Sequence[Item] = ()
    began: float = field(default_factory=monotonic)
    applying: "Future[None] | None" = None
    is_applied: bool = False


class Consumer:
    """Runs the pipeline on what a broker delivers.

    ``connect`` opens a link that holds at most so many messages of each queue. After a crash a worker holds
    few: should the message that caused it come again, few others count another delivery when it crashes this
    one too. ``exits_on_limit`` ends the loop where a lane would be paused.
    """

    def __init__(
        self,
        connect: Callable[[Mapping[str, int]], Link],
        ledger: Ledger,
        pipeline: Pipeline,
        *,
        suspects: Suspects,
        lanes: Lanes,
        queues: Sequence[str],
        pace: ConsumerPace,
        stop: Stop,
        rng: random.Random,
        metrics: Metrics,
        exits_on_limit: bool = False,
    ) -> None:
        self._connect, self._ledger, self._pipeline = connect, ledger, pipeline
        self._suspects, self._lanes, self._queues = suspects, lanes, queues
        self._pace, self._stop, self._rng, self._metrics = pace, stop, rng, metrics
        self._exits_on_limit = exits_on_limit
        self._broker, self._database = self._outage("broker"), self._outage("database")
        self._relinking = self._backoff()
        self._has_been_linked = False
        self._held = 0
        self._is_watching = pipeline.limit.is_watching

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
            self._lanes.end()

    def _consume_until_lost(self, *, drain: bool) -> bool:
        """Consume over one link; True when ``drain`` is done."""
        try:
            # Nothing is taken from the broker before the ledger takes writes: what is taken and brought back
            # counts as a delivery.
            self._await_ledger()
            with self._linked() as link, ThreadPoolExecutor(1, "ledger") as ledger:
                return self._consume(link, ledger, drain=drain)
        except (_StoppedError, _HeldTooLongError):
            return False
        except BrokerUnavailableError as error:
            self._relink_later(error)
        except TransientError as error:
            self._database.began(error)
            self._stop.wait(self._relinking.next())
        except ConfigurationError as error:
            if not self._has_been_linked:
                raise
            self._relink_later(error)  # it was right once: a broker that starts up may refuse anyone
        return False

    # -- servers ------------------------------------------------------------------------------------------

    def _relink_later(self, error: Exception) -> None:
        self._broker.began(error)
        self._stop.wait(self._relinking.next())

    @contextmanager
    def _linked(self) -> Iterator[Link]:
        if self._stop.requested:
            raise _StoppedError
        self._held = self._suspects.hold_at_first(self._pace.prefetch)
        self._lanes.adopt_suspicions()
        if self._lanes.paused and self._exits_on_limit:
            raise LimitExceededError(
                f"stopped: {self._lanes.paused[0]} is paused, see `billing-worker check`"
            )
        link = self._connect({queue: self._lanes.holds(queue, self._held) for queue in self._queues})
        self._has_been_linked = True
        try:
            yield link
        finally:
            with suppress(BrokerUnavailableError):
                link.close()

    def _await_ledger(self) -> None:
        backoff = self._backoff()
        while not self._stop.requested:
            try:
                self._ledger.probe()
            except TransientError as error:
                self._database.began(error)
                self._stop.wait(backoff.next())
            else:
                self._database.ended()
                return

    def _is_well(self) -> None:
        self._broker.ended()
        self._relinking.reset()

    def _outage(self, server: str) -> Outage:
        count = self._metrics.outages.labels(server).inc
        return Outage(server, _WHILE_AWAY, on_begin=count, logger=log)

    def _backoff(self) -> Backoff:
        return Backoff(self._pace.retry_first_s, self._pace.retry_most_s, self._rng)

    # -- the loop -----------------------------------------------------------------------------------------

    def _consume(self, link: Link, ledger: ThreadPoolExecutor, *, drain: bool) -> bool:
        """Run batches until the stop. Returns True when ``drain`` is set and nothing comes any more.

        While the ledger has one batch, the replies of the one before it are sent, and the next one is read
        and decoded: each waits for its own server, and neither server for the other.
        """
        in_ledger = _Batch()
        while not self._stop.requested:
            idle = not in_ledger.items
            deliveries = link.receive(self._pace.batch_size, IDLE_S if idle else 0)
            self._is_well()
            suspects = [delivery for delivery in deliveries if is_suspect(delivery)]
            batch = self._received([delivery for delivery in deliveries if not is_suspect(delivery)])
            batch.items = self._without_paused(batch.items)
            self._await_applied(link, ledger, in_ledger)
            if self._stop.requested:
                break  # what was just received goes back
            batch.applying = ledger.submit(self._pipeline.apply, batch.items)
            in_ledger, applied = batch, in_ledger
            self._tell(link, applied)
            if suspects or self._must_attend():
                self._complete(link, ledger, in_ledger)
                in_ledger = _Batch()
                self._try_suspects(link, ledger, suspects)
                self._attend_lanes(link, ledger)
            self._hold_more(link, bool(suspects))
            if drain and idle and not deliveries:
                return True
            link.keep_alive()
        self._complete(link, ledger, in_ledger)
        return False

    def _hold_more(self, link: Link, is_suspicious: bool) -> None:  # noqa: FBT001 - the two cases of one step
        """Set the full prefetch; while suspects come, several times the one before."""
        most = min(self._held * SHRINK, self._pace.prefetch) if is_suspicious else self._pace.prefetch
        if most != self._held:
            self._held = most
            for queue in self._queues:
                if not self._lanes.is_paused(queue):
                    link.hold_at_most(queue, most)

    # -- one batch ----------------------------------------------------------------------------------------

    def _received(self, deliveries: Sequence[Delivery]) -> _Batch:
        return _Batch(self._pipeline.receive(deliveries)) if deliveries else _Batch()

    def _complete(self, link: Link, ledger: ThreadPoolExecutor, batch: _Batch) -> None:
        """Apply the batch, then send its replies and acknowledge it."""
        self._await_applied(link, ledger, batch)
        self._tell(link, batch)

    def _await_applied(self, link: Link, ledger: ThreadPoolExecutor, batch: _Batch) -> None:
        """Wait until the ledger has the batch, now or after an outage."""
        if batch.items and not batch.is_applied:
            first, batch.applying = batch.applying, None
            self._in_ledger(link, ledger, lambda: self._pipeline.apply(batch.items), first)
            batch.is_applied = True

    def _in_ledger(
        self,
        link: Link,
        ledger: ThreadPoolExecutor,
        work: Callable[[], None],
        first: "Future[None] | None" = None,
    ) -> None:
        """Do ``work`` in the ledger's thread until it succeeds; ``first`` is a try that is under way."""

        def attempt() -> None:
            nonlocal first
            trying, first = first or ledger.submit(work), None
            self._awaited(link, trying)

        self._until_done(link, attempt, self._database)

    @staticmethod
    def _awaited(link: Link, future: "Future[R]") -> R:
        """Return what the ledger's thread comes to, and keep the link alive meanwhile."""
        while not wait([future], timeout=IDLE_S).done:
            link.keep_alive()
        return future.result()

    def _tell(self, link: Link, batch: _Batch) -> None:
        """Send the batch's replies, dead letters and notices, and acknowledge it.

        Through an outage it is held, not given back: a message that comes again counts as a delivery.
        """
        if not batch.items:
            return
        self._until_done(link, lambda: self._pipeline.reply_and_acknowledge(link, batch.items), self._broker)
        self._is_told(batch)

    def _is_told(self, batch: _Batch) -> None:
        self._metrics.batch_size.observe(len(batch.items))
        self._metrics.batch_seconds.observe(monotonic() - batch.began)
        self._metrics.last_progress.set(time())

    def _until_done(self, link: Link, attempt: Callable[[], None], outage: Outage) -> None:
        """Try until it is done, through an outage. Raises _StoppedError, _HeldTooLongError."""
        backoff, began = self._backoff(), monotonic()
        while True:
            try:
                attempt()
            except BrokerUnavailableError as error:
                if not isinstance(error, UnansweredError):
                    raise
                outage.began(error)
            except TransientError as error:
                outage.began(error)
            else:
                outage.ended()
                return
            self._wait(link, backoff.next())
            if self._stop.requested:
                raise _StoppedError
            if monotonic() - began > self._pace.hold_most_s:
                raise _HeldTooLongError

    def _wait(self, link: Link, seconds: float) -> None:
        """Wait so long, or until the stop, and keep the link alive."""
        left = seconds
        while left > 0 and not self._stop.requested:
            link.keep_alive(min(left, IDLE_S))
            left -= IDLE_S

    # -- suspects -----------------------------------------------------------------------------------------

    def _try_suspects(self, link: Link, ledger: ThreadPoolExecutor, suspects: Sequence[Delivery]) -> None:
        """Try suspects in groups; one of a paused lane waits for its turn there."""
        for item in self._pipeline.receive([one for one in suspects if self._lanes.is_paused(one.queue)]):
            self._lanes.hold(item)
        for group in self._groups(
            link, ledger, [one for one in suspects if not self._lanes.is_paused(one.queue)]
        ):
            self._try_group(link, ledger, group)

    def _groups(
        self, link: Link, ledger: ThreadPoolExecutor, suspects: Sequence[Delivery]
    ) -> list[TrialGroup]:
        groups: list[TrialGroup] = []
        if suspects:
            self._in_ledger(link, ledger, lambda: groups.extend(self._suspects.groups(suspects)))
        return groups

    def _try_group(self, link: Link, ledger: ThreadPoolExecutor, group: TrialGroup) -> None:
        """Apply one group on record and send its replies, with nothing else under way."""
        with self._on_record(link, ledger, group) as kept:
            batch = _Batch(self._items_of(group))
            self._await_applied(link, ledger, batch)
            self._until_done(link, lambda: self._pipeline.reply(link, batch.items), self._broker)
            kept += [item.delivery for item in batch.items if item.kept]
        self._pipeline.acknowledge(link, batch.items)
        self._is_told(batch)

    @contextmanager
    def _on_record(
        self, link: Link, ledger: ThreadPoolExecutor, group: TrialGroup
    ) -> Iterator[list[Delivery]]:
        """Keep a group on record: a crash in the block is its crash. Messages ``kept`` were not tried."""
        kept: list[Delivery] = []
        try:
            self._in_ledger(link, ledger, lambda: self._suspects.begin(group))
            yield kept
        except BaseException:
            # Whatever ends the trial here, the process lives: nothing crashed.
            self._suspects.break_off(group)
            raise
        untried = [key for key, delivery in group.deliveries.items() if delivery in kept]
        self._suspects.break_off(group.of(untried))
        told = group.of(group.deliveries.keys() - set(untried))
        self._in_ledger(link, ledger, lambda: self._suspects.end(told))

    def _items_of(self, group: TrialGroup) -> Sequence[Item]:
        deliveries = list(group.deliveries.values())
        if not group.is_given_up:
            return self._pipeline.receive(deliveries)
        crashes, decoded = group.crashes_alone, group.may_be_read
        return [self._pipeline.give_up(one, crashes, decoded=decoded) for one in deliveries]

    # -- lanes --------------------------------------------------------------------------------------------

    def _must_attend(self) -> bool:
        """Return True where a lane must be paused, tried or resumed; asked with every batch."""
        limit = self._pipeline.limit
        if self._is_watching and not limit.is_watching:
            self._is_watching = False
            self._lanes.accept_config()
        return bool(self._lanes.paused) or self._lanes.must_look or any(map(limit.is_over, self._queues))

    def _attend_lanes(self, link: Link, ledger: ThreadPoolExecutor) -> None:
        for queue in self._queues:
            exceeded = self._pipeline.limit.exceeded(queue)
            if exceeded is not None and not self._lanes.is_paused_for(exceeded):
                self._pause(link, ledger, exceeded)
        if self._lanes.must_look:
            for queue in self._awaited(link, ledger.submit(self._lanes.look)):
                self._resume(link, ledger, queue)
        while (probe := self._lanes.due()) is not None:
            self._try_probe(link, ledger, probe)

    def _pause(self, link: Link, ledger: ThreadPoolExecutor, exceeded: LimitExceeded) -> None:
        if exceeded.code is PauseCode.CONFIG_SUSPECT:
            accepted: list[bool] = []
            self._in_ledger(link, ledger, lambda: accepted.append(self._lanes.is_accepted()))
            if accepted[-1]:  # an operator has resumed another worker's lane
                self._pipeline.limit.accept_config()
                link.hold_at_most(exceeded.queue, self._held, give_back=True)
                return
        if self._exits_on_limit:
            raise LimitExceededError(f"stopped: {exceeded.queue}: {exceeded.text}")
        self._lanes.pause(link, exceeded)

    def _resume(self, link: Link, ledger: ThreadPoolExecutor, queue: str) -> None:
        """Go on with a lane that an operator has resumed."""
        if self._lanes.is_suspicion(queue):
            self._pipeline.limit.accept_config()
        self._pipeline.limit.reset_all(queue)
        waiting = self._lanes.resume(link, queue, self._held, "an operator resumed it")
        self._try_suspects(link, ledger, [item.delivery for item in waiting])

    def _without_paused(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items of lanes that go on; a paused lane's message is the one it tries."""
        if not self._lanes.paused:
            return items
        for item in items:
            if self._lanes.is_paused(item.queue):
                self._lanes.hold(item)
        return [item for item in items if not self._lanes.is_paused(item.queue)]

    def _try_probe(self, link: Link, ledger: ThreadPoolExecutor, probe: Item) -> None:
        """Try a paused lane's message, on record: its lane goes on where it is applied, or tries the next."""
        (group,) = self._groups(link, ledger, [probe.delivery])
        with self._on_record(link, ledger, group) as kept:
            if group.is_given_up:
                (probe_given_up,) = self._items_of(group)
                probe.reason = probe_given_up.reason
            is_tried = probe.reason is None
            passed: list[bool] = []
            self._in_ledger(link, ledger, lambda: passed.append(self._pipeline.try_alone(probe)))
            is_told = passed[-1] or probe.reason is not None
            if is_told:
                self._until_done(link, lambda: self._pipeline.reply(link, [probe]), self._broker)
            if probe.kept or not is_told:
                kept.append(probe.delivery)
        if kept:
            self._lanes.failed(probe)
            return
        self._pipeline.acknowledge(link, [probe])
        self._is_told(_Batch([probe]))
        self._lanes.let_go(probe)
        if not is_tried:
            return  # a refusal says nothing of the worker
        if not passed[-1]:
            self._lanes.failed(probe)
        else:
            self._lanes.resume(link, probe.queue, self._held, "a message was applied again")
