"""Sending replies, dead letters and notices, and handling those that the broker refuses or returns."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from enum import StrEnum

from worker.broker import Link, Outgoing, RefusedError
from worker.errors import BrokerUnavailableError
from worker.messages.policy import Policy
from worker.messages.replies import Replies
from worker.metrics import Metrics

log = logging.getLogger(__name__)

#: Direct replies of one batch that may fail before the rest of them is dropped.
_DIRECT_FAILURES_MAX = 3


class _Fate(StrEnum):
    PUBLISHED = "published"
    RETURNED = "returned"  #: no queue is there for it
    REFUSED = "refused"  #: a queue is there, and full


_PUBLISHED = _Fate.PUBLISHED


class Publisher:
    """Sends replies, dead letters and notices."""

    def __init__(self, policy: Policy, replies: Replies, metrics: Metrics) -> None:
        self._policy, self._replies, self._metrics = policy, replies, metrics
        self._events, self._dead = policy.topology.events, policy.topology.dead.name

    def send(self, link: Link, outgoing: Sequence[list[Outgoing]], now: datetime) -> set[str]:
        """Send all messages in the lists of ``outgoing`` and take out those that are done.

        Returns the routing keys of those left, which the broker did not take. Notices go last: a reply
        doesn't wait for listeners.
        """
        for with_notices in (False, True):
            # A second pass sends what the first one addressed anew after a refusal.
            if self._sent(link, outgoing, now, with_notices=with_notices):
                left = self._sent(link, outgoing, now, with_notices=with_notices)
                if left:
                    return left
        return set()

    def _sent(
        self, link: Link, outgoing: Sequence[list[Outgoing]], now: datetime, *, with_notices: bool
    ) -> set[str]:
        pending = [
            (messages, message)
            for messages in outgoing
            for message in messages
            if with_notices or not self._is_notice(message)
        ]
        if not pending:
            return set()
        fates = self._published(link, [message for _, message in pending])
        left: set[str] = set()
        for messages, message in pending:
            messages.remove(message)
            fate = fates.get(id(message), _PUBLISHED)
            if fate is _PUBLISHED and self._is_reply(message):
                continue  # nearly all of them
            again = self._remaining(message, fate, now)
            if again is not None:
                messages.append(again)
                left.add(again.routing_key)
        return left

    def _published(self, link: Link, messages: Sequence[Outgoing]) -> dict[int, _Fate]:
        """Return the fate of each message that did not simply reach a queue, by its ``id``."""
        refused: Sequence[Outgoing] = ()
        direct = [message for message in messages if not message.mandatory]
        kept = [message for message in messages if message.mandatory] if direct else messages
        try:
            returned = link.publish(kept) if kept else []
        except RefusedError as error:
            returned, refused = list(error.returned), error.refused
        self._publish_direct(link, direct)
        self._tell_unroutable([message for message in returned if self._is_reply(message)])
        return {id(m): _Fate.RETURNED for m in returned} | {id(m): _Fate.REFUSED for m in refused}

    def _publish_direct(self, link: Link, replies: Sequence[Outgoing]) -> None:
        """Publish ``replies`` at most once, apart from all else; what fails is dropped.

        RabbitMQ closes the connection that names an address of a node it doesn't know, and any producer may
        name one. Apart, that costs the others neither their replies nor a new connection for each message.
        """
        if not replies or self._is_published(link, replies):
            return
        failures = 1
        for reply in replies:
            if failures <= _DIRECT_FAILURES_MAX and not self._is_published(link, [reply]):
                failures += 1

    @staticmethod
    def _is_published(link: Link, replies: Sequence[Outgoing]) -> bool:
        try:
            link.publish(replies)
        except BrokerUnavailableError as error:
            log.warning("%d direct replies may be lost: %s", len(replies), error)
            return False
        return True

    def _remaining(self, message: Outgoing, fate: _Fate, now: datetime) -> Outgoing | None:
        """Return the message to send next for ``message``; None where it is done.

        A reply that no queue takes is counted and dropped. A reply that a full queue refuses goes to the
        default queue, which is worth waiting for. A notice that no queue is bound for is dropped. A notice
        that a full queue refuses becomes a dead letter: a slow listener stops nobody and loses nothing. A
        dead letter is sent again until a queue takes it.
        """
        if self._is_reply(message):
            if fate is _Fate.REFUSED:
                return replace(message, routing_key=self._policy.reply_queue)
        elif self._is_notice(message):
            self._metrics.notices.labels(message.routing_key, fate).inc()
            if fate is _Fate.REFUSED:
                return self._replies.about_refused_notice(message, now)
        elif fate is not _Fate.PUBLISHED:
            return message
        else:
            self._metrics.dead_letters.labels(str(message.headers["x-billing-reason"])).inc()
        return None

    def _is_notice(self, message: Outgoing) -> bool:
        return message.exchange == self._events

    def _is_reply(self, message: Outgoing) -> bool:
        return message.routing_key != self._dead and message.exchange != self._events

    def _tell_unroutable(self, replies: Sequence[Outgoing]) -> None:
        if not replies:
            return
        self._metrics.unroutable_replies.inc(len(replies))
        queues = sorted({repr(reply.routing_key) for reply in replies})
        log.warning("%d replies reached no queue: %s does not exist", len(replies), ", ".join(queues))
