"""Commands about an account as a whole."""

from typing import Literal, Self

from pydantic import model_validator

from schemas.base import NO_USER, BaseCommand, OptionalUser, optional_user
from schemas.fields import Identifier, Label


class OpenAccount(BaseCommand):
    """Opens a balance on a subscription tier and grants the first period's allocation.

    Periods are months counted from the moment of opening (UTC): from the 31st, a shorter month's period
    begins on its last day.
    """

    CONTENT = ("tier",)
    type: Literal["account.open"] = "account.open"
    tier: Identifier


class SettleAccount(BaseCommand):
    """Posts what is due: holds that ran out, credit that expired or takes effect, free renewals.

    The scheduler sends it. Nothing depends on its coming: any command that is applied does the same first,
    and reads count what is due.
    """

    type: Literal["account.settle"] = "account.settle"


class FreezingCommand(BaseCommand):
    """A command about the account of a user, or of a payment whose user the sender doesn't know."""

    user_id: OptionalUser = optional_user()
    payment_reference_id: Identifier | None = None

    @model_validator(mode="after")
    def _names_an_account(self) -> Self:
        if (self.user_id == NO_USER) == (self.payment_reference_id is None):
            raise ValueError("name the account by userId or by paymentReferenceId, one of the two")
        return self


class FreezeAccount(FreezingCommand):
    """Stops usage and holds of an account, as after a fraud warning; credit is still posted.

    One about a payment that isn't there yet waits for it.
    """

    CONTENT = ("payment_reference_id", "reason", "user_id")
    type: Literal["account.freeze"] = "account.freeze"
    reason: Label


class UnfreezeAccount(FreezingCommand):
    """Lets an account be used again."""

    CONTENT = ("payment_reference_id", "reason", "user_id")
    type: Literal["account.unfreeze"] = "account.unfreeze"
    reason: Label
