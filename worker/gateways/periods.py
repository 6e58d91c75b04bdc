"""Commands for a paid period of a subscription, which all gateways share."""

from dataclasses import dataclass
from datetime import datetime

from schemas import ChangeSubscription, RenewSubscription, SubscriptionPayment
from worker.gateways.mapped import Mapped, NoCommandError, Reason


@dataclass(frozen=True, slots=True)
class PaidPeriod:
    """Period that was paid. Without ``tier`` only a renewal can be told, of the tier that the ledger knows.

    ``period`` is None where the money pays a change within a period that goes on.
    """

    reference: str
    user: str
    tier: str | None
    period: tuple[datetime, datetime] | None
    payment: SubscriptionPayment | None
    renews: bool
    at: datetime

    def mapped(self) -> Mapped:
        """Return the command.

        The paid price decides on the tier, also of a renewal: an event about the tier may come later.
        """
        start, end = self.period or (None, None)
        if self.tier is not None:
            return Mapped.to(
                ChangeSubscription(
                    reference_id=self.reference,
                    user_id=self.user,
                    tier=self.tier,
                    period_start=start,
                    period_end=end,
                    payment=self.payment,
                    occurred_at=self.at,
                )
            )
        if not self.renews or start is None:
            raise NoCommandError(Reason.NO_TIER, f"no price of {self.reference} is configured as a tier")
        return Mapped.to(
            RenewSubscription(
                reference_id=self.reference,
                user_id=self.user,
                period_start=start,
                period_end=end,
                payment=self.payment,
                occurred_at=self.at,
            )
        )


def only_tier(tiers: set[str], reference: str) -> str | None:
    """Return the one tier; None where there is none. Several have no order: an account has one."""
    if len(tiers) > 1:
        raise NoCommandError(
            Reason.AMBIGUOUS, f"{reference} pays for {len(tiers)} tiers: {', '.join(sorted(tiers))}"
        )
    return next(iter(tiers), None)
