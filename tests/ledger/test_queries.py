"""The read side: what one can ask of the ledger, on both dialects."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine, text

from schemas import (
    BonusCredit,
    DeductUsage,
    FreeUpload,
    OpenAccount,
    PaymentSucceeded,
    RefundCredit,
)
from schemas.fields import INT64_MAX
from worker.catalog import Catalog
from worker.core import Decided
from worker.errors import LedgerUnavailableError, NotFoundError
from worker.ledger.engine import ledger_engine
from worker.ledger.queries import History, OperationCount, QueryError, Reader, Revenue, Usage, snapshot

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)

Apply = Callable[..., Any]


@pytest.fixture
def reader(engine: Engine) -> Reader:
    return Reader(engine)


@pytest.fixture
def ada(apply: Apply) -> str:
    """A user with 10,000 tokens, the allocation of the free tier, opened a year ago."""
    apply(opened("ada"), now=NOW - timedelta(days=365))
    return "ada"


def opened(user: str, tier: str = "free") -> OpenAccount:
    return OpenAccount(reference_id=f"open-{user}", user_id=user, tier=tier)


def paid(user: str) -> PaymentSucceeded:
    return PaymentSucceeded(
        reference_id=f"pay-{user}", user_id=user, package_id="standard", amount_minor=1_999, currency="USD"
    )


def used(reference: str, tokens: int, at: str | None = None, feature: str | None = None) -> DeductUsage:
    """A deduction of ada's; ``at`` is an ISO 8601 time with its offset."""
    occurred_at = None if at is None else datetime.fromisoformat(at)
    return DeductUsage(
        reference_id=reference, user_id="ada", tokens=tokens, feature=feature, occurred_at=occurred_at
    )


# -- balance ----------------------------------------------------------------------------------------------


def test_a_balance_is_explained_by_its_sums(reader: Reader, ada: str, apply: Apply, catalog: Catalog) -> None:
    apply(
        used("d", 1_500),
        paid(ada),
        RefundCredit(reference_id="r", user_id=ada, tokens=400),
        BonusCredit(reference_id="b", user_id=ada, tokens=100),
        FreeUpload(reference_id="f", user_id=ada, bytes=1_000),
        now=NOW,
    )
    assert reader.balance(ada, NOW, catalog).to_dict() == {
        "userId": "ada",
        "tier": "free",
        "balance": 284_000,
        "available": 284_000,
        "allocated": 10_000,
        "purchased": 250_000,
        "bonus": 25_100,
        "refunded": 400,
        "used": 1_500,
        "sequence": 6,
        "openedAt": "2025-11-22T10:15:00Z",
        "updatedAt": "2026-11-22T10:15:00Z",
        "freeUpload": {
            "limitBytes": 104_857_600,
            "usedBytes": 1_000,
            "remainingBytes": 104_856_600,
            "periodStart": "2026-11-01T00:00:00Z",
            "periodEnd": "2026-12-01T00:00:00Z",
        },
    }


