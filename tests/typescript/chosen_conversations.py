"""Conversations chosen for rules that random ones seldom meet, each with the terms of its catalog."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from tests.contracts.samples import Step
from tests.typescript.random_conversations import START, text_of_time
from worker.catalog import Catalog, Notices, NoticeThreshold, PaymentPolicy, load_catalog

Fields = dict[str, Any]

_ADA: Fields = {"userId": "ada"}
_OPENED: Fields = {"type": "account.open", "referenceId": "open", **_ADA, "tier": "free"}
_MONEY: Fields = {"amountMinor": 499, "currency": "USD"}
_PAID: Fields = {"type": "payment.succeeded", "referenceId": "p1", **_ADA, "packageId": "starter", **_MONEY}
_REFUNDED: Fields = {"type": "payment.refunded", "referenceId": "f1", "originalReferenceId": "p1", **_MONEY}
_UNDONE: Fields = {"type": "payment.refund_failed", "originalReferenceId": "p1", "refundReferenceId": "f1"}
_DISPUTE: Fields = {"originalReferenceId": "p1", "disputeId": "d1", **_MONEY}
_BONUS_PAID: Fields = {**_PAID, "packageId": "standard", "amountMinor": 1_999}
_OTHER_PAID: Fields = {**_PAID, "referenceId": "p2"}
_IMPORTED: Fields = {
    "type": "account.import",
    "referenceId": "import",
    **_ADA,
    "tier": "basic",
    "openedAt": "2025-01-01T00:00:00Z",
    "anchor": "2026-01-20T00:00:00Z",
    "asOf": "2026-01-31T00:00:00Z",
}


def _deduct(tokens: int) -> Fields:
    return {"type": "usage.deduct", **_ADA, "tokens": tokens}


def _bonus(tokens: int, **more: Any) -> Fields:
    return {"type": "credit.bonus", **_ADA, "tokens": tokens, **more}


def _back(tokens: int) -> Fields:
    return {"type": "credit.refund", **_ADA, "tokens": tokens, "originalReferenceId": "usage"}


def _reserve(tokens: int, seconds: int) -> Fields:
    hold = {"type": "usage.reserve", "referenceId": "hold", **_ADA}
    return {**hold, "tokens": tokens, "ttlSeconds": seconds}


def _capture(tokens: int) -> Fields:
    return {"type": "usage.settle", **_ADA, "originalReferenceId": "hold", "tokens": tokens}


def _refunded(reference: str, amount: int, name: str = "p1") -> Fields:
    about = {"referenceId": reference, "originalReferenceId": name}
    return {"type": "payment.refunded", **about, "amountMinor": amount, "currency": "USD"}


def _lost(dispute: str, amount: int) -> Fields:
    about = {"originalReferenceId": "p1", "disputeId": dispute, "result": "lost"}
    return {"type": "payment.dispute_closed", **about, "amountMinor": amount, "currency": "USD"}


def _named(name: str, *others: str, **more: Any) -> Fields:
    return {"type": "payment.named", "originalReferenceId": name, "alsoKnownAs": list(others), **more}


def _subscription(kind: str, hours: int, **more: Any) -> Fields:
    """Return a command that occurred some hours after the beginning."""
    at = text_of_time(START + timedelta(hours=hours))
    return {"type": f"subscription.{kind}", **_ADA, "occurredAt": at, **more}


def _days(first: int, last: int) -> Fields:
    """Return the period between two days after the beginning."""
    start, end = (text_of_time(START + timedelta(days=day)) for day in (first, last))
    return {"periodStart": start, "periodEnd": end}


def _freezing(name: str, minutes: int) -> Fields:
    at = text_of_time(START - timedelta(minutes=minutes))
    return {"type": f"account.{name}", **_ADA, "reason": "case", "occurredAt": at}


#: Numbers are hours that pass.
_STEPS: Mapping[str, Sequence[Fields | int]] = {
    "write_off": (_OPENED, _PAID, _deduct(55_000), _REFUNDED, _bonus(100), _UNDONE),
    "debt": (_OPENED, _PAID, _deduct(60_000), _REFUNDED, _bonus(20_000), _UNDONE, _deduct(100)),
    "dispute_hold": (
        *(_OPENED, _PAID, _deduct(1_000)),
        *({"type": "payment.disputed", **_DISPUTE}, _deduct(55_000), 24 * 6, _deduct(40_000)),
        {"type": "payment.dispute_closed", "result": "lost", **_DISPUTE},
    ),
    "refund_of_two_lots": (
        *(_OPENED, _bonus(500, priority=5)),
        {**_deduct(2_000), "referenceId": "usage"},
        *(_back(300), _back(1_500), _back(500)),
    ),
    "marks": (
        *(_OPENED, _deduct(8_500), _bonus(1_000), _deduct(800), _bonus(2_000)),
        *(_deduct(1_800), _deduct(100), _deduct(1_800)),
    ),
    "import_of_a_debt": ({**_IMPORTED, "debt": 700}, _bonus(5_000), _deduct(10)),
    "import_of_a_period": (
        {
            **_IMPORTED,
            "lots": [
                {
                    "source": "allocation",
                    "tokens": 900,
                    "granted": 100_000,
                    "expiresAt": "2026-02-20T00:00:00Z",
                }
            ],
        },
        _deduct(100),
        {"type": "subscription.change", **_ADA, "tier": "pro"},
    ),
    "hold_before_a_debt": (_OPENED, _PAID, _reserve(58_000, 3_600), _REFUNDED, 2, _deduct(1), _bonus(50)),
    "hold_of_two_lots": (
        *(_OPENED, _bonus(500, priority=5, expiresAt=text_of_time(START + timedelta(days=1)))),
        *(_reserve(2_000, 500_000), 48, _capture(400), _deduct(10)),
    ),
    "capture_of_two_lots": (_OPENED, _bonus(500, priority=5), _reserve(2_000, 3_600), _capture(700)),
    "empty_key": (_OPENED, {**_deduct(10), "metadata": {"project": ""}}, _deduct(5)),
    "freeze": (
        *(_OPENED, _freezing("unfreeze", 10), _freezing("freeze", 20), _deduct(1)),
        *(_freezing("freeze", 10), _deduct(1), _freezing("freeze", 30), _freezing("unfreeze", 5), _deduct(1)),
    ),
    "write_off_of_what_expires": (
        # Held tokens are not there to be taken, and those of the bonus expire with the hold.
        *(_OPENED, _BONUS_PAID, _reserve(285_000, 20 * 86_400)),
        *(24, _refunded("f1", 1_000), 24 * 20, _refunded("f2", 999)),
    ),
    "dispute_with_the_number_of_a_refund": (
        *(_OPENED, _BONUS_PAID, _refunded("17", 1_000)),
        *(24 * 20, _lost("17", 500)),
    ),
    "debt_that_goes_back_to_lots": (
        *(_OPENED, _BONUS_PAID, _deduct(200_000)),
        {"type": "payment.disputed", **_DISPUTE, "amountMinor": 1_999},
        *(_bonus(300_000), _lost("d1", 300), _lost("d2", 1_999)),
        {**_lost("d2", 500), "result": "won", "occurredAt": text_of_time(START)},
        _lost("d3", 100),
    ),
    "names_before_the_payment": (
        *(_OPENED, _named("c1", "c2"), _named("p1", "c3"), _refunded("f1", 100, "c2")),
        *(_named("c3", "c1"), _PAID, _refunded("f2", 100, "c1"), _named("c2", "c4")),
    ),
    "names_of_two_payments": (
        *(_OPENED, {**_PAID, "alsoKnownAs": ["c1"]}, {**_OTHER_PAID, "alsoKnownAs": ["c2"]}),
        *(_named("c1", "c2", "c3", referenceId="n1"), _refunded("f1", 100, "c3")),
        *(_named("c3", "c2", referenceId="n2"), {**_OTHER_PAID, "alsoKnownAs": ["c1", "c4"]}),
        *(_named("c3", "c6", referenceId="n2"), _named("c1", "c5", referenceId="n1", attempt=2)),
        *(_refunded("f2", 100, "c5"), _refunded("f3", 100, "c6")),
    ),
    "names_of_a_copy": (
        *(_OPENED, _PAID, _OTHER_PAID, _refunded("f1", 100, "c2"), _refunded("f2", 100, "c1")),
        *({**_PAID, "alsoKnownAs": ["c2"]}, {**_OTHER_PAID, "alsoKnownAs": ["c1"]}, _named("p1", "c3")),
        *({"type": "account.settle", **_ADA}, {"type": "account.settle", **_ADA}),
    ),
    "names_of_a_copy_that_is_refused": (
        *(_OPENED, {**_PAID, "alsoKnownAs": ["c1"]}, {**_OTHER_PAID, "alsoKnownAs": ["c1"]}),
        *({**_OTHER_PAID, "alsoKnownAs": ["c2"]}, _refunded("f1", 100, "c2")),
        {**_OTHER_PAID, "attempt": 2},
    ),
    "names_of_a_rejected_payment": (
        *(_PAID, {**_PAID, "alsoKnownAs": ["c1"]}, _named("c1", "c2"), _refunded("f1", 100, "c2")),
        *(_OPENED, _refunded("f2", 100, "c1")),
    ),
    "late_end_of_an_earlier_period": (
        *(_OPENED, _subscription("change", 0, tier="pro", **_days(0, 30)), _deduct(1_000)),
        *(24 * 5, _subscription("renew", 24 * 5, **_days(5, 35)), _subscription("cancel", -24, at="now")),
        *(_subscription("cancel", 24, at="period_end"), _subscription("cancel", 24, at="now")),
        *(_subscription("cancel", 24 * 5, at="now"), _subscription("cancel", 24 * 6, at="now")),
    ),
    "late_end_before_another_tier": (
        *(_OPENED, 24, _subscription("change", 20, tier="basic", effectiveAt="period_end")),
        *(_subscription("cancel", 10, at="period_end"), _subscription("cancel", 10, at="now")),
    ),
}
_MARK = NoticeThreshold(at=2_000, again_from=3_000)
_WRITE_OFF = PaymentPolicy(when_spent="write_off")
_SHORT = [package.model_copy(update={"bonus_valid_days": 10}) for package in load_catalog().packages]
_TERMS: Mapping[str, Mapping[str, Any]] = {
    "write_off": {"payments": _WRITE_OFF},
    "write_off_of_what_expires": {"payments": _WRITE_OFF, "packages": tuple(_SHORT)},
    "dispute_with_the_number_of_a_refund": {"packages": tuple(_SHORT)},
    "debt_that_goes_back_to_lots": {"payments": PaymentPolicy(on_dispute="take")},
    "dispute_hold": {"payments": PaymentPolicy(on_dispute="hold", dispute_hold_days=5)},
    "marks": {"notices": Notices(low=_MARK)},
}


def chosen() -> Mapping[str, tuple[Catalog, list[Step]]]:
    """Return the conversations by name, each with its catalog, without replies and answers."""
    packaged = load_catalog()
    return {
        name: (packaged.model_copy(update=dict(_TERMS.get(name, {}))), _steps_of(steps))
        for name, steps in _STEPS.items()
    }


def _steps_of(given: Sequence[Fields | int]) -> list[Step]:
    now, steps = START, []
    for number, one in enumerate(given):
        if isinstance(one, int):
            now += timedelta(hours=one)
        else:
            steps.append({"at": text_of_time(now), "message": {"referenceId": f"r{number}", **one}})
    used = {"type": "query.usage", **_ADA, "groupBy": "metadata.project"}
    asked = [{"type": f"query.{name}", **_ADA} for name in ("balance", "history")]
    queries = [*asked, used, {"type": "query.stats"}]
    return steps + [{"at": text_of_time(now), "query": query} for query in queries]
