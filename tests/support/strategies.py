"""Hypothesis strategies: commands, days of commands, and the small catalogs that they use.

Choices from long lists are functions of a number: hypothesis warns of strategies whose text is over 30 kB.

``commands()`` are valid in every way a producer may think of, for the border; ``crowded_commands()`` meet
each other on few users and few references, for the rules; ``passing_days()`` lets time pass between them.
The ledger that takes them is in ``tests/support/fake_ledger.py``.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any
from unicodedata import normalize
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from schemas import (
    AdjustCredit,
    BonusCredit,
    CancelSubscription,
    ChangeSubscription,
    Command,
    DeductUsage,
    DisputeClosed,
    ExtendUsage,
    FreeUpload,
    ImportAccount,
    ImportedLot,
    ImportedPayment,
    ImportedQuota,
    Limits,
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
    RenewSubscription,
    ReserveUsage,
    SettleAccount,
    SettleUsage,
)
from schemas.identifiers import IdRule
from schemas.usage import HOLD_MAX_SECONDS
from tests.support.chosen_imports import moved_import
from tests.support.model_account import period
from tests.support.strategies_imports import good_imports, imports
from worker.catalog import Catalog

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
LIMITS = Limits()

#: Share of the examples that a run takes: half of them in `make test`, five times as many in `make soak`.
_SHARE = float(os.environ.get("BILLING_TEST_EXAMPLES", "0.5"))


def _taken(count: int) -> int:
    return max(1, round(count * _SHARE))


settings.register_profile(
    "ci",
    max_examples=_taken(100),
    derandomize=True,
    deadline=None,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow],
)


def examples(count: int) -> settings:
    """Return the settings of a property: the run's share of ``count`` examples, the same on every machine."""
    return settings(settings.get_profile("ci"), max_examples=_taken(count))


_FOR_SALE: dict[str, Any] = {
    "tiers": {
        "free": {"monthly_tokens": 100, "free_upload_bytes": 50},
        "pro": {"monthly_tokens": 250, "free_upload_bytes": 80, "free_units": {"page": 3, "search": 10}},
        "empty": {"monthly_tokens": 0, "free_upload_bytes": 0},
        "steady": {"monthly_tokens": 120, "free_upload_bytes": 40, "auto_renew": True},
        "saver": {"monthly_tokens": 90, "free_upload_bytes": 0, "rollover_tokens": 40},
        "keeper": {
            "monthly_tokens": 80,
            "free_upload_bytes": 30,
            "rollover_tokens": 50,
            "auto_renew": True,
            "free_units": {"search": 7},
        },
        "idle": {"monthly_tokens": 0, "free_upload_bytes": 10, "auto_renew": True},
    },
    "packages": [
        {"id": "plain", "tokens": 60, "price_minor": 499, "currency": "USD"},
        {"id": "rich", "tokens": 90, "bonus_tokens": 10, "price_minor": 999, "currency": "EUR"},
        {
            "id": "brief",
            "tokens": 50,
            "bonus_tokens": 35,
            "price_minor": 999,
            "currency": "EUR",
            "valid_days": 20,
            "bonus_valid_days": 5,
        },
        {
            "id": "many",
            "tokens": 45,
            "bonus_tokens": 5,
            "prices": {"USD": 700, "EUR": 650},
            "changes": [{"valid_from": NOW - timedelta(days=398), "prices": {"EUR": 600, "USD": 700}}],
            "valid_days": 10,
        },
        {"id": "open", "rates": {"EUR": {"tokens": 3, "per_minor": 20}}},
    ],
    "pricing": {
        "page": {"unit": "page", "per": 1, "tokens": 12, "minimum_tokens": 20},
        "upload": {"unit": "byte", "per": 7, "tokens": 3, "rounding": "up", "quota": "free_upload"},
        "search": {"unit": "query", "per": 4, "tokens": 6, "rounding": "half_even"},
        "chat": {"unit": "word", "per": 10, "tokens": 7, "rounding": "down"},
    },
    "notices": {
        "expiring_days": 3,
        "low": {"at": 30, "again_from": 60},
        "depleted": {"at": 0, "again_from": 20},
    },
}

#: Few tokens and few bytes, so that balances run dry and limits are reached within a handful of commands.
SMALL_CATALOG = Catalog.model_validate({**_FOR_SALE, "refunds": {"unbound": "allow"}})

