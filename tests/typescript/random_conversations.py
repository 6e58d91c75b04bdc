"""Random conversations about payments and subscriptions, for the fake of the TypeScript client.

Few users, payments, names and times, so that events meet: late, twice, under another name, before an account.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from tests.contracts.samples import Step

Fields = dict[str, Any]

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
_PACKAGES = (("starter", 499), ("standard", 1_999), ("plus", 6_999))
_STEPS = (timedelta(0), timedelta(minutes=5), timedelta(hours=20), timedelta(days=10), timedelta(days=40))


def conversation(seed: int) -> list[Step]:
    """Return the steps of one conversation, without replies."""
    return list(_steps(Random(seed)))


def _steps(chance: Random) -> Iterator[Step]:
    now = START
    yield _step(now, {"type": "account.open", "referenceId": "open", "userId": "ada", "tier": "basic"})
    sent: list[Fields] = []
    for number in range(chance.randint(8, 20)):
        now += chance.choice(_STEPS)
        if sent and chance.random() < 0.1:
            fields = chance.choice(sent)  # once more
        else:
            fields = {"referenceId": f"r{number}", **chance.choice(_MAKERS)(chance, now)}
        sent.append(fields)
        yield _step(now, fields)
    for user in ("ada", "bob"):  # when all that ends has ended
        end = {"type": "account.settle", "referenceId": f"end-{user}", "userId": user}
        yield _step(now + timedelta(days=400), end)


def _step(at: datetime, message: Fields) -> Step:
    return {"at": _text(at), "message": message}


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


# -- commands ---------------------------------------------------------------------------------------------


def _payment(chance: Random, now: datetime) -> Fields:
    package, price = chance.choice(_PACKAGES)
    fields = _money(chance, price)
    if chance.random() < 0.3:
        fields |= {"amountMinor": price + 100, "taxMinor": 100}
    elif chance.random() < 0.2:
        fields |= {"amountMinor": 0, "discountMinor": price}
    names = {"alsoKnownAs": [chance.choice(("c1", "c2"))]} if chance.random() < 0.4 else {}
    about = {"userId": chance.choice(("ada", "ada", "bob")), "packageId": package, **names}
    paid = {"type": "payment.succeeded", "referenceId": chance.choice(("p1", "p2", "p3")), **about}
    return {**paid, **fields, **_occurred(chance), "attempt": chance.choice((1, 1, 1, 2))}


def _event(chance: Random, now: datetime) -> Fields:
    about = {"originalReferenceId": chance.choice(("p1", "p2", "p3", "c1", "c3")), **_occurred(chance)}
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
            {"type": "payment.dispute_closed", "result": result, **dispute},
            {"type": "payment.failed"},
        )
    )


def _names(chance: Random, now: datetime) -> Fields:
    name, *others = chance.sample(("p1", "p2", "c1", "c3", "c4"), chance.choice((2, 2, 3)))
    return {"type": "payment.named", "originalReferenceId": name, "alsoKnownAs": others}


def _freezing(chance: Random, now: datetime) -> Fields:
    who = chance.choice(({"userId": "ada"}, {"paymentReferenceId": "p1"}))
    kind = chance.choice(("account.freeze", "account.unfreeze", "account.unfreeze"))
    return {"type": kind, "reason": "case", **who, **_occurred(chance)}


def _change(chance: Random, now: datetime) -> Fields:
    tier = {"type": "subscription.change", "tier": chance.choice(("free", "basic", "pro", "enterprise"))}
    more = chance.choice(({}, {"effectiveAt": "period_end"}, _period(chance, now) | _paid(chance)))
    return {"userId": "ada", **tier, **more, **_lately(chance, now)}


def _renewal(chance: Random, now: datetime) -> Fields:
    period = chance.choice(({}, {"periodStart": _text(_near(chance, now))}, _period(chance, now)))
    return {"type": "subscription.renew", "userId": "ada", **period, **_paid(chance), **_lately(chance, now)}


def _cancellation(chance: Random, now: datetime) -> Fields:
    at = {"at": chance.choice(("now", "period_end"))}
    return {"type": "subscription.cancel", "userId": "ada", **at, **_lately(chance, now)}


def _usage(chance: Random, now: datetime) -> Fields:
    user = chance.choice(("ada", "ada", "bob"))
    return {"type": "usage.deduct", "userId": user, "tokens": chance.choice((10, 5_000, 90_000))}


def _credit(chance: Random, now: datetime) -> Fields:
    later = chance.choice(({}, {"effectiveAt": _text(now + timedelta(days=15))}))
    return {"type": "credit.bonus", "userId": chance.choice(("ada", "bob")), "tokens": 30_000, **later}


def _opening(chance: Random, now: datetime) -> Fields:
    return {"type": "account.open", "userId": "bob", "tier": "free"}


_MAKERS: tuple[Callable[[Random, datetime], Fields], ...] = (
    *(3 * (_payment,)),
    *(5 * (_event,)),
    _names,
    _freezing,
    _change,
    _renewal,
    _cancellation,
    _usage,
    _credit,
    _opening,
)

# -- their fields -----------------------------------------------------------------------------------------


def _money(chance: Random, amount: int) -> Fields:
    return {"amountMinor": amount, "currency": chance.choice((*(7 * ("USD",)), "EUR"))}


def _occurred(chance: Random) -> Fields:
    if chance.random() < 0.4:
        return {}
    return {"occurredAt": _text(START + timedelta(minutes=chance.randint(0, 300)))}


def _lately(chance: Random, now: datetime) -> Fields:
    if chance.random() < 0.5:
        return {}
    return {"occurredAt": _text(now - timedelta(hours=chance.choice((0, 0, 2, 30, 300))))}


def _near(chance: Random, now: datetime) -> datetime:
    return now + timedelta(hours=chance.choice((-300, -30, -2, 0, 20, 50)))


def _period(chance: Random, now: datetime) -> Fields:
    start = _near(chance, now)
    end = start + timedelta(days=chance.choice((7, 30, 31, 365)))
    return {"periodStart": _text(start), "periodEnd": _text(end)}


def _paid(chance: Random) -> Fields:
    if chance.random() < 0.5:
        return {}
    paid = {"referenceId": chance.choice(("p1", "p2", "p3")), **_money(chance, 1_000)}
    return {"payment": paid}
