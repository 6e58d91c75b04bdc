"""The reply to a message: what happened, and everything a caller needs to act on it."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from schemas.version import SCHEMA_VERSION


class Status(StrEnum):
    """Result of the command."""

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
    BONUS_SCHEDULED = "bonus_scheduled"  #: takes effect later
    ADJUSTMENT_CREDITED = "adjustment_credited"
    ADJUSTMENT_DEBITED = "adjustment_debited"
    ACCOUNT_SETTLED = "account_settled"
    TOKENS_RESERVED = "tokens_reserved"
    HOLD_SETTLED = "hold_settled"
    HOLD_RELEASED = "hold_released"
    HOLD_EXTENDED = "hold_extended"
    HOLD_SETTLED_LATE = "hold_settled_late"  #: after it ran out, from what was available
    USAGE_RECORDED = "usage_recorded"
    BATCH_PROCESSED = "batch_processed"
    SUBSCRIPTION_CHANGED = "subscription_changed"
    SUBSCRIPTION_RENEWED = "subscription_renewed"
    RENEWAL_SCHEDULED = "renewal_scheduled"  #: takes effect when its period begins
    SUBSCRIPTION_CANCELED = "subscription_canceled"
    PAYMENT_REFUNDED = "payment_refunded"
    PAYMENT_DISPUTED = "payment_disputed"
    DISPUTE_WON = "dispute_won"
    DISPUTE_LOST = "dispute_lost"
    PAYMENT_FAILED = "payment_failed"
    PAYMENT_AWAITED = "payment_awaited"  #: recorded; counts when its payment comes
    ACCOUNT_IMPORTED = "account_imported"
    PAYMENT_IMPORTED = "payment_imported"  #: came with an account; no message has this reply
    PURCHASE_FLAGGED = "purchase_flagged"  #: credited, but the price differs; operators see it
    REFUND_FAILED = "refund_failed"  #: the refund no longer counts
    REFUND_STYLE_MIXED = "refund_style_mixed"  #: counts, but singles and totals differ; operators see it
    INQUIRY_OPENED = "inquiry_opened"  #: no money has moved
    DISPUTE_PREVENTED = "dispute_prevented"
    DISPUTE_WITHDRAWN = "dispute_withdrawn"
    CHANGE_SCHEDULED = "change_scheduled"  #: takes effect with the next period
    FREEZE_BEGAN = "freeze_began"
    FREEZE_ENDED = "freeze_ended"
    CANCELLATION_LATE = "cancellation_late"  #: the subscription was taken up since, and goes on
    PAYMENT_NAMED = "payment_named"  #: its events find it by these names

    INSUFFICIENT_BALANCE = "insufficient_balance"
    ACCOUNT_NOT_FOUND = "account_not_found"
    ACCOUNT_EXISTS = "account_exists"
    FREE_UPLOAD_LIMIT_EXCEEDED = "free_upload_limit_exceeded"
    UNKNOWN_PACKAGE = "unknown_package"
    UNKNOWN_TIER = "unknown_tier"
    AMOUNT_MISMATCH = "amount_mismatch"
    CURRENCY_MISMATCH = "currency_mismatch"
    HOLD_NOT_FOUND = "hold_not_found"
    HOLD_CLOSED = "hold_closed"  #: ``state`` says how: settled, released or expired
    HOLD_EXCEEDED = "hold_exceeded"
    UNKNOWN_METER = "unknown_meter"
    ORIGINAL_REQUIRED = "original_required"
    ORIGINAL_NOT_FOUND = "original_not_found"
    ORIGINAL_NOT_REFUNDABLE = "original_not_refundable"
    REFUND_EXCEEDS_ORIGINAL = "refund_exceeds_original"
    CREDIT_EXPIRED = "credit_expired"
    PERIOD_ALREADY_GRANTED = "period_already_granted"
    PERIOD_OUT_OF_RANGE = "period_out_of_range"
    SUBSCRIPTION_NOT_ACTIVE = "subscription_not_active"
    TOO_LATE = "too_late"  #: decided after ``validUntil``
    REFERENCE_TAKEN = "reference_taken"  #: that of a payment which an import brings
    ALLOCATION_OUTLASTS_PERIOD = "allocation_outlasts_period"
    ACCOUNT_FROZEN = "account_frozen"
    REFERENCE_CONFLICT = "reference_conflict"

    MALFORMED = "malformed"  #: ``reason`` says how
    UNPROCESSABLE = "unprocessable"  #: a fault of the worker's; operators see the traceback


#: A code or status of today as the member of its enumeration; one of a later version as its text.
OpenCode = Annotated[Code | str, Field(union_mode="left_to_right")]
OpenStatus = Annotated[Status | str, Field(union_mode="left_to_right")]

_VERSION_OF_ITEMS: Final[Any] = {"items": {"__all__": {"schema_version"}}}


class Reply(BaseModel):
    """One reply. Absent fields don't apply. Amounts are whole tokens, or bytes where ``unit`` says so.

    ``duplicate`` is true when the reference had its outcome before this delivery; everything else is then
    as it was in the first reply. ``recorded_at`` is when the outcome was stored. ``held`` is what holds keep
    of the balance, absent where that is nothing: available is balance minus held. ``expired`` counts the
    tokens that had run out and were taken off together with this. ``sequence`` is that of the account's last
    entry, where this wrote any: a query with that ``minSequence`` has seen it. ``counted_minor`` is the money
    of an event that counted for its payment, where that is less than it names. The reply to a batch has the
    replies to its ``items``, in their order, and counts them: ``failed`` are those that are no commands.

    A reader of today takes the replies of later versions: it ignores their fields, and has their codes and
    statuses as text.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",  # a reader of today meets the replies of tomorrow
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    schema_version: int = SCHEMA_VERSION
    status: OpenStatus
    code: OpenCode
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
    sequence: int | None = None
    required: int | None = None
    available: int | None = None
    shortfall: int | None = None
    used: int | None = None
    limit: int | None = None
    tier: str | None = None
    previous_tier: str | None = None
    opened_tier: str | None = None
    package_id: str | None = None
    base_tokens: int | None = None
    bonus_tokens: int | None = None
    expected: str | None = None
    received: str | None = None
    field: str | None = None
    reason: str | None = None
    recorded_at: datetime | None = None
    original_reference_id: str | None = None
    held: int | None = None
    released: int | None = None
    expired: int | None = None
    state: str | None = None
    meter: str | None = None
    quantity: int | None = None
    free_quantity: int | None = None
    charged_quantity: int | None = None
    amount_minor: int | None = None
    counted_minor: int | None = None
    list_minor: int | None = None
    payment_reference_id: str | None = None
    uncollected: int | None = None
    debt: int | None = None
    actor: str | None = None
    effective_at: datetime | None = None
    expires_at: datetime | None = None
    period_start: datetime | None = None
    period_end: datetime | None = None
    valid_until: datetime | None = None
    applied: int | None = None
    rejected: int | None = None
    failed: int | None = None
    items: "tuple[Reply, ...] | None" = None

    def to_json(self) -> bytes:
        """Return the message body; a batch says its version once, for all items."""
        exclude = None if self.items is None else _VERSION_OF_ITEMS
        return self.model_dump_json(exclude_none=True, exclude=exclude).encode()
