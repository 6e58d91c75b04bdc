"""Commands about subscriptions: the tier, and the period that is granted."""

from typing import Literal, Self

from pydantic import model_validator

from schemas.base import BaseCommand
from schemas.fields import Identifier, UtcTimestamp
from schemas.payments import SubscriptionPayment


class SubscriptionCommand(BaseCommand):
    """A command that grants a period: which one by the gateway's calendar, and what was paid for it.

    With both times the period is the gateway's own, from ``period_start`` until before ``period_end``.
    """

    QUANTITIES = ("payment",)
    period_start: UtcTimestamp | None = None
    period_end: UtcTimestamp | None = None
    payment: SubscriptionPayment | None = None

    @model_validator(mode="after")
    def _whole_period(self) -> Self:
        if self.period_end is None:
            return self
        if self.period_start is None:
            raise ValueError("periodEnd needs periodStart: a period has both ends")
        if self.period_end <= self.period_start:
            raise ValueError("periodEnd must be later than periodStart")
        return self


class ChangeSubscription(SubscriptionCommand):
    """Moves to another tier, at once or with the next period, and takes a cancellation back.

    In mid-period an upgrade grants what the new tier has more than the most that was granted in this period,
    so that going up and down and up again grants nothing twice. A downgrade grants nothing and takes nothing.
    With ``effective_at`` period_end all of the present tier stays until then.
    """

    CONTENT = ("tier", "period_start", "period_end", "payment", "effective_at")
    type: Literal["subscription.change"] = "subscription.change"
    tier: Identifier
    effective_at: Literal["now", "period_end"] | None = None

    @model_validator(mode="after")
    def _later_has_no_period(self) -> Self:
        if self.effective_at == "period_end" and (self.period_start or self.payment):
            raise ValueError(
                "effectiveAt period_end grants nothing now: leave periodStart and payment out, and send them "
                "with the renewal"
            )
        if self.period_start is not None and self.period_end is None:
            raise ValueError("periodStart needs periodEnd: a change begins the gateway's own period")
        return self


class RenewSubscription(SubscriptionCommand):
    """Grants the allocation of a period: the one that contains ``period_start``, by default the present one.

    A period is granted once, whatever the references. Calendars differ: within a day of its end, a period
    that is granted stands for the one that follows, whose allocation takes effect when it begins.
    """

    CONTENT = ("period_start", "period_end", "payment")
    type: Literal["subscription.renew"] = "subscription.renew"


class CancelSubscription(BaseCommand):
    """Ends the subscription with the period that is granted, or ``now``: then its allocation ends as well.

    What was bought or given otherwise stays. ``subscription.change`` takes it up again.
    """

    CONTENT = ("at",)
    type: Literal["subscription.cancel"] = "subscription.cancel"
    at: Literal["period_end", "now"] = "period_end"