#: The same things for sale, under every policy that is the other one; without notices of an end.
STRICT_CATALOG = Catalog.model_validate(
    {
        **_FOR_SALE,
        "payments": {"when_spent": "write_off", "on_dispute": "take", "price_check": "at_least"},
        "refunds": {"unbound": "refuse"},
        "priorities": {"allocation": 50, "purchase": 10, "bonus": 50},
        "notices": {"low": {"at": 30, "again_from": 60}},
    }
)

#: A dispute takes at once, and what is spent becomes a debt. Any price is credited, and flagged.
TAKING_CATALOG = Catalog.model_validate(
    {
        **_FOR_SALE,
        "payments": {"on_dispute": "take", "on_mismatch": "credit_and_flag"},
        "refunds": {"unbound": "allow"},
    }
)

#: A dispute keeps what is unspent of the payment for some days; any price will do.
HOLDING_CATALOG = Catalog.model_validate(
    {
        **_FOR_SALE,
        "payments": {"on_dispute": "hold", "dispute_hold_days": 25, "price_check": "off"},
        "refunds": {"unbound": "allow"},
    }
)

#: The same, and what is spent is written off.
HOLDING_FORGIVING_CATALOG = Catalog.model_validate(
    {
        **_FOR_SALE,
        "payments": {"on_dispute": "hold", "dispute_hold_days": 3, "when_spent": "write_off"},
        "refunds": {"unbound": "allow"},
    }
)

#: A dispute waits, and what is spent is written off.
FORGIVING_CATALOG = Catalog.model_validate(
    {**_FOR_SALE, "payments": {"when_spent": "write_off"}, "refunds": {"unbound": "allow"}}
)

#: The first usage, credit or payment opens an account.
OPENING_CATALOG = Catalog.model_validate(
    {**_FOR_SALE, "auto_open": "keeper", "refunds": {"unbound": "allow"}}
)

CATALOGS = {
    "debt, dispute waits": SMALL_CATALOG,
    "write off, dispute takes": STRICT_CATALOG,
    "debt, dispute takes": TAKING_CATALOG,
    "write off, dispute waits": FORGIVING_CATALOG,
    "debt, dispute holds": HOLDING_CATALOG,
    "write off, dispute holds": HOLDING_FORGIVING_CATALOG,
    "opens by itself": OPENING_CATALOG,
}


# -- commands that a producer may send --------------------------------------------------------------------


def identifiers(max_size: int = 200) -> st.SearchStrategy[str]:
    """Return new ids that are taken, in any script, with inner spaces."""
    visible = st.characters(exclude_categories=("C", "Z"), codec="utf-8")
    words = st.text(visible, min_size=1, max_size=12)
    texts = st.one_of(
        words,
        st.builds(" ".join, st.lists(words, min_size=1, max_size=3)),
        st.text(visible, min_size=max_size, max_size=max_size),
    )
    normal = texts.map(lambda text: normalize("NFC", text)[:max_size])
    return normal.filter(lambda text: IdRule().fault(text) is None)


def labels() -> st.SearchStrategy[str]:
    """Return labels for statistics."""
    return identifiers(64)


def free_texts() -> st.SearchStrategy[str]:
    """Return text for people, perhaps empty."""
    visible = st.characters(exclude_categories=("C", "Zl", "Zp"), codec="utf-8")
    return st.text(visible, max_size=40) | st.text(visible, min_size=500, max_size=500)


def timestamps(now: datetime = NOW, limits: Limits = LIMITS) -> st.SearchStrategy[datetime]:
    """Return aware times that are neither too old nor too far ahead, at any offset."""
    zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
    moments = st.datetimes(
        min_value=(now - limits.occurred_at_max_age).replace(tzinfo=None),
        max_value=(now + limits.occurred_at_max_ahead).replace(tzinfo=None),
        timezones=st.just(UTC),
    )
    return st.builds(lambda moment, zone: moment.astimezone(zone), moments, zones)


def metadata() -> st.SearchStrategy[dict[str, Any]]:
    """Return small, flat metadata."""
    values = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | free_texts()
    return st.dictionaries(labels(), values, max_size=16)


