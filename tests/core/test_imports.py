"""Imported accounts: in any order and company, and afterwards like accounts that have always lived here."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Command
from tests.support.commands import (
    adjust,
    bonus,
    change,
    closed,
    deduct,
    disputed,
    failed,
    importing,
    opening,
    payment,
    record,
    renew,
    settling,
    upload,
    went_back,
)
from tests.support.exporting import exported
from tests.support.fake_ledger import FakeLedger, after, picked, reply_to
from tests.support.model_comparison import as_lot
from tests.support.strategies import NOW, SMALL_CATALOG, STRICT_CATALOG, examples
from worker.core import Counter, Source

PAYMENT = {
    "referenceId": "p",
    "amountMinor": 999,
    "currency": "EUR",
    "packageId": "gone",
    "tokens": 90,
    "bonusTokens": 10,
    "paidAt": "2026-11-10T00:00:00Z",
    "provider": "stripe",
}
LEFT = {"source": "purchase", "tokens": 30, "paymentReferenceId": "p"}
LEFT_BONUS = {"source": "purchase_bonus", "tokens": 10, "paymentReferenceId": "p"}
PAID = importing(payments=[PAYMENT], lots=[LEFT, LEFT_BONUS])
DAY = timedelta(days=1)


def test_payment_is_an_operation_of_its_own() -> None:
    ledger = after(PAID)
    paid = ledger.outcomes["p"]
    assert (paid.type, paid.amount, paid.balance_after) == ("payment.import", 40, 40)
    assert paid.detail == {"package_id": "gone", "amount_minor": 999, "base_tokens": 90, "bonus_tokens": 10}
    posted = [
        (str(e.counter), e.amount, e.lot)
        for e in ledger.history("u")
        if e.outcome is paid or e.outcome == paid
    ]
    assert posted == [("purchases", 90, 1), ("usage", -60, 1), ("bonus", 10, 2)]
    assert [(one.provider, one.occurred_at) for one in ledger.payments] == [("stripe", paid.occurred_at)]


def test_lots_say_since_when_and_until_when() -> None:
    ledger = after(importing(lots=[{"source": "bonus", "tokens": 5, "expiresAt": "2027-01-01T00:00:00Z"}]))
    (lot,) = ledger.lots_of("u")
    assert lot.effective_at.isoformat() == "2024-01-05T08:00:00+00:00"
    assert lot.expires_at is not None
    assert lot.expires_at.isoformat() == "2027-01-01T00:00:00+00:00"


def test_past_is_dated_at_the_opening_or_the_payment() -> None:
    ledger = after(
        importing(payments=[PAYMENT], lots=[LEFT], totals={"purchased": 190, "bonus": 10, "used": 170})
    )
    assert {(e.outcome.reference_id, f"{e.occurred_at:%Y-%m-%d}") for e in ledger.history("u")} == {
        ("p", "2026-11-10"),
        ("import-u", "2024-01-05"),
    }


def test_redelivered_import_gets_its_first_reply() -> None:
    ledger = after(PAID)
    before = ledger.rows()
    assert picked(reply_to(ledger, PAID), "code", "duplicate", "balanceAfter") == (
        "account_imported",
        True,
        40,
    )
    assert ledger.rows() == before


def test_import_twice_in_one_batch_is_one() -> None:
    ledger = FakeLedger()
    replies = ledger.apply([PAID, PAID])
    assert [reply["duplicate"] for reply in replies] == [False, True]
    assert ledger.balances() == {"u": 40}


def test_import_of_other_content_is_a_conflict() -> None:
    ledger = after(importing(debt=1))
    reply = reply_to(ledger, importing(debt=2))
    assert picked(reply, "code", "field", "expected", "received") == ("reference_conflict", "debt", "1", "2")


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_first_of_opening_and_importing_wins(order: Sequence[int]) -> None:
    commands: list[Command] = [opening(), PAID, importing(referenceId="again", debt=5)]
    ledger = FakeLedger()
    replies = ledger.apply([commands[place] for place in order])
    assert [reply["status"] for reply in replies] == ["applied", "rejected", "rejected"]
    assert {reply["code"] for reply in replies[1:]} == {"account_exists"}


def test_import_after_an_opening_that_failed_in_the_same_batch_is_whole() -> None:
    ledger = FakeLedger()
    ledger.apply([opening(tier="gone"), PAID])
    assert ledger.accounts["u"].anchor == PAID.anchor
    assert ledger.balances() == {"u": 40}


def test_usage_in_the_same_batch_takes_what_was_imported() -> None:
    ledger = FakeLedger()
    replies = ledger.apply([deduct(15, "early"), PAID, deduct(15, "late")])
    assert [reply["code"] for reply in replies] == [
        "account_not_found",
        "account_imported",
        "tokens_deducted",
    ]
    assert ledger.balances() == {"u": 25}


def test_rejected_import_leaves_the_references_of_its_payments_free() -> None:
    ledger = after(importing(tier="gone", payments=[PAYMENT]))
    assert ledger.outcomes.keys() == {"import-u"}
    assert reply_to(ledger, importing(referenceId="again", payments=[PAYMENT]))["code"] == "account_imported"


def test_import_rejected_for_the_account_is_judged_anew_with_its_payments() -> None:
    ledger = FakeLedger(SMALL_CATALOG.model_copy(update={"tiers": {}}))
    assert reply_to(ledger, PAID)["code"] == "unknown_tier"
    ledger.catalog = SMALL_CATALOG
    again = PAID.model_copy(update={"attempt": 2})
    assert picked(reply_to(ledger, again), "status", "attempt", "balanceAfter") == ("applied", 2, 40)
    assert "p" in ledger.outcomes


def test_usage_that_moved_nothing_gives_its_reference_to_an_imported_payment() -> None:
    ledger = after(deduct(5, "p", "squatter"))
    assert reply_to(ledger, PAID)["code"] == "account_imported"
    assert ledger.outcomes["p"].type == "payment.import"
    assert reply_to(ledger, deduct(5, "p", "squatter"))["code"] == "account_not_found"


def test_two_imports_of_one_payment_are_refused_in_one_batch() -> None:
    ledger = FakeLedger()
    replies = ledger.apply([PAID, importing("v", payments=[PAYMENT])])
    assert picked(replies[1], "code", "originalReferenceId") == ("reference_taken", "p")


def test_imported_payment_is_not_credited_again() -> None:
    reply = reply_to(after(PAID), payment(reference_id="p"))
    assert picked(reply, "code", "field", "expected") == ("reference_conflict", "type", "payment.import")


@pytest.mark.parametrize(
    ("event", "code", "balance"),
    [
        (went_back(333), "payment_refunded", 40 - 33),
        (went_back(999), "payment_refunded", 40 - 100),
        (closed("lost"), "dispute_lost", 40 - 100),
        (disputed(), "payment_disputed", 40),
        (failed(), "payment_failed", 40 - 100),
        (went_back(333, "USD"), "currency_mismatch", 40),
    ],
)
def test_imported_payment_goes_back_like_any(event: Command, code: str, balance: int) -> None:
    for ledger in (after(PAID), FakeLedger()):
        replies = ledger.apply([event] if ledger.accounts else [PAID, event])
        assert picked(replies[-1], "code", "balanceAfter") == (code, balance)


def test_imported_dispute_that_is_won_gives_back_to_the_purchase() -> None:
    ledger = after(PAID, disputed(reference_id="d"), catalog=STRICT_CATALOG)
    assert ledger.balances() == {"u": 0}
    assert picked(reply_to(ledger, closed("won")), "code", "balanceAfter") == ("dispute_won", 40)
    assert ledger.lots_of("u")[-1].parent == 1


def test_expired_tokens_of_an_imported_payment_are_not_claimed_again() -> None:
    until = {"expiresAt": (NOW + DAY).isoformat()}
    ledger = after(importing(payments=[PAYMENT], lots=[{**LEFT, **until}, {**LEFT_BONUS, **until}]))
    ledger.apply([settling(reference_id="s")], NOW + 2 * DAY)
    reply = reply_to(ledger, went_back(999), NOW + 2 * DAY)
    assert picked(reply, "amount", "uncollected", "balanceAfter") == (60, 40, -60)


def test_imported_lots_expire_in_their_time() -> None:
    ledger = after(importing(lots=[{"source": "bonus", "tokens": 5, "expiresAt": (NOW + DAY).isoformat()}]))
    assert reply_to(ledger, deduct(5), NOW + DAY)["code"] == "insufficient_balance"


@pytest.mark.parametrize("debt", [{"debt": 70}, {"debt": 30, "totals": {"expired": 30}}])
def test_lots_of_an_imported_debt_are_the_same_however_late_the_import_comes(debt: dict[str, Any]) -> None:
    early, late = after(importing(**debt)), FakeLedger()
    late.apply([importing(**debt)], NOW + 9 * DAY)
    assert [as_lot(lot) for lot in late.lots_of("u")] == [as_lot(lot) for lot in early.lots_of("u")]
    (lent,) = late.lots_of("u")
    assert lent.effective_at == importing().opened_at


def test_imported_allocation_that_ends_inside_its_period_is_not_rolled_over() -> None:
    inside = {"source": "allocation", "tokens": 30, "expiresAt": (NOW + DAY).isoformat()}
    at_its_end = {"source": "allocation", "tokens": 20, "expiresAt": "2026-12-03T00:00:00Z"}
    ledger = after(importing(tier="saver", lots=[inside, at_its_end]))
    assert reply_to(ledger, settling(reference_id="s1"), NOW + 2 * DAY)["expired"] == 30
    assert reply_to(ledger, settling(reference_id="s2"), NOW + 20 * DAY)["balanceAfter"] == 20


def test_imported_quota_counts_in_its_period_alone() -> None:
    ledger = after(importing(quotas=[{"meter": "free_upload", "used": 75}, {"meter": "page", "used": 1}]))
    assert picked(reply_to(ledger, upload(6)), "code", "available") == ("free_upload_limit_exceeded", 5)
    assert reply_to(ledger, record("page", 2, reference_id="two"))["freeQuantity"] == 2
    ledger.apply([renew(reference_id="n")], NOW + 12 * DAY)
    assert reply_to(ledger, upload(80, "next"), NOW + 12 * DAY)["used"] == 80


def test_meter_counts_against_the_quota_of_its_price_rule() -> None:
    ledger = after(importing(quotas=[{"meter": "upload", "used": 75}]))
    assert reply_to(ledger, upload(6))["available"] == 5


def test_next_credit_repays_an_imported_debt() -> None:
    ledger = after(importing(debt=70))
    assert picked(reply_to(ledger, bonus(100)), "balanceAfter", "debt") == (30, None)


def test_granted_period_of_an_import_is_not_granted_again() -> None:
    ledger = after(PAID)
    assert reply_to(ledger, renew())["code"] == "period_already_granted"
    assert picked(reply_to(ledger, renew(reference_id="n"), NOW + 11 * DAY), "code", "amount") == (
        "subscription_renewed",
        250,
    )


def test_account_that_comes_below_a_threshold_has_not_fallen_to_it() -> None:
    ledger = after(importing(lots=[{"source": "bonus", "tokens": 5}]))
    assert ledger.outcomes["import-u"].notices == ()


# -- as if it had always lived here -----------------------------------------------------------------------

_USES = st.one_of(
    st.sampled_from([5, 20, 70]).map(deduct),
    st.sampled_from([5, 30]).map(upload),
    st.tuples(st.sampled_from(["page", "search", "upload"]), st.integers(1, 9)).map(
        lambda pair: record(*pair)
    ),
    st.sampled_from(["plain", "rich"]).map(
        lambda package: payment(
            package_id=package,
            amount_minor=499 if package == "plain" else 999,
            currency="USD" if package == "plain" else "EUR",
        )
    ),
    st.tuples(st.sampled_from([15, 40]), st.integers(1, 90)).map(
        lambda pair: bonus(pair[0], expires_at=NOW + pair[1] * DAY)
    ),
    st.sampled_from([25, -15, -400]).map(lambda tokens: adjust(tokens, allow_negative=True)),
    st.sampled_from(["free", "pro", "steady", "keeper"]).map(change),
    st.just(settling()),
)
_LATER = st.one_of(
    _USES,
    st.tuples(st.sampled_from([100, 499, 999]), st.sampled_from(["EUR", "USD"]), st.integers(0, 9)).map(
        lambda given: went_back(given[0], given[1], original_reference_id=f"h{given[2]}")
    ),
    st.integers(0, 9).map(lambda number: failed(original_reference_id=f"h{number}")),
    st.just(renew()),
)


def named(command: Command, prefix: str, number: int) -> Command:
    """Return the command under a reference of its own."""
    return command.model_copy(update={"reference_id": f"{prefix}{number}"})


@examples(250)
@given(
    tier=st.sampled_from(["free", "pro", "steady", "keeper"]),
    past=st.lists(_USES, max_size=10),
    later=st.lists(_LATER, min_size=1, max_size=8),
    days=st.lists(st.integers(0, 20), min_size=8, max_size=8),
)
def test_imported_account_goes_on_like_the_one_it_was(
    tier: str, past: list[Command], later: list[Command], days: list[int]
) -> None:
    """Lots of one priority and one end may change places: so tokens are compared, and not lot by lot."""
    old, new = FakeLedger(), FakeLedger()
    old.apply([opening("o", tier=tier)])
    for number, command in enumerate(past):
        old.apply([named(command, "h", number)], NOW + number * DAY)
    now = NOW + len(past) * DAY
    old.apply([settling(reference_id="due")], now)
    command = exported(old, "u", now)
    new.apply([command], now)
    assert facts_of(new) == facts_of(old)
    paid = {payment.reference_id for payment in command.payments}
    later = [one for one in later if getattr(one, "original_reference_id", None) in {None, *paid}]
    for number, (one, passed) in enumerate(zip(later, days, strict=False)):
        now += passed * DAY
        replies = [reply_to(ledger, named(one, "l", number), now) for ledger in (old, new)]
        assert facts_of(new) == facts_of(old)
        assert without_ids(replies[1]) == without_ids(replies[0])


def facts_of(ledger: FakeLedger) -> dict[str, Any]:
    """Return all sums of the account, and what is left by priority and end."""
    account = ledger.accounts["u"]
    left: dict[Any, int] = {}
    for lot in ledger.lots_of("u"):
        if lot.remaining:
            key = lot.priority, lot.expires_at
            left[key] = left.get(key, 0) + lot.remaining
    names = ("allocated", "purchased", "bonus", "refunded", "adjusted", "used", "expired", "reversed")
    return {
        **{name: getattr(account, name) for name in (*names, "balance", "debt", "tier")},
        "periods": (account.anchor, account.granted_until, account.period_granted, account.ends_at),
        "left": left,
        "quotas": {
            (key.meter, key.period_start): quota.used
            for key, quota in ledger.quotas.items()
            if key.period_start >= max(k.period_start for k in ledger.quotas)
        },
    }


def without_ids(reply: dict[str, Any]) -> dict[str, Any]:
    """Return a reply without what counts operations and entries: an import has fewer of them."""
    return {name: value for name, value in reply.items() if name not in ("transactionId", "sequence")}


def test_world_of_the_property_is_not_a_small_one() -> None:
    """Every counter of the past is met by a history, or the property would say less than it seems to."""
    ledger = after(
        opening(), payment(reference_id="h0"), bonus(20, "b"), adjust(-30, reference_id="a"), deduct(9)
    )
    command = exported(ledger, "u", NOW)
    assert command.balance == 100 + 90 + 10 + 20 - 30 - 9
    sources = {lot.source for lot in ledger.lots_of("u")}
    assert sources == {Source.ALLOCATION, Source.PURCHASE, Source.PURCHASE_BONUS, Source.BONUS}
    assert Counter.ADJUSTMENTS in {entry.counter for entry in ledger.history("u")}
