"""Time passes: months and their ends, leap days, changes of the clocks; holds, credits and periods with them.

Nothing here waits: a year is a list of times.
"""

from calendar import monthrange
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import (
    BonusCredit,
    CancelSubscription,
    Command,
    DeductUsage,
    FreeUpload,
    OpenAccount,
    RecordUsage,
    RenewSubscription,
    ReserveUsage,
    SettleAccount,
)
from tests.support.fake_ledger import FakeLedger
from tests.support.model import Model
from tests.support.model_account import boundary, period
from tests.support.model_comparison import as_lot, assert_like_the_model
from tests.support.strategies import CATALOGS, NOW, SMALL_CATALOG, STARTS, Day, examples, passing_days
from worker.catalog import Catalog
from worker.core import account_now
from worker.core.periods import months_after, period_at

BERLIN = ZoneInfo("Europe/Berlin")
MICROSECOND = timedelta(microseconds=1)
DAY = timedelta(days=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def opening(tier: str = "free") -> OpenAccount:
    return OpenAccount(reference_id="open", user_id="u", tier=tier)


def settling(number: int) -> SettleAccount:
    return SettleAccount(reference_id=f"settle-{number}", user_id="u")


# -- periods ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("anchor", "months", "expected"),
    [
        ("2026-01-31T10:00", 1, "2026-02-28T10:00"),
        ("2026-01-31T10:00", 2, "2026-03-31T10:00"),
        ("2026-01-31T10:00", 3, "2026-04-30T10:00"),
        ("2028-01-31T10:00", 1, "2028-02-29T10:00"),
        ("2028-02-29T00:00", 12, "2029-02-28T00:00"),
        ("2028-02-29T00:00", 48, "2032-02-29T00:00"),
        ("2026-12-15T23:59:59.999999", 1, "2027-01-15T23:59:59.999999"),
        ("2026-08-30T10:00", 6, "2027-02-28T10:00"),
        ("2026-11-22T10:15", 0, "2026-11-22T10:15"),
    ],
)
def test_a_period_begins_on_the_anchors_day_or_on_the_last_of_a_shorter_month(
    anchor: str, months: int, expected: str
) -> None:
    assert months_after(at(anchor), months) == at(expected) == boundary(at(anchor), months)


anchors = st.datetimes(datetime(2024, 1, 1), datetime(2029, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@examples(300)
@given(anchors, st.integers(0, 5 * 366 * 86_400 * 10**6))
def test_every_moment_lies_in_one_period_the_same_that_the_model_finds(anchor: datetime, later: int) -> None:
    moment = anchor + timedelta(microseconds=later)
    found = period_at(anchor, moment)
    assert tuple(found) == period(anchor, moment)
    assert found.start <= moment < found.end
    assert period_at(anchor, found.start) == found
    assert period_at(anchor, found.end).start == found.end
    assert period_at(anchor, found.end - MICROSECOND) == found
    assert timedelta(days=28) <= found.end - found.start <= timedelta(days=31)


@pytest.mark.parametrize("day", range(1, 32))
def test_periods_from_any_day_of_the_month_follow_each_other_without_a_gap(day: int) -> None:
    anchor = datetime(2027, 1, day, 12, tzinfo=UTC)
    starts = [months_after(anchor, months) for months in range(28)]
    for start, end in pairwise(starts):
        assert period_at(anchor, start) == (start, end)
        assert end.day == min(day, monthrange(end.year, end.month)[1])
    assert len({start.date() for start in starts}) == len(starts), "quotas are named by the first day"


# -- allocations and quotas -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opened", "end"),
    [
        ("2026-01-31T23:59:59", "2026-02-28T23:59:59"),
        ("2028-01-31T08:00", "2028-02-29T08:00"),
        ("2028-02-29T08:00", "2028-03-29T08:00"),
        ("2026-02-28T12:00", "2026-03-28T12:00"),
        ("2026-12-31T23:00", "2027-01-31T23:00"),
    ],
)
def test_an_allocation_and_the_free_units_end_with_the_period_to_the_microsecond(
    opened: str, end: str
) -> None:
    ledger = FakeLedger()
    ledger.apply([opening(), upload(50, "f1")], at(opened))
    last, first = at(end) - MICROSECOND, at(end)
    (full, taken) = ledger.apply([upload(1, "f2"), deduct(40, "d1")], last)
    assert (full["code"], full["used"]) == ("free_upload_limit_exceeded", 50)
    assert (taken["balanceAfter"], "expired" in taken) == (60, False)
    (poor, unpaid) = ledger.apply([deduct(1, "d2"), upload(50, "f3")], first)
    assert (poor["code"], poor["available"], "expired" in poor) == ("insufficient_balance", 0, False)
    assert (unpaid["code"], unpaid["limit"], unpaid["used"]) == ("free_upload_limit_exceeded", 0, 0)
    renewal = RenewSubscription(reference_id="n1", user_id="u")
    (renewed, fresh) = ledger.apply([renewal, upload(50, "f4")], first)
    assert (renewed["code"], renewed["expired"]) == ("subscription_renewed", 60)
    assert (fresh["code"], fresh["used"]) == ("free_upload_counted", 50)
    assert [key.period_start for key in ledger.quotas] == [at(opened).date(), at(end).date()]


def upload(size: int, reference_id: str) -> FreeUpload:
    return FreeUpload(reference_id=reference_id, user_id="u", bytes=size)


def deduct(tokens: int, reference_id: str) -> DeductUsage:
    return DeductUsage(reference_id=reference_id, user_id="u", tokens=tokens)


@pytest.mark.parametrize(
    "change",
    [datetime(2026, 3, 29, 2, 30, tzinfo=BERLIN), datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)],
    ids=["an hour that is left out", "an hour that comes twice"],
)
def test_a_change_of_the_clocks_moves_no_period_hold_or_expiry(change: datetime) -> None:
    """A producer in Berlin writes times of its own; the ledger counts hours as they pass."""
    start = change.astimezone(UTC) - timedelta(days=1)
    ledger, model = FakeLedger(), Model(SMALL_CATALOG)
    until = (start + DAY).astimezone(BERLIN)
    first: list[Command] = [
        opening("pro"),
        BonusCredit(reference_id="b", user_id="u", tokens=40, expires_at=until),
        ReserveUsage(reference_id="r", user_id="u", tokens=250, ttl_seconds=86_400),
    ]
    moments = [start + DAY - MICROSECOND, start + DAY, start + 31 * DAY - MICROSECOND, start + 31 * DAY]
    day: Day = [(start, first)]
    day += [(moment, [settling(number)]) for number, moment in enumerate(moments)]
    replies = assert_like_the_model(ledger, model, day)
    assert replies[0]["balanceAfter"] == 250
    assert [reply.get("held", 0) for reply in replies[3:]] == [250, 0, 0, 0]
    lots = {lot.number: lot for lot in ledger.lots_of("u")}
    assert lots[2].expires_at == start + DAY
    assert replies[4]["expired"] == 40
    assert ledger.accounts["u"].granted_until == months_after(start, 1)