def quantities(limits: Limits = LIMITS) -> st.SearchStrategy[int]:
    """Return tokens, bytes or minor units of money, up to the configured maximum."""
    return st.integers(1, limits.max_quantity) | st.just(limits.max_quantity) | st.just(1)


def usages(limits: Limits = LIMITS) -> st.SearchStrategy[int]:
    """Return tokens, bytes or units of a usage; zero is allowed."""
    return quantities(limits) | st.just(0)


def _made(model: type[Command], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Command]:
    """Return ``st.builds`` by field name; the signature of a model has the names on the wire.

    Fields that hang together come as one: ``a__b`` draws the pair of them.
    """
    values = st.fixed_dictionaries(fields).map(_apart)
    for other in ("original_reference_id", "refund_reference_id"):
        if other in fields:
            values = values.filter(partial(_differs, other))
    return values.map(lambda made: model(**made))


def _differs(other: str, made: dict[str, Any]) -> bool:
    return bool(made[other] != made["reference_id"])


def _apart(values: dict[str, Any]) -> dict[str, Any]:
    apart: dict[str, Any] = {}
    for name, value in values.items():
        names = name.split("__")
        apart.update(zip(names, value, strict=True) if len(names) > 1 else [(name, value)])
    return apart


def commands(now: datetime = NOW, limits: Limits = LIMITS) -> st.SearchStrategy[Command]:
    """Return commands of every type with every field, from minimal to unusual, all valid."""
    common: dict[str, st.SearchStrategy[Any]] = {
        "reference_id": identifiers(),
        "user_id": identifiers(),
        "occurred_at": st.none() | timestamps(now, limits),
        "metadata": st.none() | metadata(),
        "attempt": st.integers(1, 1_000_000),
        "description": st.none() | free_texts(),
        "replies": st.sampled_from([None, "all", "problems", "none"]),
    }
    tokens, used = quantities(limits), usages(limits)
    original = {"original_reference_id": identifiers(), **common}
    first = {"open_tier": st.none() | identifiers()}
    feature = {"feature": st.none() | labels()}
    until = {"valid_until": st.none() | timestamps(now, limits)}
    money = {
        "amount_minor": tokens,
        "currency": st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=3, max_size=3),
    }
    minor = st.none() | used
    payment = {
        **money,
        "amount_minor": used,
        "quantity": st.none() | st.integers(1, 10_000),
        "list_minor": minor,
        "tax_minor": minor,
        "discount_minor": minor,
        "other_minor": minor,
        "provider": st.none() | labels(),
        "also_known_as": st.none() | st.lists(identifiers(), max_size=3).map(tuple),
        **common,
    }
    of_payment = {**original, "user_id": st.none() | identifiers()}
    total = {
        "refunded_total_minor": used,
        "currency": money["currency"],
        "occurred_at": timestamps(now, limits),
    }
    dispute = {**money, "dispute_id": identifiers(), **of_payment}
    by_hand = {"reason": free_texts().filter(bool), "actor": labels(), **common}
    at_times = st.none() | timestamps(now, limits)
    validity = st.tuples(at_times, at_times).map(_in_order)
    lives = st.integers(1, HOLD_MAX_SECONDS)
    return st.one_of(
        _made(OpenAccount, tier=identifiers(), **common),
        _imports(common, now),
        _made(SettleAccount, **common),
        _made(DeductUsage, tokens=used, **feature, **until, **first, **common),
        _made(FreeUpload, bytes=used, **until, **first, **common),
        _made(ReserveUsage, tokens=tokens, ttl_seconds=lives, **until, **first, **common),
        _made(
            SettleUsage,
            tokens=used,
            on_excess=st.sampled_from(["refuse", "take"]),
            on_expired=st.sampled_from(["take", "refuse"]),
            **feature,
            **original,
        ),
        _made(ExtendUsage, ttl_seconds=lives, **original),
        _made(ReleaseUsage, **original),
        _made(RecordUsage, meter=labels(), quantity=used, **feature, **until, **first, **common),
        _made(PaymentSucceeded, package_id=identifiers(), **payment, **first),
        _made(PaymentSucceeded, package_index=st.integers(0, 9_999), **payment, **first),
        _made(PaymentRefunded, **money, **first, **of_payment),
        _made(PaymentRefunded, **first, **{**of_payment, **total}),
        _made(RefundFailed, refund_reference_id=identifiers(), **first, **of_payment),
        _made(
            PaymentNamed,
            also_known_as=st.lists(identifiers(), min_size=1, max_size=3).map(tuple),
            **first,
            **of_payment,
        ),
        _made(PaymentDisputed, stage=st.sampled_from([None, "inquiry", "chargeback"]), **dispute, **first),
        _made(
            DisputeClosed,
            result=st.sampled_from(["won", "lost", "prevented", "withdrawn"]),
            **dispute,
            **first,
        ),
        _made(PaymentFailed, **first, **of_payment),
        _made(RefundCredit, tokens=used, **common),
        _made(RefundCredit, tokens=used, free_quantity=st.none() | used, **original),
        _made(
            BonusCredit,
            tokens=tokens,
            effective_at__expires_at=validity,
            priority=st.none() | st.integers(0, 1_000),
            **first,
            **common,
        ),
        _made(AdjustCredit, tokens=tokens, expires_at=at_times, **first, **by_hand),
        _made(
            AdjustCredit, tokens=tokens.map(lambda t: -t), allow_negative=st.booleans(), **first, **by_hand
        ),
        _made(ChangeSubscription, tier=identifiers(), **common),
        _made(RenewSubscription, period_start=at_times, **common),
        _made(CancelSubscription, at=st.sampled_from(["period_end", "now"]), **common),
    )


