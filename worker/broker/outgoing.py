"""Outgoing messages, and the broker's answers to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from worker.errors import BrokerUnavailableError

#: The beginning of the addresses that RabbitMQ makes for direct reply-to: no queues, they reach a channel.
#: Source: https://www.rabbitmq.com/docs/direct-reply-to
DIRECT_REPLY_TO = "amq.rabbitmq.reply-to."


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """One message to publish.

    The broker drops a message that is not ``mandatory`` silently where no queue takes it. A ``persistent``
    one is on disk before it is confirmed.
    """

    mandatory: ClassVar[bool] = True
    persistent: ClassVar[bool] = True

    body: bytes
    exchange: str
    routing_key: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PublishResult:
    """The broker's answers to published messages.

    No queue is there for those ``returned``; a queue is there, and full, for those ``refused``.
    """

    messages: Sequence[Outgoing]
    returned: Sequence[Outgoing] = ()
    refused: Sequence[Outgoing] = ()

    @property
    def accepted(self) -> Sequence[Outgoing]:
        """The messages that the broker has now."""
        if not self.returned and not self.refused:
            return self.messages
        missing = {*self.returned, *self.refused}
        return [message for message in self.messages if message not in missing]

    @property
    def refusal(self) -> str:
        """The text about those refused."""
        queues = ", ".join(sorted({repr(message.routing_key) for message in self.refused}))
        return f"the broker refused {len(self.refused)} messages for {queues}; is the queue full?"

    def raise_if_refused(self) -> None:
        """Raise BrokerUnavailableError where messages were refused: for callers that send them again."""
        if self.refused:
            raise BrokerUnavailableError(self.refusal)
