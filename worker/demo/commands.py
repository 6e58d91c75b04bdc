"""Random commands of the application, upload pipelines, the payment gateway and support staff.

The content is random; the scenario decides when a command is sent and how it ends.
"""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from schemas import (
    AdjustCredit,
    BonusCredit,
    DeductUsage,
    DisputeClosed,
    ExtendUsage,
    FreeUpload,
    OpenAccount,
    PaymentDisputed,
    PaymentFailed,
    PaymentNamed,
    PaymentRefunded,
    PaymentSucceeded,
    RecordUsage,
    RefundCredit,
    RefundFailed,
    ReleaseUsage,
    ReserveUsage,
    SettleUsage,
    UsageBatch,
)
from worker.catalog import Catalog, Package
from worker.demo.scenario import zipf_weights

DAYS = 10  # the age of the oldest usage: some producers are late
HOLD_S = 900

_FEATURES = {"chat": 50, "search": 20, "summary": 15, "transcription": 10, "embeddings": 5}
_OPERATORS = ("olga@support", "piet@support")


def price_of(package: Package, moment: datetime) -> tuple[int, str]:
    """Return a price of the package at a time, in minor units; of an open amount one that buys tokens."""
    rates = {currency: rate.per_minor for currency, rate in package.rates.items()}
    prices = package.prices_at(moment) or rates
    currency = min(prices)
    return prices[currency], currency


