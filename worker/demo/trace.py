"""A demo's usage taken from a real trace: a CSV file, one request a row."""

import csv
import hashlib
import io
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from schemas import DeductUsage, OpenAccount, PaymentSucceeded, ReserveUsage, SettleUsage
from worker.catalog import Catalog, Package
from worker.demo.script import Act, DemoMessage, Script, saying, zipf_weights
from worker.errors import ConfigurationError

TIMESTAMP, CONTEXT, GENERATED = COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_DIGITS_MAX = 12
_PAYING_SHARE = 0.75
_HELD_EVERY = 5
_GENERATED_MAX = 1_000
_HOLD_S = 3_600


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request of the trace; ``line`` is its line in the file."""

    line: int
    at: datetime
    context_tokens: int
    generated_tokens: int

    @property
    def tokens(self) -> int:
        """Price of the request."""
        return self.context_tokens + self.generated_tokens

    @property
    def at_most(self) -> int:
        """Tokens held for the request before its generated tokens are known."""
        return self.context_tokens + _GENERATED_MAX


def trace_script(path: Path, *, seed: int, users: int, now: datetime, catalog: Catalog) -> Script:
    """Return the trace in ``path`` as a script: accounts, purchases, then a deduction a row.

    References and users follow from the file, the seed and the number of users: played again on the same
    ledger, every message is a duplicate. Raises ConfigurationError that names file, line and column.
    """
    content = _content(path)
    rows = list(rows_in(content, str(path)))
    paid = [row for row in rows if row.tokens]
    if not paid:
        raise ConfigurationError(f"{path}: has no row with tokens")
    last = max(row.at for row in rows)
    run = hashlib.blake2b(f"{seed} {users} ".encode() + content, digest_size=3).hexdigest()
    cast = _Cast(random.Random(seed), catalog, run, users, now)  # noqa: S311 - a demo's chance, no secret
    spenders = cast.spenders(len(paid))
    demand = dict.fromkeys(spenders, 0)
    for user, row in zip(spenders, paid, strict=True):
        demand[user] += row.tokens
    tiers = cast.tiers()
    bought = cast.bought(tiers, demand)
    requests = [_Request(run, *pair, now - last) for pair in zip(spenders, paid, strict=True)]
    held = _held(requests, {user: cast.budget(tiers[user], bought[user]) for user in demand})
    return Script(
        (
            Act("accounts open", tuple(cast.openings(tiers))),
            Act("purchases", tuple(cast.purchases(bought))),
            Act("the trace", tuple(each.held() if each in held else each.deducted() for each in requests)),
            Act("holds end", tuple(each.settled() for each in requests if each in held)),
        ),
        notes=(
            f"{path}: {len(rows):,} rows, {len(rows) - len(paid):,} of them without tokens and left out",
            f"the trace is shifted by {_shift(now - last)}, so that its last row is now",
            f"{len(demand)} of {users} users use {sum(demand.values()):,} tokens in {len(paid):,} requests",
            f"{len(held):,} of them are held first, and settled when it is known how much they generated",
        ),
        facts={
            "trace": str(path),
            "rows": len(rows),
            "rowsLeftOut": len(rows) - len(paid),
            "rowsHeld": len(held),
            "shiftSeconds": int((now - last).total_seconds()),
            "users": users,
        },
    )


def rows_in(content: bytes, name: str) -> Iterator[TraceRow]:
    """Yield the rows of a CSV file; ``name`` is the file's name in errors."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{name}, line {line}: is not UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ConfigurationError(
                f"{name}, line 1: the column {missing[0]} is missing; a trace has {', '.join(COLUMNS)}"
            )
        for fields in reader:
            yield _row(fields, f"{name}, line {reader.line_num}", reader.line_num)
    except csv.Error as error:
        raise ConfigurationError(f"{name}, line {reader.reader.line_num}: is not CSV: {error}") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from error


def _row(fields: Mapping[str, str | None], where: str, line: int) -> TraceRow:
    for column in COLUMNS:
        if fields[column] is None:
            raise ConfigurationError(f"{where}, column {column}: is missing")
    return TraceRow(
        line,
        _moment(fields[TIMESTAMP] or "", f"{where}, column {TIMESTAMP}"),
        _count(fields[CONTEXT] or "", f"{where}, column {CONTEXT}"),
        _count(fields[GENERATED] or "", f"{where}, column {GENERATED}"),
    )


