"""Lanes that are paused: which message is tried meanwhile and when, and who may end the pause.

A lane paused for faults holds one message, which is tried at growing intervals until it is applied or a dead
letter; then the lane goes on, or the next message is tried. A lane paused under suspicion of the
configuration holds nothing and waits for an operator.
"""

import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Protocol

from worker.broker import Link
from worker.errors import TransientError
from worker.ledger.pauses import Pause
from worker.messages.dead_letter_limit import LimitExceeded, PauseCode
from worker.metrics import Metrics
from worker.pipeline import Item
from worker.runtime.backoff import Backoff

log = logging.getLogger(__name__)

PROBE_FIRST_S, PROBE_MOST_S = 1.0, 60.0
_LOOK_EVERY_S = 1.0


class PauseRecord(Protocol):
    """Record of pauses, shown to operators and ended by them; see ``worker.ledger.pauses``."""

    def begin(self, pause: Pause, config: str) -> int:
        """Record a pause; returns its id."""
        ...

    def see(self, ids: Collection[int], now: datetime) -> set[int]:
        """Say that pauses last; returns those that an operator has ended."""
        ...

    def end(self, ids: Collection[int], now: datetime) -> None:
        """End pauses."""
        ...

    def suspected(self, config: str) -> dict[str, str]:
        """Return the queues paused under suspicion of ``config``, with the text."""
        ...

    def is_new(self, config: str) -> bool:
        """Return True for a configuration that no worker ran with, where others ran."""
        ...

    def accept(self, config: str, by: str, now: datetime) -> None:
        """Remember that ``config`` is right."""
        ...


@dataclass(slots=True)
class PausedLane:
    """One lane that is paused; ``waiting`` holds the message to try."""

    exceeded: LimitExceeded
    backoff: Backoff
    try_at: float
    waiting: deque[Item] = field(default_factory=deque)
    pause_id: int | None = None

    @property
    def holds(self) -> int:
        """Number of messages it holds: one to try, or none where it waits for an operator."""
        return 0 if self.is_suspicion else 1

    @property
    def is_suspicion(self) -> bool:
        """True where only an operator ends the pause."""
        return self.exceeded.code is PauseCode.CONFIG_SUSPECT


