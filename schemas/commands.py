"""The commands a producer may send: one frozen model a type, camelCase on the wire.

``CONTENT`` names the fields that move the ledger. Two messages with the same reference are the same
operation when these agree; transport fields, times and free text don't count.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator
from pydantic.alias_generators import to_camel

from schemas.fields import Currency, FreeText, Identifier, Label, Metadata, Quantity, Timestamp


class BaseCommand(BaseModel):
    """What every command carries.

    ``reference_id`` names the operation in the whole ledger, for ever. ``attempt`` (from 1) asks for a
    rejected reference to be judged anew; an applied one never is.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    CONTENT: ClassVar[tuple[str, ...]] = ()
    #: The field that holds the magnitude of the operation, for the configured maximum.
    QUANTITY: ClassVar[str | None] = None

    reference_id: Identifier
    user_id: Identifier
    occurred_at: Timestamp | None = None
    metadata: Metadata | None = None
    attempt: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 1
    description: FreeText | None = None

    def content(self) -> dict[str, Any]:
        """The fields that move the ledger, under their names on the wire; absent ones are left out."""
        return {to_camel(name): value for name in self.CONTENT if (value := getattr(self, name)) is not None}

    def to_json(self) -> bytes:
        """The message body a producer publishes."""
        return self.model_dump_json(exclude_none=True).encode()


class OpenAccount(BaseCommand):
    """Opens a balance on a subscription tier and grants the month's allocation."""

    CONTENT = ("tier",)
    type: Literal["account.open"] = "account.open"
    tier: Identifier


class DeductUsage(BaseCommand):
    """Takes tokens, or is answered with insufficient balance. ``feature`` is what analytics group by."""

    CONTENT = ("tokens", "feature")
    QUANTITY = "tokens"
    type: Literal["usage.deduct"] = "usage.deduct"
    tokens: Quantity
    feature: Label | None = None


class FreeUpload(BaseCommand):
    """Counts bytes against the tier's free-upload limit of the calendar month (UTC)."""

    CONTENT = ("bytes",)
    QUANTITY = "bytes"
    type: Literal["usage.free_upload"] = "usage.free_upload"
    bytes: Quantity


class PaymentSucceeded(BaseCommand):
    """Credits a token package, base and bonus, and records the payment.

    The reference is the payment's own id at the gateway, so that two events about one payment are one.
    The package is named by ``package_id``, or by its position in the catalog, from 0.
    """

    CONTENT = ("package_id", "package_index", "amount_minor", "currency")
    QUANTITY = "amount_minor"
    type: Literal["payment.succeeded"] = "payment.succeeded"
    package_id: Identifier | None = None
    package_index: Annotated[StrictInt, Field(ge=0, le=9_999)] | None = None
    amount_minor: Quantity
    currency: Currency
    provider: Label | None = None

    @model_validator(mode="after")
    def _one_package(self) -> Self:
        if (self.package_id is None) == (self.package_index is None):
            raise ValueError("name the package by packageId or by packageIndex, one of the two")
        return self


class RefundCredit(BaseCommand):
    """Gives tokens back."""

    CONTENT = ("tokens",)
    QUANTITY = "tokens"
    type: Literal["credit.refund"] = "credit.refund"
    tokens: Quantity


class BonusCredit(BaseCommand):
    """Gives promotional tokens."""

    CONTENT = ("tokens",)
    QUANTITY = "tokens"
    type: Literal["credit.bonus"] = "credit.bonus"
    tokens: Quantity


Command = OpenAccount | DeductUsage | FreeUpload | PaymentSucceeded | RefundCredit | BonusCredit

#: Every command by its ``type``.
COMMAND_TYPES: dict[str, type[Command]] = {
    model.model_fields["type"].default: model
    for model in (OpenAccount, DeductUsage, FreeUpload, PaymentSucceeded, RefundCredit, BonusCredit)
}