# -- long times -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", STARTS, ids=str)
@pytest.mark.parametrize("tier", ["steady", "keeper", "idle"])
def test_free_tier_that_is_posted_daily_gets_each_month_once(tier: str, opened: datetime) -> None:
    ledger, model = FakeLedger(), Model(SMALL_CATALOG)
    day: Day = [(opened, [opening(tier)])]
    day += [(opened + number * DAY, [settling(number)]) for number in range(1, 200)]
    assert_like_the_model(ledger, model, day)
    granted = [entry.due_at for entry in ledger.history("u") if entry.counter == "allocation"]
    monthly = SMALL_CATALOG.tiers[tier].monthly_tokens
    passed = [months_after(opened, months) for months in range(1, 7)]
    assert granted == ([None, *passed] if monthly else [])
    kept = SMALL_CATALOG.tiers[tier].rollover_tokens
    assert ledger.balances() == {"u": monthly + min(kept, monthly)}


@pytest.mark.parametrize("opened", STARTS, ids=str)
def test_months_in_which_nobody_came_are_granted_and_lapse_in_few_rows(opened: datetime) -> None:
    ledger, model = FakeLedger(), Model(SMALL_CATALOG)
    later = months_after(opened, 14) + 3 * DAY
    (_, settled) = assert_like_the_model(
        ledger, model, [(opened, [opening("keeper")]), (later, [settling(1)])]
    )
    # 15 months, of which the present one is left, and what was kept of the last.
    assert settled["expired"] == 15 * 80 - 80 - 50
    assert ledger.balances() == {"u": 80 + 50}
    assert ledger.accounts["u"].allocated == 15 * 80
    spans = [(lot.granted, lot.effective_at, lot.expires_at) for lot in ledger.lots_of("u")]
    assert spans[2:] == [
        (12 * 80, months_after(opened, 1), months_after(opened, 13)),
        (80, months_after(opened, 13), months_after(opened, 14)),
        (50, months_after(opened, 14), months_after(opened, 15)),
        (80, months_after(opened, 14), months_after(opened, 15)),
    ]