def _imports(common: Mapping[str, st.SearchStrategy[Any]], now: datetime) -> st.SearchStrategy[Command]:
    """Return imports whose totals follow from their lots and payments."""
    tokens = st.integers(1, 10**9)
    lot = st.fixed_dictionaries(
        {
            "source": st.sampled_from(["allocation", "purchase", "bonus", "refund", "carried_over"]),
            "tokens": tokens,
        },
        optional={
            "priority": st.integers(0, 1_000),
            "expires_at": st.integers(1, 999).map(lambda days: now + timedelta(days=days)),
        },
    )
    paid = st.fixed_dictionaries(
        {
            "reference_id": st.integers(0, 9).map(lambda number: f"pay-{number}"),
            "amount_minor": tokens,
            "currency": st.sampled_from(["EUR", "USD"]),
            "package_id": identifiers(),
            "tokens": tokens,
            "bonus_tokens": st.integers(0, 10**9),
            "paid_at": st.just(now - timedelta(days=3)),
        },
        optional={"provider": labels()},
    )
    quota = st.fixed_dictionaries({"meter": labels(), "used": st.integers(0, 10**9)})
    return _made(
        ImportAccount,
        **common,
        tier=identifiers(),
        anchor=st.just(now - timedelta(days=9)),
        opened_at=st.just(now - timedelta(days=999)),
        as_of=st.just(now),
        lots=st.lists(lot.map(lambda fields: ImportedLot(**fields)), max_size=3).map(tuple),
        payments=st.lists(
            paid.map(lambda fields: ImportedPayment(**fields)),
            max_size=2,
            unique_by=lambda payment: payment.reference_id,
        ).map(tuple),
        quotas=st.lists(
            quota.map(lambda fields: ImportedQuota(**fields)), max_size=2, unique_by=lambda quota: quota.meter
        ).map(tuple),
    )


def _in_order(times: tuple[datetime | None, datetime | None]) -> tuple[datetime | None, datetime | None]:
    """Return the begin and the end of a credit: the end is the later one."""
    start, end = times
    if start is None or end is None or start < end:
        return start, end
    return (end, start) if end < start else (None, end)


# -- commands that meet -----------------------------------------------------------------------------------


def crowded_commands() -> st.SearchStrategy[Command]:
    """Return commands on two users and few references: copies, conflicts, insufficient balances.

    Most references keep to one type and most commands to the first user, or all would be conflicts. Those
    that name another operation mostly name one that may be there. Times lie around ``NOW``.
    """
    crowds = (*_crowded_usage(), *_crowded_payments(), *_crowded_credits(), *_crowded_rest())
    return st.one_of(*crowds, _squatters(), _crowded_imports())


def crowded_usage() -> st.SearchStrategy[Command]:
    """Return crowded commands that hold and use tokens, with credits that begin and expire."""
    return st.one_of(*_crowded_usage(), *_crowded_usage(), *_crowded_credits())


