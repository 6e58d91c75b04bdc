"""Lanes of one worker: their prefetch, the limits they passed, and those that are paused.

A lane paused for faults holds one message, its *probe*, which is tried at growing intervals until it is
applied or a dead letter; then the lane goes on, or the next message is tried. A lane paused because of a new
configuration holds nothing and waits for an operator.
"""

import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Protocol, TypeVar

from worker.broker import Consumes
from worker.broker.partitions import queue_of, without_partition
from worker.errors import TransientError
from worker.ledger.pauses import Pause
from worker.messages.dead_letter_limit import DeadLetterLimit, LimitExceeded, PauseCode
from worker.metrics import Metrics
from worker.pipeline import Item
from worker.runtime.backoff import Backoff

log = logging.getLogger(__name__)

T = TypeVar("T")

PROBE_FIRST_S, PROBE_MOST_S = 1.0, 60.0
_SYNC_EVERY_S = 1.0


class PauseRecord(Protocol):
    """Durable record of pauses, shown to operators and ended by them; see ``worker.ledger.pauses``."""

    def begin(self, pause: Pause, config: str) -> int:
        """Record a pause; return its id."""
        ...

    def see(self, ids: Collection[int], now: datetime) -> set[int]:
        """Record that pauses last; return those that an operator has ended."""
        ...

    def end(self, ids: Collection[int], now: datetime) -> None:
        """End pauses."""
        ...

    def suspected(self, config: str) -> dict[str, str]:
        """Return the queues paused because of ``config``, each with the text."""
        ...

    def is_new(self, config: str) -> bool:
        """Return True for a configuration that no worker ran with, where others ran."""
        ...

    def accept(self, config: str, by: str, now: datetime) -> None:
        """Record that ``config`` is right."""
        ...


def is_new_config(record: PauseRecord, config: str, worker: str, now: datetime) -> bool:
    """Return True for a configuration new to this database; the first one of all is accepted as right.

    False in an outage at the start, which hides the record.
    """
    with suppress(TransientError):
        if record.is_new(config):
            return True
        record.accept(config, worker, now)
    return False


@dataclass(slots=True)
class PausedLane:
    """One lane that is paused; ``probes`` holds the messages to try, the first one now."""

    exceeded: LimitExceeded
    backoff: Backoff
    try_at: float
    probes: deque[Item] = field(default_factory=deque)
    pause_id: int | None = None

    @property
    def prefetch(self) -> int:
        """Number of messages it holds: one to try, or none where it waits for an operator."""
        return 0 if self.awaits_operator else 1

    @property
    def awaits_operator(self) -> bool:
        """True where only an operator ends the pause."""
        return self.exceeded.code is PauseCode.CONFIG_SUSPECT