def test_a_new_month_begins_with_the_whole_free_upload(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(FreeUpload(reference_id="f", user_id=ada, bytes=1_000), now=NOW)
    december = datetime(2026, 12, 1, tzinfo=UTC)
    before = reader.balance(ada, december - timedelta(microseconds=1), catalog).free_upload
    after = reader.balance(ada, december, catalog).free_upload
    assert (before.used_bytes, after.used_bytes) == (1_000, 0)
    assert (after.period_start, after.period_end) == (december, datetime(2027, 1, 1, tzinfo=UTC))


def test_the_month_is_that_of_utc_wherever_now_was_read(reader: Reader, ada: str, catalog: Catalog) -> None:
    december_in_auckland = datetime.fromisoformat("2026-12-01T08:00:00+13:00")
    quota = reader.balance(ada, december_in_auckland, catalog).free_upload
    assert quota.period_start == datetime(2026, 11, 1, tzinfo=UTC)


def test_a_lowered_limit_leaves_nothing_and_not_less(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(FreeUpload(reference_id="f", user_id=ada, bytes=1_000), now=NOW)
    free = catalog.tiers["free"].model_copy(update={"free_upload_bytes": 999})
    lowered = catalog.model_copy(update={"tiers": {"free": free}})
    quota = reader.balance(ada, NOW, lowered).free_upload
    assert (quota.limit_bytes, quota.used_bytes, quota.remaining_bytes) == (999, 1_000, 0)


def test_a_tier_that_left_the_catalog_has_no_limit_to_name(
    reader: Reader, ada: str, catalog: Catalog
) -> None:
    quota = reader.balance(ada, NOW, catalog.model_copy(update={"tiers": {}})).free_upload
    assert (quota.limit_bytes, quota.remaining_bytes) == (None, 0)


@pytest.mark.parametrize(
    "ask",
    [
        lambda reader, catalog: reader.balance("nobody", NOW, catalog),
        lambda reader, catalog: reader.can_afford("nobody", 1, NOW, catalog),
        lambda reader, _: reader.history("nobody"),
        lambda reader, _: reader.usage("nobody", NOW),
    ],
    ids=["balance", "can_afford", "history", "usage"],
)
def test_an_unknown_user_is_not_found_and_never_zero(
    reader: Reader, catalog: Catalog, ask: Callable[[Reader, Catalog], object]
) -> None:
    with pytest.raises(NotFoundError, match="'nobody'"):
        ask(reader, catalog)


# -- can afford -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 9_999, 10_000, 10_001, INT64_MAX])
def test_what_can_be_afforded_is_what_a_deduction_would_do(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog, tokens: int
) -> None:
    answer = reader.can_afford(ada, tokens, NOW, catalog)
    (decided,) = apply(used("d", tokens), now=NOW)
    assert isinstance(decided, Decided)
    assert answer.can_afford == decided.outcome.is_applied
    assert (answer.required, answer.available) == (tokens, 10_000)
    assert answer.shortfall == max(tokens - 10_000, 0)


def test_asking_what_can_be_afforded_takes_nothing(reader: Reader, ada: str, catalog: Catalog) -> None:
    reader.can_afford(ada, 10_000, NOW, catalog)
    assert reader.balance(ada, NOW, catalog).balance == 10_000
    assert reader.stats().operations == (OperationCount("account.open", "applied", "account_opened", 1),)


@pytest.mark.parametrize("tokens", [0, -1, INT64_MAX + 1])
def test_only_a_number_of_tokens_that_a_deduction_may_name_can_be_asked_for(
    reader: Reader, ada: str, catalog: Catalog, tokens: int
) -> None:
    with pytest.raises(QueryError, match="tokens must be from 1"):
        reader.can_afford(ada, tokens, NOW, catalog)


# -- history ----------------------------------------------------------------------------------------------


def sequences(page: History) -> list[int]:
    return [transaction.sequence for transaction in page.transactions]


@pytest.fixture
def ten_entries(ada: str, apply: Apply) -> str:
    apply(*(used(f"d{number}", number) for number in range(2, 11)), now=NOW)
    return ada


def test_history_tells_of_each_entry_all_that_explains_it(reader: Reader, ada: str, apply: Apply) -> None:
    (answer,) = apply(
        DeductUsage(
            reference_id="d",
            user_id=ada,
            tokens=1_500,
            feature="chat",
            description="A long talk",
            occurred_at=NOW - timedelta(hours=1),
            metadata={"camelOr_snake": True, "n": 7},
        ),
        now=NOW,
    )
    assert reader.history(ada, limit=1).to_dict()["transactions"] == [
        {
            "transactionId": str(answer.outcome.transaction_id),
            "referenceId": "d",
            "type": "usage.deduct",
            "counter": "usage",
            "amount": -1_500,
            "balanceBefore": 10_000,
            "balanceAfter": 8_500,
            "sequence": 2,
            "feature": "chat",
            "description": "A long talk",
            "occurredAt": "2026-11-22T09:15:00Z",
            "recordedAt": "2026-11-22T10:15:00Z",
            "metadata": {"camelOr_snake": True, "n": 7},
        }
    ]


def test_the_two_entries_of_a_purchase_share_their_transaction(
    reader: Reader, ada: str, apply: Apply
) -> None:
    apply(paid(ada), now=NOW)
    bonus, base = reader.history(ada, limit=2).transactions
    assert (base.counter, base.amount) == ("purchases", 250_000)
    assert (bonus.counter, bonus.amount) == ("bonus", 25_000)
    assert base.transaction_id == bonus.transaction_id


def test_what_was_refused_is_no_history(reader: Reader, ada: str, apply: Apply) -> None:
    apply(used("d", 10_001), now=NOW)
    assert sequences(reader.history(ada)) == [1]


def test_history_pages_by_offset_from_the_newest(reader: Reader, ten_entries: str) -> None:
    page = reader.history(ten_entries, limit=4, offset=3)
    assert sequences(page) == [7, 6, 5, 4]
    assert (page.total, page.limit, page.offset, page.has_more) == (10, 4, 3, True)


@pytest.mark.parametrize("limit", [1, 3, 5, 9, 10, 11])
def test_cursors_lead_through_every_entry_once(reader: Reader, ten_entries: str, limit: int) -> None:
    seen: list[int] = []
    page = reader.history(ten_entries, limit=limit)
    while True:
        assert page.offset == len(seen)
        seen += sequences(page)
        assert page.has_more == (page.next_cursor is not None)
        if page.next_cursor is None:
            break
        page = reader.history(ten_entries, limit=limit, cursor=page.next_cursor)
    assert seen == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]


def test_what_is_written_between_two_pages_shifts_no_cursor(
    reader: Reader, ten_entries: str, apply: Apply
) -> None:
    first = reader.history(ten_entries, limit=4)
    apply(used("late-1", 1), used("late-2", 1), now=NOW)
    second = reader.history(ten_entries, limit=4, cursor=first.next_cursor)
    assert sequences(first) + sequences(second) == [10, 9, 8, 7, 6, 5, 4, 3]
    assert (second.total, second.offset) == (12, 6)


@pytest.mark.parametrize("offset", [10, 11, INT64_MAX])
def test_a_page_behind_the_end_is_empty(reader: Reader, ten_entries: str, offset: int) -> None:
    page = reader.history(ten_entries, offset=offset)
    assert page.transactions == ()
    assert (page.total, page.offset, page.has_more, page.next_cursor) == (10, offset, False, None)


def test_an_account_without_entries_has_an_empty_history(
    reader: Reader, engine: Engine, apply: Apply
) -> None:
    apply(opened("ada"), now=NOW)
    with engine.begin() as connection:  # as on a tier without tokens
        connection.execute(
            text(
                "INSERT INTO accounts (user_id, tier, opened_at, updated_at)"
                " SELECT 'eve', tier, opened_at, updated_at FROM accounts"
            )
        )
    page = reader.history("eve")
    assert (page.transactions, page.total, page.has_more, page.next_cursor) == ((), 0, False, None)


@pytest.mark.parametrize("limit", [0, -1, 1_001])
def test_a_page_has_from_one_to_a_thousand_entries(reader: Reader, ada: str, limit: int) -> None:
    with pytest.raises(QueryError, match="limit must be from 1 to 1000"):
        reader.history(ada, limit=limit)


def test_an_offset_is_not_negative(reader: Reader, ada: str) -> None:
    with pytest.raises(QueryError, match="offset must be from 0"):
        reader.history(ada, offset=-1)


@pytest.mark.parametrize("cursor", ["", "x", "1.5", "é", "MS4x\n.", "A" * 5_000, "MS41LjY", "LTEuNQ"])
def test_a_cursor_that_is_none_is_refused(reader: Reader, ada: str, cursor: str) -> None:
    with pytest.raises(QueryError, match="cursor"):
        reader.history(ada, cursor=cursor)


def test_a_cursor_of_another_account_is_refused(reader: Reader, ten_entries: str, apply: Apply) -> None:
    apply(opened("bob"), now=NOW)
    cursor = reader.history(ten_entries, limit=1).next_cursor
    with pytest.raises(QueryError, match="none of this account's"):
        reader.history("bob", cursor=cursor)


def test_a_page_begins_at_an_offset_or_a_cursor_and_not_at_both(reader: Reader, ten_entries: str) -> None:
    cursor = reader.history(ten_entries, limit=1).next_cursor
    with pytest.raises(QueryError, match="not both"):
        reader.history(ten_entries, offset=1, cursor=cursor)


# -- usage ------------------------------------------------------------------------------------------------


def by_day(usage: Usage) -> dict[str, int]:
    return {day.day.isoformat(): day.used for day in usage.by_day if day.used}


def test_usage_has_every_day_and_adds_up_by_day_and_by_feature(
    reader: Reader, ada: str, apply: Apply
) -> None:
    apply(
        used("a", 100, "2026-11-20T12:00:00Z", "chat"),
        used("b", 30, "2026-11-22T01:00:00Z", "chat"),
        used("c", 200, "2026-11-22T02:00:00Z", "search"),
        used("d", 7, "2026-11-22T03:00:00Z"),
        used("too old", 1_000, "2026-11-19T23:59:59Z"),
        now=NOW,
    )
    assert reader.usage(ada, NOW, days=3).to_dict() == {
        "userId": "ada",
        "timezone": "UTC",
        "days": 3,
        "firstDay": "2026-11-20",
        "lastDay": "2026-11-22",
        "totalUsed": 337,
        "averagePerDay": 112,
        "entries": 4,
        "byDay": [
            {"day": "2026-11-20", "used": 100, "entries": 1, "byFeature": {"chat": 100}},
            {"day": "2026-11-21", "used": 0, "entries": 0, "byFeature": {}},
            {
                "day": "2026-11-22",
                "used": 237,
                "entries": 3,
                "byFeature": {"search": 200, "chat": 30, "unlabelled": 7},
            },
        ],
        "byFeature": {"search": 200, "chat": 130, "unlabelled": 7},
        "balance": 8_663,
        "projection": {
            "daysToEmpty": 77,
            "daysObserved": 3,
            "method": "balance / (totalUsed / daysObserved), rounded down",
        },
    }


def test_without_usage_nothing_is_divided_by_zero(reader: Reader, ada: str) -> None:
    usage = reader.usage(ada, NOW)
    assert (usage.total_used, usage.average_per_day, usage.entries) == (0, 0, 0)
    assert usage.projection.days_to_empty is None
    assert len(usage.by_day) == 30


def test_an_event_counts_on_the_day_it_occurred_and_not_when_it_was_booked(
    reader: Reader, ada: str, apply: Apply
) -> None:
    apply(used("late", 5, "2026-11-01T12:00:00Z"), now=NOW)
    assert by_day(reader.usage(ada, NOW)) == {"2026-11-01": 5}


def test_only_deductions_are_usage(reader: Reader, ada: str, apply: Apply) -> None:
    apply(
        used("d", 50),
        RefundCredit(reference_id="r", user_id=ada, tokens=50),
        FreeUpload(reference_id="f", user_id=ada, bytes=9),
        paid(ada),
        now=NOW,
    )
    apply(opened("bob"), DeductUsage(reference_id="bob-d", user_id="bob", tokens=3), now=NOW)
    assert reader.usage(ada, NOW).total_used == 50


# Zones whose clocks change within the range, or whose offset is no whole hour; days at their edges.
ZONES = [
    ("UTC", "2026-11-22T12:00:00Z"),
    ("Europe/Berlin", "2026-10-26T12:00:00Z"),  # a day of 25 hours
    ("Europe/Berlin", "2026-03-30T12:00:00Z"),  # a day of 23 hours
    ("America/Santiago", "2026-09-07T12:00:00Z"),  # a midnight that doesn't exist
    ("America/Havana", "2026-11-02T12:00:00Z"),  # a midnight that comes twice
    ("Australia/Lord_Howe", "2026-04-06T12:00:00Z"),  # clocks change by half an hour
    ("Asia/Kathmandu", "2026-11-22T12:00:00Z"),  # +05:45
    ("Pacific/Chatham", "2026-09-28T12:00:00Z"),  # +12:45, and they change
    ("Asia/Kolkata", "2026-11-22T12:00:00Z"),  # +05:30
]


@pytest.mark.parametrize(("zone", "now_text"), ZONES)
def test_days_add_up_to_the_total_over_a_daylight_saving_change(
    reader: Reader, ada: str, apply: Apply, zone: str, now_text: str
) -> None:
    now = datetime.fromisoformat(now_text)
    start = now - timedelta(days=4)
    times = [start + timedelta(minutes=15 * number) for number in range(4 * 24 * 4 + 1)]
    apply(*(used(f"d{number}", number + 1, at.isoformat()) for number, at in enumerate(times[:130])), now=now)
    apply(
        *(used(f"e{number}", 1, at.isoformat()) for number, at in enumerate(times[130:])),
        now=now,
    )
    usage = reader.usage(ada, now, days=10, timezone=zone)
    assert usage.entries == len(times)
    assert usage.total_used == sum(day.used for day in usage.by_day) == sum(usage.by_feature.values())
    assert usage.total_used == 10_000 - usage.balance
    assert _local_days(zone, times) == {day.day: day.entries for day in usage.by_day if day.entries}


def _local_days(zone: str, times: list[datetime]) -> dict[date, int]:
    days: dict[date, int] = {}
    for at in times:
        day = at.astimezone(ZoneInfo(zone)).date()
        days[day] = days.get(day, 0) + 1
    return days


@pytest.mark.parametrize(
    ("zone", "last", "first"),
    [
        ("UTC", "2026-11-20T23:59:59.999999+00:00", "2026-11-21T00:00:00+00:00"),
        ("Europe/Berlin", "2026-10-24T21:59:59.999999+00:00", "2026-10-24T22:00:00+00:00"),
        ("Europe/Berlin", "2026-10-25T22:59:59.999999+00:00", "2026-10-25T23:00:00+00:00"),
        ("Asia/Kathmandu", "2026-11-20T18:14:59.999999+00:00", "2026-11-20T18:15:00+00:00"),
        ("America/Santiago", "2026-09-06T03:59:59.999999+00:00", "2026-09-06T04:00:00+00:00"),
    ],
)
def test_a_day_ends_at_its_last_microsecond(
    reader: Reader, ada: str, apply: Apply, zone: str, last: str, first: str
) -> None:
    apply(used("last", 1, last), used("first", 2, first), now=NOW)
    assert [day.used for day in reader.usage(ada, NOW, days=366, timezone=zone).by_day if day.used] == [1, 2]


def test_the_last_microsecond_of_today_is_today(reader: Reader, ada: str, apply: Apply) -> None:
    apply(
        used("today", 1, "2026-11-22T23:59:59.999999+00:00"),
        used("tomorrow", 2, "2026-11-23T00:00:00+00:00"),
        now=NOW,
    )
    assert by_day(reader.usage(ada, NOW, days=1)) == {"2026-11-22": 1}


def test_the_projection_looks_only_at_days_since_the_account_was_opened(reader: Reader, apply: Apply) -> None:
    apply(opened("ada"), now=NOW - timedelta(days=1))
    apply(used("d", 2_000), now=NOW)
    projection = reader.usage("ada", NOW, days=30).projection
    assert (projection.days_observed, projection.days_to_empty) == (2, 8)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "Europe", "Europe/Berlin\0", "/etc"])
