"""The read side: queries of the ledger, on both dialects."""

from collections import Counter as Tally
from collections.abc import Callable
from datetime import date, datetime, timedelta
from itertools import count
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from schemas import (
    AdjustCredit,
    DeductUsage,
    FreeUpload,
    PaymentRefunded,
    RecordUsage,
    RefundCredit,
    ReserveUsage,
    SettleUsage,
)
from schemas.fields import INT64_MAX
from tests.support.apply_commands import applied
from tests.support.query_samples import (
    NOW,
    TICK,
    Apply,
    adjusted,
    asked_catalog,
    given,
    on_sqlite,
    opened,
    paid,
    used,
)
from tests.support.strategies import examples
from worker.catalog import Catalog, PaymentPolicy
from worker.errors import LedgerUnavailableError, NotFoundError, QueryError
from worker.ledger.engine import ledger_engine
from worker.ledger.queries import History, Reader, Revenue, UsageReport, snapshot


@pytest.fixture
def catalog() -> Catalog:
    return asked_catalog()


@on_sqlite
@pytest.mark.parametrize(
    "ask",
    [
        lambda reader, catalog: reader.balance("nobody", NOW, catalog),
        lambda reader, catalog: reader.can_afford("nobody", 1, NOW, catalog),
        lambda reader, catalog: reader.balance_at("nobody", NOW, catalog),
        lambda reader, catalog: reader.lots("nobody", NOW, catalog),
        lambda reader, catalog: reader.holds("nobody", NOW, catalog),
        lambda reader, catalog: reader.expiring("nobody", NOW, 30, catalog),
        lambda reader, _: reader.history("nobody"),
        lambda reader, _: reader.statement("nobody", NOW, NOW + TICK).__enter__(),
        lambda reader, catalog: reader.explain("nobody", NOW, catalog),
        lambda reader, catalog: reader.usage("nobody", NOW, catalog),
    ],
    ids=[
        "balance",
        "can_afford",
        "balance_at",
        "lots",
        "holds",
        "expiring",
        "history",
        "statement",
        "explain",
        "usage",
    ],
)
def test_an_unknown_user_is_not_found_and_never_zero(
    reader: Reader, catalog: Catalog, ask: Callable[[Reader, Catalog], object]
) -> None:
    with pytest.raises(NotFoundError, match="'nobody'"):
        ask(reader, catalog)


# -- history ----------------------------------------------------------------------------------------------


def sequences(page: History) -> list[int]:
    return [transaction.sequence for transaction in page.transactions]


@pytest.fixture
def ten_entries(ada: str, apply: Apply) -> str:
    apply(*(used(f"d{number}", number) for number in range(2, 11)), now=NOW)
    return ada


def test_history_has_all_that_explains_an_entry(reader: Reader, ada: str, apply: Apply) -> None:
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
            "code": "tokens_deducted",
            "counter": "usage",
            "amount": -1_500,
            "balanceBefore": 10_000,
            "balanceAfter": 8_500,
            "sequence": 2,
            "lot": 1,
            "source": "bonus",
            "feature": "chat",
            "description": "A long talk",
            "dueAt": None,
            "occurredAt": "2026-11-22T09:15:00Z",
            "recordedAt": "2026-11-22T10:15:00Z",
            "metadata": {"camelOr_snake": True, "n": 7},
        }
    ]


def test_history_names_the_lot_and_says_when_it_fell_due(reader: Reader, ada: str, apply: Apply) -> None:
    end = NOW + TICK
    apply(given(ada, 30, "brief", expires_at=end, priority=0), used("first", 10), now=NOW)
    apply(adjusted(ada, -10_500, allow_negative=True), now=NOW + timedelta(days=1))
    shown = [
        (entry.counter, entry.amount, entry.lot, entry.source, entry.due_at, entry.type)
        for entry in reversed(reader.history(ada, limit=5).transactions)
    ]
    assert shown == [
        ("bonus", 30, 2, "bonus", None, "credit.bonus"),
        ("usage", -10, 2, "bonus", None, "usage.deduct"),
        ("expiry", -20, 2, "bonus", end, "credit.adjust"),
        ("adjustments", -10_000, 1, "bonus", None, "credit.adjust"),
        ("adjustments", -500, None, None, None, "credit.adjust"),
    ]
    assert reader.history(ada, limit=1).transactions[0].description == "a slip"


