"""Messages of a demo in phases; ``day`` and ``trace`` build them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas import Message, UsageBatch


@dataclass(frozen=True, slots=True)
class DemoMessage:
    """One message as a producer sends it; ``kind`` names its purpose.

    A copy that is delivered again has the same ``message_id``.
    """

    kind: str
    message_id: str
    routing_key: str
    body: bytes
    reference_id: str | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """Messages whose order does not matter; the next phase begins when all of these have a reply.

    Payments and usage use two queues, so that a message that must precede another is in an earlier phase.
    The phase begins after the holds of earlier phases that ``expired_holds`` names have expired.
    """

    name: str
    messages: tuple[DemoMessage, ...]
    expired_holds: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Scenario:
    """All phases; ``notes`` are lines for people, ``facts`` the same for programs."""

    phases: tuple[Phase, ...]
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> tuple[DemoMessage, ...]:
        """Every message, in the order of sending."""
        return tuple(message for phase in self.phases for message in phase.messages)


def message_of(kind: str, content: Message) -> DemoMessage:
    """Return the message that carries a command, or a batch of them."""
    attempt = 1 if isinstance(content, UsageBatch) else content.attempt
    message_id = f"{content.reference_id}/{attempt}"
    return DemoMessage(kind, message_id, content.type, content.to_json(), content.reference_id)


def zipf_weights(count: int, skew: float = 1.0) -> Sequence[float]:
    """Return weights of ``count`` users of whom few do much and many do little."""
    return [1 / (rank + 1) ** skew for rank in range(count)]