def crowded_payments() -> st.SearchStrategy[Command]:
    """Return crowded commands about payments, and about usage, holds and debts of their tokens."""
    spent = (_deductions(), _by_hand(), _reservations(), _squatters(), _crowded_imports())
    return st.one_of(*_crowded_payments(), *_crowded_payments(), *spent)


def crowded_subscriptions() -> st.SearchStrategy[Command]:
    """Return crowded commands about subscriptions, and about usage of their allocations."""
    return st.one_of(*_crowded_rest(), *_crowded_rest(), *_crowded_usage()[:5], _by_hand())


_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_TOKENS = st.sampled_from([5, 20, 20, 70, 130])
_TIERS = ["free", "pro", "empty", "steady", "saver", "keeper", "idle"]


def _crowded(kind: str) -> dict[str, st.SearchStrategy[Any]]:
    names = [f"{kind}{number}" for number in (0, 0, 0, 1, 1, 2, 3)]
    return {
        "reference_id": st.sampled_from([*names, *names, "any"]),
        "user_id": st.sampled_from(["u0"] * 9 + ["u1"]),
        "attempt": st.integers(0, 30).map(_some_attempt),
    }


def _some_attempt(number: int) -> int:
    """Return an attempt; the last one is too far ahead, whatever came before."""
    return ([1] * 18 + [2] * 6 + [3] * 6 + [5_000])[number]


def _naming(*names: str) -> dict[str, st.SearchStrategy[Any]]:
    return {"original_reference_id": st.sampled_from(names)}


def _deductions() -> st.SearchStrategy[Command]:
    feature = st.sampled_from([None, None, None, "chat"])
    tokens = st.sampled_from([0, 5, 20, 20, 70, 130])
    return _made(
        DeductUsage,
        **_crowded("d"),
        tokens=tokens,
        feature=feature,
        open_tier=_FIRST_TIERS,
        **_deadline(),
    )


#: Tiers on which a command opens a missing account, where it may.
_FIRST_TIERS = st.sampled_from([None] * 8 + ["free", "gold"])


def _deadline() -> dict[str, st.SearchStrategy[Any]]:
    """Return the deadline of usage: mostly none; some is given up already, or just now."""
    return {"valid_until": st.integers(0, 8).map(_some_deadline)}


def _some_deadline(number: int) -> datetime | None:
    return _after({6: -_HOUR, 7: timedelta(0), 8: _DAY}.get(number))


def _reservations() -> st.SearchStrategy[Command]:
    return _made(ReserveUsage, **_crowded("r"), tokens=_TOKENS, ttl_seconds=_LIVES, **_deadline())


_LIVES = st.sampled_from([1, 3_600, 86_400, 5 * 86_400, HOLD_MAX_SECONDS, HOLD_MAX_SECONDS])


def _squatters() -> st.SearchStrategy[Command]:
    """Return usage under references of other commands; most of it moves no tokens."""
    who = {
        "reference_id": st.sampled_from(["p0", "p0", "p0", "p1", "e0", "b0", "a0", "n0", "t0", "o0"]),
        "user_id": st.sampled_from(["u0", "u1", "u2"]),
        "attempt": st.sampled_from([1, 1, 2]),
    }
    return st.one_of(
        _made(DeductUsage, **who, tokens=st.sampled_from([0, 0, 5, 5_000])),
        _made(RecordUsage, **who, meter=st.sampled_from(["chat", "page"]), quantity=st.sampled_from([0, 1])),
        _made(FreeUpload, **who, bytes=st.sampled_from([0, 5_000])),
        _made(ReserveUsage, **who, tokens=st.sampled_from([5, 5_000]), ttl_seconds=st.just(3_600)),
    )


