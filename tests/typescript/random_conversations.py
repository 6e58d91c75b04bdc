"""Random conversations with one ledger, for the fake of the TypeScript client.

Few users, payments, holds, names and times, so that events meet: late, twice, under another name, before an
account. Between the commands somebody asks.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from tests.contracts.samples import Step
from tests.typescript.random_imports import import_of

Fields = dict[str, Any]

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
_PACKAGES = (("starter", 499), ("standard", 1_999), ("plus", 6_999))
_STEPS = (timedelta(0), timedelta(minutes=5), timedelta(hours=20), timedelta(days=10), timedelta(days=40))
_USERS = (*(6 * ("ada",)), "bob", "cyd", "cyd")
_HOLDS = ("h1", "h2")
_PAYMENTS = ("p1", "p1", "p2", "p3", "p4")


def conversation(seed: int) -> list[Step]:
    """Return the steps of one conversation, without replies and answers."""
    return list(_steps(Random(seed)))


def _steps(chance: Random) -> Iterator[Step]:
    now = START
    yield _step(now, {"type": "account.open", "referenceId": "open", "userId": "ada", "tier": "basic"})
    sent: list[Fields] = []
    theme = chance.choice(_THEMES)
    makers = [*theme, *theme, *chance.sample(_MAKERS, 3)]  # few kinds, which meet often
    for number in range(chance.randint(8, 20)):
        now += chance.choice(_STEPS)
        maker = theme[0] if number < 2 else chance.choice(makers)
        if sent and chance.random() < 0.1:
            fields = chance.choice(sent)  # once more
        else:
            fields = {"referenceId": f"r{number}", **maker(chance, now)}
        sent.append(fields)
        yield _step(now, fields)
        if chance.random() < 0.4:
            yield {"at": _text(now), "query": chance.choice(_QUESTIONS)(chance, now)}
    now += timedelta(days=400)
    for user in ("ada", "bob", "cyd"):  # when all that ends has ended
        yield _step(now, {"type": "account.settle", "referenceId": f"end-{user}", "userId": user})
        yield {"at": _text(now), "query": {"type": "query.history", "userId": user, "limit": 1_000}}


def _step(at: datetime, message: Fields) -> Step:
    return {"at": _text(at), "message": message}


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


# -- commands ---------------------------------------------------------------------------------------------


def _payment(chance: Random, now: datetime) -> Fields:
    package, price = chance.choice(_PACKAGES)
    fields = _money(chance, price + chance.choice((0, 0, 0, 0, 0, 1, -1)))
    if chance.random() < 0.3:
        fields |= {"amountMinor": price + 100, "taxMinor": 100}
    elif chance.random() < 0.2:
        fields |= {"amountMinor": 0, "discountMinor": price}
    names = {"alsoKnownAs": [chance.choice(("c1", "c2"))]} if chance.random() < 0.4 else {}
    about = {"userId": chance.choice(_USERS), "packageId": package, **names}
    paid = {"type": "payment.succeeded", "referenceId": chance.choice(_PAYMENTS), **about}
    return {**paid, **fields, **_occurred(chance), "attempt": chance.choice((1, 1, 1, 2))}


def _event(chance: Random, now: datetime) -> Fields:
    about = {"originalReferenceId": chance.choice(("p1", "p1", *_PAYMENTS, "c1")), **_occurred(chance)}
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
                "occurredAt": _text(START + timedelta(minutes=chance.randint(0, 300))),
            },
            {"type": "payment.refund_failed", "refundReferenceId": refund},
            {"type": "payment.disputed", "stage": chance.choice(("inquiry", "chargeback")), **dispute},
            {"type": "payment.disputed", **dispute},
            {"type": "payment.dispute_closed", "result": result, **dispute},
            {"type": "payment.failed"},
        )
    )


def _freezing(chance: Random, now: datetime) -> Fields:
    who = chance.choice(({"userId": "ada"}, {"paymentReferenceId": "p1"}))
    kind = chance.choice(("account.freeze", "account.unfreeze", "account.unfreeze"))
    return {"type": kind, "reason": "case", **who, **_occurred(chance)}


def _change(chance: Random, now: datetime) -> Fields:
    tier = {"type": "subscription.change", "tier": chance.choice(("free", "basic", "pro", "enterprise"))}
    more = chance.choice(({}, {"effectiveAt": "period_end"}, _period(chance, now) | _paid(chance)))
    return {"userId": "ada", **tier, **more}


def _renewal(chance: Random, now: datetime) -> Fields:
    period = chance.choice(({}, {"periodStart": _text(_near(chance, now))}, _period(chance, now)))
    return {"type": "subscription.renew", "userId": "ada", **period, **_paid(chance)}


def _cancellation(chance: Random, now: datetime) -> Fields:
    return {"type": "subscription.cancel", "userId": "ada", "at": chance.choice(("now", "period_end"))}


def _usage(chance: Random, now: datetime) -> Fields:
    about = _about(chance) | chance.choice(({}, {"referenceId": f"u{chance.randint(0, 5)}"}))
    return about | chance.choice(
        (
            {"type": "usage.deduct", "tokens": chance.choice((0, 10, 5_000, 90_000)), **_feature(chance)},
            {"type": "usage.record", "meter": "ocr", "quantity": chance.choice((1, 40))},
            {"type": "usage.record", "meter": "upload", "quantity": 105_906_176, **_feature(chance)},
            {"type": "usage.record", "meter": "fax", "quantity": 1},
            {"type": "usage.free_upload", "bytes": chance.choice((1_024, 104_857_000))},
        )
    )


def _refund_of_usage(chance: Random, now: datetime) -> Fields:
    original = chance.choice(({}, *({"originalReferenceId": f"u{number}"} for number in range(6))))
    units = chance.choice(({}, {}, {"freeQuantity": 100}))
    tokens = chance.choice((0, 5, 1_000, 90_000))
    return {"type": "credit.refund", "userId": chance.choice(_USERS), "tokens": tokens, **original, **units}


def _reservation(chance: Random, now: datetime) -> Fields:
    tokens, seconds = chance.choice((500, 6_000, 80_000)), chance.choice((60, 86_400))
    hold = {"type": "usage.reserve", "referenceId": chance.choice(_HOLDS), "attempt": chance.choice((1, 2))}
    return {**hold, "tokens": tokens, "ttlSeconds": seconds, **_about(chance)}


def _end_of_hold(chance: Random, now: datetime) -> Fields:
    about = {"userId": chance.choice(("ada", "ada", "bob")), "originalReferenceId": chance.choice(_HOLDS)}
    options = {"onExcess": chance.choice(("take", "refuse")), "onExpired": chance.choice(("take", "refuse"))}
    tokens = chance.choice((0, 400, 7_000))
    return about | chance.choice(
        (
            {"type": "usage.settle", "tokens": tokens, **options, **_feature(chance)},
            {"type": "usage.extend", "ttlSeconds": 90_000},
            {"type": "usage.release"},
        )
    )


def _credit(chance: Random, now: datetime) -> Fields:
    ends = chance.choice(({}, {"expiresAt": _text(now + timedelta(days=chance.choice((3, 20, 60))))}))
    later = chance.choice(({}, {"effectiveAt": _text(now + timedelta(days=2))}))
    first = chance.choice(({}, {}, {"priority": 5}))
    about = {"userId": chance.choice(_USERS), "tokens": 30_000}
    return {"type": "credit.bonus", **about, **ends, **later, **first, **_occurred(chance)}


def _correction(chance: Random, now: datetime) -> Fields:
    tokens, may = chance.choice((-40_000, -700, 700)), chance.choice(({}, {"allowNegative": True}))
    who = {"userId": chance.choice(_USERS), "reason": "a miscount", "actor": "eve"}
    return {"type": "credit.adjust", "tokens": tokens, **who, **may}


def _opening(chance: Random, now: datetime) -> Fields:
    return {"type": "account.open", "userId": "bob", "tier": "free"}


def _import(chance: Random, now: datetime) -> Fields:
    return {"type": "account.import", "userId": "cyd", **import_of(chance, START)}


_Maker = Callable[[Random, datetime], Fields]

#: Kinds of commands that belong together; each conversation has a theme.
_THEMES: tuple[tuple[_Maker, ...], ...] = (
    (_payment, _payment, _event, _event, _usage),
    (_payment, _event, _change, _renewal, _cancellation),
    (_usage, _refund_of_usage, _credit, _correction, _usage),
    (_reservation, _end_of_hold, _end_of_hold, _usage, _payment, _event, _event),
    (_import, _event, _event, _usage, _change),
)
_MAKERS: tuple[_Maker, ...] = (*{maker: None for theme in _THEMES for maker in theme}, _freezing, _opening)

# -- queries ----------------------------------------------------------------------------------------------


def _balance(chance: Random, now: datetime) -> Fields:
    return {"type": "query.balance", "userId": chance.choice(_USERS)}


def _afford(chance: Random, now: datetime) -> Fields:
    asked = chance.choice(
        ({"tokens": 6_000}, {"meter": "ocr", "quantity": 3}, {"meter": "fax", "quantity": 1})
    )
    return {"type": "query.afford", "userId": chance.choice(_USERS), **asked}


def _used(chance: Random, now: datetime) -> Fields:
    last = chance.choice((now, START))
    days = {"from": _day(last - timedelta(days=30)), "to": _day(last)}
    zone = chance.choice(({}, {"timezone": "America/New_York"}, {"timezone": "Pacific/Auckland"}))
    group = chance.choice(({}, {"groupBy": "feature"}, {"groupBy": "type"}, {"groupBy": "metadata.project"}))
    when = chance.choice(({}, {"days": 60}, days))
    return {"type": "query.usage", "userId": chance.choice(_USERS), **when, **zone, **group}


def _history(chance: Random, now: datetime) -> Fields:
    some = chance.choice(({}, {"transactionType": "usage.deduct"}, {"feature": "ocr"}, {"to": _text(START)}))
    status = {"status": chance.choice(("applied", "rejected", "all"))}
    return {"type": "query.history", "userId": chance.choice(_USERS), **some, **status}


def _whole(chance: Random, now: datetime) -> Fields:
    operation = {"type": "query.operation", "referenceId": chance.choice((*_PAYMENTS, "u1", "h1"))}
    return chance.choice(({"type": "query.stats"}, {"type": "query.catalog"}, operation, operation))


_QUESTIONS: tuple[_Maker, ...] = (_balance, _afford, _used, _history, _whole)

# -- their fields -----------------------------------------------------------------------------------------


def _money(chance: Random, amount: int) -> Fields:
    return {"amountMinor": amount, "currency": chance.choice((*(7 * ("USD",)), "EUR"))}


def _occurred(chance: Random) -> Fields:
    if chance.random() < 0.4:
        return {}
    return {"occurredAt": _text(START + timedelta(minutes=chance.randint(0, 300)))}


def _about(chance: Random) -> Fields:
    """Return a user, a time that may be past, and the tier of an account that the usage may open."""
    opens = chance.choice(({}, {"openTier": "free"}))
    metadata = chance.choice(({}, {"metadata": {"project": chance.choice(("atlas", "", 7))}}))
    return {"userId": chance.choice(_USERS), **opens, **_occurred(chance), **metadata}


def _feature(chance: Random) -> Fields:
    return chance.choice(({}, {"feature": "ocr"}, {"feature": "chat"}))


def _day(at: datetime) -> str:
    return at.date().isoformat()


def _near(chance: Random, now: datetime) -> datetime:
    return now + timedelta(hours=chance.choice((-300, -30, -2, 0, 20, 50)))


def _period(chance: Random, now: datetime) -> Fields:
    start = _near(chance, now)
    end = start + timedelta(days=chance.choice((7, 30, 31, 365)))
    return {"periodStart": _text(start), "periodEnd": _text(end)}


def _paid(chance: Random) -> Fields:
    if chance.random() < 0.5:
        return {}
    paid = {"referenceId": chance.choice(_PAYMENTS), **_money(chance, 1_000)}
    return {"payment": paid}
