"""Links of a run: one that publishes and one that drains, each opened when it is needed."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from worker.broker import BILLING, Link, Outgoing, PublishResult
from worker.deadletters.link_drainer import LinkDrainer
from worker.errors import BrokerUnavailableError


class RunLinks:
    """Links of one run. ``have_been_open`` is True once both of them could be opened."""

    def __init__(self, connect: Callable[[], Link], drain: Callable[[], LinkDrainer]) -> None:
        self._connect, self._drain = connect, drain
        self._publishing: Link | None = None
        self._draining: LinkDrainer | None = None
        self.have_been_open = False

    def open(self) -> None:
        """Open the first link, which publishes. Raises BrokerUnavailableError, ConfigurationError."""
        self._publish_link()

    def publish(self, messages: Sequence[Outgoing]) -> PublishResult:
        """Publish ``messages``. Any error may come of one message alone."""
        return self._publish_link().publish(messages)

    def probe(self) -> None:
        """Raise BrokerUnavailableError where the broker is away."""
        self._publish_link().depth(BILLING.dead.name)

    def drain(self) -> int:
        """Drain the dead letters that wait; returns how many. Raises NotKeptError."""
        if self._draining is None:
            self._draining = self._drain()
            self.have_been_open = True
        if self._publishing is not None:
            self._publishing.keep_alive()
        return self._draining.drain_all(wait_s=0)

    def keep_alive(self) -> None:
        """Keep open links alive; all are closed where one is lost."""
        try:
            for link in (self._publishing, None if self._draining is None else self._draining.link):
                if link is not None:
                    link.keep_alive()
        except BrokerUnavailableError:
            self.close()

    def close_publishing(self) -> None:
        """Close the link that publishes; the next use opens another."""
        if self._publishing is not None:
            with suppress(BrokerUnavailableError):
                self._publishing.close()
        self._publishing = None

    def close(self) -> None:
        """Close both links; the next use opens others."""
        self.close_publishing()
        if self._draining is not None:
            self._draining.close()
        self._draining = None

    def _publish_link(self) -> Link:
        if self._publishing is None:
            self._publishing = self._connect()
        return self._publishing
