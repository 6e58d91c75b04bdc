"""Scenario from a real usage trace: accounts, purchases, then a deduction or a hold for each request."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from schemas import DeductUsage, OpenAccount, PaymentSucceeded, ReserveUsage, SettleUsage
from worker.catalog import Catalog, Package
from worker.demo.commands import price_of
from worker.demo.scenario import DemoMessage, Phase, Scenario, message_of, zipf_weights
from worker.demo.trace_file import TraceRow, rows_in, trace_bytes
from worker.errors import ConfigurationError

_PAYING_SHARE = 0.75
_HELD_EVERY = 5
_HOLD_S = 3_600


def trace_scenario(path: Path, *, seed: int, users: int, now: datetime, catalog: Catalog) -> Scenario:
    """Return the trace in ``path`` as a scenario: accounts, purchases, then a deduction or a hold a row.

    References and users follow from the file, the seed and the number of users: sent again to the same
    ledger, every message is a duplicate. Raises ConfigurationError that names file, line and column.
    """
    content = trace_bytes(path)
    rows = list(rows_in(content, str(path)))
    paid = [row for row in rows if row.tokens]
    if not paid:
        raise ConfigurationError(f"{path}: has no row with tokens")
    shift = now - max(row.at for row in rows)
    run = hashlib.blake2b(f"{seed} {users} ".encode() + content, digest_size=3).hexdigest()
    rng = random.Random(seed)  # noqa: S311 - randomness of a demo, no secret
    trace_users = _TraceUsers(rng, catalog, run, users, now)
    requests = [
        _Request(run, *pair, shift) for pair in zip(trace_users.spenders(len(paid)), paid, strict=True)
    ]
    demand = _demand(requests)
    tiers = trace_users.tiers()
    bought = trace_users.bought(tiers, demand)
    held = _held_requests(requests, {user: trace_users.budget(tiers[user], bought[user]) for user in demand})
    return Scenario(
        (
            Phase("opening accounts", tuple(trace_users.openings(tiers))),
            Phase("purchases", tuple(trace_users.purchases(bought))),
            Phase("trace", tuple(each.hold() if each in held else each.deduction() for each in requests)),
            Phase("captures", tuple(each.capture() for each in requests if each in held)),
        ),
        notes=(
            f"{path}: {len(rows):,} rows, {len(rows) - len(paid):,} of them without tokens and left out",
            f"the trace is shifted by {_shift(shift)}, so that its last row is now",
            f"{len(demand)} of {users} users use {sum(demand.values()):,} tokens in {len(paid):,} requests",
            f"{len(held):,} of them are held first, and captured when the generated tokens are known",
        ),
        facts={
            "trace": str(path),
            "rows": len(rows),
            "rowsLeftOut": len(rows) - len(paid),
            "rowsHeld": len(held),
            "shiftSeconds": int(shift.total_seconds()),
            "users": users,
        },
    )


class _TraceUsers:
    """Users for a trace that names none: their shares of it, tiers and packages."""

    def __init__(self, rng: random.Random, catalog: Catalog, run: str, users: int, now: datetime) -> None:
        self._rng, self._catalog, self._run, self._now = rng, catalog, run, now
        self._users = [f"trace-{run}-u{number:03}" for number in range(1, users + 1)]

    def spenders(self, rows: int) -> list[str]:
        """Return the user of each row; few users have many rows."""
        return self._rng.choices(self._users, zipf_weights(len(self._users)), k=rows)

    def tiers(self) -> dict[str, str]:
        """Return a tier for each user; small ones are more frequent."""
        names = sorted(self._catalog.tiers, key=lambda name: self._catalog.tiers[name].monthly_tokens)
        weights = [2.0**-rank for rank in range(len(names))]
        return dict(zip(self._users, self._rng.choices(names, weights, k=len(self._users)), strict=True))

    def openings(self, tiers: Mapping[str, str]) -> Iterator[DemoMessage]:
        """Yield an opening for each user, dated before the trace."""
        for user, tier in tiers.items():
            yield message_of(
                "opening",
                OpenAccount(
                    reference_id=f"{user}-open",
                    user_id=user,
                    tier=tier,
                    occurred_at=self._now - timedelta(days=1),
                ),
            )

    def bought(self, tiers: Mapping[str, str], demand: Mapping[str, int]) -> dict[str, list[Package]]:
        """Return the packages of each user: most buy about as much as they use, the others too little."""
        bought: dict[str, list[Package]] = {}
        for user, tokens in demand.items():
            lacking = tokens - self._catalog.tiers[tiers[user]].monthly_tokens
            about = int(lacking * self._rng.uniform(0.5, 1.5)) if self._rng.random() < _PAYING_SHARE else 0
            bought[user] = list(_packages_for(about, self._catalog.packages))
        return bought

    def budget(self, tier: str, bought: Sequence[Package]) -> int:
        """Return the tokens of a user, with the allocation."""
        tokens = sum(package.tokens + package.bonus_tokens for package in bought)
        return self._catalog.tiers[tier].monthly_tokens + tokens

    def purchases(self, bought: Mapping[str, Sequence[Package]]) -> Iterator[DemoMessage]:
        """Yield a payment for each package."""
        for user, packages in bought.items():
            for number, package in enumerate(packages, 1):
                yield message_of("purchase", self._payment(user, number, package))

    def _payment(self, user: str, number: int, package: Package) -> PaymentSucceeded:
        paid_at = self._now - timedelta(hours=12)
        amount_minor, currency = price_of(package, paid_at)
        return PaymentSucceeded(
            reference_id=f"{user}-pay-{number}",
            user_id=user,
            package_id=package.id,
            amount_minor=amount_minor,
            currency=currency,
            provider="stripe",
            occurred_at=paid_at,
        )


def _packages_for(tokens: int, packages: Sequence[Package]) -> Iterator[Package]:
    """Yield the largest package until one covers the rest, then the smallest that does."""
    by_size = sorted((one for one in packages if one.tokens), key=lambda package: package.tokens)
    while tokens > 0 and by_size:
        package = next((package for package in by_size if package.tokens >= tokens), by_size[-1])
        yield package
        tokens -= package.tokens


@dataclass(frozen=True, slots=True)
class _Request:
    """A row of the trace as messages: one deduction, or a hold and its capture."""

    run: str
    user: str
    row: TraceRow
    shift: timedelta

    def deduction(self) -> DemoMessage:
        """Return the deduction of all tokens."""
        deduction = DeductUsage(**self._fields(""), tokens=self.row.tokens, feature="completion")
        return message_of("deduct", deduction)

    def hold(self) -> DemoMessage:
        """Return the hold of the largest possible use."""
        hold = ReserveUsage(**self._fields("-hold"), tokens=self.row.held_tokens, ttl_seconds=_HOLD_S)
        return message_of("hold", hold)

    def capture(self) -> DemoMessage:
        """Return the capture of the tokens that were used."""
        capture = SettleUsage(
            **self._fields(""),
            original_reference_id=self._reference("-hold"),
            tokens=self.row.tokens,
            on_excess="take",
            feature="completion",
        )
        return message_of("capture", capture)

    def _reference(self, ending: str) -> str:
        return f"trace-{self.run}-line-{self.row.line:06}{ending}"

    def _fields(self, ending: str) -> dict[str, Any]:
        row = self.row
        return {
            "reference_id": self._reference(ending),
            "user_id": self.user,
            "occurred_at": row.at + self.shift,
            "metadata": {"contextTokens": row.context_tokens, "generatedTokens": row.generated_tokens},
        }


def _demand(requests: Sequence[_Request]) -> dict[str, int]:
    """Return the tokens that each user of a request uses."""
    demand = dict.fromkeys((request.user for request in requests), 0)
    for request in requests:
        demand[request.user] += request.row.tokens
    return demand


def _held_requests(requests: Sequence[_Request], budgets: Mapping[str, int]) -> set[_Request]:
    """Return every n-th request of users with enough tokens for all of theirs, holds included."""
    candidates = set(requests[_HELD_EVERY - 1 :: _HELD_EVERY])
    wanted: Counter[str] = Counter()
    for request in requests:
        row = request.row
        wanted[request.user] += max(row.held_tokens, row.tokens) if request in candidates else row.tokens
    return {request for request in candidates if wanted[request.user] <= budgets[request.user]}


def _shift(by: timedelta) -> str:
    return f"{by.days} days and {by.seconds / 3600:.1f} hours"
