"""Depths of the queues, read from the broker by passive declarations, which change nothing."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from worker.broker import Administers, Topology
from worker.broker.topology import Queue
from worker.errors import BillingError, BrokerUnavailableError
from worker.runtime.cached_value import Unknown


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Number of ready messages in a queue, and the consumers of a queue of work or of replies.

    A lane counts with its partitions: their messages together, and the consumers of the queue that has the
    fewest. ``consumers`` is None where the broker can't tell, and for the queue of dead letters.
    """

    name: str
    contents: str
    depth: int | Unknown
    consumers: int | None = None
    is_dead: bool = False


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """Depths of the queues of work, replies and dead letters; ``work`` is the sum of the first."""

    depths: tuple[QueueDepth, ...]
    work: int | Unknown


class QueueProbe:
    """Reads the depths over a link of its own, which it keeps; for one thread at a time."""

    def __init__(self, open_: Callable[[], Administers], topology: Topology) -> None:
        self._open = open_
        self._topology = topology
        self._link: Administers | None = None

    def read(self) -> QueueStatus:
        """Return the depths now. Raises BrokerUnavailableError and ConfigurationError."""
        kept = self._link is not None
        try:
            return self._read()
        except BrokerUnavailableError:
            self.close()
            if not kept:
                raise
            return self._read()  # the broker may have closed an idle link

    def close(self) -> None:
        """Close the link, if there is one."""
        link, self._link = self._link, None
        if link is not None:
            with suppress(BillingError):
                link.close()

    def _read(self) -> QueueStatus:
        if self._link is None:
            self._link = self._open()
        link, topology = self._link, self._topology
        lanes = {lane.name: topology.queues_in(lane) for lane in topology.work}
        contents = {lane.name: self._contents(lane) for lane in topology.work}
        contents |= {topology.replies.name: "replies", topology.dead.name: "dead letters, not drained yet"}
        depths: list[QueueDepth] = []
        for name, text in contents.items():
            names = [queue.name for queue in lanes[name]] if name in lanes else [name]
            depth, is_dead = _depth_of_all(link, names), name == topology.dead.name
            consumers = None if is_dead or isinstance(depth, Unknown) else _consumers(link, names)
            depths.append(QueueDepth(name, text, depth, consumers, is_dead))
        of_work = [queue.depth for queue in depths[: len(topology.work)]]
        known = [depth for depth in of_work if isinstance(depth, int)]
        unknown = next((depth for depth in of_work if isinstance(depth, Unknown)), None)
        return QueueStatus(tuple(depths), sum(known) if unknown is None else unknown)

    def _contents(self, lane: Queue) -> str:
        """Return what is in the queues of a lane, for people."""
        text = ", ".join(lane.routing_keys)
        if lane == self._topology.bulk:
            text += " in bulk, served last"
        return f"{text}; with its {number} partitions" if (number := self._topology.partitions) else text


def _depth_of_all(link: Administers, names: Sequence[str]) -> int | Unknown:
    """Return the messages in all queues of a lane; Unknown where one is missing."""
    depths = [_depth(link, name) for name in names]
    missing = next((depth for depth in depths if isinstance(depth, Unknown)), None)
    return sum(depth for depth in depths if isinstance(depth, int)) if missing is None else missing


def _consumers(link: Administers, names: Sequence[str]) -> int | None:
    """Return the consumers of the queue of a lane that has the fewest; None where the broker can't tell."""
    counts = [count for name in names if (count := link.consumers(name)) is not None]
    return min(counts, default=None)


def _depth(link: Administers, name: str) -> int | Unknown:
    """Return a queue's depth; Unknown for a missing queue. Raises where the link is lost."""
    try:
        return link.depth(name)
    except BrokerUnavailableError as error:
        if "NOT_FOUND" in str(error):
            return Unknown(str(error))
        raise
