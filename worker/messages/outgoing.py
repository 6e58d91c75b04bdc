"""The kinds of outgoing messages, each with its source."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

from schemas import DeadLetterReason, Notice
from worker.broker import BILLING, Outgoing


@dataclass(frozen=True, slots=True, eq=False)
class OutgoingCommand(Outgoing):
    """A command for the ledger, published to the exchange of commands."""

    @classmethod
    def of(
        cls,
        routing_key: str,
        body: bytes,
        *,
        message_id: str,
        app_id: str,
        sent_as: str | None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        exchange: str = BILLING.exchange,
    ) -> Self:
        """Return a command; ``sent_as`` is the broker user that publishes it.

        The routing key is its type, with its partition where there are any: see ``routing_key_of``.
        """
        properties = {
            "content_type": "application/json",
            "message_id": message_id,
            "correlation_id": correlation_id,
            "reply_to": reply_to,
            "app_id": app_id,
            "user_id": sent_as,
        }
        given = {name: value for name, value in properties.items() if value is not None}
        return cls(body, exchange, routing_key, given)


@dataclass(frozen=True, slots=True, eq=False)
class OutgoingReply(Outgoing):
    """A reply to a queue."""


@dataclass(frozen=True, slots=True, eq=False)
class OutgoingDirectReply(Outgoing):
    """A reply to an address that RabbitMQ made for direct reply-to; delivered at most once."""

    # RabbitMQ delivers a mandatory direct reply, and returns it as well.
    mandatory: ClassVar[bool] = False


@dataclass(frozen=True, slots=True, eq=False)
class OutgoingAnswer(Outgoing):
    """An answer to a query. It is not kept: its caller waits for it, or asks again."""

    persistent: ClassVar[bool] = False


@dataclass(frozen=True, slots=True, eq=False)
class OutgoingDirectAnswer(OutgoingAnswer):
    """An answer to an address that RabbitMQ made for direct reply-to; delivered at most once."""

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