class CommandFactory:
    """Factory of random commands with unique references; ``suffix`` ends every reference."""

    def __init__(self, rng: random.Random, now: datetime, catalog: Catalog, suffix: str) -> None:
        self._rng, self._now, self._catalog, self._suffix = rng, now, catalog, suffix
        self._numbers: dict[str, int] = {}

    def reference(self, kind: str) -> str:
        """Return the next reference of this kind."""
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return f"{kind}-{self._numbers[kind]:05}{self._suffix}"

    def moment(self) -> datetime:
        """Return a time in the last days; recent times are more likely."""
        back = self._rng.triangular(60, DAYS * 86_400 - 60, 86_400)
        return (self._now - timedelta(seconds=back)).replace(microsecond=0)

    def open(self, user: str, tier: str) -> OpenAccount:
        """Opening of an account."""
        at = self._now - timedelta(days=DAYS, minutes=self._rng.randrange(600))
        return OpenAccount(reference_id=self.reference("open"), user_id=user, tier=tier, occurred_at=at)

    # -- the application ----------------------------------------------------------------------------------

    def deduct(self, user: str, tokens: int | None = None) -> DeductUsage:
        """Deduction for work that is done and has a known price."""
        return DeductUsage(
            **self._fields("use", user),
            tokens=self._amount(6.0) if tokens is None else tokens,
            feature=self._feature(),
        )

    def reserve(self, user: str, ttl_seconds: int = HOLD_S) -> ReserveUsage:
        """Hold for work that begins: at most so many tokens."""
        return ReserveUsage(**self._fields("hold", user), tokens=self._amount(6.5), ttl_seconds=ttl_seconds)

    def capture(self, hold: ReserveUsage) -> SettleUsage:
        """Capture of a hold for work that is done; sometimes for more than was held."""
        return SettleUsage(
            **self._fields("capture", hold.user_id),
            original_reference_id=hold.reference_id,
            tokens=int(hold.tokens * self._rng.uniform(0.2, 1.1)),
            on_excess="take" if self._rng.random() < 0.5 else "refuse",
            feature=self._feature(),
        )

    def extend(self, hold: ReserveUsage, ttl_seconds: int = 2 * HOLD_S) -> ExtendUsage:
        """Extension of a hold whose work takes longer."""
        fields = self._fields("extend", hold.user_id)
        return ExtendUsage(**fields, original_reference_id=hold.reference_id, ttl_seconds=ttl_seconds)

    def release(self, hold: ReserveUsage) -> ReleaseUsage:
        """Release of a hold for work that was canceled."""
        return ReleaseUsage(**self._fields("release", hold.user_id), original_reference_id=hold.reference_id)

    # -- upload pipelines ---------------------------------------------------------------------------------

    def free_upload(self, user: str) -> FreeUpload:
        """Upload of a file that costs nothing."""
        return FreeUpload(**self._fields("upload", user), bytes=self._rng.randrange(1 << 16, 48 << 20))

    def record(self, user: str) -> RecordUsage:
        """Metered usage, partly covered by free units."""
        return self._metered(self._fields("meter", user))

    def batch(self, user: str) -> UsageBatch:
        """Batch for one document: its pages, its files, and its results."""
        fields = self._fields("ingest", user)
        reference_id = fields["reference_id"]
        items = [
            self._item({**fields, "reference_id": f"{reference_id}/{place}"})
            for place in range(self._pages())
        ]
        return UsageBatch(reference_id=reference_id, user_id=user, items=tuple(items))

    def _pages(self) -> int:
        return min(2 + int(self._rng.expovariate(1 / 6)), 40)

    def _item(self, fields: dict[str, Any]) -> DeductUsage | RecordUsage | FreeUpload:
        if self._rng.random() < 0.6:
            return self._metered(fields)
        return DeductUsage(**fields, tokens=self._amount(4.5), feature="embeddings")

    def _metered(self, fields: dict[str, Any]) -> RecordUsage:
        meter = self._rng.choice(sorted(self._catalog.pricing))
        rule = self._catalog.pricing[meter]
        units = 1 + int(self._rng.expovariate(1 / 4))
        return RecordUsage(**fields, meter=meter, quantity=units * rule.per - self._rng.randrange(rule.per))

    # -- the payment gateway ------------------------------------------------------------------------------

    def purchase(self, user: str) -> PaymentSucceeded:
        """Payment for a random package; small ones are bought more often."""
        count = len(self._catalog.packages)
        (index,) = self._rng.choices(range(count), zipf_weights(count, 1.5))
        return self.payment(user, index)

    def payment(self, user: str, index: int, **changes: Any) -> PaymentSucceeded:
        """Payment that names the package by id or by index, in turn, as newer and older producers do."""
        package = self._catalog.packages[index]
        common = self._fields("pay", user)
        amount_minor, currency = price_of(package, common.get("occurred_at", self._now))
        by_id = self._numbers["pay"] % 2 == 0
        fields: dict[str, Any] = {
            **common,
            "amount_minor": amount_minor,
            "currency": currency,
            "provider": "stripe",
            **({"package_id": package.id} if by_id else {"package_index": index}),
        }
        return PaymentSucceeded(**fields | changes)

    def names_of(self, payment: PaymentSucceeded) -> PaymentNamed:
        """Name of a payment that its gateway tells later."""
        return PaymentNamed(
            **self._fields("names", payment.user_id),
            original_reference_id=payment.reference_id,
            also_known_as=(f"{payment.reference_id}-intent",),
        )

    def refund_of(self, payment: PaymentSucceeded, amount_minor: int | None = None) -> PaymentRefunded:
        """Refund of a payment, whole or in part."""
        return PaymentRefunded(
            **self._fields("payback", payment.user_id),
            original_reference_id=payment.reference_id,
            amount_minor=payment.amount_minor if amount_minor is None else amount_minor,
            currency=payment.currency,
        )

    def failure_of_refund(self, refund: PaymentRefunded) -> RefundFailed:
        """Failure of a refund that the gateway had told as done."""
        return RefundFailed(
            **self._fields("payback-failed", refund.user_id),
            original_reference_id=refund.original_reference_id,
            refund_reference_id=refund.reference_id,
        )

    def failure_of(self, payment: PaymentSucceeded) -> PaymentFailed:
        """Failure of a payment that the bank has returned."""
        fields = {**self._fields("bounce", payment.user_id), "occurred_at": self._now}
        return PaymentFailed(**fields, original_reference_id=payment.reference_id)

    def dispute_of(self, payment: PaymentSucceeded) -> PaymentDisputed:
        """Dispute of a payment: the customer asks the bank for the money back."""
        return PaymentDisputed(
            **self._fields("dispute", payment.user_id),
            original_reference_id=payment.reference_id,
            dispute_id=self.reference("case"),
            amount_minor=payment.amount_minor,
            currency=payment.currency,
        )

    def end_of(self, dispute: PaymentDisputed, result: Literal["won", "lost"]) -> DisputeClosed:
        """End of a dispute, with the decision of the bank."""
        return DisputeClosed(
            **self._fields("dispute-end", dispute.user_id),
            original_reference_id=dispute.original_reference_id,
            dispute_id=dispute.dispute_id,
            result=result,
            amount_minor=dispute.amount_minor,
            currency=dispute.currency,
        )

    def smallest_above(self, tokens: int) -> int:
        """Return the index of the smallest package with enough tokens, or of the largest."""

        def size(package: Package) -> int:
            return package.tokens + package.bonus_tokens

        packages: Sequence[Package] = self._catalog.packages
        large_enough = [index for index, package in enumerate(packages) if size(package) >= tokens]
        return min(large_enough or range(len(packages)), key=lambda index: size(packages[index]))

    # -- support staff ------------------------------------------------------------------------------------

    def refund(self, original: DeductUsage, tokens: int | None = None) -> RefundCredit:
        """Refund of tokens of a usage, whole or in part."""
        return RefundCredit(
            **self._fields("refund", original.user_id),
            original_reference_id=original.reference_id,
            tokens=self._rng.randint(1, original.tokens) if tokens is None else tokens,
            description="The answer was cut short.",
        )

    def bonus(self, user: str, **changes: Any) -> BonusCredit:
        """Bonus; most of them expire."""
        days = self._rng.choice((None, 30, 60, 90))
        fields: dict[str, Any] = {
            **self._fields("bonus", user),
            "tokens": self._rng.choice((500, 1_000, 5_000)),
            "description": "For a friend invited.",
            "expires_at": None if days is None else self._now + timedelta(days=days),
        }
        return BonusCredit(**fields | changes)

    def adjust(self, user: str, tokens: int) -> AdjustCredit:
        """Adjustment of a balance by hand."""
        fields, actor = self._fields("fix", user), self._rng.choice(_OPERATORS)
        return AdjustCredit(**fields, tokens=tokens, reason="An import had counted a day twice.", actor=actor)

    # -- shared fields ------------------------------------------------------------------------------------

    def _fields(self, kind: str, user: str) -> dict[str, Any]:
        return {"reference_id": self.reference(kind), "user_id": user, "occurred_at": self.moment()}

    def _amount(self, mean: float) -> int:
        return 1 + int(self._rng.lognormvariate(mean, 1.0))

    def _feature(self) -> str:
        return self._rng.choices(list(_FEATURES), list(_FEATURES.values()))[0]