@on_sqlite
def test_the_two_entries_of_a_purchase_share_their_transaction(
    reader: Reader, ada: str, apply: Apply
) -> None:
    apply(paid(ada), now=NOW)
    bonus, base = reader.history(ada, limit=2).transactions
    assert (base.counter, base.amount) == ("purchases", 250_000)
    assert (bonus.counter, bonus.amount) == ("bonus", 25_000)
    assert base.transaction_id == bonus.transaction_id


@on_sqlite
def test_rejected_usage_is_not_in_the_history(reader: Reader, ada: str, apply: Apply) -> None:
    apply(used("d", 10_001), now=NOW)
    assert sequences(reader.history(ada)) == [1]


@on_sqlite
def test_history_pages_by_offset_from_the_newest(reader: Reader, ten_entries: str) -> None:
    page = reader.history(ten_entries, limit=4, offset=3)
    assert sequences(page) == [7, 6, 5, 4]
    assert (page.total, page.limit, page.offset, page.has_more) == (10, 4, 3, True)


@on_sqlite
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


def test_entries_written_between_two_pages_shift_no_cursor(
    reader: Reader, ten_entries: str, apply: Apply
) -> None:
    first = reader.history(ten_entries, limit=4)
    apply(used("late-1", 1), used("late-2", 1), now=NOW)
    second = reader.history(ten_entries, limit=4, cursor=first.next_cursor)
    assert sequences(first) + sequences(second) == [10, 9, 8, 7, 6, 5, 4, 3]
    assert (second.total, second.offset) == (12, 6)


@on_sqlite
@pytest.mark.parametrize("offset", [10, 11, INT64_MAX])
def test_a_page_behind_the_end_is_empty(reader: Reader, ten_entries: str, offset: int) -> None:
    page = reader.history(ten_entries, offset=offset)
    assert page.transactions == ()
    assert (page.total, page.offset, page.has_more, page.next_cursor) == (10, offset, False, None)


@on_sqlite
def test_an_account_without_entries_has_an_empty_history(reader: Reader, apply: Apply) -> None:
    apply(opened("eve", "none"), now=NOW)
    page = reader.history("eve")
    assert (page.transactions, page.total, page.has_more, page.next_cursor) == ((), 0, False, None)


@on_sqlite
@pytest.mark.parametrize("limit", [0, -1, 1_001])
def test_a_page_has_from_one_to_a_thousand_entries(reader: Reader, ada: str, limit: int) -> None:
    with pytest.raises(QueryError, match="limit must be from 1 to 1000"):
        reader.history(ada, limit=limit)


@on_sqlite
def test_an_offset_is_not_negative(reader: Reader, ada: str) -> None:
    with pytest.raises(QueryError, match="offset must be from 0"):
        reader.history(ada, offset=-1)


@on_sqlite
@pytest.mark.parametrize("cursor", ["", "x", "1.5", "é", "MS4x\n.", "A" * 5_000, "MS41LjY", "LTEuNQ"])
def test_a_cursor_that_is_none_is_refused(reader: Reader, ada: str, cursor: str) -> None:
    with pytest.raises(QueryError, match="cursor"):
        reader.history(ada, cursor=cursor)


@on_sqlite
def test_a_cursor_of_another_account_is_refused(reader: Reader, ten_entries: str, apply: Apply) -> None:
    apply(opened("bob"), now=NOW)
    cursor = reader.history(ten_entries, limit=1).next_cursor
    with pytest.raises(QueryError, match="none of this list's"):
        reader.history("bob", cursor=cursor)


