"""A demo's script: messages in acts. ``day`` and ``trace`` make them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas import Message, UsageBatch


@dataclass(frozen=True, slots=True)
class DemoMessage:
    """One message as a producer sends it; ``kind`` says its purpose.

    A redelivered one has the same ``message_id``.
    """

    kind: str
    message_id: str
    routing_key: str
    body: bytes
    reference_id: str | None = None


@dataclass(frozen=True, slots=True)
class Act:
    """Messages that may overtake each other; the next act begins when all of these are answered.

    Payments and usage come by two queues, so that a message that must precede another is in an earlier act.
    The holds that ``run_out`` names, of earlier acts, have run out when this one begins.
    """

    name: str
    messages: tuple[DemoMessage, ...]
    run_out: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Script:
    """All acts; ``notes`` are lines for the person, ``facts`` the same for a script."""

    acts: tuple[Act, ...]
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> tuple[DemoMessage, ...]:
        """Every message, in the order of sending."""
        return tuple(message for act in self.acts for message in act.messages)


def saying(kind: str, content: Message) -> DemoMessage:
    """Return the message that carries a command, or a batch of them."""
    attempt = 1 if isinstance(content, UsageBatch) else content.attempt
    message_id = f"{content.reference_id}/{attempt}"
    return DemoMessage(kind, message_id, content.type, content.to_json(), content.reference_id)


def zipf_weights(count: int, skew: float = 1.0) -> Sequence[float]:
    """Return weights of ``count`` users of whom few do much and many do little."""
    return [1 / (rank + 1) ** skew for rank in range(count)]
