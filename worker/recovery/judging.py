"""Judgement of what the journal keeps, by its sender and the rules of today.

The journal keeps the ``user_id`` for which the broker vouched. A message that its sender may not send today
is not published: the operator who recovers may do more than the sender.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from schemas import MESSAGE_TYPES, DeadLetterReason, Message
from schemas.dead_letter import (
    RECOVERY_HEADER,
    RECOVERY_SINCE_HEADER,
    REPLAY_DEAD_LETTER_HEADER,
    REPLAY_HEADER,
)
from worker.broker import Delivery, Outgoing
from worker.broker.journal import OFFSET_HEADER, JournalMessage
from worker.deadletters.models import DeadLetterStatus
from worker.messages.dead_letters import Failure, dead_letter_id, sendable
from worker.messages.origin import DEATHS, Origin, is_key_of, origin_of, republished, wrong_way
from worker.messages.policy import Policy
from worker.messages.receiving import message_in
from worker.messages.routing import routed

#: Properties that are published again. Not the reply address: whoever waited has given up by now. Not
#: ``expiration``, which would end the message's life, and not ``user_id``, which names who publishes.
_KEPT = {
    "content_type",
    "content_encoding",
    "priority",
    "correlation_id",
    "message_id",
    "timestamp",
    "type",
    "app_id",
}
#: Reasons of a message that is no command, whoever sends it.
_NO_COMMAND = frozenset(
    {
        DeadLetterReason.BODY_TOO_LARGE,
        DeadLetterReason.BYTE_ORDER_MARK,
        DeadLetterReason.NOT_UTF8,
        DeadLetterReason.NOT_JSON,
        DeadLetterReason.TOO_DEEP,
        DeadLetterReason.DUPLICATE_FIELD,
        DeadLetterReason.NOT_AN_OBJECT,
        DeadLetterReason.MISSING_FIELD,
        DeadLetterReason.UNKNOWN_FIELD,
        DeadLetterReason.UNKNOWN_TYPE,
        DeadLetterReason.INVALID_FIELD,
    }
)
#: Header of a message that a dead-letter exchange has published.
_FIRST_DEATH = "x-first-death-queue"
_DEALT_WITH = (DeadLetterStatus.RESOLVED, DeadLetterStatus.DISCARDED)
_BY_HAND = {f"billing-worker {name}": name for name in ("adjust", "retry", "console")}


class Handling(StrEnum):
    """Use of a message of the journal."""

    COMMAND = "command"  #: published, as the command that it is
    DEAD_LETTER = "dead_letter"  #: published, and a dead letter again: it is no command
    REFUSED = "refused"  #: not published: nobody may send it so, or its sender may not
    COPY = "copy"  #: not published: an earlier recovery sent it, and the original is read as well
    KNOWN = "known"  #: not published: it is a dead letter that needs nothing more, see ``as_known``


@dataclass(frozen=True, slots=True)
class JudgedMessage:
    """A message of the journal, its first sender, and its use. ``found`` is the command or the failure."""

    offset: int
    delivery: Delivery
    sender: str | None
    handling: Handling
    found: Message | Failure
    outgoing: Outgoing
    is_discarded: bool = False  #: its dead letter, by an operator

    @property
    def is_published(self) -> bool:
        """True for a message that goes through the queues again."""
        return self.handling in (Handling.COMMAND, Handling.DEAD_LETTER)

    @property
    def dead_letter_id(self) -> str:
        """Id that the message has as a dead letter."""
        return dead_letter_id(self.delivery)

    def as_known(self, status: DeadLetterStatus | None) -> "JudgedMessage":
        """Return the message as one that is a dead letter of ``status`` already; None: it is none.

        A command is known where operators have dealt with its dead letter. Else it is published: the same
        bytes may have come again and have been applied. A replay is published in any case.
        """
        is_known = status in _DEALT_WITH if self.handling is Handling.COMMAND else status is not None
        if not self.is_published or not is_known or REPLAY_HEADER in self.delivery.headers:
            return self
        return replace(self, handling=Handling.KNOWN, is_discarded=status is DeadLetterStatus.DISCARDED)

    @property
    def operators_action(self) -> str | None:
        """Action of an operator that sent the message, as it says; None for any other message."""
        if (replay := self.delivery.headers.get(REPLAY_HEADER)) is not None:
            return f"replay {replay} of dead letter {self.delivery.headers.get(REPLAY_DEAD_LETTER_HEADER)}"
        return _BY_HAND.get(self.delivery.text("app_id") or "")


class Judge:
    """Judge of messages of the journal, read since a time, from offset ``first`` on.

    ``sent_as`` is the broker user that publishes them.
    """

    def __init__(self, policy: Policy, *, since: datetime, first: int, sent_as: str | None) -> None:
        self._policy, self._first, self._sent_as = policy, first, sent_as
        self._since = int(since.timestamp())

    def judged(self, messages: Iterable[JournalMessage], now: datetime) -> Iterator[JudgedMessage]:
        """Yield the judgement of each message."""
        for message in messages:
            yield self._judged(message, now)

    def _judged(self, message: JournalMessage, now: datetime) -> JudgedMessage:
        delivery = self._as_from_its_queue(message.delivery)
        origin = origin_of(delivery, self._policy.worker_users)
        again = _headers_of_copy(delivery, origin) or {
            RECOVERY_HEADER: message.offset,
            RECOVERY_SINCE_HEADER: self._since,
        }
        outgoing = routed(self._outgoing(delivery, origin, again), self._policy.topology.partitions, now)
        found = self._found(delivery, outgoing, now)
        is_copy = self._first <= again[RECOVERY_HEADER] < message.offset
        handling = self._handling(found, delivery, origin, is_copy=is_copy)
        return JudgedMessage(message.offset, delivery, origin.sender, handling, found, outgoing)

    def _as_from_its_queue(self, delivery: Delivery) -> Delivery:
        """Return the delivery as a worker gets it, from a queue of work."""
        topology = self._policy.topology
        is_bulk = delivery.exchange == topology.bulk_exchange
        others = (queue for queue in topology.work if queue is not topology.bulk)
        # Who may write to the stream itself names no key of a queue: any will do for the refusal.
        queue = next((one for one in others if one.takes(delivery.routing_key)), topology.work[0])
        queue = topology.bulk if is_bulk else queue
        # A stream keeps no arrays, such as x-death.
        deaths: dict[str, Any] = {DEATHS: []} if _FIRST_DEATH in delivery.headers else {}
        return Delivery(
            delivery.body,
            queue.name,
            delivery.exchange,
            delivery.routing_key,
            tag=0,
            properties=delivery.properties,
            headers={**delivery.headers, **deaths},
            unreadable=delivery.unreadable,
        )

    def _outgoing(self, delivery: Delivery, origin: Origin, again: Mapping[str, int]) -> Outgoing:
        own = {name: value for name, value in delivery.headers.items() if name != OFFSET_HEADER}
        headers, _ = sendable(own, origin)
        is_bulk = delivery.queue == self._policy.topology.bulk.name
        message = Outgoing(
            body=delivery.body,
            exchange=self._policy.topology.bulk_exchange if is_bulk else self._policy.topology.exchange,
            routing_key=delivery.routing_key,
            properties={name: value for name, value in delivery.properties.items() if name in _KEPT},
            headers={**headers, **again},
        )
        return republished(message, sender=origin.sender, sent_as=self._sent_as)

    def _found(self, delivery: Delivery, outgoing: Outgoing, now: datetime) -> Message | Failure:
        """Return the message, or the failure of the one that was sent, or of the one to send."""
        found = message_in(delivery, self._policy, now)
        if isinstance(found, Failure):
            return found
        return message_in(_delivered(outgoing, delivery.queue), self._policy, now)

    def _handling(
        self, found: Message | Failure, delivery: Delivery, origin: Origin, *, is_copy: bool
    ) -> Handling:
        if is_copy:
            return Handling.COPY
        if not isinstance(found, Failure):
            return Handling.COMMAND
        is_again = found.code in _NO_COMMAND and self._may_come(delivery, origin)
        return Handling.DEAD_LETTER if is_again else Handling.REFUSED

    def _may_come(self, delivery: Delivery, origin: Origin) -> bool:
        """Return True where all its users may send the type that its key names."""
        if wrong_way(delivery, origin, self._policy.topology) is not None or origin.is_forged:
            return False
        type_ = next((name for name in MESSAGE_TYPES if is_key_of(delivery.routing_key, name)), "")
        users = {*origin.users, self._sent_as}
        return all(self._policy.prefix_of_references(type_, user) is not None for user in users)


def _headers_of_copy(delivery: Delivery, origin: Origin) -> dict[str, int] | None:
    """Return the headers of an earlier recovery's copy; None for any other message."""
    names = (RECOVERY_HEADER, RECOVERY_SINCE_HEADER)
    found = {name: value for name in names if isinstance(value := delivery.headers.get(name), int)}
    return found if len(found) == len(names) and origin.is_ours else None


def _delivered(message: Outgoing, queue: str) -> Delivery:
    """Return the message as a worker will get it."""
    return Delivery(
        message.body,
        queue,
        message.exchange,
        message.routing_key,
        tag=0,
        properties={name: value for name, value in message.properties.items() if value is not None},
        headers=message.headers,
    )