def test_an_unknown_time_zone_is_refused_by_name(reader: Reader, ada: str, zone: str) -> None:
    with pytest.raises(QueryError, match="is not known; give an IANA name"):
        reader.usage(ada, NOW, timezone=zone)


@pytest.mark.parametrize("days", [0, -1, 367])
def test_usage_covers_from_one_day_to_a_leap_year(reader: Reader, ada: str, days: int) -> None:
    with pytest.raises(QueryError, match="days must be from 1 to 366"):
        reader.usage(ada, NOW, days=days)


# -- stats ------------------------------------------------------------------------------------------------


def test_an_empty_ledger_has_totals_of_zero(reader: Reader) -> None:
    stats = reader.stats()
    assert (stats.users, stats.total_balance, stats.average_balance) == (0, 0, 0)
    assert (stats.operations, stats.revenue, stats.payments) == ((), (), 0)


def test_stats_add_up_the_whole_ledger(reader: Reader, ada: str, apply: Apply) -> None:
    apply(
        opened("bob", "basic"),
        paid("ada"),
        paid("bob"),
        used("d", 1_501),
        used("x", 10**9),
        RefundCredit(reference_id="r", user_id=ada, tokens=400),
        now=NOW,
    )
    assert reader.stats().to_dict() == {
        "users": 2,
        "totalBalance": 658_899,
        "totalAllocated": 110_000,
        "totalPurchased": 500_000,
        "totalBonus": 50_000,
        "totalRefunded": 400,
        "totalUsed": 1_501,
        "averageBalance": 329_449,
        "payments": 2,
        "accountsByTier": {"basic": 1, "free": 1},
        "operations": [
            {"type": "account.open", "status": "applied", "code": "account_opened", "count": 2},
            {"type": "credit.refund", "status": "applied", "code": "tokens_refunded", "count": 1},
            {"type": "payment.succeeded", "status": "applied", "code": "tokens_purchased", "count": 2},
            {"type": "usage.deduct", "status": "applied", "code": "tokens_deducted", "count": 1},
            {"type": "usage.deduct", "status": "rejected", "code": "insufficient_balance", "count": 1},
        ],
        "revenue": [{"currency": "USD", "payments": 2, "amountMinor": 3_998}],
    }
    assert reader.stats().revenue == (Revenue("USD", 2, 3_998),)


