"""The answer to a message: what happened, and everything a caller needs to act on it."""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Status(StrEnum):
    """What became of the command."""

    APPLIED = "applied"  #: the ledger moved (once; see ``duplicate``)
    REJECTED = "rejected"  #: understood and refused; nothing moved
    FAILED = "failed"  #: could not be processed; it is a dead letter now


class Code(StrEnum):
    """Stable reasons, one set for all replies. Names are never reused or renamed."""

    ACCOUNT_OPENED = "account_opened"
    TOKENS_DEDUCTED = "tokens_deducted"
    FREE_UPLOAD_COUNTED = "free_upload_counted"
    TOKENS_PURCHASED = "tokens_purchased"
    TOKENS_REFUNDED = "tokens_refunded"
    BONUS_GRANTED = "bonus_granted"

    INSUFFICIENT_BALANCE = "insufficient_balance"
    ACCOUNT_NOT_FOUND = "account_not_found"
    ACCOUNT_EXISTS = "account_exists"
    FREE_UPLOAD_LIMIT_EXCEEDED = "free_upload_limit_exceeded"
    UNKNOWN_PACKAGE = "unknown_package"
    UNKNOWN_TIER = "unknown_tier"
    AMOUNT_MISMATCH = "amount_mismatch"
    REFERENCE_CONFLICT = "reference_conflict"

    MALFORMED = "malformed"  #: ``reason`` says how
    UNPROCESSABLE = "unprocessable"  #: a fault of the worker's; operators see the traceback


class Reply(BaseModel):
    """One reply. Absent fields don't apply. Amounts are whole tokens, or bytes where ``unit`` says so.

    ``duplicate`` is true when the reference had its outcome before this delivery; everything else is then
    as it was in the first reply. ``recorded_at`` is when the outcome was stored.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",  # a reader of today meets the replies of tomorrow
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    status: Status
    code: Code
    message: str
    type: str | None = None
    reference_id: str | None = None
    user_id: str | None = None
    attempt: int | None = None
    duplicate: bool = False
    transaction_id: str | None = None
    unit: str | None = None
    amount: int | None = None
    balance_before: int | None = None
    balance_after: int | None = None
    required: int | None = None
    available: int | None = None
    shortfall: int | None = None
    used: int | None = None
    limit: int | None = None
    tier: str | None = None
    package_id: str | None = None
    base_tokens: int | None = None
    bonus_tokens: int | None = None
    expected: str | None = None
    received: str | None = None
    field: str | None = None
    reason: str | None = None
    recorded_at: datetime | None = None

    def to_json(self) -> bytes:
        """The message body."""
        return self.model_dump_json(exclude_none=True).encode()
