"""A message, or an item of a batch, that is no command."""

from dataclasses import dataclass

from schemas.dead_letter_reason import DeadLetterReason
from schemas.fields import WantedReplies


@dataclass(frozen=True, slots=True)
class Malformed:
    """Reason why a message or an item of a ``usage.batch`` is no command.

    The identities, and which ``replies`` are wanted, are given where they could be read. ``field`` of an
    item begins with its place: ``items.3.tokens``.
    """

    reason: DeadLetterReason
    message: str
    field: str | None = None
    type: str | None = None
    reference_id: str | None = None
    user_id: str | None = None
    replies: WantedReplies | None = None


class MalformedError(Exception):
    """Carries ``reason``, ``message`` and ``field`` of a ``Malformed`` to where its identities are known."""

    def __init__(self, reason: DeadLetterReason, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.reason, self.message, self.field = reason, message, field
