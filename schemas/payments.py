"""Commands about payments, and their refunds, disputes and failures.

The reference of ``payment.succeeded`` is the payment's own id at the gateway; what happens to it later names
it in ``original_reference_id``. These events may come in any order, each late, each twice: they end in the
same ledger. One that comes before its payment waits for it.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, model_validator

from schemas.base import CommandAbout, OpeningCommand
from schemas.fields import Currency, Identifier, Label, Quantity


class PaymentSucceeded(OpeningCommand):
    """Credits a token package, base and bonus, and records the payment.

    The reference is the payment's own id at the gateway, so that two events about one payment are one.
    The package is named by ``package_id``, or by its position in the catalog, from 0.
    """

    CONTENT = ("package_id", "package_index", "amount_minor", "currency", "open_tier")
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


class PaymentRefunded(CommandAbout, OpeningCommand):
    """Takes back tokens and bonus in proportion to the money that went back, all or a part.

    The reference is the refund's own id. However many parts there are, never more than was paid counts.
    """

    CONTENT = ("original_reference_id", "amount_minor", "currency", "open_tier")
    QUANTITY = "amount_minor"
    type: Literal["payment.refunded"] = "payment.refunded"
    amount_minor: Quantity
    currency: Currency


class PaymentDisputed(CommandAbout, OpeningCommand):
    """Records an opened dispute. The catalog's ``on_dispute`` says whether that alone takes tokens back."""

    CONTENT = ("original_reference_id", "dispute_id", "amount_minor", "currency", "open_tier")
    QUANTITY = "amount_minor"
    type: Literal["payment.disputed"] = "payment.disputed"
    dispute_id: Identifier
    amount_minor: Quantity
    currency: Currency


class DisputeClosed(CommandAbout, OpeningCommand):
    """Records a decided dispute: ``lost`` takes tokens back like a refund, ``won`` gives taken ones back."""

    CONTENT = ("original_reference_id", "dispute_id", "result", "amount_minor", "currency", "open_tier")
    QUANTITY = "amount_minor"
    type: Literal["payment.dispute_closed"] = "payment.dispute_closed"
    dispute_id: Identifier
    result: Literal["won", "lost"]
    amount_minor: Quantity
    currency: Currency


class PaymentFailed(CommandAbout, OpeningCommand):
    """Takes back all that a payment bought which failed for good, also after it had succeeded.

    Where both events say when they occurred and the failure is the earlier one, the success stands.
    """

    CONTENT = ("original_reference_id", "open_tier")
    type: Literal["payment.failed"] = "payment.failed"
