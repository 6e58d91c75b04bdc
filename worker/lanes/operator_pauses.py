"""Pauses of operators, as one worker obeys them.

They are kept apart from the pauses that a worker begins by itself (see ``pausing``): a trial that succeeds
ends those and never these. A paused lane gives back what it holds, a quiesced one finishes it first. Of a
paused type each message is held (see ``worker.messages.held``), and its lane goes on.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from worker.broker import Delivery
from worker.broker.partitions import without_partition
from worker.ledger.operator_pauses import OperatorPause, PauseKind
from worker.messages.dead_letter_limit import PauseCode
from worker.messages.held import LaneType
from worker.messages.known_ids import has_unruly_ids
from worker.messages.origin import is_key_of
from worker.metrics import Metrics
from worker.pipeline import Item

log = logging.getLogger(__name__)


class ReadsPauses(Protocol):
    """Source of the pauses that last or are still to return; see ``worker.ledger.operator_pauses``."""

    def current(self) -> Sequence[OperatorPause]:
        """Return them. Raises TransientError."""
        ...


class HoldsLanes(Protocol):
    """A link, as it consumes lanes: each with its partitions; see ``worker.lanes.on_link``."""

    def hold_at_most(self, lane: str, most: int, *, give_back: bool = False) -> None:
        """Hold at most so many messages; with ``give_back`` after all that is held has gone back."""
        ...

    def quiesce(self, lane: str) -> None:
        """Take nothing more; what is held goes on."""
        ...

    def arrived(self, lane: str) -> int:
        """Return how many messages have arrived and wait to be received."""
        ...


class PauseWatch:
    """Pauses as this process last read them. One thread reads them, another obeys.

    In an outage of the database those read before go on.
    """

    def __init__(self, source: ReadsPauses, clock: Callable[[], datetime]) -> None:
        self._source, self._clock = source, clock
        self.current: tuple[OperatorPause, ...] = ()
        self.read_at: datetime | None = None
        self.changes = 0

    @property
    def lasting(self) -> Sequence[OperatorPause]:
        """The pauses that no operator has ended."""
        return [pause for pause in self.current if pause.lasts]

    @property
    def returning(self) -> Sequence[OperatorPause]:
        """The pauses that have ended, and of which messages may still be held."""
        return [pause for pause in self.current if not pause.lasts]

    def look(self) -> None:
        """Read the pauses. Raises TransientError, and leaves them as they are."""
        now = self._clock()
        found = tuple(self._source.current())
        if found != self.current:
            self.current = found
            self.changes += 1
        self.read_at = now


class OperatorPausedLanes:
    """The lanes, and the types of lanes, that one worker takes nothing of for an operator."""

    def __init__(self, queues: Sequence[str], watch: PauseWatch, metrics: Metrics) -> None:
        self._queues, self._watch, self._metrics = queues, watch, metrics
        self._seen: tuple[OperatorPause, ...] = ()
        self._lanes: dict[str, OperatorPause] = {}
        self._quiescing: set[str] = set()
        self._whole: set[str] = set()
        self._must_obey = False
        self._obeyed_at: datetime | None = None
        self.types: Mapping[LaneType, OperatorPause] = {}

    # -- what is paused -----------------------------------------------------------------------------------

    @property
    def needs_attention(self) -> bool:
        """True where the pauses have changed, or a lane finishes what it holds; asked with every batch."""
        return self._must_obey or self._seen is not self._watch.current or bool(self._quiescing)

    @property
    def obeyed_at(self) -> datetime | None:
        """Time at which the pauses that it obeys were read last; any thread may ask."""
        if self._seen is self._watch.current:
            self._obeyed_at = self._watch.read_at
        return self._obeyed_at

    def is_paused(self, queue: str) -> bool:
        """Return True for a lane of which nothing more is taken."""
        return queue in self._lanes

    @property
    def paused(self) -> Mapping[str, OperatorPause]:
        """The lanes of which nothing more is taken."""
        return dict(self._lanes)

    def is_quiesced(self, queue: str) -> bool:
        """Return True for a lane that has finished what it held."""
        pause = self._lanes.get(queue)
        return pause is not None and pause.kind is PauseKind.QUIESCE and queue not in self._quiescing

    def held_type(self, item: Item) -> str | None:
        """Return the type of an item that is to be held; None for one that its lane takes.

        What is refused for its ids alone counts: the ledger may know them, and then it is applied.
        """
        if item.message is not None:
            type_: str | None = item.message.type
        else:
            type_ = item.failure.type if item.failure and has_unruly_ids(item.received) else None
        return type_ if (item.queue, type_) in self.types else None

    def held_type_by_key(self, delivery: Delivery) -> str | None:
        """Return the type of a delivery that is to be held unread, since reading it may crash a worker."""
        lane = without_partition(delivery.queue)
        types = (type_ for queue, type_ in self.types if queue == lane)
        return next((type_ for type_ in types if is_key_of(delivery.routing_key, type_)), None)

    # -- changes ------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Read the pauses now, and obey those of lanes with the next link. Raises TransientError."""
        self._watch.look()
        self._quiescing.clear()  # the link before has given back what it held
        self._whole.clear()  # the queue for their types may be there by now
        self._obey()

    def attend(self, link: HoldsLanes, prefetch: Callable[[str], int]) -> Iterable[str]:
        """Act on changed pauses, with nothing in flight; return the lanes that have given all back.

        ``prefetch`` says how much a lane holds that goes on.
        """
        given_back = []
        before = dict(self._lanes)
        self._obey()
        for queue in [queue for queue in before if queue not in self._lanes]:
            self._quiescing.discard(queue)
            link.hold_at_most(queue, prefetch(queue))
            log.warning("%s goes on: an operator resumed it", queue)
        for queue, pause in self._lanes.items():
            if before.get(queue) == pause:
                continue
            log.warning("%s: %s", queue, pause.text)
            if pause.kind is PauseKind.QUIESCE and queue not in before:
                link.quiesce(queue)
                self._quiescing.add(queue)
            else:
                self._quiescing.discard(queue)
                given_back.append(queue)
        given_back += [queue for queue in self._quiescing if not link.arrived(queue)]
        for queue in given_back:
            self._quiescing.discard(queue)
            link.hold_at_most(queue, 0, give_back=True)
        return given_back

    def pause_instead(self, queue: str, why: str) -> None:
        """Pause a whole lane of which a type can't be held; it is given back at the next ``attend``."""
        if queue not in self._whole:
            log.critical("%s is paused as a whole: %s", queue, why)
            self._whole.add(queue)
            self._must_obey = True

    def _obey(self) -> None:
        """Take over the pauses as they were read last."""
        self._seen, self._must_obey = self._watch.current, False
        lasting = [pause for pause in self._seen if pause.lasts and pause.queue in self._queues]
        types = {(pause.queue, pause.type): pause for pause in lasting if pause.type is not None}
        of_types = {queue: pause for (queue, _), pause in types.items()}
        self._whole &= of_types.keys()  # the others have no paused type any more
        lanes = {queue: of_types[queue] for queue in self._whole}
        lanes |= {pause.queue: pause for pause in lasting if pause.type is None}
        self.types, self._lanes = types, lanes
        for queue in self._queues:
            self._metrics.paused.labels(queue, PauseCode.OPERATOR).set(queue in lanes)
            self._metrics.paused.labels(queue, PauseCode.OPERATOR_TYPE).set(queue in of_types)
