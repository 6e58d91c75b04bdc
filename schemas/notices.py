"""Notices: events of the ledger for all listeners, on the event exchange; their routing key is the type."""

from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from schemas.version import SCHEMA_VERSION

NoticeType = Literal["balance.low", "balance.depleted", "credit.expiring", "payment.rejected"]

#: Types whose user may be unknown; all others name one.
UNNAMED_NOTICES: Final = frozenset({"payment.rejected"})


class Notice(BaseModel):
    """One notice. The same one may come twice (at least once): ``id`` is then the same.

    ``reference_id`` is the operation that brought it about, ``recorded_at`` when. Of a balance: ``available``
    tokens were at or below ``mark``. Of credit: ``tokens`` of ``lot`` (its number in the account) end with
    ``expires_at``. Of a rejected payment: its ``code``, and the money; its ``user_id`` is absent where the
    message named none. A reader of today takes types of later versions, and ignores fields that it doesn't
    know.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    schema_version: int = SCHEMA_VERSION
    type: NoticeType | str
    id: str
    user_id: str | None = None
    reference_id: str
    recorded_at: datetime
    available: int | None = None
    mark: int | None = None
    lot: int | None = None
    tokens: int | None = None
    source: str | None = None
    expires_at: datetime | None = None
    code: str | None = None
    amount_minor: int | None = None
    currency: str | None = None

    def to_json(self) -> bytes:
        """Return the message body."""
        return self.model_dump_json(exclude_none=True).encode()