@on_sqlite
def test_a_page_begins_at_an_offset_or_a_cursor_and_not_at_both(reader: Reader, ten_entries: str) -> None:
    cursor = reader.history(ten_entries, limit=1).next_cursor
    with pytest.raises(QueryError, match="not both"):
        reader.history(ten_entries, offset=1, cursor=cursor)


# -- usage ------------------------------------------------------------------------------------------------


def by_day(usage: UsageReport) -> dict[str, int]:
    return {day.day.isoformat(): day.used for day in usage.by_day if day.used}


def test_usage_has_every_day_and_adds_up_by_day_and_by_feature(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(
        used("a", 100, "2026-11-20T12:00:00Z", "chat"),
        used("b", 30, "2026-11-22T01:00:00Z", "chat"),
        used("c", 200, "2026-11-22T02:00:00Z", "search"),
        used("d", 7, "2026-11-22T03:00:00Z"),
        used("too old", 1_000, "2026-11-19T23:59:59Z"),
        now=NOW,
    )
    assert reader.usage(ada, NOW, catalog, days=3).to_dict() == {
        "userId": "ada",
        "timezone": "UTC",
        "days": 3,
        "firstDay": "2026-11-20",
        "lastDay": "2026-11-22",
        "totalUsed": 337,
        "averagePerDay": 112,
        "entries": 4,
        "byDay": [
            {
                "day": "2026-11-20",
                "used": 100,
                "entries": 1,
                "byFeature": {"chat": 100},
                "byType": {"usage.deduct": 100},
            },
            {"day": "2026-11-21", "used": 0, "entries": 0, "byFeature": {}, "byType": {}},
            {
                "day": "2026-11-22",
                "used": 237,
                "entries": 3,
                "byFeature": {"search": 200, "chat": 30, "unlabelled": 7},
                "byType": {"usage.deduct": 237},
            },
        ],
        "byFeature": {"search": 200, "chat": 130, "unlabelled": 7},
        "byType": {"usage.deduct": 337},
        "balance": 8_663,
        "projection": {
            "daysToEmpty": 77,
            "daysObserved": 3,
            "method": "balance / (totalUsed / daysObserved), rounded down",
        },
    }


@on_sqlite
def test_projection_without_usage_divides_nothing_by_zero(reader: Reader, ada: str, catalog: Catalog) -> None:
    usage = reader.usage(ada, NOW, catalog)
    assert (usage.total_used, usage.average_per_day, usage.entries) == (0, 0, 0)
    assert usage.projection.days_to_empty is None
    assert len(usage.by_day) == 30


@on_sqlite
def test_event_counts_on_the_day_it_occurred_and_not_when_it_was_posted(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(used("late", 5, "2026-11-01T12:00:00Z"), now=NOW)
    assert by_day(reader.usage(ada, NOW, catalog)) == {"2026-11-01": 5}


def test_all_that_is_taken_for_usage_is_usage_and_nothing_else(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(
        used("d", 50),
        RefundCredit(reference_id="r", user_id=ada, tokens=50),
        FreeUpload(reference_id="f", user_id=ada, bytes=9),
        paid(ada),
        adjusted(ada, -7),
        ReserveUsage(reference_id="h", user_id=ada, tokens=500, ttl_seconds=60),
        SettleUsage(
            reference_id="s", user_id=ada, original_reference_id="h", tokens=300, feature="translation"
        ),
        RecordUsage(reference_id="m", user_id=ada, meter="ocr", quantity=6),
        now=NOW,
    )
    apply(opened("bob"), DeductUsage(reference_id="bob-d", user_id="bob", tokens=3), now=NOW)
    assert reader.usage(ada, NOW, catalog).by_feature == {"translation": 300, "ocr": 120, "unlabelled": 50}


@on_sqlite
def test_a_debt_lasts_for_no_day_more(reader: Reader, ada: str, apply: Apply, catalog: Catalog) -> None:
    apply(used("d", 50), adjusted(ada, -20_000, allow_negative=True), now=NOW)
    assert reader.usage(ada, NOW, catalog).projection.days_to_empty == 0


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
    reader: Reader, ada: str, apply: Apply, zone: str, now_text: str, catalog: Catalog
) -> None:
    now = datetime.fromisoformat(now_text)
    start = now - timedelta(days=4)
    times = [start + timedelta(minutes=15 * number) for number in range(4 * 24 * 4 + 1)]
    apply(*(used(f"d{number}", number + 1, at.isoformat()) for number, at in enumerate(times[:130])), now=now)
    apply(
        *(used(f"e{number}", 1, at.isoformat()) for number, at in enumerate(times[130:])),
        now=now,
    )
    usage = reader.usage(ada, now, catalog, days=10, timezone=zone)
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


_users = count()
_SKEW = timedelta(hours=11)  # of a worker's clock, either way


@settings(examples(12), suppress_health_check=list(HealthCheck))
@drawn(
    posted=st.lists(
        st.tuples(
            st.sampled_from([timedelta(hours=hours) for hours in (0, 1, 5, 9, 40)]),  # later than the last
            st.sampled_from([-_SKEW, timedelta(0), _SKEW]),
            st.none() | st.sampled_from([timedelta(hours=hours) for hours in (-700, -30, -3, 8, 24)]),
        ),
        min_size=6,
        max_size=14,
    ),
    days=st.integers(1, 4),
    zone=st.sampled_from(["UTC", "Asia/Kathmandu", "America/Santiago"]),
)
def test_usage_is_the_sum_of_all_entries_in_any_order_of_posting(
    engine: Engine,
    catalog: Catalog,
    posted: list[tuple[timedelta, timedelta, timedelta | None]],
    days: int,
    zone: str,
) -> None:
    """The entries come from workers whose clocks differ, and from events long past or still to come."""
    user, moment, occurred = f"user-{next(_users)}", NOW, Tally[date]()
    moments: list[datetime] = []
    applied(engine, catalog, opened(user, "none"), given(user, 10_000), now=NOW - timedelta(days=1))
    for number, (later, skew, ahead) in enumerate(posted):
        moment += later
        clock = moment + skew
        at = None if ahead is None else clock + ahead
        moments.append(moment)
        deduction = DeductUsage(reference_id=f"{user}-{number}", user_id=user, tokens=1, occurred_at=at)
        applied(engine, catalog, deduction, now=clock)
        occurred[(at or clock).astimezone(ZoneInfo(zone)).date()] += 1
    for now in moments:
        usage = Reader(engine).usage(user, now, catalog, days=days, timezone=zone)
        assert {day.day: day.used for day in usage.by_day} == {
            day.day: occurred[day.day] for day in usage.by_day
        }


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
    reader: Reader, ada: str, apply: Apply, zone: str, last: str, first: str, catalog: Catalog
) -> None:
    apply(used("last", 1, last), used("first", 2, first), now=NOW)
    assert [
        day.used for day in reader.usage(ada, NOW, catalog, days=366, timezone=zone).by_day if day.used
    ] == [1, 2]


def test_the_last_microsecond_of_today_is_today(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(
        used("today", 1, "2026-11-22T23:59:59.999999+00:00"),
        used("tomorrow", 2, "2026-11-23T00:00:00+00:00"),
        now=NOW,
    )
    assert by_day(reader.usage(ada, NOW, catalog, days=1)) == {"2026-11-22": 1}


@on_sqlite
def test_the_projection_looks_only_at_days_since_the_account_was_opened(
    reader: Reader, apply: Apply, catalog: Catalog
) -> None:
    apply(opened("ada"), now=NOW - timedelta(days=1))
    apply(used("d", 2_000), now=NOW)
    projection = reader.usage("ada", NOW, catalog, days=30).projection
    assert (projection.days_observed, projection.days_to_empty) == (2, 8)


@on_sqlite
@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "Europe", "Europe/Berlin\0", "/etc"])
def test_an_unknown_time_zone_is_refused_by_name(
    reader: Reader, ada: str, zone: str, catalog: Catalog
) -> None:
    with pytest.raises(QueryError, match="is not known; give an IANA name"):
        reader.usage(ada, NOW, catalog, timezone=zone)


