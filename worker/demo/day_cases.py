"""Special cases of a demo day: returned payments, disputes, plan changes, rejections, malformed messages."""

import random
from datetime import datetime, timedelta
from typing import Literal

from schemas import (
    CancelSubscription,
    ChangeSubscription,
    FreezeAccount,
    PaymentSucceeded,
    RecordUsage,
    ReleaseUsage,
    RenewSubscription,
    SettleAccount,
    UnfreezeAccount,
)
from worker.catalog import Catalog
from worker.demo.commands import CommandFactory, price_of
from worker.demo.malformed import malformed_variants
from worker.demo.scenario import DemoMessage
from worker.demo.schedule import Schedule
from worker.demo.users import DemoUsers


class DayCases:
    """Source of special cases for a schedule."""

    def __init__(
        self,
        rng: random.Random,
        now: datetime,
        catalog: Catalog,
        users: DemoUsers,
        commands: CommandFactory,
        schedule: Schedule,
        suffix: str,
    ) -> None:
        self._rng, self._now, self._catalog, self._suffix = rng, now, catalog, suffix
        self._users, self._make, self._schedule = users, commands, schedule
        self._by_day, self._evening, self._night = (
            schedule.add_by_day,
            schedule.add_in_the_evening,
            schedule.add_at_night,
        )

    def add_round(self) -> None:
        """Add each case once."""
        self._rejections()
        self._returned_payments()
        self._disputes()
        self._subscriptions()
        self._holds()
        self._credits_with_dates()

    def add_malformed(self) -> None:
        """Add one message for each way to be malformed."""
        variants = malformed_variants(self._make.deduct(self._users.anyone()), self._now)
        for name, routing_key, body in variants:
            message_id = self._make.reference("broken")
            message = DemoMessage(f"malformed: {name}", message_id, routing_key, body)
            self._schedule.place_by_day(self._make.moment(), message)

    def add_insufficient_balance(self, user: str) -> None:
        """Add a deduction of too much, a top-up, a second attempt, and late copies of both attempts."""
        tokens = self._catalog.tiers[self._users.tier_names[0]].monthly_tokens
        tokens += self._rng.randrange(1_000, 9_000)
        first = self._make.deduct(user, tokens)
        package = self._make.smallest_above(tokens)
        self._by_day("insufficient balance", first)
        self._evening("top-up", self._make.payment(user, package, occurred_at=self._now))
        second = first.model_copy(update={"attempt": 2, "occurred_at": self._now})
        self._night("second attempt", second)
        self._night("delivered again", second)
        self._night("delivered again", first)

    def _returned_payments(self) -> None:
        """Add refunds: a part, the whole, which fails, by the bank, and one that precedes its payment."""
        part, whole, bounced, early = (self._make.purchase(self._users.payer()) for _ in range(4))
        for payment in (part, whole, bounced):
            self._by_day("purchase", payment)
        self._evening("payment refunded", self._make.refund_of(part, part.amount_minor // 3))
        self._evening("more names", self._make.names_of(part))
        refund = self._make.refund_of(whole)
        self._evening("payment refunded", refund)
        self._night("refund failed", self._make.failure_of_refund(refund))
        self._evening("payment failed", self._make.failure_of(bounced))
        self._evening("late purchase", early)
        self._by_day("early refund", self._make.refund_of(early))

    def _disputes(self) -> None:
        """Add a dispute that is won, and one that is lost after the tokens were used: a debt remains."""
        payer, spender = self._users.payer(), self._users.case_users.pop(0)
        kept, lost = self._make.purchase(payer), self._make.payment(spender, 0)
        allocation = self._catalog.tiers[self._users.tier_names[0]].monthly_tokens
        tokens = self._catalog.packages[0].tokens + allocation
        self._dispute(kept, "won")
        self._dispute(lost, "lost")
        self._evening("deduct", self._make.deduct(spender, tokens * 9 // 10))

    def _dispute(self, payment: PaymentSucceeded, result: Literal["won", "lost"]) -> None:
        dispute = self._make.dispute_of(payment)
        self._by_day("purchase", payment)
        self._evening("dispute", dispute)
        self._night(f"dispute {result}", self._make.end_of(dispute, result))

    def _subscriptions(self) -> None:
        """Add an upgrade and a downgrade of one user; another cancels twice, and is frozen meanwhile."""
        changing, leaving = self._users.case_users.pop(0), self._users.case_users.pop(0)
        up, down = self._users.tier_names[2], self._users.tier_names[1]
        half = self._catalog.tiers[down].monthly_tokens // 2
        self._by_day("deduct", self._make.deduct(changing, half))
        self._evening("upgrade", ChangeSubscription(**self._fields("upgrade", changing), tier=up))
        self._evening("cancellation", CancelSubscription(**self._fields("cancel", leaving)))
        self._evening("freeze", FreezeAccount(**self._fields("freeze", leaving), reason="a fraud warning"))
        self._night(
            "end of freeze", UnfreezeAccount(**self._fields("unfreeze", leaving), reason="was checked")
        )
        next_period = self._now + timedelta(days=32)
        early = RenewSubscription(**self._fields("renew", changing), period_start=next_period)
        self._night("downgrade", ChangeSubscription(**self._fields("change", changing), tier=down))
        self._night("early renewal", early)
        again = CancelSubscription(**self._fields("cancel", leaving), at="now")
        self._night("second cancellation", again)

    def _holds(self) -> None:
        """Add a captured hold, a released one, one that is renewed, and three that expire.

        Of those, one is captured late, and one by a command that takes nothing late.
        """
        captured, released, renewed = (self._make.reserve(self._users.payer()) for _ in range(3))
        slow, strict, silent = (self._make.reserve(self._users.payer(), ttl_seconds=1) for _ in range(3))
        for hold in (captured, released, renewed):
            self._by_day("hold", hold)
        for hold in (slow, strict, silent):
            self._by_day("expiring hold", hold)
            self._schedule.expire_before_night(hold.reference_id)
        self._evening("capture", self._make.capture(captured))
        self._evening("release", self._make.release(released))
        self._evening("extension", self._make.extend(renewed))
        late, refused = self._make.capture(slow), self._make.capture(strict)
        self._night("late capture", late.model_copy(update={"on_excess": "take"}))
        self._night("refused capture", refused.model_copy(update={"on_expired": "refuse"}))
        self._night("due entries", SettleAccount(**self._fields("due", silent.user_id)))

    def _credits_with_dates(self) -> None:
        """Add a bonus that expires within days, with a notice, and one that begins tomorrow."""
        soon, later = self._now + timedelta(days=3), self._now + timedelta(days=1)
        self._by_day("expiring bonus", self._make.bonus(self._users.payer(), expires_at=soon))
        self._by_day("scheduled bonus", self._make.bonus(self._users.payer(), effective_at=later))

    def _rejections(self) -> None:
        """Add a message for each rule that rejects it."""
        make, package, user = self._make, self._catalog.packages[0], self._users.payer()
        stranger = "mallory.nobody" + self._suffix
        unknown = {"original_reference_id": "never" + self._suffix}
        free_bytes = self._catalog.tiers[self._users.tier_names[0]].free_upload_bytes
        too_large = make.free_upload(self._users.short_of_tokens[0])
        too_large = too_large.model_copy(update={"bytes": free_bytes + 1})
        paid, used = make.payment(user, 0), make.deduct(user, 100)
        other_currency = make.refund_of(paid).model_copy(update={"currency": "XTS"})
        without_original = make.refund(used).model_copy(update={"original_reference_id": None})
        for kind, command in (
            ("unknown account", make.deduct(stranger)),
            ("second opening", make.open(user, self._users.tier_names[-1])),
            ("wrong amount", make.payment(user, 0, amount_minor=price_of(package, self._now)[0] - 1)),
            ("wrong currency", make.payment(user, 0, currency="XTS")),
            ("unknown package", make.payment(user, 0, package_id="jumbo", package_index=None)),
            ("upload too large", too_large),
            ("unknown meter", RecordUsage(**self._fields("meter", user), meter="fax", quantity=1)),
            ("unknown hold", ReleaseUsage(**self._fields("release", user), **unknown)),
            ("refund without original", without_original),
            ("purchase", paid),
            ("deduct", used),
            ("repeated renewal", RenewSubscription(**self._fields("renew", user))),
            ("expired bonus", make.bonus(user, expires_at=self._now - timedelta(days=1))),
            ("excessive adjustment", make.adjust(user, -(10**12))),
        ):
            self._by_day(kind, command)
        self._evening("excessive refund", make.refund(used, used.tokens + 1))
        self._evening("refund in another currency", other_currency)

    def _fields(self, kind: str, user: str) -> dict[str, str]:
        return {"reference_id": self._make.reference(kind), "user_id": user}
