"""Random conversations with one ledger, for the fake of the TypeScript client.

Few users, payments, holds, names and times, so that events meet: late, twice, under another name, before an
account. Between the commands somebody asks.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from tests.contracts.samples import Step
from tests.typescript.random_imports import import_of

Fields = dict[str, Any]

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
_PACKAGES = (*(3 * (("starter", 499),)), ("standard", 1_999), ("plus", 6_999))
_STEPS = (
    *(2 * (timedelta(0), timedelta(minutes=5), timedelta(hours=20))),
    *(timedelta(days=days) for days in (2, 10, 40)),
)
_IMPORTED = "cyd"
_OTHER_NAMES = ("c1", "c2", "c3")


class _Chance(Random):
    """Chance, and what one conversation has named: users, of whom the first comes most often, and more."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.users: tuple[str, ...] = ("ada", "bob")
        self._named: Counter[str] = Counter()

    def user(self) -> str:
        return self.choice((*(5 * self.users[:1]), *self.users))

    def new(self, kind: str) -> str:
        """Return a name that is new, mostly."""
        if not self._named[kind] or self.random() < 0.85:
            self._named[kind] += 1
        return f"{kind}{self._named[kind]}"

    def known(self, kind: str) -> str:
        """Return one of the last names of a kind, or one that may come later."""
        return f"{kind}{max(self._named[kind] + self.choice((0, 0, 0, 0, -1, -1, 1)), 1)}"


_Maker = Callable[[_Chance, datetime], Fields]


def conversation(seed: int) -> list[Step]:
    """Return the steps of one conversation, without replies and answers."""
    return list(_steps(_Chance(seed)))


def _steps(chance: _Chance) -> Iterator[Step]:
    now, theme = START, chance.choice(_THEMES)
    if theme[0] is _import:
        chance.users = (_IMPORTED, "ada")
    opened = {"userId": "ada", "tier": chance.choice(("free", "basic"))}
    yield _step(now, {"type": "account.open", "referenceId": "open", **opened})
    makers = [*theme, *theme, *chance.sample(_MAKERS, 3)]  # few kinds, which meet often
    sent: list[Fields] = []
    for number in range(chance.randint(12, 24)):
        now += chance.choice(_STEPS)
        if sent and chance.random() < 0.06:
            fields = chance.choice(sent)  # once more, or anew
            if chance.random() < 0.3:
                fields = {**fields, "attempt": fields.get("attempt", 1) + 1}
        else:
            maker = theme[0] if number < 2 else chance.choice(makers)
            fields = {"referenceId": f"r{number}", **maker(chance, now)}
        sent.append(fields)
        yield _step(now, fields)
        if chance.random() < 0.3:
            yield {"at": text_of_time(now), "query": chance.choice(_QUESTIONS)(chance, now)}
    now += timedelta(days=400)
    for user in chance.users:  # when all that ends has ended
        yield _step(now, {"type": "account.settle", "referenceId": f"end-{user}", "userId": user})
        yield {"at": text_of_time(now), "query": {"type": "query.history", "userId": user, "limit": 1_000}}


def _step(at: datetime, message: Fields) -> Step:
    return {"at": text_of_time(at), "message": message}


def text_of_time(at: datetime) -> str:
    """Return a time as it goes over the wire."""
    return at.isoformat().replace("+00:00", "Z")


# -- commands ---------------------------------------------------------------------------------------------


def _payment(chance: _Chance, now: datetime) -> Fields:
    package, price = chance.choice(_PACKAGES)
    fields = _money(chance, price + chance.choice((*(8 * (0,)), 1, -1)))
    if chance.random() < 0.3:
        fields |= {"amountMinor": price + 100, "taxMinor": 100}
    elif chance.random() < 0.2:
        fields |= {"amountMinor": 0, "discountMinor": price}
    names = {"alsoKnownAs": [chance.choice(_OTHER_NAMES)]} if chance.random() < 0.4 else {}
    about = {"userId": chance.user(), "packageId": package, **names}
    paid = {"type": "payment.succeeded", "referenceId": chance.new("p"), **about}
    return {**paid, **fields, **_occurred(chance), "attempt": chance.choice((1, 1, 1, 2))}


def _event(chance: _Chance, now: datetime) -> Fields:
    about = {"originalReferenceId": _name(chance), **_occurred(chance)}
    dispute = {"disputeId": chance.choice(("d1", "d2")), **_money(chance, chance.choice((300, 500)))}
    result = chance.choice(("won", "lost", "lost", "prevented", "withdrawn"))
    refund = chance.choice(("f1", "f2"))
    return about | chance.choice(
        (
            {
                "type": "payment.refunded",
                "referenceId": refund,
                **_money(chance, chance.choice((100, 1_000))),
            },
            {
                "type": "payment.refunded",
                "refundedTotalMinor": chance.choice((0, 100, 3_000)),
                "currency": "USD",
                "occurredAt": text_of_time(START + timedelta(minutes=chance.randint(0, 300))),
            },
            {"type": "payment.refund_failed", "refundReferenceId": refund},
            {"type": "payment.disputed", "stage": chance.choice(("inquiry", "chargeback")), **dispute},
            {"type": "payment.disputed", **dispute},
            {"type": "payment.dispute_closed", "result": result, **dispute},
            {"type": "payment.failed"},
        )
    )