class Lanes:
    """The lanes of one worker that are paused. ``worker`` and ``config`` name it and what it runs with.

    ``record`` may wait for a database: the methods that ask it are ``adopt_suspicions``, ``is_accepted``,
    ``look`` and ``end``. In an outage nothing is asked; a pause is shown with the next look.
    """

    def __init__(
        self,
        record: PauseRecord,
        *,
        worker: str,
        config: str,
        clock: Callable[[], datetime],
        rng: random.Random,
        metrics: Metrics,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._record, self._worker, self._config = record, worker, config
        self._clock, self._rng, self._metrics, self._seconds = clock, rng, metrics, seconds
        self._paused: dict[str, PausedLane] = {}
        self._ended: list[int] = []
        self._is_right = False
        self._looked_at = seconds()

    @property
    def paused(self) -> Sequence[str]:
        """The queues of paused lanes."""
        return list(self._paused)

    def is_paused(self, queue: str) -> bool:
        """Return True while a lane is paused."""
        return queue in self._paused

    def is_paused_for(self, exceeded: LimitExceeded) -> bool:
        """Return True while a lane is paused for this very reason."""
        paused = self._paused.get(exceeded.queue)
        return paused is not None and paused.exceeded.code is exceeded.code

    def is_suspicion(self, queue: str) -> bool:
        """Return True while only an operator ends the pause of a lane."""
        return queue in self._paused and self._paused[queue].is_suspicion

    # -- pause and resume ---------------------------------------------------------------------------------

    def adopt_suspicions(self) -> None:
        """Pause the lanes that a worker before this one, or beside it, has paused under suspicion."""
        for queue, text in self._record.suspected(self._config).items():
            if queue not in self._paused:
                self._begin(LimitExceeded(queue, PauseCode.CONFIG_SUSPECT, text))
                log.critical("%s is paused: %s", queue, text)

    def is_accepted(self) -> bool:
        """Return True where somebody has taken the configuration as right meanwhile."""
        return not self._record.is_new(self._config)

    def holds(self, queue: str, most: int) -> int:
        """Return how many messages of a queue a new link may hold; the old one gave back what was tried."""
        if (paused := self._paused.get(queue)) is None:
            return most
        paused.waiting.clear()
        return paused.holds

    def pause(self, link: Link, exceeded: LimitExceeded) -> None:
        """Pause a lane: what it holds goes back, and the first of that comes again, to be tried."""
        paused = self._begin(exceeded)
        link.hold_at_most(exceeded.queue, paused.holds, give_back=True)
        log.critical("paused %s: %s", exceeded.queue, exceeded.text)

    def resume(self, link: Link, queue: str, held: int, why: str) -> Sequence[Item]:
        """Let a lane hold ``held`` messages again; returns what it was to try and did not."""
        paused = self._paused.pop(queue)
        self._end(paused)
        link.hold_at_most(queue, held)
        log.warning("%s goes on: %s", queue, why)
        return list(paused.waiting)

    def end(self) -> None:
        """Say that this worker's pauses end with it; a suspicion stays, whoever starts next."""
        self._ended += [
            paused.pause_id
            for paused in self._paused.values()
            if paused.pause_id is not None and not paused.is_suspicion
        ]
        self._attempt(self._say_what_ended)

    def _begin(self, exceeded: LimitExceeded) -> PausedLane:
        if (before := self._paused.get(exceeded.queue)) is not None:
            self._end(before)
        backoff = Backoff(PROBE_FIRST_S, PROBE_MOST_S, self._rng)
        paused = PausedLane(exceeded, backoff, self._seconds() + backoff.next())
        self._paused[exceeded.queue] = paused
        self._metrics.paused.labels(exceeded.queue, exceeded.code).set(1)
        self._looked_at = self._seconds() - _LOOK_EVERY_S  # show it soon
        return paused

    def _end(self, paused: PausedLane) -> None:
        self._metrics.paused.labels(paused.exceeded.queue, paused.exceeded.code).set(0)
        if paused.pause_id is not None:
            self._ended.append(paused.pause_id)

    # -- the message that is tried ------------------------------------------------------------------------

    def hold(self, item: Item) -> None:
        """Take the message that a paused lane tries next."""
        self._paused[item.queue].waiting.append(item)

    def due(self) -> Item | None:
        """Return a message whose next try has come; None where there is none."""
        now = self._seconds()
        for paused in self._paused.values():
            if paused.waiting and paused.try_at <= now:
                return paused.waiting[0]
        return None

    def failed(self, item: Item) -> None:
        """Note that the lane's message met its fault again: it is tried later."""
        paused = self._paused[item.queue]
        paused.try_at = self._seconds() + paused.backoff.next()

    def let_go(self, item: Item) -> None:
        """Let go of the lane's message after its reply is sent: the next one that comes is tried."""
        self._paused[item.queue].waiting.remove(item)

    # -- the record ---------------------------------------------------------------------------------------

    @property
    def must_look(self) -> bool:
        """True about once a second while there is something to show or to hear."""
        if self._ended or self._is_right:
            return True
        return bool(self._paused) and self._seconds() - self._looked_at >= _LOOK_EVERY_S

    def look(self) -> list[str]:
        """Show what is paused; returns the queues whose pause an operator has ended."""
        self._looked_at = self._seconds()
        ended: set[int] = set()
        self._attempt(self._say_what_ended)
        for paused in self._paused.values():
            if paused.pause_id is None:
                self._attempt(partial(self._show, paused))
        ids = [paused.pause_id for paused in self._paused.values() if paused.pause_id is not None]
        if ids:
            self._attempt(lambda: ended.update(self._record.see(ids, self._clock())))
        return [queue for queue, paused in self._paused.items() if paused.pause_id in ended]

    def accept_config(self) -> None:
        """Remember, with the next look, that what this worker runs with is right."""
        self._is_right = True

    def _say_what_ended(self) -> None:
        if self._ended:
            self._record.end(self._ended, self._clock())
            self._ended = []
        if self._is_right:
            self._record.accept(self._config, self._worker, self._clock())
            self._is_right = False

    def _show(self, paused: PausedLane) -> None:
        exceeded = paused.exceeded
        pause = Pause(exceeded.queue, self._worker, exceeded.code, exceeded.text, self._clock())
        paused.pause_id = self._record.begin(pause, self._config)

    @staticmethod
    def _attempt(work: Callable[[], object]) -> None:
        """Do what only shows something; in an outage it is done with a later look."""
        try:
            work()
        except TransientError as error:
            log.debug("the record of pauses can't be kept: %s", error)