def _moment(text: str, where: str) -> datetime:
    """Return a time; one without an offset is taken as UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{where}: {text[:40]!r} is no time such as 2023-11-16 18:17:03.98"
        ) from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _count(text: str, where: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX):
        raise ConfigurationError(
            f"{where}: {text[:40]!r} is no whole number from 0 to {10**_DIGITS_MAX - 1:,}"
        )
    return int(text)


class _Cast:
    """Users for a trace that names none: each one's share of it, tier and packages."""

    def __init__(self, rng: random.Random, catalog: Catalog, run: str, users: int, now: datetime) -> None:
        self._rng, self._catalog, self._run, self._now = rng, catalog, run, now
        self._users = [f"trace-{run}-u{number:03}" for number in range(1, users + 1)]

    def spenders(self, rows: int) -> list[str]:
        """Return the user of each row: few users have many, many have few."""
        return self._rng.choices(self._users, zipf_weights(len(self._users)), k=rows)

    def tiers(self) -> dict[str, str]:
        """Return everybody's tier, the small ones more often."""
        names = sorted(self._catalog.tiers, key=lambda name: self._catalog.tiers[name].monthly_tokens)
        weights = [2.0**-rank for rank in range(len(names))]
        return dict(zip(self._users, self._rng.choices(names, weights, k=len(self._users)), strict=True))

    def openings(self, tiers: Mapping[str, str]) -> Iterator[DemoMessage]:
        """Yield an opening for each user, some time before the trace."""
        for user, tier in tiers.items():
            yield saying(
                "opening",
                OpenAccount(
                    reference_id=f"{user}-open",
                    user_id=user,
                    tier=tier,
                    occurred_at=self._now - timedelta(days=1),
                ),
            )

    def bought(self, tiers: Mapping[str, str], demand: Mapping[str, int]) -> dict[str, list[Package]]:
        """Return the packages of each user: most buy about what they need, the others will run dry."""
        bought: dict[str, list[Package]] = {}
        for user, tokens in demand.items():
            lacking = tokens - self._catalog.tiers[tiers[user]].monthly_tokens
            about = int(lacking * self._rng.uniform(0.5, 1.5)) if self._rng.random() < _PAYING_SHARE else 0
            bought[user] = list(_packages_for(about, self._catalog.packages))
        return bought

    def budget(self, tier: str, bought: Sequence[Package]) -> int:
        """Return a user's tokens, with the allocation."""
        tokens = sum(package.tokens + package.bonus_tokens for package in bought)
        return self._catalog.tiers[tier].monthly_tokens + tokens

    def purchases(self, bought: Mapping[str, Sequence[Package]]) -> Iterator[DemoMessage]:
        """Yield a payment for each package."""
        for user, packages in bought.items():
            for number, package in enumerate(packages, 1):
                yield saying("purchase", self._payment(user, number, package))

    def _payment(self, user: str, number: int, package: Package) -> PaymentSucceeded:
        return PaymentSucceeded(
            reference_id=f"{user}-pay-{number}",
            user_id=user,
            package_id=package.id,
            amount_minor=package.price_minor,
            currency=package.currency,
            provider="stripe",
            occurred_at=self._now - timedelta(hours=12),
        )


def _packages_for(tokens: int, packages: Sequence[Package]) -> Iterator[Package]:
    """Yield the largest package until one alone is enough for the rest, then the smallest such."""
    by_size = sorted(packages, key=lambda package: package.tokens)
    while tokens > 0 and by_size:
        package = next((package for package in by_size if package.tokens >= tokens), by_size[-1])
        yield package
        tokens -= package.tokens


@dataclass(frozen=True, slots=True)
class _Request:
    """A row on its way into the ledger, in one step or in two."""

    run: str
    user: str
    row: TraceRow
    shift: timedelta

    def deducted(self) -> DemoMessage:
        """Return one deduction of all tokens."""
        return saying("deduct", DeductUsage(**self._said(""), tokens=self.row.tokens, feature="completion"))

    def held(self) -> DemoMessage:
        """Return a hold of the most that it may be."""
        hold = ReserveUsage(**self._said("-hold"), tokens=self.row.at_most, ttl_seconds=_HOLD_S)
        return saying("hold", hold)

    def settled(self) -> DemoMessage:
        """Return the capture of what it was."""
        settled = SettleUsage(
            **self._said(""),
            original_reference_id=self._reference("-hold"),
            tokens=self.row.tokens,
            on_excess="take",
            feature="completion",
        )
        return saying("settle", settled)

    def _reference(self, ending: str) -> str:
        return f"trace-{self.run}-line-{self.row.line:06}{ending}"

    def _said(self, ending: str) -> dict[str, Any]:
        row = self.row
        return {
            "reference_id": self._reference(ending),
            "user_id": self.user,
            "occurred_at": row.at + self.shift,
            "metadata": {"contextTokens": row.context_tokens, "generatedTokens": row.generated_tokens},
        }


def _held(requests: Sequence[_Request], budgets: Mapping[str, int]) -> set[_Request]:
    """Return every n-th request of users who have enough for all of theirs, whatever is held meanwhile."""
    candidates = set(requests[_HELD_EVERY - 1 :: _HELD_EVERY])
    wanted: Counter[str] = Counter()
    for request in requests:
        row = request.row
        wanted[request.user] += max(row.at_most, row.tokens) if request in candidates else row.tokens
    return {request for request in candidates if wanted[request.user] <= budgets[request.user]}


def _shift(by: timedelta) -> str:
    return f"{by.days} days and {by.seconds / 3600:.1f} hours"
