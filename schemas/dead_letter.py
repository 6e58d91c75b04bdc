"""The dead letter: the original bytes untouched, and beside them, in headers, the reason."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

HEADER_PREFIX = "x-billing-"
#: Headers that a replay adds, so that a message that fails again is the same dead letter, edited or not.
REPLAY_HEADER, REPLAY_DEAD_LETTER_HEADER = "x-billing-replay", "x-billing-replay-letter"
#: Header of a message that is published again: the broker user that sent it first; empty for an anonymous
#: one. Believed only where the broker vouches (``user_id``) that a worker user published it.
SENDER_HEADER = "x-billing-sender"
#: Header of a message that a recovery publishes again from the journal: its offset there.
RECOVERY_HEADER = "x-billing-recovery"
#: Header beside it: the seconds of the time since which the recovery reads; deadlines before that were over.
RECOVERY_SINCE_HEADER = "x-billing-recovery-since"

#: Header of a message of a paused type, while it is held and when it returns: the queue of its lane. Believed
#: like the sender's.
HELD_HEADER = "x-billing-held"
#: Header beside it: the type of the message.
HELD_TYPE_HEADER = "x-billing-held-type"


class DeadLetter(BaseModel):
    """Reason why a message could not be applied, and its origin.

    On the wire each field is a header ``x-billing-‹name-with-dashes›``; the body, the properties and the
    other headers of the message are the original's.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    letter_id: str  #: the same message dead-lettered twice has the same id
    reason: str  #: a ``DeadLetterReason``, or one that an older or newer worker knows
    message: str
    field: str | None = None
    traceback: str | None = None
    queue: str
    exchange: str
    routing_key: str
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime
    type: str | None = None
    reference_id: str | None = None
    user_id: str | None = None
    worker_version: str
    schema_version: int
    headers_omitted: str | None = None  #: names of original headers that did not fit beside these
    replay: int | None = None  #: the replay that sent it, as the message says: the drainer looks it up
    replay_letter: int | None = None  #: the number of the dead letter that the replay sent

    def to_headers(self) -> dict[str, str | int]:
        """Return the headers to publish."""
        fields = self.model_dump(mode="json", exclude_none=True)
        return {HEADER_PREFIX + name.replace("_", "-"): value for name, value in fields.items()}

    @classmethod
    def from_headers(cls, headers: Mapping[Any, Any]) -> Self:
        """Return the dead letter in ``headers``; raises pydantic's ValidationError where they hold none."""
        own = {
            name.removeprefix(HEADER_PREFIX).replace("-", "_"): value
            for name, value in headers.items()
            if isinstance(name, str) and name.startswith(HEADER_PREFIX)
        }
        return cls.model_validate(own)
