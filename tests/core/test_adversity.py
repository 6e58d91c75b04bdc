"""Protection against a malicious producer, a clock that is off, and a catalog that changes."""

from datetime import timedelta

import pytest

from schemas import Command
from tests.support.commands import (
    bonus,
    cancel,
    change,
    closed,
    deduct,
    disputed,
    opening,
    payment,
    refund,
    release,
    renew,
    reserve,
    settle,
    settling,
    upload,
    went_back,
)
from tests.support.fake_ledger import FakeLedger, after
from tests.support.model import Model
from tests.support.model_comparison import assert_like_the_model
from tests.support.strategies import NOW, SMALL_CATALOG, Day
from worker.catalog import Catalog

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
SHORTLY = timedelta(days=30) - HOUR  # an hour before the first period ends


def answer_to(ledger: FakeLedger, command: Command, later: timedelta) -> tuple[str, int]:
    """The code of a reply, and the balance after it."""
    (reply,) = ledger.apply([command], NOW + later)
    return reply["code"], reply["balanceAfter"]


def granted(ledger: FakeLedger) -> int:
    """All that was ever allocated."""
    return sum(entry.amount for entry in ledger.entries if entry.counter == "allocation")


def with_policy(**policy: str) -> Catalog:
    payments = SMALL_CATALOG.payments.model_copy(update=policy)
    return SMALL_CATALOG.model_copy(update={"payments": payments})


def test_changes_of_tier_grant_a_period_no_more_than_its_best_tier() -> None:
    ledger = after(opening(tier="pro"), deduct(250, reference_id="d"))
    for turn in range(4):
        ledger.apply(
            [
                change("free", reference_id=f"down-{turn}"),
                renew(reference_id=f"ahead-{turn}"),
                cancel("now", reference_id=f"end-{turn}"),
                change("pro", reference_id=f"up-{turn}"),
                deduct(150, reference_id=f"d-{turn}"),
            ],
            NOW + SHORTLY,
        )
    # 250 of this period, and what going up to it again adds to the next one's 100.
    assert granted(ledger) <= 250 + 150


def test_a_clock_that_is_behind_the_opening_grants_and_counts_nothing_twice() -> None:
    ledger = after(opening(tier="pro"), deduct(250, reference_id="d"))
    behind = -timedelta(microseconds=1)
    ledger.apply([change("pro", reference_id="c"), cancel("now", reference_id="k")], NOW + behind)
    ledger.apply([change("pro", reference_id="s")], NOW)
    assert granted(ledger) == 2 * 250  # what ended at once is granted to who subscribes again
    assert answer_to(ledger, upload(80, reference_id="u1"), behind)[0] == "free_upload_counted"
    assert answer_to(ledger, upload(80, reference_id="u2"), timedelta(0))[0] == "free_upload_limit_exceeded"


@pytest.mark.parametrize(
    ("giving_back", "expired"),
    [(release(), 36), (settle(10), 26), (refund(40, "d"), 40)],
    ids=["a hold that is released", "a hold that is settled", "a refund of usage"],
)
def test_tokens_back_in_a_lot_that_a_clock_ahead_ended_expire_at_once(
    giving_back: Command, expired: int
) -> None:
    first: list[Command] = [opening(tier="pro"), deduct(40, reference_id="d"), reserve(36, "hold")]
    ledger, model, ended = FakeLedger(), Model(SMALL_CATALOG), NOW + HOUR
    days: Day = [(NOW, first), (ended, [cancel("now", reference_id="k")]), (ended - MINUTE, [giving_back])]
    *_, reply = assert_like_the_model(ledger, model, days)
    (lot,) = ledger.lots_of("u")
    assert (reply["expired"], lot.free, lot.ended_at) == (expired, 0, ended)
    last = ledger.history("u")[-1]
    assert (last.counter, last.due_at) == ("expiry", last.recorded_at), "due no later than posted"


def test_a_lot_that_was_ended_is_not_ended_again_by_a_clock_that_is_behind() -> None:
    ledger, model, ended = FakeLedger(), Model(SMALL_CATALOG), NOW + HOUR
    again: list[Command] = [change("pro", reference_id="c"), cancel("now", reference_id="k2")]
    days: Day = [
        (NOW, [opening(tier="pro")]),
        (ended, [cancel("now", reference_id="k")]),
        (ended - MINUTE, again),
    ]
    assert_like_the_model(ledger, model, days)
    assert [lot.ended_at for lot in ledger.lots_of("u")] == [ended, ended - MINUTE]


def test_period_given_up_by_a_clock_that_is_behind_its_start_counts_what_expires() -> None:
    ledger, model, begun = FakeLedger(), Model(SMALL_CATALOG), NOW + 30 * DAY
    days: Day = [
        (NOW, [opening(tier="steady")]),
        (begun, [deduct(40, reference_id="d")]),
        (begun - MINUTE, [cancel("now", reference_id="k")]),
    ]
    *_, reply = assert_like_the_model(ledger, model, days)
    assert (reply["amount"], ledger.history("u")[-1].amount) == (80, -80)


def test_expired_tokens_of_a_payment_are_not_taken_from_another() -> None:
    ledger = after(
        opening(tier="empty"),
        payment(499, "USD", reference_id="p1", package_id="plain"),
        payment(reference_id="p", package_id="brief"),
    )
    assert answer_to(ledger, settling(reference_id="s"), 25 * DAY) == ("account_settled", 60)
    reply = ledger.apply([went_back()], NOW + 26 * DAY)[0]
    assert (reply["balanceAfter"], reply["uncollected"], reply.get("debt")) == (60, 85, None)


def test_a_policy_that_changes_between_events_mints_nothing_and_breaks_nothing() -> None:
    waiting, taking = with_policy(on_dispute="wait"), with_policy(on_dispute="take")
    for first, second in ((waiting, taking), (taking, waiting)):
        ledger = after(
            opening(tier="empty"),
            payment(reference_id="p", package_id="rich"),
            disputed(300, reference_id="d1", dispute_id="x"),
            disputed(400, reference_id="d2", dispute_id="y"),
            went_back(100, reference_id="r1"),
            catalog=first,
        )
        ledger.catalog = second
        ledger.apply([closed("won", 400, reference_id="c1", dispute_id="y")], NOW + HOUR)
        ledger.apply([closed("won", 300, reference_id="c2", dispute_id="x")], NOW + HOUR)
        assert ledger.balances() == {"u": 90}  # a tenth of the money went back


def test_a_tier_that_was_missing_for_a_while_renews_again() -> None:
    whole = SMALL_CATALOG
    name = next(name for name, tier in whole.tiers.items() if tier.auto_renew and tier.monthly_tokens)
    without = whole.model_copy(update={"tiers": {n: t for n, t in whole.tiers.items() if n != name}})
    ledger = after(opening(tier=name), catalog=whole)
    ledger.catalog = without
    ledger.apply([settling(reference_id="s1")], NOW + 31 * DAY)
    ledger.catalog = whole
    account = ledger.accounts["u"]
    assert account.due_at is not None
    ledger.apply([settling(reference_id="s2")], account.due_at)
    assert ledger.balances()["u"] == whole.tiers[name].monthly_tokens


def test_lots_that_end_together_are_posted_one_after_another() -> None:
    many = [
        bonus(1, reference_id=f"b{n}", expires_at=NOW + HOUR + timedelta(seconds=n % 7)) for n in range(1_000)
    ]
    ledger = after(opening(tier="empty"), *many)
    looked_at = ledger.apply([settling(reference_id="s")], NOW + DAY)[0]
    assert (looked_at["balanceAfter"], looked_at["expired"]) == (0, 1_000)