@pytest.mark.parametrize("opened", STARTS, ids=str)
def test_a_paid_tier_is_renewed_ahead_of_time_month_after_month(opened: datetime) -> None:
    ledger, model = FakeLedger(), Model(SMALL_CATALOG)
    day: Day = [(opened, [opening("saver")])]
    for month in range(1, 15):
        start = months_after(opened, month)
        renewal = RenewSubscription(reference_id=f"n{month}", user_id="u", period_start=start)
        again = RenewSubscription(reference_id=f"again-{month}", user_id="u", period_start=start + DAY)
        day += [(start - DAY, [renewal]), (start, [again])]
    replies = assert_like_the_model(ledger, model, day)
    codes = [reply["code"] for reply in replies[1:]]
    assert codes == ["renewal_scheduled", "period_already_granted"] * 14
    # The last renewal took effect, but only rejections came since: they do not post what is due.
    assert ledger.balances() == {"u": 130}
    account = account_now(
        ledger.accounts["u"], ledger.lots_of("u"), [], months_after(opened, 14), SMALL_CATALOG
    )
    assert account.state.balance == 90 + 40


@pytest.mark.parametrize("opened", STARTS, ids=str)
def test_a_subscription_that_is_canceled_lasts_to_the_end_of_its_period(opened: datetime) -> None:
    ledger, model = FakeLedger(), Model(SMALL_CATALOG)
    end = months_after(opened, 1)
    day: Day = [
        (opened, [opening("keeper"), CancelSubscription(reference_id="k", user_id="u")]),
        (end - MICROSECOND, [upload(10, "f1"), record(3, "m1")]),
        (end, [upload(1, "f2"), record(3, "m2"), settling(1)]),
    ]
    replies = assert_like_the_model(ledger, model, day)
    assert [reply["code"] for reply in replies[2:]] == [
        "free_upload_counted",
        "usage_recorded",
        "free_upload_limit_exceeded",
        "insufficient_balance",
        "account_settled",
    ]
    assert (replies[3]["freeQuantity"], replies[5]["required"]) == (3, 4)
    assert replies[6]["expired"] == 80, "nothing rolls over, nothing is renewed"
    assert ledger.balances() == {"u": 0}


def record(quantity: int, reference_id: str) -> RecordUsage:
    return RecordUsage(reference_id=reference_id, user_id="u", meter="search", quantity=quantity)


# -- looking ahead ----------------------------------------------------------------------------------------

_AHEAD = [timedelta(0), MICROSECOND, DAY, 3 * DAY, 28 * DAY, 31 * DAY, 62 * DAY, 366 * DAY]


@examples(150)
@given(passing_days(max_steps=5), st.sampled_from(list(CATALOGS.values())), st.lists(st.sampled_from(_AHEAD)))
def test_account_is_shown_with_all_that_is_due_posted(
    day: Day, catalog: Catalog, steps: Sequence[timedelta]
) -> None:
    ledger, model = FakeLedger(catalog), Model(catalog)
    assert_like_the_model(ledger, model, day)
    before = ledger.rows()
    for step in steps:
        moment = day[-1][0] + step
        for user in ledger.accounts:
            assert seen(ledger, user, moment) == model.view(user, moment)
    assert ledger.rows() == before


def seen(ledger: FakeLedger, user: str, moment: datetime) -> dict[str, Any]:
    lots = [lot for lot in ledger.lots_of(user) if lot.remaining or lot.pending]
    holds = [hold for hold in ledger.holds_of(user) if hold.state == "open"]
    account = account_now(ledger.accounts[user], lots, holds, moment, ledger.catalog)
    used_up = [lot for lot in ledger.lots_of(user) if lot.number not in account.lots]
    every = sorted([*account.lots.values(), *used_up], key=lambda lot: lot.number)
    return {
        "balance": account.state.balance,
        "held": account.state.held,
        "available": account.state.available,
        "debt": account.state.debt,
        "lots": [as_lot(lot) for lot in every],
    }


@examples(100)
@given(passing_days(), st.sampled_from(list(CATALOGS.values())), st.sampled_from(_AHEAD))
def test_account_with_all_posted_waits_for_the_next_due_time(
    day: Day, catalog: Catalog, later: timedelta
) -> None:
    """Otherwise a scheduler would come again and again."""
    ledger, model = FakeLedger(catalog), Model(catalog)
    now = day[-1][0] + later
    last: list[Command] = [
        SettleAccount(reference_id=f"settle-{user}", user_id=user) for user in ("u0", "u1", "u2")
    ]
    assert_like_the_model(ledger, model, [*day, (now, last)])
    for user, account in ledger.accounts.items():
        due = model.next_due(user)
        assert account.due_at is None or now < account.due_at
        assert due is None or (account.due_at is not None and account.due_at <= due)


def test_quotas_are_named_by_the_first_day_of_the_users_own_period() -> None:
    ledger = FakeLedger()
    ledger.apply([opening("pro"), record(3, "m")], NOW)
    assert [(key.meter, key.period_start) for key in ledger.quotas] == [("search", date(2026, 11, 22))]
