"""The dead letter: the original bytes untouched, and beside them, in headers, why they are here."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

HEADER_PREFIX = "x-billing-"
#: What a replay puts beside the message, so that a letter that fails again is the same letter, edited or not.
REPLAY_HEADER, REPLAY_LETTER_HEADER = "x-billing-replay", "x-billing-replay-letter"


class DeadLetter(BaseModel):
    """Why a message could not be applied, and where it came from.

    On the wire each field is a header ``x-billing-‹name-with-dashes›``; the body, the properties and the
    other headers of the message are the original's.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    letter_id: str  #: the same message dead-lettered twice has the same id
    reason: str  #: of ``Malformed``, or reference_conflict, unprocessable, delivery_limit, notice_refused
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
    replay: int | None = None  #: the replay that sent it, as the message says: whoever parks it looks it up
    replay_letter: int | None = None  #: the number of the letter that the replay sent

    def to_headers(self) -> dict[str, str | int]:
        """The headers to publish."""
        fields = self.model_dump(mode="json", exclude_none=True)
        return {HEADER_PREFIX + name.replace("_", "-"): value for name, value in fields.items()}

    @classmethod
    def from_headers(cls, headers: Mapping[Any, Any]) -> Self:
        """The letter a dead message tells of; raises pydantic's ValidationError where it tells of none."""
        own = {
            name.removeprefix(HEADER_PREFIX).replace("-", "_"): value
            for name, value in headers.items()
            if isinstance(name, str) and name.startswith(HEADER_PREFIX)
        }
        return cls.model_validate(own)
