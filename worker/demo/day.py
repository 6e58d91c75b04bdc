"""A realistic day of a prepaid service, made from a seed: successes, rejections, broken messages."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Literal

from schemas import (
    CancelSubscription,
    ChangeSubscription,
    Message,
    PaymentSucceeded,
    RecordUsage,
    ReleaseUsage,
    RenewSubscription,
    SettleAccount,
    UsageBatch,
)
from worker.catalog import Catalog
from worker.demo.broken import ways_to_be_broken
from worker.demo.script import Act, DemoMessage, Script, saying, zipf_weights
from worker.demo.senders import Senders

MESSAGES_MIN = 150

#: Weights of the kinds of messages; most holds and all refunds have a second message, not counted here.
_ORDINARY = {
    "deduct": 46,
    "metered": 12,
    "hold": 11,
    "free upload": 8,
    "purchase": 7,
    "bonus": 5,
    "batch": 5,
    "refund": 4,
    "adjustment": 2,
}
_OF_TWO = {"hold", "refund"}
_PERSONS = 3  # whom the stories of one round are about
_FIRST = ("ada", "ben", "chidi", "dana", "emre", "fatima", "goran", "hana", "ines", "jonas", "kofi", "lena")
_LAST = ("adeyemi", "berg", "costa", "demir", "eriksen", "fischer", "garcia", "haddad", "ito", "jansen")


def day(rng: random.Random, now: datetime, catalog: Catalog, *, messages: int, suffix: str = "") -> Script:
    """Return a script of about a day with exactly ``messages`` messages, at least ``MESSAGES_MIN``.

    ``suffix`` ends every reference and user, so that a day can be played on a ledger that has seen others.
    """
    return _Day(rng, now, catalog, suffix).script(messages)


class _Day:
    """Builder of a day: some users run dry, some are in a story, the others pay for their usage."""

    def __init__(self, rng: random.Random, now: datetime, catalog: Catalog, suffix: str) -> None:
        self._rng, self._now, self._catalog, self._suffix = rng, now, catalog, suffix
        self._make = Senders(rng, now, catalog, suffix)
        self._tiers = sorted(catalog.tiers, key=lambda name: catalog.tiers[name].monthly_tokens)
        self._users: list[str] = []
        self._dry: list[str] = []
        self._persons: list[str] = []
        self._payers: list[str] = []
        self._weights: Sequence[float] = ()
        self._busy: list[tuple[datetime, DemoMessage]] = []
        self._evening: list[DemoMessage] = []
        self._night: list[DemoMessage] = []
        self._run_out: set[str] = set()

    def script(self, count: int) -> Script:
        rounds = max(1, count // 500)
        openings = self._openings(max(12, count // 25), rounds)
        for _ in range(rounds):
            openings.append(saying("unknown tier", self._make.open("eve.nobody" + self._suffix, "platinum")))
            self._refused_by_the_rules()
            self._payments_go_back()
            self._disputes()
            self._subscriptions()
            self._holds()
            self._credit_with_an_end()
        for _ in range(max(1, count // 1000)):
            self._broken()
        for user in self._dry:
            self._dry_spell(user)
        again, reused = count // 20, max(2, count // 200)
        self._ordinary(count - len(openings) - again - reused)
        self._delivered_again(again)
        self._references_reused(reused)
        self._busy.sort(key=lambda item: item[0])
        return Script(
            (
                Act("accounts open", tuple(openings)),
                Act("a busy day", tuple(message for _, message in self._busy)),
                Act("the evening", tuple(self._evening)),
                Act("the night", tuple(self._night), run_out=frozenset(self._run_out)),
            ),
            facts={"users": len(self._users)},
        )

    # -- the cast -----------------------------------------------------------------------------------------

    def _openings(self, count: int, rounds: int) -> list[DemoMessage]:
        """Return openings on every tier; the first few users, on the smallest tier, will run dry."""
        names = [f"{first}.{last}" for last in _LAST for first in _FIRST]
        names += [f"user.{number:04}" for number in range(count - len(names))]
        self._users = [name + self._suffix for name in names[:count]]
        dry, persons = max(3, count // 10), _PERSONS * rounds
        self._dry, rest = self._users[:dry], self._users[dry:]
        self._persons, self._payers = rest[:persons], rest[persons:]
        self._weights = list(accumulate(zipf_weights(count - persons, 0.6)))
        weights = [2.0**-rank for rank in range(len(self._tiers))]
        others = self._rng.choices(self._tiers, weights, k=len(self._payers) - len(self._tiers))
        tiers = [
            *[self._tiers[0]] * dry,
            *[self._tiers[0], self._tiers[1], self._tiers[1]] * rounds,
            *self._tiers,
            *others,
        ]
        return [
            saying("opening", self._make.open(user, tier))
            for user, tier in zip(self._users, tiers, strict=True)
        ]

    # -- the ordinary -------------------------------------------------------------------------------------

    def _ordinary(self, count: int) -> None:
        """Add one message of each kind at least, then more by weight, until there are ``count`` in all."""
        makers: dict[str, Callable[[], None]] = {
            "deduct": lambda: self._by_day("deduct", self._make.deduct(self._anyone())),
            "metered": lambda: self._by_day("metered", self._make.record(self._anyone())),
            "hold": self._hold,
            "free upload": lambda: self._by_day("free upload", self._make.free_upload(self._anyone())),
            "purchase": lambda: self._by_day("purchase", self._make.purchase(self._payer())),
            "bonus": lambda: self._by_day("bonus", self._make.bonus(self._payer())),
            "batch": lambda: self._by_day("batch", self._make.batch(self._anyone())),
            "refund": self._usage_given_back,
            "adjustment": self._adjustment,
        }
        first = list(_ORDINARY)
        while (left := count - self._planned()) > 0:
            chosen = self._rng.choices(list(_ORDINARY), list(_ORDINARY.values()))[0]
            kind = first.pop() if first else chosen
            makers["deduct" if left == 1 and kind in _OF_TWO else kind]()

    def _hold(self) -> None:
        """Add a hold; most end in the evening, a few go on."""
        hold = self._make.reserve(self._payer())
        self._by_day("hold", hold)
        chance = self._rng.random()
        if chance < 0.8:
            self._evening.append(saying("settle", self._make.settle(hold)))
        elif chance < 0.93:
            self._evening.append(saying("release", self._make.release(hold)))

    def _usage_given_back(self) -> None:
        original = self._make.deduct(self._payer())
        self._by_day("deduct", original)
        self._evening.append(saying("refund", self._make.refund(original)))

    def _adjustment(self) -> None:
        self._by_day(
            "adjustment", self._make.adjust(self._payer(), self._rng.choice((-300, -50, 200, 1_000)))
        )

    # -- stories ------------------------------------------------------------------------------------------

    def _payments_go_back(self) -> None:
        """Add refunds: of a part, of everything, by the bank; and once before the payment is known."""
        part, whole, bounced, early = (self._make.purchase(self._payer()) for _ in range(4))
        for payment in (part, whole, bounced):
            self._by_day("purchase", payment)
        self._evening += [
            saying("payment refunded", self._make.refund_of(part, part.amount_minor // 3)),
            saying("payment refunded", self._make.refund_of(whole)),
            saying("payment failed", self._make.failure_of(bounced)),
            saying("late purchase", early),
        ]
        self._by_day("early refund", self._make.refund_of(early))

    def _disputes(self) -> None:
        """Add two disputes: one is won; the other is lost when the tokens are spent, and a debt remains."""
        payer, spender = self._payer(), self._persons.pop(0)
        kept, lost = self._make.purchase(payer), self._make.payment(spender, 0)
        tokens = self._catalog.packages[0].tokens + self._catalog.tiers[self._tiers[0]].monthly_tokens
        self._dispute(kept, "won")
        self._dispute(lost, "lost")
        self._evening.append(saying("deduct", self._make.deduct(spender, tokens * 9 // 10)))

    def _dispute(self, payment: PaymentSucceeded, result: Literal["won", "lost"]) -> None:
        dispute = self._make.dispute_of(payment)
        self._by_day("purchase", payment)
        self._evening.append(saying("dispute", dispute))
        self._night.append(saying(f"dispute {result}", self._make.end_of(dispute, result)))

    def _subscriptions(self) -> None:
        """Add plan changes: one goes up in the middle of a period, and down again; one leaves, twice."""
        climber, leaver = self._persons.pop(0), self._persons.pop(0)
        up, down = self._tiers[2], self._tiers[1]
        self._by_day("deduct", self._make.deduct(climber, self._catalog.tiers[down].monthly_tokens // 2))
        self._evening += [
            saying("upgrade", ChangeSubscription(**self._asking("upgrade", climber), tier=up)),
            saying("cancellation", CancelSubscription(**self._asking("cancel", leaver))),
        ]
        next_period = self._now + timedelta(days=32)
        early = RenewSubscription(**self._asking("renew", climber), period_start=next_period)
        self._night += [
            saying("downgrade", ChangeSubscription(**self._asking("change", climber), tier=down)),
            saying("renewed too early", early),
            saying("canceled twice", CancelSubscription(**self._asking("cancel", leaver), at="now")),
        ]

    def _holds(self) -> None:
        """Add holds: one is captured, one released. Of two others, one comes back too late, one never."""
        settled, given_up = self._make.reserve(self._payer()), self._make.reserve(self._payer())
        slow, silent = (self._make.reserve(self._payer(), ttl_seconds=1) for _ in range(2))
        for hold in (settled, given_up):
            self._by_day("hold", hold)
        for hold in (slow, silent):
            self._by_day("hold that runs out", hold)
            self._run_out.add(hold.reference_id)
        self._evening += [
            saying("settle", self._make.settle(settled)),
            saying("release", self._make.release(given_up)),
        ]
        self._night += [
            saying("late settle", self._make.settle(slow)),
            saying("settlement of what is due", SettleAccount(**self._asking("due", silent.user_id))),
        ]

    def _credit_with_an_end(self) -> None:
        """Add bonuses with an end: one expires within days and is announced at once; one begins tomorrow."""
        soon, later = self._now + timedelta(days=3), self._now + timedelta(days=1)
        self._by_day("bonus that ends soon", self._make.bonus(self._payer(), expires_at=soon))
        self._by_day("bonus from tomorrow", self._make.bonus(self._payer(), effective_at=later))

    def _dry_spell(self, user: str) -> None:
        """Ask for more than there is, top up, ask again with attempt 2; late copies of both come in."""
        asked = self._catalog.tiers[self._tiers[0]].monthly_tokens + self._rng.randrange(1_000, 9_000)
        first = self._make.deduct(user, asked)
        package = self._make.smallest_above(asked)
        self._by_day("runs dry", first)
        self._evening.append(saying("top-up", self._make.payment(user, package, occurred_at=self._now)))
        second = first.model_copy(update={"attempt": 2, "occurred_at": self._now})
        self._night += [
            saying("second try", second),
            saying("delivered again", second),
            saying("delivered again", first),
        ]

    # -- refusals -----------------------------------------------------------------------------------------

    def _refused_by_the_rules(self) -> None:
        make, package, user = self._make, self._catalog.packages[0], self._payer()
        nobody, never = "mallory.nobody" + self._suffix, {"original_reference_id": "never" + self._suffix}
        most = self._catalog.tiers[self._tiers[0]].free_upload_bytes
        too_large = make.free_upload(self._dry[0]).model_copy(update={"bytes": most + 1})
        paid, used = make.payment(user, 0), make.deduct(user, 100)
        in_euros = make.refund_of(paid).model_copy(update={"currency": "XTS"})
        unnamed = make.refund(used).model_copy(update={"original_reference_id": None})
        for kind, command in (
            ("unknown account", make.deduct(nobody)),
            ("opened twice", make.open(user, self._tiers[-1])),
            ("wrong amount", make.payment(user, 0, amount_minor=package.price_minor - 1)),
            ("wrong currency", make.payment(user, 0, currency="XTS")),
            ("unknown package", make.payment(user, 0, package_id="jumbo", package_index=None)),
            ("upload too large", too_large),
            ("unknown meter", RecordUsage(**self._asking("meter", user), meter="fax", quantity=1)),
            ("unknown hold", ReleaseUsage(**self._asking("release", user), **never)),
            ("refund of nothing", unnamed),
            ("purchase", paid),
            ("deduct", used),
            ("renewed already", RenewSubscription(**self._asking("renew", user))),
            ("bonus of yesterday", make.bonus(user, expires_at=self._now - timedelta(days=1))),
            ("corrected too much", make.adjust(user, -(10**12))),
        ):
            self._by_day(kind, command)
        self._evening += [
            saying("refund of too much", make.refund(used, used.tokens + 1)),
            saying("refund in another currency", in_euros),
        ]

    def _delivered_again(self, count: int) -> None:
        """Add the same bytes once more, soon after or in the evening; the broker may do that any time."""
        healthy = [(at, message) for at, message in self._busy if not message.kind.startswith("broken")]
        for at, message in self._rng.choices(healthy, k=count):
            copy = replace(message, kind="delivered again")
            if self._rng.random() < 0.5:
                self._busy.append((at + timedelta(seconds=self._rng.randrange(1, 600)), copy))
            else:
                self._evening.append(copy)

    def _references_reused(self, count: int) -> None:
        """Add another amount under a reference that has its outcome: a producer that counts wrongly."""
        deducts = [message for _, message in self._busy if message.kind == "deduct"]
        for message in self._rng.sample(deducts, k=count):
            fields = json.loads(message.body)
            fields["tokens"] += 1
            changed = replace(
                message,
                kind="reused reference",
                message_id=self._make.reference("changed"),
                body=json.dumps(fields).encode(),
            )
            self._evening.append(changed)

    def _broken(self) -> None:
        for name, routing_key, body in ways_to_be_broken(self._make.deduct(self._anyone()), self._now):
            message = DemoMessage(f"broken: {name}", self._make.reference("broken"), routing_key, body)
            self._busy.append((self._make.moment(), message))

    # -- small things -------------------------------------------------------------------------------------

    def _planned(self) -> int:
        return len(self._busy) + len(self._evening) + len(self._night)

    def _by_day(self, kind: str, content: Message) -> None:
        at = content.items[0].occurred_at if isinstance(content, UsageBatch) else content.occurred_at
        self._busy.append((at or self._now, saying(kind, content)))

    def _asking(self, kind: str, user: str) -> dict[str, str]:
        return {"reference_id": self._make.reference(kind), "user_id": user}

    def _anyone(self) -> str:
        (place,) = self._rng.choices(range(len(self._weights)), cum_weights=self._weights)
        dry = len(self._dry)
        return self._dry[place] if place < dry else self._payers[place - dry]

    def _payer(self) -> str:
        """Return a user who is not to run dry, and is in no story."""
        return self._rng.choice(self._payers)