def _crowded_usage() -> list[st.SearchStrategy[Command]]:
    feature = {"feature": st.sampled_from([None, "chat"])}
    hold = _naming("r0", "r0", "r0", "r1", "r1", "r2", "d0")
    tokens = st.sampled_from([0, 5, 15, 20, 70, 90])
    on_excess = st.sampled_from(["refuse", "take", "take"])
    how = {"on_excess": on_excess, "on_expired": st.sampled_from(["take", "take", "refuse"])}
    meter = st.sampled_from(["page", "upload", "search", "chat", "page", "upload", "search", "fax"])
    quantity = st.sampled_from([0, 1, 3, 10, 45])
    return [
        _deductions(),
        _reservations(),
        _reservations(),
        _made(SettleUsage, **_crowded("s"), **hold, tokens=tokens, **how, **feature),
        _made(ExtendUsage, **_crowded("x"), **hold, ttl_seconds=_LIVES),
        _made(ReleaseUsage, **_crowded("l"), **hold),
        _made(RecordUsage, **_crowded("m"), meter=meter, quantity=quantity, **feature, **_deadline()),
        _made(FreeUpload, **_crowded("f"), bytes=st.sampled_from([0, 10, 40]), **_deadline()),
        _refunds(),
    ]


def _refunds() -> st.SearchStrategy[Command]:
    used = _naming("d0", "d0", "d0", "d1", "m0", "m0", "m1", "s0", "s0", "s1", "r0", "p0", "f0", "open")
    tokens = st.sampled_from([0, 1, 5, 5, 15, 20, 70])
    free = st.sampled_from([None, None, None, 0, 2, 10])
    return _made(RefundCredit, **_crowded("c"), **used, tokens=tokens, free_quantity=free)


def _crowded_payments() -> list[st.SearchStrategy[Command]]:
    occurred = {"occurred_at": st.sampled_from([None, *_MOMENTS])}
    names = st.sampled_from([None, None, ("q0",), ("q0",), ("q1", "q0"), ("p1",)])
    bought = {**_crowded("p"), **occurred, "also_known_as": names}
    by_id = st.integers(0, len(_SOLD) - 1).map(lambda number: _SOLD[number])
    by_place = st.sampled_from([(2, 999, "EUR"), (0, 499, "USD"), (1, 499, "EUR"), (9, 1, "EUR")])
    parts = st.sampled_from([(None, None, None)] * 3 + [(100, None, None), (None, 50, 100), (0, None, 999)])
    of_parts = {"tax_minor__other_minor__discount_minor": parts, "list_minor": st.sampled_from([None, 999])}
    back = st.sampled_from([(999, "EUR"), (333, "EUR"), (500, "EUR"), (499, "USD"), (250, "USD"), (1, "EUR")])
    event = {"amount_minor__currency": back, **_of_payment()}
    total = {"refunded_total_minor__currency": back, **_of_payment()}
    dispute = {"dispute_id": st.sampled_from(["x", "x", "y"]), **event}
    stage = st.sampled_from([None, None, "chargeback", "inquiry"])
    result = st.sampled_from(["won", "lost", "lost", "prevented", "withdrawn"])
    refund = st.sampled_from(["e0", "e0", "e1", "p9"])
    return [
        _made(PaymentSucceeded, package_id__amount_minor__currency__quantity=by_id, **bought),
        _made(PaymentSucceeded, package_id__amount_minor__currency__quantity=by_id, **bought, **of_parts),
        _made(PaymentSucceeded, package_index__amount_minor__currency=by_place, **bought),
        _made(PaymentRefunded, **_event("e"), **event),
        _made(PaymentRefunded, **_event("e"), **total, occurred_at=st.sampled_from(_MOMENTS)),
        _made(RefundFailed, **_event("v"), **_of_payment(), refund_reference_id=refund),
        _made(PaymentDisputed, **_event("i"), **dispute, stage=stage),
        _made(DisputeClosed, **_event("j"), **dispute, **occurred, result=result),
        _made(PaymentFailed, **_event("g"), **_of_payment(), **occurred, open_tier=_FIRST_TIERS),
    ]


#: Packages with what is paid for them, and how many.
_SOLD = [
    ("rich", 999, "EUR", None),
    ("brief", 999, "EUR", None),
    ("brief", 999, "EUR", 1),
    ("plain", 499, "USD", None),
    ("rich", 999, "USD", None),
    ("rich", 1_998, "EUR", 2),
    ("many", 650, "EUR", None),
    ("many", 600, "EUR", None),
    ("open", 400, "EUR", None),
    ("rich", 0, "EUR", None),
]


def _event(kind: str) -> dict[str, st.SearchStrategy[Any]]:
    """Return what names an event: mostly no user."""
    return {**_crowded(kind), "user_id": st.sampled_from([None] * 5 + ["u0", "u0", "u1"])}


