"""Commands about payments, and their refunds, disputes and failures.

The reference of ``payment.succeeded`` is the payment's own id at the gateway; what happens to it later names
it, or another of its names, in ``original_reference_id``. These events may come in any order, each late, each
twice: they end in the same ledger. One that comes before its payment waits for it.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictInt, model_validator

from schemas.base import BasePart, CommandAbout, OpeningCommand, OptionalUser, optional_user
from schemas.fields import Currency, Identifier, Label, Quantity, UsageQuantity

#: Other names of a payment: the charge beside the intent, the session beside both.
Names = Annotated[tuple[Identifier, ...], Field(max_length=10)]
#: The same, at least one.
SomeNames = Annotated[tuple[Identifier, ...], Field(min_length=1, max_length=10)]
#: Number of packages that one payment buys.
PackageQuantity = Annotated[StrictInt, Field(ge=1, le=10_000)]


class PaymentSucceeded(OpeningCommand):
    """Credits a token package, base and bonus, and records the payment.

    The reference is the payment's own id at the gateway, so that two events about one payment are one;
    ``also_known_as`` are its other names, and either finds it. The package is named by ``package_id``, or by
    its position in the catalog, from 0. ``amount_minor`` is what the gateway captured, gross: the basis of
    all later proportions, 0 for a full discount. The other amounts are its parts, as far as they are known:
    ``amount = list − discount + tax + other``. The catalog's price is compared with the list price.
    """

    CONTENT = (
        "package_id",
        "package_index",
        "quantity",
        "amount_minor",
        "currency",
        "list_minor",
        "tax_minor",
        "discount_minor",
        "other_minor",
        "open_tier",
    )
    QUANTITIES = ("amount_minor", "list_minor", "tax_minor", "discount_minor", "other_minor")
    type: Literal["payment.succeeded"] = "payment.succeeded"
    package_id: Identifier | None = None
    package_index: Annotated[StrictInt, Field(ge=0, le=9_999)] | None = None
    quantity: PackageQuantity | None = None
    amount_minor: UsageQuantity
    currency: Currency
    list_minor: UsageQuantity | None = None
    tax_minor: UsageQuantity | None = None
    discount_minor: UsageQuantity | None = None
    other_minor: UsageQuantity | None = None
    provider: Label | None = None
    also_known_as: Names | None = None

    @model_validator(mode="after")
    def _one_package(self) -> Self:
        if (self.package_id is None) == (self.package_index is None):
            raise ValueError("name the package by packageId or by packageIndex, one of the two")
        return self


class SubscriptionPayment(BasePart):
    """Payment of a subscription's period: its own id at the gateway, and what was captured, gross.

    What happens to it later takes the period's allocation in proportion.
    """

    CONTENT = ("also_known_as", "amount_minor", "currency", "provider", "reference_id")
    QUANTITIES = ("amount_minor",)
    reference_id: Identifier
    amount_minor: UsageQuantity
    currency: Currency
    also_known_as: Names | None = None
    provider: Label | None = None


class CommandAboutPayment(CommandAbout, OpeningCommand):
    """A command about a payment, which knows whose it is: ``user_id`` may be left out, and decides nothing.

    One that comes before its payment waits by the payment's name, and opens no account.
    """

    user_id: OptionalUser = optional_user()


class PaymentNamed(CommandAboutPayment):
    """Gives a payment more names, so that its events find it by any of them.

    A gateway may say them late, and never in the payment itself. The reference is the gateway's own id of
    what joins the two. It may come before the payment, and before or after what names it: the names are of
    one payment from then on, whichever of them that comes with. A name that is another payment's is refused.
    """

    CONTENT = ("original_reference_id", "also_known_as", "open_tier")
    type: Literal["payment.named"] = "payment.named"
    also_known_as: SomeNames

    def content(self) -> dict[str, Any]:
        """Return the names as a list, as they are on the wire."""
        return {**super().content(), "alsoKnownAs": list(self.also_known_as)}


class PaymentRefunded(CommandAboutPayment):
    """Takes back tokens and bonus in proportion to the money that went back, all or a part.

    The reference is the refund's own id. ``amount_minor`` is what this refund gave back; for gateways that
    send cumulative amounts ``refunded_total_minor`` is what all refunds of the payment have given back by
    ``occurred_at``: of totals the latest counts. However much it is, never more than was paid counts.
    """

    CONTENT = ("original_reference_id", "amount_minor", "refunded_total_minor", "currency", "open_tier")
    QUANTITIES = ("amount_minor", "refunded_total_minor")
    type: Literal["payment.refunded"] = "payment.refunded"
    amount_minor: Quantity | None = None
    refunded_total_minor: UsageQuantity | None = None
    currency: Currency

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if (self.amount_minor is None) == (self.refunded_total_minor is None):
            raise ValueError(
                "give amountMinor, or refundedTotalMinor for a cumulative amount, one of the two"
            )
        if self.refunded_total_minor is not None and self.occurred_at is None:
            raise ValueError("refundedTotalMinor needs occurredAt: of several totals the latest counts")
        return self


class RefundFailed(CommandAboutPayment):
    """Takes a refund back that failed or was canceled after it had succeeded: it no longer counts.

    ``refund_reference_id`` is the reference of its ``payment.refunded``, which may come later than this.
    """

    CONTENT = ("original_reference_id", "refund_reference_id", "open_tier")
    type: Literal["payment.refund_failed"] = "payment.refund_failed"
    refund_reference_id: Identifier

    @model_validator(mode="after")
    def _another_refund(self) -> Self:
        if self.refund_reference_id == self.reference_id:
            raise ValueError("refundReferenceId names this command itself; it is the refund's own reference")
        return self


class PaymentDisputed(CommandAboutPayment):
    """Records an opened dispute. The catalog's ``on_dispute`` says whether that alone takes tokens back.

    Of the ``stage`` inquiry no money has moved: it never takes tokens. Without it the stage is chargeback.
    """

    CONTENT = ("original_reference_id", "dispute_id", "stage", "amount_minor", "currency", "open_tier")
    QUANTITIES = ("amount_minor",)
    type: Literal["payment.disputed"] = "payment.disputed"
    dispute_id: Identifier
    stage: Literal["inquiry", "chargeback"] | None = None
    amount_minor: Quantity
    currency: Currency


class DisputeClosed(CommandAboutPayment):
    """Records a decided dispute: ``lost`` takes tokens back like a refund, any other result gives them back.

    Of several closings of one dispute the latest by ``occurred_at`` counts; one without a time is older than
    any with; of two at one time ``lost`` counts. ``amount_minor`` is what this closing took.
    """

    CONTENT = ("original_reference_id", "dispute_id", "result", "amount_minor", "currency", "open_tier")
    QUANTITIES = ("amount_minor",)
    type: Literal["payment.dispute_closed"] = "payment.dispute_closed"
    dispute_id: Identifier
    result: Literal["won", "lost", "prevented", "withdrawn"]
    amount_minor: UsageQuantity
    currency: Currency


class PaymentFailed(CommandAboutPayment):
    """Takes back all that a payment bought which failed for good, also after it had succeeded.

    Where both events say when they occurred and the failure is the earlier one, the success stands.
    """

    CONTENT = ("original_reference_id", "open_tier")
    type: Literal["payment.failed"] = "payment.failed"
