"""Depths of the queues, read from the broker by passive declarations, which change nothing."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from worker.broker import Administers, Topology
from worker.errors import BillingError, BrokerUnavailableError
from worker.runtime.cached_value import Unknown


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Number of ready messages in a queue, and the consumers of a queue of work or of replies.

    ``consumers`` is None where the broker can't tell, and for the queue of dead letters.
    """

    name: str
    contents: str
    depth: int | Unknown
    consumers: int | None = None
    is_work: bool = False
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
        contents = {queue.name: ", ".join(queue.routing_keys) for queue in topology.work}
        contents[topology.bulk.name] += " in bulk, served last"
        contents |= {topology.replies.name: "replies", topology.dead.name: "dead letters, not drained yet"}
        work = {queue.name for queue in topology.work}
        consumed = {*work, topology.replies.name}
        depths = tuple(
            QueueDepth(
                name,
                text,
                depth := _depth(link, name),
                link.consumers(name) if name in consumed and isinstance(depth, int) else None,
                name in work,
                name == topology.dead.name,
            )
            for name, text in contents.items()
        )
        of_work = [queue.depth for queue in depths[: len(topology.work)]]
        known = [depth for depth in of_work if isinstance(depth, int)]
        unknown = next((depth for depth in of_work if isinstance(depth, Unknown)), None)
        return QueueStatus(depths, sum(known) if unknown is None else unknown)


def _depth(link: Administers, name: str) -> int | Unknown:
    """Return a queue's depth; Unknown for a missing queue. Raises where the link is lost."""
    try:
        return link.depth(name)
    except BrokerUnavailableError as error:
        if "NOT_FOUND" in str(error):
            return Unknown(str(error))
        raise