class Lanes:
    """The lanes of one worker. ``worker`` and ``config`` name it and what it runs with.

    A lane has its own queue, and one in each partition that the worker takes: they pause and go on together.

    Four methods wait for the record's database. ``adopt_pauses`` and ``is_accepted`` raise TransientError;
    ``sync`` and ``end`` leave what an outage prevents to a later sync.
    """

    def __init__(
        self,
        queues: Sequence[str],
        limit: DeadLetterLimit,
        record: PauseRecord,
        *,
        worker: str,
        config: str,
        clock: Callable[[], datetime],
        rng: random.Random,
        metrics: Metrics,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._queues, self._limit = queues, limit
        self._record, self._worker, self._config = record, worker, config
        self._clock, self._rng, self._metrics, self._seconds = clock, rng, metrics, seconds
        self._prefetch = 0
        self._partitions: dict[int, int] = {}
        self._paused: dict[str, PausedLane] = {}
        self._ended: list[int] = []
        self._is_watching = limit.is_watching
        self._must_accept = False
        self._synced_at = seconds()

    @property
    def paused(self) -> Sequence[str]:
        """The queues of paused lanes."""
        return list(self._paused)

    def is_paused(self, queue: str) -> bool:
        """Return True while the lane of a queue is paused."""
        return bool(self._paused) and without_partition(queue) in self._paused

    # -- prefetch -----------------------------------------------------------------------------------------

    def open(self, most: int) -> Mapping[str, int]:
        """Begin with a new link; return its prefetch by queue: ``most``, less for a paused lane.

        The link before gave back what was to be tried.
        """
        self._prefetch = most
        self._partitions.clear()
        for paused in self._paused.values():
            paused.probes.clear()
        return {
            queue: self._paused[queue].prefetch if queue in self._paused else most for queue in self._queues
        }

    def raise_prefetch(self, link: Consumes, most: int, *, factor: int | None = None) -> None:
        """Set the prefetch of lanes that go on to ``most``, or to ``factor`` times the one before if less."""
        prefetch = most if factor is None else min(self._prefetch * factor, most)
        if prefetch == self._prefetch:
            return
        self._prefetch = prefetch
        for queue in self._queues:
            if queue not in self._paused:
                self._hold(link, queue, prefetch)

    def _hold(self, link: Consumes, lane: str, most: int, *, give_back: bool = False) -> None:
        """Hold at most so many messages of a lane's queue, and of those in partitions what these may hold."""
        link.hold_at_most(lane, most, give_back=give_back)
        for partition, limit in self._partitions.items():
            link.hold_at_most(queue_of(lane, partition), min(most, limit), give_back=give_back)

    # -- partitions ---------------------------------------------------------------------------------------

    def take_partition(self, link: Consumes, partition: int, most: int) -> None:
        """Consume the queues of a partition, and hold at most ``most`` messages of each."""
        self._partitions[partition] = most
        for lane in self._queues:
            held = self._paused[lane].prefetch if lane in self._paused else self._prefetch
            link.consume(queue_of(lane, partition), min(most, held))

    def quiesce_partition(self, link: Consumes, partition: int) -> None:
        """Take nothing more of a partition; what is held of it goes on."""
        del self._partitions[partition]
        for lane in self._queues:
            link.quiesce(queue_of(lane, partition))

    def holds_partition(self, link: Consumes, partition: int) -> bool:
        """Return True while messages of a partition are held, but for what paused lanes are to try."""
        going_on = (lane for lane in self._queues if lane not in self._paused)
        return any(link.held_of(queue_of(lane, partition)) for lane in going_on)

    def leave_partition(self, link: Consumes, partition: int) -> None:
        """Consume the queues of a partition no more, with nothing of it in flight.

        What is held of it goes back, also what was to be tried.
        """
        self._partitions.pop(partition, None)
        for lane in self._queues:
            queue = queue_of(lane, partition)
            link.leave(queue)
            if (paused := self._paused.get(lane)) is not None:
                paused.probes = deque(one for one in paused.probes if one.delivery.queue != queue)

    # -- pause and resume ---------------------------------------------------------------------------------

    def needs_attention(self) -> bool:
        """Return True where a lane must be paused, tried or resumed; asked with every batch."""
        if self._is_watching and not self._limit.is_watching:
            self._is_watching, self._must_accept = False, True
        return bool(self._paused) or self.must_sync or any(map(self._limit.is_over, self._queues))

    def exceeded(self) -> Sequence[LimitExceeded]:
        """Return the limits that lanes have passed and are not paused for."""
        # A list, complete before anything acts on it: what is done about one lane may accept the
        # configuration, and the other lanes' kept messages must be given back all the same.
        found = [exceeded for queue in self._queues if (exceeded := self._limit.exceeded(queue)) is not None]
        return [exceeded for exceeded in found if not self._is_paused_for(exceeded)]

    def adopt_pauses(self) -> None:
        """Pause lanes that a worker before this one, or beside it, paused because of the configuration."""
        for queue, text in self._record.suspected(self._config).items():
            if queue not in self._paused:
                self._begin(LimitExceeded(queue, PauseCode.CONFIG_SUSPECT, text))
                log.critical("%s is paused: %s", queue, text)

    def is_accepted(self) -> bool:
        """Return True where somebody has accepted the configuration meanwhile."""
        return not self._record.is_new(self._config)

    def go_on(self, link: Consumes, queue: str) -> None:
        """Go on with a lane that would be paused: its configuration is accepted, and kept messages return."""
        self._limit.accept_config()
        self._hold(link, queue, self._prefetch, give_back=True)

    def pause(self, link: Consumes, exceeded: LimitExceeded) -> None:
        """Pause a lane: what it holds goes back, and the first of that comes again, to be tried."""
        paused = self._begin(exceeded)
        self._hold(link, exceeded.queue, paused.prefetch, give_back=True)
        log.critical("paused %s: %s", exceeded.queue, exceeded.text)

    def resume(self, link: Consumes, queue: str, why: str) -> Sequence[Item]:
        """Take a lane's messages again; return those that it was to try and did not."""
        paused = self._paused.pop(queue)
        self._end(paused)
        self._hold(link, queue, self._prefetch)
        log.warning("%s goes on: %s", queue, why)
        return list(paused.probes)

    def resume_released(self, link: Consumes, queue: str) -> Sequence[Item]:
        """Resume a lane whose pause an operator has ended; its faults are counted anew."""
        if self._paused[queue].awaits_operator:
            self._limit.accept_config()
        self._limit.reset_all(queue)
        return self.resume(link, queue, "an operator resumed it")

    def end(self) -> None:
        """End this worker's pauses with it; one because of the configuration stays, whoever starts next."""
        self._ended += [
            paused.pause_id
            for paused in self._paused.values()
            if paused.pause_id is not None and not paused.awaits_operator
        ]
        self._unless_away(self._write_ended)

    def _is_paused_for(self, exceeded: LimitExceeded) -> bool:
        paused = self._paused.get(exceeded.queue)
        return paused is not None and paused.exceeded.code is exceeded.code

    def _begin(self, exceeded: LimitExceeded) -> PausedLane:
        if (before := self._paused.get(exceeded.queue)) is not None:
            self._end(before)
        backoff = Backoff(PROBE_FIRST_S, PROBE_MOST_S, self._rng)
        paused = PausedLane(exceeded, backoff, self._seconds() + backoff.next())
        self._paused[exceeded.queue] = paused
        self._metrics.paused.labels(exceeded.queue, exceeded.code).set(1)
        self._synced_at = self._seconds() - _SYNC_EVERY_S  # show it soon
        return paused

    def _end(self, paused: PausedLane) -> None:
        self._metrics.paused.labels(paused.exceeded.queue, paused.exceeded.code).set(0)
        if paused.pause_id is not None:
            self._ended.append(paused.pause_id)

    # -- probes -------------------------------------------------------------------------------------------

    def add_probe(self, item: Item) -> None:
        """Add a message of a paused lane, to be tried after those that came before."""
        self._paused[item.queue].probes.append(item)

    def next_probe(self) -> Item | None:
        """Return a message whose time for a try has come; None where there is none."""
        now = self._seconds()
        for paused in self._paused.values():
            if paused.probes and paused.try_at <= now:
                return paused.probes[0]
        return None

    def postpone(self, item: Item) -> None:
        """Postpone the next try in the item's lane: its message met the fault again."""
        paused = self._paused[item.queue]
        paused.try_at = self._seconds() + paused.backoff.next()

    def remove_probe(self, item: Item) -> None:
        """Remove a message after its reply is sent: the next one that comes is tried."""
        self._paused[item.queue].probes.remove(item)

    # -- the record ---------------------------------------------------------------------------------------

    @property
    def must_sync(self) -> bool:
        """True about once a second while there is something to show or to hear."""
        if self._ended or self._must_accept:
            return True
        return bool(self._paused) and self._seconds() - self._synced_at >= _SYNC_EVERY_S

    def sync(self) -> Sequence[str]:
        """Write to the record what changed; return the queues whose pause an operator has ended."""
        self._synced_at = self._seconds()
        self._unless_away(self._write_ended)
        for paused in self._paused.values():
            if paused.pause_id is None:
                paused.pause_id = self._unless_away(partial(self._write, paused))
        ended = self._unless_away(self._seen) or ()
        # A pause that is adopted just before an operator resumes is recorded after it, and ended by nobody.
        is_accepted = self._unless_away(self._is_suspicion_over)
        return [
            queue
            for queue, paused in self._paused.items()
            if paused.pause_id in ended or (is_accepted and paused.awaits_operator)
        ]

    def _is_suspicion_over(self) -> bool:
        """Return True where lanes are paused because of a configuration that is accepted by now."""
        return any(paused.awaits_operator for paused in self._paused.values()) and self.is_accepted()

    def _write_ended(self) -> None:
        if self._ended:
            self._record.end(self._ended, self._clock())
            self._ended = []
        if self._must_accept:
            self._record.accept(self._config, self._worker, self._clock())
            self._must_accept = False

    def _write(self, paused: PausedLane) -> int:
        exceeded = paused.exceeded
        pause = Pause(exceeded.queue, self._worker, exceeded.code, exceeded.text, self._clock())
        return self._record.begin(pause, self._config)

    def _seen(self) -> Collection[int]:
        """Record that the pauses last; return those that an operator has ended."""
        ids = [paused.pause_id for paused in self._paused.values() if paused.pause_id is not None]
        return self._record.see(ids, self._clock()) if ids else ()

    @staticmethod
    def _unless_away(work: Callable[[], T]) -> T | None:
        """Return the result of ``work``; None in an outage, and a later sync does it."""
        try:
            return work()
        except TransientError as error:
            log.debug("the record of pauses can't be kept: %s", error)
            return None
