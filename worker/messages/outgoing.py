"""The kinds of outgoing messages, each with its source."""

from dataclasses import dataclass, field
from typing import ClassVar

from schemas import DeadLetterReason, Notice
from worker.broker import Outgoing


@dataclass(frozen=True, slots=True, eq=False)
class OutgoingReply(Outgoing):
    """A reply to a queue."""


@dataclass(frozen=True, slots=True, eq=False)
class OutgoingDirectReply(Outgoing):
    """A reply to an address that RabbitMQ made for direct reply-to; delivered at most once."""

    # RabbitMQ delivers a mandatory direct reply, and returns it as well.
    mandatory: ClassVar[bool] = False


@dataclass(frozen=True, slots=True, eq=False)
class OutgoingNotice(Outgoing):
    """A notice to the event exchange."""

    notice: Notice = field(kw_only=True)


@dataclass(frozen=True, slots=True, eq=False)
class OutgoingDeadLetter(Outgoing):
    """A dead letter to its queue."""

    reason: DeadLetterReason = field(kw_only=True)


#: A message that is sent in response to a delivery.
OutgoingResponse = OutgoingReply | OutgoingDirectReply | OutgoingNotice | OutgoingDeadLetter