# -- the snapshot -----------------------------------------------------------------------------------------


def test_a_snapshot_does_not_see_what_is_committed_meanwhile(engine: Engine, ada: str, apply: Apply) -> None:
    with snapshot(engine) as connection:
        before = connection.execute(text("SELECT balance FROM accounts")).scalar_one()
        apply(used("d", 1), now=NOW)
        assert connection.execute(text("SELECT balance FROM accounts")).scalar_one() == before


def test_a_reader_needs_no_write_lock(reader: Reader, ada: str, engine: Engine, catalog: Catalog) -> None:
    with engine.begin() as writer:
        writer.execute(text("UPDATE accounts SET tier = 'pro'"))
        assert reader.balance(ada, NOW, catalog).tier == "free"


def test_the_connection_of_a_snapshot_writes_again_afterwards(engine: Engine, ada: str) -> None:
    with snapshot(engine) as connection:
        connection.execute(text("SELECT 1"))
    with engine.begin() as connection:
        assert connection.execute(text("UPDATE accounts SET tier = 'pro'")).rowcount == 1


def test_a_snapshot_refuses_to_write_on_postgresql(postgres_url: str) -> None:
    engine = ledger_engine(postgres_url)
    with pytest.raises(LedgerUnavailableError, match="read-only"), snapshot(engine) as connection:
        connection.execute(text("UPDATE accounts SET balance = 0"))
    engine.dispose()