@on_sqlite
@pytest.mark.parametrize("days", [0, -1, 367])
def test_usage_covers_from_one_day_to_a_leap_year(
    reader: Reader, ada: str, days: int, catalog: Catalog
) -> None:
    with pytest.raises(QueryError, match="days must be from 1 to 366"):
        reader.usage(ada, NOW, catalog, days=days)


# -- stats ------------------------------------------------------------------------------------------------


def test_an_empty_ledger_has_totals_of_zero(reader: Reader) -> None:
    stats = reader.stats()
    assert (stats.users, stats.total_balance, stats.average_balance) == (0, 0, 0)
    assert (stats.operations, stats.revenue, stats.payments) == ((), (), 0)


def test_stats_add_up_the_whole_ledger(reader: Reader, ada: str, apply: Apply, catalog: Catalog) -> None:
    written_off = catalog.model_copy(update={"payments": PaymentPolicy(when_spent="write_off")})
    apply(
        opened("bob", "basic"),
        paid("ada"),
        paid("bob"),
        used("d", 1_501),
        used("x", 10**9),
        RefundCredit(reference_id="r", user_id=ada, tokens=400),
        given("bob", 40, "brief", expires_at=NOW + TICK),
        ReserveUsage(reference_id="h", user_id="bob", tokens=300, ttl_seconds=60),
        now=NOW,
    )
    apply(
        adjusted("bob", 30),
        DeductUsage(reference_id="all", user_id="ada", tokens=283_899),
        now=NOW + TICK,
    )
    applied(
        reader._engine,
        written_off,
        PaymentRefunded(
            reference_id="back",
            user_id="ada",
            original_reference_id="pay-ada",
            amount_minor=1_999,
            currency="USD",
        ),
        now=NOW + TICK,
    )
    apply(
        AdjustCredit(
            reference_id="a",
            user_id="ada",
            tokens=-5,
            reason="late",
            actor="ann",
            allow_negative=True,
        ),
        PaymentRefunded(
            reference_id="half",
            user_id="bob",
            original_reference_id="pay-bob",
            amount_minor=999,
            currency="USD",
        ),
        now=NOW + TICK,
    )
    stats = reader.stats().to_dict()
    operations, revenue = stats.pop("operations"), stats.pop("revenue")
    assert stats == {
        "users": 2,
        "totalBalance": 237_595,
        "totalHeld": 300,
        "totalDebt": 5,
        "totalAllocated": 100_000,
        "totalPurchased": 500_000,
        "totalBonus": 60_040,
        "totalRefunded": 400,
        "totalAdjusted": 25,
        "totalUsed": 285_400,
        "totalExpired": 40,
        "totalReversed": 137_430,  # 124,937, and 12,493 of the bonus
        "totalUncollected": 275_000,
        "averageBalance": 118_797,
        "payments": 2,
        "accountsByTier": {"basic": 1, "none": 1},
    }
    assert operations[:2] == [
        {"type": "account.open", "status": "applied", "code": "account_opened", "count": 2},
        {"type": "credit.adjust", "status": "applied", "code": "adjustment_credited", "count": 1},
    ]
    assert operations[-1] == {
        "type": "usage.reserve",
        "status": "applied",
        "code": "tokens_reserved",
        "count": 1,
    }
    assert revenue == [{"currency": "USD", "payments": 2, "amountMinor": 3_998}]
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
        assert reader.balance(ada, NOW, catalog).subscription.tier == "none"


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