def _of_payment() -> dict[str, st.SearchStrategy[Any]]:
    """Return the name of a payment, or of something else."""
    return _naming("p0", "p0", "p0", "p0", "q0", "q0", "p1", "q1", "p2", "open", "nothing")


#: Times at which a payment or its failure occurred, where it says so: in two zones, two of the same moment.
_MOMENTS = [
    NOW - 400 * _DAY,
    (NOW - 400 * _DAY).astimezone(timezone(timedelta(hours=2))),
    NOW - 399 * _DAY,
]


def _crowded_credits() -> list[st.SearchStrategy[Command]]:
    starts = st.sampled_from([None, None, None, -_DAY, _HOUR, _DAY, 28 * _DAY])
    validity = st.tuples(starts, _ENDS).map(lambda steps: _in_order((_after(steps[0]), _after(steps[1]))))
    priority = st.sampled_from([None, None, 0, 10, 1_000])
    bonus = {"tokens": _TOKENS, **_crowded("b")}
    return [
        _refunds(),
        _made(RefundCredit, **_crowded("c"), tokens=_TOKENS),
        _made(BonusCredit, **bonus, priority=priority),
        _made(BonusCredit, **bonus, effective_at__expires_at=validity, priority=priority),
        _by_hand(),
    ]


_ENDS = st.sampled_from([None, None, timedelta(0), _HOUR, 2 * _DAY, 5 * _DAY, 30 * _DAY, 31 * _DAY])


def _by_hand() -> st.SearchStrategy[Command]:
    said = {"reason": st.just("a slip"), "actor": st.just("ann"), **_crowded("a")}
    more = _made(AdjustCredit, **said, tokens=st.sampled_from([15, 80]), expires_at=_ENDS.map(_after))
    less = _made(AdjustCredit, **said, tokens=st.sampled_from([-25, -150]), allow_negative=st.booleans())
    return st.one_of(more, less)


def _crowded_rest() -> list[st.SearchStrategy[Command]]:
    # A period is granted from a day before it begins, and may be named by a time as long before.
    ahead = st.sampled_from([None, None, -40 * _DAY, -_DAY, -_HOUR, _HOUR, _HOUR, _DAY, 2 * _DAY, 31 * _DAY])
    start = ahead.map(_after)
    tier = st.sampled_from([*_TIERS, "gold"])
    return [
        _made(OpenAccount, **_crowded("o"), tier=tier),
        _made(SettleAccount, **_crowded("t")),
        _made(ChangeSubscription, **_crowded("h"), tier=tier),
        _made(RenewSubscription, **_crowded("n"), period_start=start),
        _made(CancelSubscription, **_crowded("k"), at=st.sampled_from(["period_end", "now"])),
    ]


def _crowded_imports() -> st.SearchStrategy[Command]:
    """Return imports, mostly of users without an account."""
    common = {**_crowded("y"), "user_id": st.sampled_from(["u0", "u1", "u1", "u2"])}
    return imports(common, [*_TIERS, "gold"], NOW)


def _openings() -> st.SearchStrategy[Command]:
    """Return what brings the first account: it is opened, or imported with a past."""
    named = {"reference_id": "open", "user_id": "u0"}
    opened = st.sampled_from(_TIERS).map(lambda tier: OpenAccount(**named, tier=tier))
    common = {name: st.just(value) for name, value in named.items()}
    return st.one_of(opened, opened, good_imports({**common, "attempt": st.just(1)}, _TIERS, NOW))


def _after(step: timedelta | None) -> datetime | None:
    """Return the time a ``step`` after ``NOW``, with the offset of Berlin."""
    return None if step is None else (NOW + step).astimezone(BERLIN)


def crowded_days(max_size: int = 24) -> st.SearchStrategy[list[Command]]:
    """Return a stream of crowded commands; most begin with an account."""
    first = _openings()
    short = st.lists(crowded_commands(), max_size=max_size)
    long = st.lists(crowded_commands(), min_size=max_size // 2, max_size=max_size)
    return st.one_of(
        short,
        st.tuples(first, short).map(lambda day: [day[0], *day[1]]),
        st.tuples(first, long).map(lambda day: [day[0], *day[1]]),
    )


#: Beginnings that are followed by a leap day, a month's or a year's end, or a change of Berlin's clocks.
STARTS = (
    NOW,
    datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC),
    datetime(2026, 2, 28, 12, 0, tzinfo=UTC),
    datetime(2026, 3, 28, 23, 30, tzinfo=UTC),
    datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
    datetime(2027, 12, 31, 22, 30, tzinfo=UTC),
    datetime(2028, 1, 30, 0, 0, tzinfo=UTC),
    datetime(2028, 2, 29, 6, 0, tzinfo=UTC),
)

