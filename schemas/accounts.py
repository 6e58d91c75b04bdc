"""Commands about an account as a whole."""

from typing import Literal

from schemas.base import BaseCommand
from schemas.fields import Identifier


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
