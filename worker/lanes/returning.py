"""Return of held messages: back to their lanes once an operator has resumed their type.

One worker at a time returns them, in their order (the queue has a single active consumer); any worker goes on
where one ended. What is still paused is held again, behind the rest, in its order too.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import Protocol

from worker.broker import BILLING, Delivery, Link
from worker.errors import BrokerUnavailableError
from worker.lanes.operator_pauses import PauseWatch
from worker.ledger.operator_pauses import OperatorPause
from worker.messages.held import LaneType, copy_of_held, lane_type_of, publish_held
from worker.messages.policy import Policy

log = logging.getLogger(__name__)

#: Most messages that are published and confirmed together, and how many are held meanwhile.
_TOGETHER, PREFETCH = 500, 1_000
#: Longest wait for the next message: another worker may be the one that returns them.
_WAIT_S = 1.0
#: Largest difference between the clocks of the operator's machine and of a worker's.
_SETTLED_AFTER = timedelta(seconds=2)
#: Time between two passes while something is to return, and between two looks for what no pause holds.
_AGAIN_AFTER, LOOK_EVERY = timedelta(seconds=2), timedelta(minutes=5)


class RecordsReturns(Protocol):
    """Record of the pauses of which nothing is held any more; see ``worker.ledger.operator_pauses``."""

    def mark_returned(self, numbers: Sequence[int], now: datetime) -> None:
        """Record that nothing is held any more. Raises TransientError."""
        ...


class HeldReturner:
    """Returns held messages over links of its own, each open for one pass over the queue of what is held.

    ``connect`` opens a link that consumes that queue, and takes nothing of it yet. ``seen_by_all`` is
    the time of the pauses that all workers obey; None where one obeys none yet.
    """

    def __init__(
        self,
        connect: Callable[[], Link],
        watch: PauseWatch,
        record: RecordsReturns,
        policy: Policy,
        *,
        clock: Callable[[], datetime],
        seen_by_all: Callable[[datetime], datetime | None],
    ) -> None:
        self._connect, self._watch, self._record, self._policy = connect, watch, record, policy
        self._clock, self._seen_by_all = clock, seen_by_all
        self._queue = BILLING.held.name
        self._looked_at = clock()

    def turn(self) -> None:
        """Return what is held of pauses that have ended, where there are such. Raises TransientError."""
        now = self._clock()
        ended = [pause for pause in self._watch.returning if self._is_settled(pause, now)]
        if now - self._looked_at < (_AGAIN_AFTER if ended else LOOK_EVERY):
            return
        self._looked_at = now
        # A worker that still holds a type would hold again what returns, behind what came later.
        paused = [
            (pause.queue, pause.type)
            for pause in self._watch.current
            if pause.type is not None and pause not in ended
        ]
        with closing(self._connect()) as link:
            returned = self._pass(link, paused)
        if returned is not None and not returned:
            self._mark(ended, now)

    def _is_settled(self, pause: OperatorPause, now: datetime) -> bool:
        """Return True where every worker obeys the end of the pause: none holds messages of it any more."""
        seen_at = self._seen_by_all(now)
        return (
            seen_at is not None and pause.ended_at is not None and seen_at > pause.ended_at + _SETTLED_AFTER
        )

    def _mark(self, pauses: Sequence[OperatorPause], now: datetime) -> None:
        if pauses:
            self._record.mark_returned([pause.number for pause in pauses], now)
            log.info("nothing is held any more of %s", ", ".join(str(pause.type) for pause in pauses))

    def _pass(self, link: Link, paused: Sequence[LaneType]) -> int | None:
        """Publish each message that is held now once more; return how many went back to their lanes.

        None where not all of them came: another worker returns them, or the broker is busy.
        """
        left, returned = link.depth(self._queue), 0
        link.hold_at_most(self._queue, PREFETCH)
        while left > 0:
            deliveries = link.receive(min(left, _TOGETHER), _WAIT_S)
            if not deliveries:
                return None
            returned += self._publish(link, deliveries, paused)
            left -= len(deliveries)
        if returned:
            log.info("returned %d held messages to their lanes", returned)
        return returned

    def _publish(self, link: Link, deliveries: Sequence[Delivery], paused: Sequence[LaneType]) -> int:
        now = self._clock()
        copies = [copy_of_held(delivery, paused, self._policy, now) for delivery in deliveries]
        lost = publish_held(link, deliveries, copies)
        link.acknowledge([delivery for delivery in deliveries if delivery not in lost])
        if lost:
            raise BrokerUnavailableError(
                "a queue of work is missing: run `billing-worker topology declare`; what is held stays held"
            )
        return sum(lane_type_of(delivery, self._policy) not in paused for delivery in deliveries)
