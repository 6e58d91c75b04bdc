"""Commands about subscriptions: the tier, and the period that is granted."""

from typing import Literal

from schemas.base import BaseCommand
from schemas.fields import Identifier, UtcTimestamp


class ChangeSubscription(BaseCommand):
    """Moves to another tier at once, and takes a cancellation back.

    In mid-period an upgrade grants what the new tier has more than the most that was granted in this period,
    so that going up and down and up again grants nothing twice. A downgrade grants nothing and takes nothing.
    """

    CONTENT = ("tier",)
    type: Literal["subscription.change"] = "subscription.change"
    tier: Identifier


class RenewSubscription(BaseCommand):
    """Grants the allocation of a period: the one that contains ``period_start``, by default the present one.

    A period is granted once, whatever the references. Calendars differ: within a day of its end, a period
    that is granted stands for the one that follows, whose allocation takes effect when it begins.
    """

    CONTENT = ("period_start",)
    type: Literal["subscription.renew"] = "subscription.renew"
    period_start: UtcTimestamp | None = None


class CancelSubscription(BaseCommand):
    """Ends the subscription with the period that is granted, or ``now``: then its allocation ends as well.

    What was bought or given otherwise stays. ``subscription.change`` takes it up again.
    """

    CONTENT = ("at",)
    type: Literal["subscription.cancel"] = "subscription.cancel"
    at: Literal["period_end", "now"] = "period_end"