def _naming(chance: _Chance, now: datetime) -> Fields:
    name, other = chance.choice((_name(chance), chance.choice(_OTHER_NAMES))), chance.sample(_OTHER_NAMES, 2)
    others = [one for one in other if one != name][: chance.choice((1, 1, 2))]
    named = {"type": "payment.named", "originalReferenceId": name, "alsoKnownAs": others}
    return {**named, **chance.choice(({}, {"userId": chance.user()}))}


def _freezing(chance: _Chance, now: datetime) -> Fields:
    who = chance.choice(({"userId": chance.users[0]}, {"paymentReferenceId": _name(chance)}))
    kind = chance.choice(("account.freeze", "account.unfreeze", "account.unfreeze"))
    return {"type": kind, "reason": "case", **who, **_occurred(chance)}


def _change(chance: _Chance, now: datetime) -> Fields:
    tier = {"type": "subscription.change", "tier": chance.choice(("free", "basic", "pro", "enterprise"))}
    more = chance.choice(({}, {"effectiveAt": "period_end"}, _period(chance, now) | _paid(chance)))
    return {"userId": chance.users[0], **tier, **more, **_lately(chance, now)}


def _renewal(chance: _Chance, now: datetime) -> Fields:
    period = chance.choice(({}, {"periodStart": text_of_time(_near(chance, now))}, _period(chance, now)))
    about = {"type": "subscription.renew", "userId": chance.users[0], **period}
    return {**about, **_paid(chance), **_lately(chance, now)}


def _cancellation(chance: _Chance, now: datetime) -> Fields:
    about = {"type": "subscription.cancel", "userId": chance.users[0]}
    return {**about, "at": chance.choice(("now", "period_end")), **_lately(chance, now)}


def _usage(chance: _Chance, now: datetime) -> Fields:
    about = _about(chance) | {"referenceId": chance.new("u"), "attempt": chance.choice((1, 1, 2))}
    tokens = chance.choice((0, 10, 5_000, 5_000, 40_000, 90_000))
    deducted = {"type": "usage.deduct", "tokens": tokens, **_feature(chance)}
    return about | chance.choice(
        (
            *(4 * (deducted,)),
            *(2 * ({"type": "usage.record", "meter": "ocr", "quantity": chance.choice((1, 40))},)),
            {"type": "usage.record", "meter": "upload", "quantity": 105_906_176, **_feature(chance)},
            {"type": "usage.free_upload", "bytes": chance.choice((1_024, 104_857_000))},
            {"type": "usage.record", "meter": "fax", "quantity": 1},
        )
    )


def _refund_of_usage(chance: _Chance, now: datetime) -> Fields:
    original = chance.choice(({}, *(5 * ({"originalReferenceId": chance.known("u")},))))
    units = chance.choice((*(4 * ({},)), {"freeQuantity": 100}))
    tokens = chance.choice((5, 1_000, 2_000, 90_000))
    return {"type": "credit.refund", "userId": chance.users[0], "tokens": tokens, **original, **units}


def _reservation(chance: _Chance, now: datetime) -> Fields:
    tokens, seconds = chance.choice((500, 6_000, 20_000)), chance.choice((60, 86_400, 600_000))
    hold = {"type": "usage.reserve", "referenceId": chance.new("h"), "attempt": chance.choice((1, 1, 2))}
    return {**hold, "tokens": tokens, "ttlSeconds": seconds, **_about(chance)}


def _end_of_hold(chance: _Chance, now: datetime) -> Fields:
    about = {"userId": chance.users[0], "originalReferenceId": chance.known("h")}
    options = {"onExcess": chance.choice(("take", "refuse")), "onExpired": chance.choice(("take", "refuse"))}
    tokens = chance.choice((0, 400, 7_000, 15_000))
    return about | chance.choice(
        (
            {"type": "usage.settle", "tokens": tokens, **options, **_feature(chance)},
            {"type": "usage.extend", "ttlSeconds": 90_000},
            {"type": "usage.release"},
        )
    )


def _credit(chance: _Chance, now: datetime) -> Fields:
    ends = chance.choice(({}, {"expiresAt": text_of_time(now + timedelta(days=chance.choice((3, 20, 60))))}))
    later = chance.choice(({}, {"effectiveAt": text_of_time(now + timedelta(days=2))}))
    first = chance.choice(({}, {}, {"priority": 5}))
    about = {"userId": chance.user(), "tokens": 30_000}
    return {"type": "credit.bonus", **about, **ends, **later, **first, **_occurred(chance)}


def _correction(chance: _Chance, now: datetime) -> Fields:
    tokens, may = chance.choice((-40_000, -700, 700)), chance.choice(({}, {"allowNegative": True}))
    who = {"userId": chance.user(), "reason": "a miscount", "actor": "eve"}
    return {"type": "credit.adjust", "tokens": tokens, **who, **may}


def _settlement(chance: _Chance, now: datetime) -> Fields:
    return {"type": "account.settle", "userId": chance.user()}


