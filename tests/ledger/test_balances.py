"""Balances: the tokens in all and those that may be spent, with all that is due."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from sqlalchemy import Engine

from schemas import (
    BonusCredit,
    CancelSubscription,
    DeductUsage,
    FreeUpload,
    RecordUsage,
    RefundCredit,
    ReserveUsage,
    SettleAccount,
)
from schemas.fields import INT64_MAX
from tests.support.apply_commands import applied
from tests.support.in_world import in_world
from tests.support.query_samples import (
    NOW,
    TICK,
    Apply,
    adjusted,
    asked_catalog,
    on_sqlite,
    opened,
    paid,
    used,
)
from tests.support.strategies import SMALL_CATALOG, Day, examples, passing_days
from worker.catalog import Catalog
from worker.core import Decided
from worker.errors import QueryError
from worker.ledger.queries import OperationCount, Reader


@pytest.fixture
def catalog() -> Catalog:
    return asked_catalog()


# -- balance ----------------------------------------------------------------------------------------------


def test_a_balance_is_explained_by_its_sums(reader: Reader, ada: str, apply: Apply, catalog: Catalog) -> None:
    apply(
        used("d", 1_500),
        paid(ada),
        RefundCredit(reference_id="r", user_id=ada, tokens=400),
        adjusted(ada, 7),
        BonusCredit(reference_id="b", user_id=ada, tokens=100, effective_at=NOW + timedelta(days=3)),
        FreeUpload(reference_id="f", user_id=ada, bytes=900),
        RecordUsage(reference_id="m", user_id=ada, meter="ocr", quantity=3),
        ReserveUsage(reference_id="h", user_id=ada, tokens=2_000, ttl_seconds=60),
        now=NOW,
    )
    assert reader.balance(ada, NOW, catalog).to_dict() == {
        "userId": "ada",
        "at": "2026-11-22T10:15:00Z",
        "balance": 283_907,
        "held": 2_000,
        "available": 281_907,
        "debt": 0,
        "pending": 100,
        "lots": {
            "purchase": 250_000,
            "purchase_bonus": 25_000,
            "bonus": 8_500,
            "refund": 400,
            "adjustment": 7,
        },
        "allocated": 0,
        "purchased": 250_000,
        "bonus": 35_000,
        "refunded": 400,
        "adjusted": 7,
        "used": 1_500,
        "expired": 0,
        "reversed": 0,
        "subscription": {
            "tier": "none",
            "periodStart": "2026-11-22T10:15:00Z",
            "periodEnd": "2026-12-22T10:15:00Z",
            "grantedUntil": "2026-12-22T10:15:00Z",
            "endsAt": None,
        },
        "monthlyAllocation": 0,
        "quotas": [
            {"name": "free_upload", "unit": "byte", "limit": 1_000, "used": 900, "remaining": 100},
            {"name": "ocr", "unit": "page", "limit": 5, "used": 3, "remaining": 2},
        ],
        "nextCreditAt": "2026-11-25T10:15:00Z",
        "nextCreditTokens": 100,
        "unsettled": {"tokens": 0, "expired": 0, "entries": 0, "holds": 0},
        "sequence": 6,
        "openedAt": "2025-11-22T10:15:00Z",
        "updatedAt": "2026-11-22T10:15:00Z",
        "frozenAt": None,
    }


@on_sqlite
def test_a_debt_is_taken_off_what_the_lots_hold(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(adjusted(ada, -10_300, allow_negative=True), now=NOW)
    view = reader.balance(ada, NOW, catalog)
    assert (view.balance, view.available, view.debt, view.lots) == (-300, -300, 300, {})


def test_a_new_period_begins_with_the_whole_quota(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(FreeUpload(reference_id="f", user_id=ada, bytes=900), now=NOW)
    next_period = NOW + timedelta(days=30)
    before = reader.balance(ada, next_period - TICK, catalog)
    after = reader.balance(ada, next_period, catalog)
    assert (before.quotas[0].used, after.quotas[0].used) == (900, 0)
    assert (after.subscription.period_start, after.subscription.period_end) == (
        next_period,
        datetime(2027, 1, 22, 10, 15, tzinfo=UTC),
    )


@on_sqlite
def test_periods_follow_the_anchor_over_the_ends_of_short_months(
    reader: Reader, apply: Apply, catalog: Catalog
) -> None:
    anchor = datetime(2026, 1, 31, 12, tzinfo=UTC)
    apply(opened("eve", "none"), now=anchor)
    starts = [
        reader.balance("eve", anchor + timedelta(days=31 * month), catalog).subscription.period_start
        for month in range(5)
    ]
    assert [f"{start:%m-%d}" for start in starts] == ["01-31", "02-28", "03-31", "04-30", "05-31"]


@on_sqlite
def test_the_period_is_that_of_utc_wherever_now_was_read(reader: Reader, ada: str, catalog: Catalog) -> None:
    in_auckland = datetime.fromisoformat("2026-12-22T23:14:59+13:00")
    period = reader.balance(ada, in_auckland, catalog).subscription
    assert period.period_start == NOW
    assert reader.balance(ada, in_auckland, catalog).at.tzinfo is UTC


@on_sqlite
def test_a_lowered_limit_leaves_nothing_and_not_less(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(FreeUpload(reference_id="f", user_id=ada, bytes=1_000), now=NOW)
    none = catalog.tiers["none"].model_copy(update={"free_upload_bytes": 999})
    quota = reader.balance(ada, NOW, catalog.model_copy(update={"tiers": {"none": none}})).quotas[0]
    assert (quota.limit, quota.used, quota.remaining) == (999, 1_000, 0)


@on_sqlite
def test_a_tier_that_left_the_catalog_has_no_limit_to_name(
    reader: Reader, ada: str, catalog: Catalog
) -> None:
    quota = reader.balance(ada, NOW, catalog.model_copy(update={"tiers": {}})).quotas[0]
    assert (quota.limit, quota.remaining) == (None, 0)


@on_sqlite
def test_ended_subscription_has_no_free_units(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(CancelSubscription(reference_id="c", user_id=ada, at="now"), now=NOW)
    view = reader.balance(ada, NOW, catalog)
    assert view.subscription.ends_at == NOW
    assert [quota.limit for quota in view.quotas] == [0, 0]


# -- due and not posted yet --------------------------------------------------------------------------------


def test_balance_leaves_out_expired_tokens_before_their_expiry_is_posted(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    end = NOW + timedelta(days=2)
    apply(BonusCredit(reference_id="b", user_id=ada, tokens=500, expires_at=end), now=NOW)
    before, after = reader.balance(ada, end - TICK, catalog), reader.balance(ada, end, catalog)
    assert (before.balance, before.available, before.expired) == (10_500, 10_500, 0)
    assert (after.balance, after.available, after.expired) == (10_000, 10_000, 500)
    assert after.unsettled.to_dict() == {"tokens": -500, "expired": 500, "entries": 1, "holds": 0}
    assert after.sequence == before.sequence
    assert reader.can_afford(ada, 10_001, end, catalog).shortfall == 1


@on_sqlite
def test_a_hold_that_ran_out_holds_nothing(reader: Reader, ada: str, apply: Apply, catalog: Catalog) -> None:
    apply(ReserveUsage(reference_id="h", user_id=ada, tokens=4_000, ttl_seconds=60), now=NOW)
    end = NOW + timedelta(seconds=60)
    before, after = reader.balance(ada, end - TICK, catalog), reader.balance(ada, end, catalog)
    assert (before.held, before.available) == (4_000, 6_000)
    assert (after.held, after.available, after.unsettled.holds) == (0, 10_000, 1)
    assert not reader.can_afford(ada, 6_001, end - TICK, catalog).can_afford
    assert reader.can_afford(ada, 10_000, end, catalog).can_afford


def test_credit_that_has_taken_effect_and_a_period_that_has_begun_are_there(
    reader: Reader, apply: Apply, catalog: Catalog
) -> None:
    apply(opened("eve", "free"), now=NOW)
    later = NOW + timedelta(days=3)
    apply(BonusCredit(reference_id="b", user_id="eve", tokens=500, effective_at=later), now=NOW)
    assert reader.balance("eve", later - TICK, catalog).balance == 10_000
    assert reader.balance("eve", later, catalog).balance == 10_500
    next_period = NOW + timedelta(days=30)
    view = reader.balance("eve", next_period, catalog)
    assert (view.balance, view.allocated, view.expired) == (10_500, 20_000, 10_000)
    assert view.subscription.granted_until == datetime(2027, 1, 22, 10, 15, tzinfo=UTC)
    assert reader.usage("eve", next_period, catalog).balance == 10_500


_worlds = count()


@settings(examples(12), suppress_health_check=list(HealthCheck))
@drawn(
    day=passing_days(max_steps=4),
    later=st.sampled_from([0, 1, 5, 30, 31, 70]).map(lambda days: timedelta(days=days)),
    tokens=st.integers(1, 400),
)
def test_balance_is_what_the_worker_posts_when_the_account_is_touched(
    engine: Engine, day: Day, later: timedelta, tokens: int
) -> None:
    reader, world = Reader(engine), next(_worlds)
    for now, commands in day:
        applied(engine, SMALL_CATALOG, *(in_world(world, command) for command in commands), now=now)
    user, moment = f"{world}-u0", day[-1][0] + later
    said = reader.balance(user, moment, SMALL_CATALOG)
    afford = reader.can_afford(user, tokens, moment, SMALL_CATALOG)
    lots = reader.lots(user, moment, SMALL_CATALOG)
    applied(engine, SMALL_CATALOG, SettleAccount(reference_id=f"{world}-look", user_id=user), now=moment)
    posted = reader.balance(user, moment, SMALL_CATALOG)
    assert posted.unsettled.to_dict() == {"tokens": 0, "expired": 0, "entries": 0, "holds": 0}
    assert posted.sequence == said.sequence + said.unsettled.entries
    assert replace(said, sequence=0, updated_at=moment, unsettled=posted.unsettled) == replace(
        posted, sequence=0, updated_at=moment
    )
    as_posted = [replace(lot, is_booked=True, reference_id=None) for lot in lots.lots]
    again = [replace(lot, reference_id=None) for lot in reader.lots(user, moment, SMALL_CATALOG).lots]
    assert again == as_posted
    (answer,) = applied(
        engine, SMALL_CATALOG, DeductUsage(reference_id=f"{world}-x", user_id=user, tokens=tokens), now=moment
    )
    assert isinstance(answer, Decided)
    assert afford.can_afford == answer.outcome.is_applied
    assert (afford.available, afford.required) == (said.available, tokens)
    assert afford.shortfall == max(tokens - said.available, 0)


# -- can afford -------------------------------------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize("tokens", [1, 9_999, 10_000, 10_001, INT64_MAX])
def test_can_afford_answers_as_a_deduction_would(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog, tokens: int
) -> None:
    answer = reader.can_afford(ada, tokens, NOW, catalog)
    (decided,) = apply(used("d", tokens), now=NOW)
    assert isinstance(decided, Decided)
    assert answer.can_afford == decided.outcome.is_applied
    assert (answer.required, answer.available) == (tokens, 10_000)
    assert answer.shortfall == max(tokens - 10_000, 0)


@on_sqlite
def test_can_afford_takes_nothing(reader: Reader, ada: str, catalog: Catalog) -> None:
    reader.can_afford(ada, 10_000, NOW, catalog)
    assert reader.balance(ada, NOW, catalog).balance == 10_000
    assert reader.stats().operations == (
        OperationCount("account.open", "applied", "account_opened", 1),
        OperationCount("credit.bonus", "applied", "bonus_granted", 1),
    )


@on_sqlite
@pytest.mark.parametrize("tokens", [0, -1, INT64_MAX + 1])
def test_can_afford_refuses_amounts_that_no_deduction_may_have(
    reader: Reader, ada: str, catalog: Catalog, tokens: int
) -> None:
    with pytest.raises(QueryError, match="tokens must be from 1"):
        reader.can_afford(ada, tokens, NOW, catalog)
