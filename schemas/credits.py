"""Commands that give credit, or correct it by hand."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StrictInt, StringConstraints, model_validator

from schemas.base import BaseCommand, OpeningCommand
from schemas.fields import INT64_MAX, FreeText, Identifier, Label, Quantity, UsageQuantity, UtcTimestamp


class RefundCredit(BaseCommand):
    """Gives tokens back that the usage ``original_reference_id`` took, to where they came from.

    However many refunds name one usage, together they never give back more than it took. Without an original
    it is refused, unless the catalog says otherwise (``refunds.unbound``). The usage's free units go back to
    the period they came from while that runs: ``free_quantity`` of them; without it all, where the refund
    gives back the last of its tokens. Without ``free_quantity`` more ``tokens`` than are left of usage with
    free units give back all that is left of both.
    """

    CONTENT = ("tokens", "original_reference_id", "free_quantity")
    QUANTITIES = ("tokens", "free_quantity")
    type: Literal["credit.refund"] = "credit.refund"
    tokens: UsageQuantity
    free_quantity: UsageQuantity | None = None
    original_reference_id: Identifier | None = None

    @model_validator(mode="after")
    def _not_itself(self) -> Self:
        if self.original_reference_id == self.reference_id:
            raise ValueError(
                "originalReferenceId names this command itself; give it a referenceId of its own"
            )
        return self


class BonusCredit(OpeningCommand):
    """Gives promotional tokens, from ``effective_at`` (or now) until before ``expires_at`` (or for ever).

    Credit of a lower ``priority`` (0 to 1000) is spent first; without one the catalog's for bonuses holds.
    """

    CONTENT = ("tokens", "effective_at", "expires_at", "priority", "open_tier")
    QUANTITIES = ("tokens",)
    type: Literal["credit.bonus"] = "credit.bonus"
    tokens: Quantity
    effective_at: UtcTimestamp | None = None
    expires_at: UtcTimestamp | None = None
    priority: Annotated[StrictInt, Field(ge=0, le=1_000)] | None = None

    @model_validator(mode="after")
    def _effective_before_it_expires(self) -> Self:
        at = self.effective_at
        if at is not None and self.expires_at is not None and at >= self.expires_at:
            raise ValueError("expiresAt must be after effectiveAt")
        return self


def _not_zero(value: int) -> int:
    if value == 0:
        raise ValueError("must not be 0; give tokens with a positive number, take them with a negative one")
    return value


SignedQuantity = Annotated[
    StrictInt,
    Field(ge=-INT64_MAX, le=INT64_MAX, json_schema_extra={"not": {"const": 0}}),
    AfterValidator(_not_zero),
]
ReasonText = Annotated[FreeText, StringConstraints(min_length=1)]


class AdjustCredit(OpeningCommand):
    """An operator's correction: positive ``tokens`` give, negative ones take. It names reason and actor.

    It never takes the balance below zero, unless ``allow_negative`` says so.
    """

    CONTENT = ("tokens", "allow_negative", "expires_at", "open_tier")
    QUANTITIES = ("tokens",)
    type: Literal["credit.adjust"] = "credit.adjust"
    tokens: SignedQuantity
    reason: ReasonText
    actor: Label
    allow_negative: bool = Field(default=False, strict=True)
    expires_at: UtcTimestamp | None = None

    @model_validator(mode="after")
    def _what_is_taken_has_no_expiry(self) -> Self:
        if self.tokens < 0 and self.expires_at is not None:
            raise ValueError("expiresAt is for tokens that are given, and these are taken")
        return self