def _opening(chance: _Chance, now: datetime) -> Fields:
    return {"type": "account.open", "userId": "bob", "tier": "free"}


def _import(chance: _Chance, now: datetime) -> Fields:
    return {"type": "account.import", "userId": _IMPORTED, **import_of(chance, START)}


#: Kinds of commands that belong together; each conversation has a theme, and begins with its first.
_THEMES: tuple[tuple[_Maker, ...], ...] = (
    (_payment, _event, _event, _usage, _credit),
    (_payment, _event, _event, _change, _renewal, _cancellation),
    (_naming, _payment, _naming, _event, _event, _settlement),
    (_change, _renewal, _cancellation, _cancellation, _usage),
    (_usage, _refund_of_usage, _refund_of_usage, _credit, _change),
    (_credit, _usage, _correction, _credit),
    (_reservation, _reservation, _end_of_hold, _credit, _usage),
    (_reservation, _end_of_hold, _correction, _credit),
    (_payment, _event, _event, _reservation, _end_of_hold, _usage),
    (_import, _event, _usage, _change, _reservation),
)
_MAKERS: tuple[_Maker, ...] = (*{maker: None for theme in _THEMES for maker in theme}, _freezing, _opening)

# -- queries ----------------------------------------------------------------------------------------------


def _balance(chance: _Chance, now: datetime) -> Fields:
    return {"type": "query.balance", "userId": chance.user()}


def _afford(chance: _Chance, now: datetime) -> Fields:
    asked = chance.choice(
        ({"tokens": 6_000}, {"meter": "ocr", "quantity": 3}, {"meter": "fax", "quantity": 1})
    )
    return {"type": "query.afford", "userId": chance.user(), **asked}


def _used(chance: _Chance, now: datetime) -> Fields:
    last = chance.choice((now, START))
    days = {"from": _day(last - timedelta(days=30)), "to": _day(last)}
    zone = chance.choice(({}, {"timezone": "America/New_York"}, {"timezone": "Pacific/Auckland"}))
    group = chance.choice(({}, {"groupBy": "feature"}, {"groupBy": "type"}, {"groupBy": "metadata.project"}))
    when = chance.choice(({}, {"days": 60}, days))
    return {"type": "query.usage", "userId": chance.user(), **when, **zone, **group}


def _history(chance: _Chance, now: datetime) -> Fields:
    some = chance.choice(
        ({}, {"transactionType": "usage.deduct"}, {"feature": "ocr"}, {"to": text_of_time(START)})
    )
    status = {"status": chance.choice(("applied", "rejected", "all"))}
    return {"type": "query.history", "userId": chance.user(), **some, **status}


def _whole(chance: _Chance, now: datetime) -> Fields:
    operation = {"type": "query.operation", "referenceId": chance.known(chance.choice(("p", "u", "h")))}
    return chance.choice(({"type": "query.stats"}, {"type": "query.catalog"}, operation, operation))


_QUESTIONS: tuple[_Maker, ...] = (_balance, _afford, _used, _history, _whole)

# -- their fields -----------------------------------------------------------------------------------------


def _money(chance: _Chance, amount: int) -> Fields:
    return {"amountMinor": amount, "currency": chance.choice((*(7 * ("USD",)), "EUR"))}


def _occurred(chance: _Chance) -> Fields:
    if chance.random() < 0.4:
        return {}
    return {"occurredAt": text_of_time(START + timedelta(minutes=chance.randint(0, 300)))}


def _lately(chance: _Chance, now: datetime) -> Fields:
    """Return a time before the command comes, or none."""
    if chance.random() < 0.4:
        return {}
    return {"occurredAt": text_of_time(now - timedelta(hours=chance.choice((0, 0, 30, 300, 1_500))))}


def _name(chance: _Chance) -> str:
    """Return a name of a payment: its own, mostly."""
    return chance.choice((*(5 * (chance.known("p"),)), *_OTHER_NAMES))


def _about(chance: _Chance) -> Fields:
    """Return a user, a time that may be past, and the tier of an account that the usage may open."""
    opens = chance.choice(({}, {"openTier": "free"}))
    metadata = chance.choice(({}, {"metadata": {"project": chance.choice(("atlas", "", 7))}}))
    return {"userId": chance.user(), **opens, **_occurred(chance), **metadata}


def _feature(chance: _Chance) -> Fields:
    return chance.choice(({}, {"feature": "ocr"}, {"feature": "chat"}))


def _day(at: datetime) -> str:
    return at.date().isoformat()


def _near(chance: _Chance, now: datetime) -> datetime:
    return now + timedelta(hours=chance.choice((-300, -30, -2, 0, 20, 50)))


def _period(chance: _Chance, now: datetime) -> Fields:
    start = _near(chance, now)
    end = start + timedelta(days=chance.choice((7, 30, 31, 365)))
    return {"periodStart": text_of_time(start), "periodEnd": text_of_time(end)}


def _paid(chance: _Chance) -> Fields:
    if chance.random() < 0.5:
        return {}
    paid = {"referenceId": chance.new("p"), **_money(chance, 1_000)}
    return {"payment": paid}
