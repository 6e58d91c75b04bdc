"""A realistic day of a prepaid service, made from a seed: what goes well, what is refused, what is broken."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from schemas import (
    BonusCredit,
    Command,
    DeductUsage,
    FreeUpload,
    OpenAccount,
    PaymentSucceeded,
    RefundCredit,
)
from schemas.decoding import BODY_MAX_BYTES
from worker.catalog import Catalog, Package
from worker.cli.demo.script import Act, Message, Script, saying, zipf_weights

MESSAGES_MIN = 150
DAYS = 10  # the day's messages tell of events of so many days: some producers were late

_FEATURES = {"chat": 50, "search": 20, "summary": 15, "transcription": 10, "embeddings": 5}
_ORDINARY = {"deduct": 74, "free upload": 9, "purchase": 7, "refund": 5, "bonus": 5}
_FIRST = ("ada", "ben", "chidi", "dana", "emre", "fatima", "goran", "hana", "ines", "jonas", "kofi", "lena")
_LAST = ("adeyemi", "berg", "costa", "demir", "eriksen", "fischer", "garcia", "haddad", "ito", "jansen")


def day(rng: random.Random, now: datetime, catalog: Catalog, *, messages: int, suffix: str = "") -> Script:
    """About a day's ``messages``, exactly so many, at least ``MESSAGES_MIN``.

    ``suffix`` ends every reference and user, so that a day can be played on a ledger that has seen others.
    """
    return _Day(rng, now, catalog, suffix).script(messages)


class _Day:
    def __init__(self, rng: random.Random, now: datetime, catalog: Catalog, suffix: str) -> None:
        self._rng, self._now, self._catalog, self._suffix = rng, now, catalog, suffix
        self._tiers = sorted(catalog.tiers, key=lambda name: catalog.tiers[name].monthly_tokens)
        self._numbers: dict[str, int] = {}
        self._users: list[str] = []
        self._dry: list[str] = []
        self._busy: list[tuple[datetime, Message]] = []
        self._evening: list[Message] = []
        self._night: list[Message] = []

    def script(self, count: int) -> Script:
        openings = self._openings(max(12, count // 25))
        for _ in range(max(1, count // 500)):
            openings.append(saying("unknown tier", self._open("eve.nobody" + self._suffix, "platinum")))
            self._refused_by_the_rules()
        for _ in range(max(1, count // 1000)):
            self._broken()
        for user in self._dry:
            self._dry_spell(user)
        again, reused = count // 20, max(2, count // 200)
        self._ordinary(count - len(openings) - self._planned() - again - reused)
        self._delivered_again(again)
        self._references_reused(reused)
        self._busy.sort(key=lambda item: item[0])
        return Script(
            (
                Act("accounts open", tuple(openings)),
                Act("a busy day", tuple(message for _, message in self._busy)),
                Act("top-ups", tuple(self._evening)),
                Act("second tries", tuple(self._night)),
            ),
            facts={"users": len(self._users)},
        )

    def _planned(self) -> int:
        return len(self._busy) + len(self._evening) + len(self._night)

    # -- the cast -----------------------------------------------------------------------------------------

    def _openings(self, count: int) -> list[Message]:
        """Every tier has somebody; the first few, on the smallest tier, will run dry."""
        names = [f"{first}.{last}" for last in _LAST for first in _FIRST]
        names += [f"user.{number:04}" for number in range(count - len(names))]
        self._users = [name + self._suffix for name in names[:count]]
        self._dry = self._users[: max(3, count // 10)]
        weights = [2.0**-rank for rank in range(len(self._tiers))]
        rest = count - len(self._dry) - len(self._tiers)
        tiers = [
            *[self._tiers[0]] * len(self._dry),
            *self._tiers,
            *self._rng.choices(self._tiers, weights, k=rest),
        ]
        return [
            saying("opening", self._open(user, tier)) for user, tier in zip(self._users, tiers, strict=True)
        ]

    def _open(self, user: str, tier: str) -> OpenAccount:
        at = self._now - timedelta(days=DAYS, minutes=self._rng.randrange(600))
        return OpenAccount(reference_id=self._reference("open"), user_id=user, tier=tier, occurred_at=at)

    # -- the ordinary -------------------------------------------------------------------------------------

    def _ordinary(self, count: int) -> None:
        """One of each kind at least, then as often as it happens."""
        makers: Mapping[str, Callable[[], Command]] = {
            "deduct": self._deduct,
            "free upload": self._free_upload,
            "purchase": self._purchase,
            "refund": self._refund,
            "bonus": self._bonus,
        }
        kinds = [*_ORDINARY, *self._rng.choices(list(_ORDINARY), list(_ORDINARY.values()), k=count)][:count]
        for kind in kinds:
            self._by_day(kind, makers[kind]())

    def _deduct(self, user: str | None = None, tokens: int | None = None) -> DeductUsage:
        (feature,) = self._rng.choices(list(_FEATURES), list(_FEATURES.values()))
        return DeductUsage(
            reference_id=self._reference("use"),
            user_id=self._anyone() if user is None else user,
            tokens=1 + int(self._rng.lognormvariate(6.0, 1.0)) if tokens is None else tokens,
            feature=feature,
            occurred_at=self._moment(),
        )

    def _free_upload(self) -> FreeUpload:
        return FreeUpload(
            reference_id=self._reference("upload"),
            user_id=self._anyone(),
            bytes=self._rng.randrange(1 << 16, 48 << 20),
            occurred_at=self._moment(),
        )

    def _purchase(self) -> PaymentSucceeded:
        (index,) = self._rng.choices(
            range(len(self._catalog.packages)), zipf_weights(len(self._catalog.packages), 1.5)
        )
        return self._payment(self._payer(), index)

    def _payment(self, user: str, index: int, **changes: Any) -> PaymentSucceeded:
        """The package by its id and by its index in turns, as older and newer producers do."""
        package = self._catalog.packages[index]
        reference = self._reference("pay")
        by_id = self._numbers["pay"] % 2 == 0
        fields: dict[str, Any] = {
            "reference_id": reference,
            "user_id": user,
            "amount_minor": package.price_minor,
            "currency": package.currency,
            "provider": "stripe",
            "occurred_at": self._moment(),
            **({"package_id": package.id} if by_id else {"package_index": index}),
        }
        return PaymentSucceeded(**fields | changes)

    def _refund(self) -> RefundCredit:
        return RefundCredit(
            reference_id=self._reference("refund"),
            user_id=self._payer(),
            tokens=self._rng.randrange(50, 2_000),
            description="The answer was cut short.",
            occurred_at=self._moment(),
        )

    def _bonus(self) -> BonusCredit:
        return BonusCredit(
            reference_id=self._reference("bonus"),
            user_id=self._payer(),
            tokens=self._rng.choice((500, 1_000, 5_000)),
            description="For a friend invited.",
            occurred_at=self._moment(),
        )

    # -- what is refused ----------------------------------------------------------------------------------

    def _refused_by_the_rules(self) -> None:
        package, nobody = self._catalog.packages[0], "mallory.nobody" + self._suffix
        most = self._catalog.tiers[self._tiers[0]].free_upload_bytes
        too_large = self._free_upload().model_copy(update={"user_id": self._dry[0], "bytes": most + 1})
        self._by_day("unknown account", self._deduct(user=nobody))
        self._by_day("opened twice", self._open(self._anyone(), self._tiers[-1]))
        self._by_day("wrong amount", self._payment(self._payer(), 0, amount_minor=package.price_minor - 1))
        self._by_day("wrong currency", self._payment(self._payer(), 0, currency="XTS"))
        self._by_day(
            "unknown package", self._payment(self._payer(), 0, package_id="jumbo", package_index=None)
        )
        self._by_day("upload too large", too_large)

    def _dry_spell(self, user: str) -> None:
        """Asks for more than there is, tops up, asks again with attempt 2; late copies of both come in."""
        asked = self._catalog.tiers[self._tiers[0]].monthly_tokens + self._rng.randrange(1_000, 9_000)
        first = self._deduct(user, asked)
        package = self._smallest_above(asked)
        self._by_day("runs dry", first)
        self._evening.append(saying("top-up", self._payment(user, package, occurred_at=self._now)))
        second = first.model_copy(update={"attempt": 2, "occurred_at": self._now})
        self._night.append(saying("second try", second))
        self._night.append(saying("delivered again", second))
        self._night.append(saying("delivered again", first))

    def _smallest_above(self, tokens: int) -> int:
        def size(package: Package) -> int:
            return package.tokens + package.bonus_tokens

        packages = self._catalog.packages
        large_enough = [index for index, package in enumerate(packages) if size(package) >= tokens]
        return min(large_enough or range(len(packages)), key=lambda index: size(packages[index]))

    def _delivered_again(self, count: int) -> None:
        """The same bytes once more, soon after or in the evening; the broker may do that any time."""
        healthy = [(at, message) for at, message in self._busy if not message.kind.startswith("broken")]
        for at, message in self._rng.choices(healthy, k=count):
            copy = replace(message, kind="delivered again")
            if self._rng.random() < 0.5:
                self._busy.append((at + timedelta(seconds=self._rng.randrange(1, 600)), copy))
            else:
                self._evening.append(copy)

    def _references_reused(self, count: int) -> None:
        """Another amount under a reference that has its outcome: a producer that counts wrongly."""
        deducts = [message for _, message in self._busy if message.kind == "deduct"]
        for message in self._rng.sample(deducts, k=count):
            fields = json.loads(message.body)
            fields["tokens"] += 1
            changed = replace(
                message,
                kind="reused reference",
                message_id=self._reference("changed"),
                body=json.dumps(fields).encode(),
            )
            self._evening.append(changed)

    def _broken(self) -> None:
        for name, routing_key, body in ways_to_be_broken(self._deduct(), self._now):
            message = Message(f"broken: {name}", self._reference("broken"), routing_key, body)
            self._busy.append((self._moment(), message))

    # -- small things -------------------------------------------------------------------------------------

    def _by_day(self, kind: str, command: Command) -> None:
        self._busy.append((command.occurred_at or self._now, saying(kind, command)))

    def _reference(self, kind: str) -> str:
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return f"{kind}-{self._numbers[kind]:05}{self._suffix}"

    def _anyone(self) -> str:
        return self._rng.choices(self._users, zipf_weights(len(self._users), 0.6))[0]

    def _payer(self) -> str:
        """Somebody who is not to run dry."""
        return self._rng.choice(self._users[len(self._dry) :])

    def _moment(self) -> datetime:
        back = self._rng.triangular(60, DAYS * 86_400 - 60, 86_400)
        return (self._now - timedelta(seconds=back)).replace(microsecond=0)


def ways_to_be_broken(command: DeductUsage, now: datetime) -> list[tuple[str, str, bytes]]:
    """Messages that are no commands, each in its own way: (name, routing key, body)."""
    fields: dict[str, Any] = json.loads(command.to_json())
    text = json.dumps(fields)

    def but(**changes: Any) -> bytes:
        return json.dumps(fields | changes).encode()

    def without(name: str) -> bytes:
        return json.dumps({key: value for key, value in fields.items() if key != name}).encode()

    key = command.type
    return [
        ("not JSON", key, b"please take 5 tokens from bob"),
        ("cut short", key, text[: len(text) // 2].encode()),
        ("empty", key, b""),
        ("not an object", key, f"[{text}]".encode()),
        ("not UTF-8", key, but(description="?").replace(b"?", b"Gr\xfc\xdfe")),
        ("byte order mark", key, b"\xef\xbb\xbf" + text.encode()),
        ("fractional tokens", key, but(tokens=12.5)),
        ("tokens in quotes", key, but(tokens="500")),
        ("true for tokens", key, but(tokens=True)),
        ("no tokens at all", key, but(tokens=0)),
        ("negative", key, but(tokens=-500)),
        ("NaN", key, but(tokens=float("nan"))),
        ("astronomic", key, but(tokens=10**30)),
        ("unknown type", "usage.debit", but(type="usage.debit")),
        ("missing field", key, without("userId")),
        ("unknown field", key, but(token=500)),
        ("duplicate field", key, text[:-1].encode() + b', "tokens": 1}'),
        ("naive time", key, but(occurredAt=f"{now:%Y-%m-%dT%H:%M:%S}")),
        ("from the future", key, but(occurredAt=(now + timedelta(days=400)).isoformat())),
        ("control character", key, but(userId="bob\x00")),
        ("nested too deeply", key, b"[" * 100_000),
        ("oversized", key, but(description="x" * BODY_MAX_BYTES)),
        ("other routing key", "usage.free_upload", text.encode()),
    ]
