"""Cancellations that come late: they end no period that was paid after them, in any order of arrival."""

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from schemas import CancelSubscription, ChangeSubscription, Command, OpenAccount, SubscriptionPayment
from tests.support.fake_ledger import FakeLedger
from worker.catalog import load_catalog

NOW = datetime(2026, 5, 20, tzinfo=UTC)
DAY = timedelta(days=1)
OPENING = OpenAccount(reference_id="open", user_id="ada", tier="free")


def paid(reference: str, occurred: datetime | None, start: datetime, tier: str = "pro") -> Command:
    money = SubscriptionPayment(reference_id=f"{reference}:pi", amount_minor=2000, currency="USD")
    return ChangeSubscription(
        reference_id=reference,
        user_id="ada",
        tier=tier,
        period_start=start,
        period_end=start + 30 * DAY,
        payment=money,
        occurred_at=occurred,
    )


def canceled(occurred: datetime | None, at: str = "now") -> Command:
    fields: dict[str, Any] = {"reference_id": "end", "user_id": "ada", "at": at, "occurred_at": occurred}
    return CancelSubscription(**fields)


def end_of(commands: list[Command]) -> tuple[Any, ...]:
    ledger = FakeLedger(load_catalog())
    ledger.apply([OPENING, paid("first", NOW - 10 * DAY, NOW - 10 * DAY)], NOW - 10 * DAY)
    for command in commands:
        ledger.apply([command], NOW)
    account = ledger.accounts["ada"]
    lots = sorted(
        (str(lot.expires_at), lot.granted, lot.remaining, lot.ended_at is None)
        for lot in ledger.lots_of("ada")
    )
    return account.balance, account.tier, account.ends_at, account.granted_until, account.next_tier, lots


@pytest.mark.parametrize("at", ["now", "period_end"])
def test_cancellation_before_the_present_period_was_paid_ends_nothing_of_it(at: str) -> None:
    events = [canceled(NOW - 2 * DAY, at), paid("second", NOW - DAY, NOW - DAY)]
    first, *others = [end_of(list(order)) for order in permutations(events)]
    assert others == [first] * len(others)
    balance, tier, ends_at, granted_until, *_ = first
    assert (tier, ends_at, granted_until) == ("pro", None, NOW + 29 * DAY)
    # At once it still ends what was left of the period before.
    assert balance == (500_000 if at == "now" else 1_000_000)


def test_end_and_beginning_at_one_time_let_the_subscription_go_on() -> None:
    events = [canceled(NOW - DAY), paid("second", NOW - DAY, NOW - DAY)]
    ends = [end_of(list(order)) for order in permutations(events)]
    assert (ends[0], ends[0][2]) == (ends[1], None)


def test_cancellation_after_the_payment_ends_the_period() -> None:
    balance, _, ends_at, *_ = end_of([paid("second", NOW - 2 * DAY, NOW - 2 * DAY), canceled(NOW - DAY)])
    assert (balance, ends_at) == (0, NOW)


@pytest.mark.parametrize("times", [(None, NOW - DAY), (NOW - 2 * DAY, None)])
def test_cancellation_counts_as_it_comes_where_one_of_both_says_no_time(
    times: tuple[datetime | None, datetime | None],
) -> None:
    ending, paying = times
    balance, _, ends_at, *_ = end_of([paid("second", paying, NOW - DAY), canceled(ending)])
    assert (balance, ends_at) == (0, NOW)


def test_tier_for_the_next_period_takes_back_the_end_with_this_one() -> None:
    later = ChangeSubscription(
        reference_id="later", user_id="ada", tier="basic", effective_at="period_end", occurred_at=NOW - DAY
    )
    ends = [end_of(list(order)) for order in permutations([canceled(NOW - 2 * DAY, "period_end"), later])]
    assert (ends[0], ends[0][4]) == (ends[1], "basic")
