"""The default reply queue: how much waits there, and who reads it. What nobody reads piles up for ever."""

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from math import nan

from worker.broker import Administers, Link
from worker.errors import BrokerUnavailableError, ConfigurationError
from worker.metrics import Metrics
from worker.runtime.limited_log import LimitedLog
from worker.runtime.stop import Stop

log = logging.getLogger(__name__)

#: Replies that wait without a fault of anybody's; more than these are told to operators.
UNREAD_MAX = 10_000
#: Time between two looks of the watch, and between two lines of its log.
LOOK_EVERY_S, _LOG_EVERY_S = 60.0, 3600.0

_WAY_OUT = (
    "let senders whom no reply helps say `replies: none` or `problems` (`publish --replies none`), or name a "
    "`reply_to` of their own; "
    "read the queue, or take what waits with `billing-worker replies --take`"
)


@dataclass(frozen=True, slots=True)
class ReplyQueueStatus:
    """Depth of a reply queue, and its consumers (None: the broker can't tell)."""

    queue: str
    depth: int
    consumers: int | None

    @classmethod
    def of(cls, link: Administers, queue: str) -> "ReplyQueueStatus":
        """Read the status. Raises BrokerUnavailableError, also where there is no such queue."""
        return cls(queue, link.depth(queue), link.consumers(queue))

    @property
    def is_unread(self) -> bool:
        """True where so many replies wait that nobody seems to read them."""
        return self.depth >= UNREAD_MAX

    @property
    def text(self) -> str:
        """The status for people, with the way out of a queue that nobody reads."""
        if not self.is_unread:
            return f"{self._waiting} and {self._readers}"
        slow = "nobody reads them" if not self.consumers else f"{self._readers}, too slow for them"
        return f"{self._waiting} and {slow}: {_WAY_OUT}"

    @property
    def _waiting(self) -> str:
        return f"{self.queue} has {self.depth:,} waiting"

    @property
    def _readers(self) -> str:
        if self.consumers is None:
            return "consumers that the broker doesn't know"
        return "1 consumer" if self.consumers == 1 else f"{self.consumers or 'no'} consumers"


class ReplyQueueWatch:
    """Looks at the default reply queue once a minute, for the metrics and the log.

    ``connect`` opens a link for each look. What nobody can tell is NaN.
    """

    def __init__(self, connect: Callable[[], Link], queue: str, metrics: Metrics) -> None:
        self._connect, self._queue, self._metrics = connect, queue, metrics
        self._log = LimitedLog(log, logging.WARNING, every_s=_LOG_EVERY_S)

    def run(self, stop: Stop) -> None:
        """Look until ``stop``; an outage hides the queue and ends nothing."""
        while not stop.requested:
            self.look()
            stop.wait(LOOK_EVERY_S)

    def look(self) -> None:
        """Read the status once."""
        depth, consumers = self._metrics.replies_waiting, self._metrics.reply_consumers
        try:
            with closing(self._connect()) as link:
                status = ReplyQueueStatus.of(link, self._queue)
        except (BrokerUnavailableError, ConfigurationError) as error:
            log.debug("the reply queue can't be looked at: %s", error)
            depth.set(nan)
            consumers.set(nan)
            return
        depth.set(status.depth)
        consumers.set(nan if status.consumers is None else status.consumers)
        if status.is_unread:
            self._log.add(self._queue, status.text)
