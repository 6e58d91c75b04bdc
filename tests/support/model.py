"""The ledger as one would keep it by hand: message after message, a list of judgements, a list of movements.

Written from the rules of the design and, on purpose, unlike ``worker/core``: it reads what is on the wire,
knows no batches, caches no balance and looks everything up in plain lists. What the worker answers and
keeps must be what stands here.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from schemas import Command
from worker.catalog import Catalog, Package

Answer = dict[str, Any]
Message = dict[str, Any]
Movement = dict[str, Any]

#: What moves the ledger, by type. All else (times, free text, provider, attempt) may differ in a duplicate.
CONTENT: Mapping[str, tuple[str, ...]] = {
    "account.open": ("tier",),
    "credit.bonus": ("tokens",),
    "credit.refund": ("tokens",),
    "payment.succeeded": ("amountMinor", "currency", "packageId", "packageIndex"),
    "usage.deduct": ("feature", "tokens"),
    "usage.free_upload": ("bytes",),
}

#: Parts of a reply that the model doesn't foretell: words, identities, the ledger's own numbering.
_NOT_FORETOLD = frozenset(
    {"message", "type", "referenceId", "userId", "attempt", "transactionId", "unit", "recordedAt"}
)


def foretold(reply: Mapping[str, Any]) -> Answer:
    """What remains of a reply (as decoded JSON) that the model answers too; the two must be equal."""
    return {name: value for name, value in reply.items() if name not in _NOT_FORETOLD}


class Model:
    """One ledger. ``apply`` takes messages in the order in which they reach it."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._tiers: dict[str, str] = {}
        self._movements: dict[str, list[Movement]] = {}
        self._uploads: list[tuple[str, str, int]] = []
        self._judgements: dict[str, list[tuple[Message, Answer]]] = {}
        #: Each payment that was taken, in order.
        self.payments: list[dict[str, Any]] = []

    # -- what one may ask ---------------------------------------------------------------------------------

    def apply(self, command: Command, now: datetime) -> Answer:
        """The reply to ``command``, without what ``foretold`` leaves out. Absent fields are left out too."""
        message: Message = {"attempt": 1, **json.loads(command.to_json())}
        past = self._judgements.setdefault(message["referenceId"], [])
        if not past:
            return self._judged(message, now, past)
        latest, answer = past[-1]
        same_operation = all(message[name] == latest[name] for name in ("type", "userId"))
        if same_operation and answer["status"] == "rejected" and message["attempt"] > latest["attempt"]:
            return self._judged(message, now, past)
        if same_operation:
            own = [judgement for judgement in past if judgement[0]["attempt"] == message["attempt"]]
            latest, answer = own[-1] if own else past[-1]
        for name in ("type", "userId", *CONTENT[latest["type"]]):
            if message.get(name) != latest.get(name):
                return {
                    "status": "rejected",
                    "code": "reference_conflict",
                    "duplicate": False,
                    "field": name,
                    "expected": str(latest.get(name, "absent")),
                    "received": str(message.get(name, "absent")),
                }
        return {**answer, "duplicate": True}

    def balances(self) -> dict[str, int]:
        """The balance of every user who has an account."""
        return {user: self._balance(user) for user in self._tiers}

    def history(self, user: str) -> list[Movement]:
        """Every movement of the user's tokens, oldest first; empty where there is no account."""
        return [dict(movement) for movement in self._movements.get(user, [])]

    def sums(self, user: str) -> dict[str, int]:
        """What was moved in all, by counter-account; usage is counted upwards."""
        movements = self._movements.get(user, [])
        counters = ("allocation", "purchases", "bonus", "refunds", "usage")
        return {c: abs(sum(m["amount"] for m in movements if m["counter"] == c)) for c in counters}

    def tier(self, user: str) -> str | None:
        """The user's tier, or None where there is no account."""
        return self._tiers.get(user)

    def uploaded(self, user: str, now: datetime) -> int:
        """The bytes counted in the calendar month of ``now``."""
        return sum(size for who, month, size in self._uploads if (who, month) == (user, _month(now)))

    # -- the rules ----------------------------------------------------------------------------------------

    def _judged(self, message: Message, now: datetime, past: list[tuple[Message, Answer]]) -> Answer:
        answer = self._judge(message, now)
        past.append((message, answer))
        return dict(answer)

    def _judge(self, message: Message, now: datetime) -> Answer:
        user, kind = message["userId"], message["type"]
        if kind == "account.open":
            return self._open(user, message)
        if user not in self._tiers:
            return self._refuse(user, "account_not_found")
        if kind == "usage.deduct":
            return self._deduct(user, message)
        if kind == "usage.free_upload":
            return self._upload(user, message, now)
        if kind == "payment.succeeded":
            return self._purchase(user, message)
        if kind == "credit.refund":
            return self._move(user, message, "tokens_refunded", [("refunds", message["tokens"])])
        if kind == "credit.bonus":
            return self._move(user, message, "bonus_granted", [("bonus", message["tokens"])])
        raise AssertionError(f"the model knows no {kind}")

    def _open(self, user: str, message: Message) -> Answer:
        if user in self._tiers:
            return self._refuse(user, "account_exists", tier=self._tiers[user])
        tier = message["tier"]
        if tier not in self._catalog.tiers:
            return self._refuse(user, "unknown_tier", tier=tier)
        self._tiers[user] = tier
        granted = self._catalog.tiers[tier].monthly_tokens
        return self._move(user, message, "account_opened", [("allocation", granted)], tier=tier)

    def _deduct(self, user: str, message: Message) -> Answer:
        wanted, left = message["tokens"], self._balance(user)
        if wanted > left:
            short = wanted - left
            return self._refuse(
                user, "insufficient_balance", required=wanted, available=left, shortfall=short
            )
        return self._move(user, message, "tokens_deducted", [("usage", -wanted)])

    def _upload(self, user: str, message: Message, now: datetime) -> Answer:
        tier = self._tiers[user]
        if tier not in self._catalog.tiers:
            return self._refuse(user, "unknown_tier", tier=tier)
        limit = self._catalog.tiers[tier].free_upload_bytes
        used = self.uploaded(user, now)
        size = message["bytes"]
        if used + size > limit:
            left = limit - used if used < limit else 0
            return self._refuse(
                user,
                "free_upload_limit_exceeded",
                required=size,
                available=left,
                shortfall=size - left,
                used=used,
                limit=limit,
            )
        self._uploads.append((user, _month(now), size))
        balance = self._balance(user)
        return _applied("free_upload_counted", size, balance, balance, used=used + size, limit=limit)

    def _purchase(self, user: str, message: Message) -> Answer:
        package = self._package(message)
        if package is None:
            named = message.get("packageId") or f"#{message['packageIndex']}"
            return self._refuse(user, "unknown_package", packageId=named)
        price = f"{package.price_minor} {package.currency}"
        paid = f"{message['amountMinor']} {message['currency']}"
        if paid != price:
            return self._refuse(user, "amount_mismatch", packageId=package.id, expected=price, received=paid)
        self.payments.append(
            {
                "referenceId": message["referenceId"],
                "userId": user,
                "packageId": package.id,
                "amountMinor": message["amountMinor"],
                "currency": message["currency"],
                "tokens": package.tokens,
                "bonusTokens": package.bonus_tokens,
            }
        )
        return self._move(
            user,
            message,
            "tokens_purchased",
            [("purchases", package.tokens), ("bonus", package.bonus_tokens)],
            packageId=package.id,
            baseTokens=package.tokens,
            bonusTokens=package.bonus_tokens,
        )

    def _package(self, message: Message) -> Package | None:
        for index, package in enumerate(self._catalog.packages):
            if message.get("packageId") == package.id or message.get("packageIndex") == index:
                return package
        return None

    # -- the books ----------------------------------------------------------------------------------------

    def _balance(self, user: str) -> int:
        return sum(movement["amount"] for movement in self._movements.get(user, []))

    def _refuse(self, user: str, code: str, **detail: int | str) -> Answer:
        answer: Answer = {"status": "rejected", "code": code, "duplicate": False, **detail}
        if user in self._tiers:
            answer["balanceBefore"] = answer["balanceAfter"] = self._balance(user)
        return answer

    def _move(
        self, user: str, message: Message, code: str, legs: Iterable[tuple[str, int]], **detail: int | str
    ) -> Answer:
        movements = self._movements.setdefault(user, [])
        first = self._balance(user)
        for counter, amount in legs:
            if amount == 0:
                continue
            before = self._balance(user)
            movements.append(
                {
                    "sequence": len(movements) + 1,
                    "referenceId": message["referenceId"],
                    "counter": counter,
                    "amount": amount,
                    "balanceBefore": before,
                    "balanceAfter": before + amount,
                    "feature": message.get("feature"),
                }
            )
        last = self._balance(user)
        return _applied(code, abs(last - first), first, last, **detail)


def _applied(code: str, amount: int, before: int, after: int, **detail: int | str) -> Answer:
    return {
        "status": "applied",
        "code": code,
        "duplicate": False,
        "amount": amount,
        "balanceBefore": before,
        "balanceAfter": after,
        **detail,
    }


def _month(now: datetime) -> str:
    return f"{now:%Y-%m}"
