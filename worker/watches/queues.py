"""Watch over queues: messages that wait, and consumers."""

from collections.abc import Callable, Sequence
from contextlib import closing
from math import nan

from worker.broker import BILLING, Link, Topology
from worker.errors import BrokerUnavailableError, ConfigurationError
from worker.metrics import Metrics


class QueueWatch:
    """Gauges of ``queues``; ``connect`` opens a link for each look. A queue that is missing is NaN.

    A lane counts with its partitions: their messages together, and the consumers of the queue with fewest.
    """

    def __init__(
        self,
        connect: Callable[[], Link],
        queues: Sequence[str],
        metrics: Metrics,
        topology: Topology = BILLING,
    ) -> None:
        self._connect, self._queues, self._metrics = connect, queues, metrics
        self._names = topology.names_by_lane
        self.forget()

    def look(self) -> None:
        """Ask the broker for each queue."""
        with closing(self._connect()) as link:
            for queue in self._queues:
                self._look_at(link, queue)

    def forget(self) -> None:
        """Set the gauges to NaN."""
        for queue in self._queues:
            self._set(queue, nan, nan)

    def _look_at(self, link: Link, queue: str) -> None:
        try:
            names = self._names.get(queue, (queue,))
            consumers = [nan if (count := link.consumers(name)) is None else count for name in names]
            self._set(queue, sum(link.depth(name) for name in names), min(consumers))
        except (BrokerUnavailableError, ConfigurationError):
            self._set(queue, nan, nan)

    def _set(self, queue: str, messages: float, consumers: float) -> None:
        self._metrics.queue_messages.labels(queue).set(messages)
        self._metrics.queue_consumers.labels(queue).set(consumers)