_MICROSECOND = timedelta(microseconds=1)
#: A step until an hour before the end of the first account's period.
_TO_THE_END = timedelta(days=-1)
#: Steps of up to more than two months. Whole days meet the ends of periods, holds and credits exactly.
_LONG_STEPS = (
    _HOUR,
    _HOUR,
    *(days * _DAY for days in (1, 2, 14, 28, 29, 30, 31, 31, 45, 70)),
    *[_TO_THE_END] * 4,
    31 * _DAY - _MICROSECOND,
    31 * _DAY + _MICROSECOND,
)
_SHORT_STEPS = (timedelta(0), timedelta(seconds=1), _HOUR, _DAY, _DAY, 2 * _DAY, 5 * _DAY, 30 * _DAY)

#: Batches of commands, each with its time, in order.
Day = list[tuple[datetime, list[Command]]]


def passing_days(*, max_steps: int = 8, max_batch: int = 5) -> st.SearchStrategy[Day]:
    """Return batches of crowded commands with their times; the first opens an account.

    A day is about everything, or about one thing in depth.
    """
    themes: list[tuple[st.SearchStrategy[Command], Sequence[timedelta], Sequence[list[Command]]]] = [
        (crowded_commands(), _LONG_STEPS, [[], [], [_SQUATTED]]),
        (crowded_usage(), _SHORT_STEPS, [[], [_HELD], [_HELD, _USED]]),
        (crowded_payments(), _SHORT_STEPS, [[], [_PAID], [_PAID], [_PAID, _USED], [_SQUATTED]]),
        (crowded_subscriptions(), _LONG_STEPS, [[], [_HELD]]),
    ]
    days = []
    for crowd, lengths, preludes in themes:
        batch = st.lists(crowd, min_size=1, max_size=max_batch)
        steps = st.lists(st.tuples(st.sampled_from(lengths), batch), max_size=max_steps)
        first = st.tuples(st.sampled_from(preludes), batch).map(lambda pair: [*pair[0], *pair[1]])
        days.append(st.builds(_day, st.sampled_from(STARTS), _openings(), first, steps))
    return st.one_of(days)


_HELD = ReserveUsage(reference_id="r0", user_id="u0", tokens=70, ttl_seconds=HOLD_MAX_SECONDS)
_USED = DeductUsage(reference_id="d0", user_id="u0", tokens=20)
_SQUATTED = DeductUsage(reference_id="p0", user_id="u2", tokens=20)
_PAID = PaymentSucceeded(
    reference_id="p0", user_id="u0", package_id="brief", amount_minor=999, currency="EUR"
)


def _day(
    start: datetime,
    opening: Command,
    first: list[Command],
    steps: list[tuple[timedelta, list[Command]]],
) -> Day:
    now = start
    day: Day = [(now, [moved(command, now - NOW) for command in (opening, *first)])]
    for step, batch in steps:
        now = max(now, period(start, now)[1] - _HOUR) if step == _TO_THE_END else now + step
        day.append((now, [moved(command, now - NOW) for command in batch]))
    return day


def moved(command: Command, by: timedelta) -> Command:
    """Return the command with its own times moved to another now."""
    if isinstance(command, ImportAccount):
        return moved_import(command, by)
    asked = ("effective_at", "expires_at", "period_start", "valid_until")
    times = {name: at + by for name in asked if (at := getattr(command, name, None)) is not None}
    return command.model_copy(update=times) if times else command


def cut(commands: Sequence[Command], sizes: Iterable[int]) -> Iterator[list[Command]]:
    """Yield ``commands`` in batches of these sizes; the last batch has the rest."""
    start = 0
    for size in sizes:
        if start >= len(commands):
            return
        yield list(commands[start : start + size])
        start += size
    if start < len(commands):
        yield list(commands[start:])
