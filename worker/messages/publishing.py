"""Sending of replies, dead letters and notices, and what to do about those that no queue takes."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from worker.broker import Outgoing, Publishes, PublishResult
from worker.errors import BrokerUnavailableError
from worker.messages.dead_letter_log import DeadLetterLog
from worker.messages.outgoing import (
    OutgoingDeadLetter,
    OutgoingDirectReply,
    OutgoingNotice,
    OutgoingReply,
    OutgoingResponse,
)
from worker.messages.policy import Policy
from worker.messages.replies import Replies
from worker.metrics import Metrics
from worker.runtime import log_fields
from worker.runtime.log_fields import LogEvent

log = logging.getLogger(__name__)

#: Direct replies of one batch that may fail before the rest of them is dropped.
_DIRECT_FAILURES_MAX = 3


class PublishStatus(StrEnum):
    """Result of publishing one message."""

    PUBLISHED = "published"
    RETURNED = "returned"  #: no queue is there for it
    REFUSED = "refused"  #: a queue is there, and full


_PUBLISHED = PublishStatus.PUBLISHED


class Publisher:
    """Sends replies, dead letters and notices."""

    def __init__(self, policy: Policy, replies: Replies, metrics: Metrics) -> None:
        self._policy, self._replies, self._metrics = policy, replies, metrics
        self._dead_letter_log = DeadLetterLog(log)

    def send(self, link: Publishes, outgoing: Sequence[list[OutgoingResponse]], now: datetime) -> set[str]:
        """Send all messages in the lists of ``outgoing`` and take out those that are done.

        Returns the routing keys of those left, which the broker did not take. Notices go last: a reply
        doesn't wait for listeners.
        """
        for with_notices in (False, True):
            # A second pass sends what the first one addressed anew after a refusal.
            if self._send_once(link, outgoing, now, with_notices=with_notices):
                left = self._send_once(link, outgoing, now, with_notices=with_notices)
                if left:
                    return left
        self.write_log()
        return set()

    def write_log(self, *, all_: bool = False) -> None:
        """Log the dead letters since the last line of their cause; ``all_`` before the process ends."""
        self._dead_letter_log.write(all_=all_)

    def _send_once(
        self,
        link: Publishes,
        outgoing: Sequence[list[OutgoingResponse]],
        now: datetime,
        *,
        with_notices: bool,
    ) -> set[str]:
        pending = [
            (messages, message)
            for messages in outgoing
            for message in messages
            if with_notices or not isinstance(message, OutgoingNotice)
        ]
        if not pending:
            return set()
        statuses = self._publish(link, [message for _, message in pending])
        left: set[str] = set()
        for messages, message in pending:
            messages.remove(message)
            again = self._next_for(message, statuses.get(message, _PUBLISHED), now)
            if again is not None:
                messages.append(again)
                left.add(again.routing_key)
        return left

    def _publish(
        self, link: Publishes, messages: Sequence[OutgoingResponse]
    ) -> dict[Outgoing, PublishStatus]:
        """Publish ``messages`` and return the status of each that did not simply reach a queue."""
        direct = [message for message in messages if isinstance(message, OutgoingDirectReply)]
        others = [message for message in messages if message.mandatory] if direct else messages
        result = link.publish(others) if others else PublishResult(())
        publish_direct(link, direct)
        self._count_unroutable([message for message in result.returned if isinstance(message, OutgoingReply)])
        return {
            **dict.fromkeys(result.returned, PublishStatus.RETURNED),
            **dict.fromkeys(result.refused, PublishStatus.REFUSED),
        }

    def _next_for(
        self, message: OutgoingResponse, status: PublishStatus, now: datetime
    ) -> OutgoingResponse | None:
        """Return the message to send next for ``message``; None where it is done.

        A reply that no queue takes is counted and dropped. A reply that a full queue refuses goes to the
        default queue, which is worth waiting for. A notice that no queue is bound for is dropped. A notice
        that a full queue refuses becomes a dead letter: a slow listener stops nobody and loses nothing. A
        dead letter is sent again until a queue takes it.
        """
        match message:
            case OutgoingReply():
                if status is PublishStatus.REFUSED:
                    return replace(message, routing_key=self._policy.reply_queue)
            case OutgoingDirectReply():
                pass
            case OutgoingNotice():
                self._metrics.notices.labels(message.notice.type, status).inc()
                if status is PublishStatus.REFUSED:
                    return self._replies.dead_letter_for_notice(message, now)
            case OutgoingDeadLetter():
                if status is not PublishStatus.PUBLISHED:
                    return message
                self._metrics.dead_letters.labels(message.reason).inc()
                self._dead_letter_log.add(message)
            case _:
                assert_never(message)
        return None

    def _count_unroutable(self, replies: Sequence[Outgoing]) -> None:
        if not replies:
            return
        self._metrics.unroutable_replies.inc(len(replies))
        queues = sorted({repr(reply.routing_key) for reply in replies})
        extra = log_fields.fields(LogEvent.REPLIES_UNROUTABLE, count=len(replies))
        text = "%d replies reached no queue: %s does not exist"
        log.warning(text, len(replies), ", ".join(queues), extra=extra)


def publish_direct(link: Publishes, replies: Sequence[Outgoing]) -> None:
    """Publish direct replies at most once, apart from all else; what fails is dropped.

    RabbitMQ closes the connection that names an address of a node it doesn't know, and any producer may
    name one. Apart, that costs the others neither their replies nor a new connection for each message.
    """
    if not replies or _is_published(link, replies):
        return
    failures = 1
    for reply in replies:
        if failures <= _DIRECT_FAILURES_MAX and not _is_published(link, [reply]):
            failures += 1


def _is_published(link: Publishes, replies: Sequence[Outgoing]) -> bool:
    try:
        link.publish(replies).raise_if_refused()
    except BrokerUnavailableError as error:
        log.warning("%d direct replies may be lost: %s", len(replies), error)
        return False
    return True
