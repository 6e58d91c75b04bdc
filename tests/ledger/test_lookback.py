"""Balances of the past: a look back gives the answer that was given then."""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from schemas import CancelSubscription, ChangeSubscription, RenewSubscription, SettleAccount
from tests.support.apply_commands import applied
from tests.support.in_world import in_world
from tests.support.query_samples import (
    DAY,
    NOW,
    TICK,
    Apply,
    asked_catalog,
    given,
    on_sqlite,
    one_by_one,
    opened,
    used,
)
from tests.support.strategies import CATALOGS, Day, examples, passing_days
from worker.catalog import Catalog
from worker.errors import NotFoundError, QueryError
from worker.ledger.engine import ledger_engine
from worker.ledger.migrations import migrate
from worker.ledger.queries import Balance, Reader


@pytest.fixture
def catalog() -> Catalog:
    return asked_catalog()


_worlds = count()


@settings(examples(14), suppress_health_check=list(HealthCheck))
@drawn(day=passing_days(max_steps=6, max_batch=4), prices=st.sampled_from(list(CATALOGS.values())))
def test_past_balance_equals_the_balance_shown_then(engine: Engine, day: Day, prices: Catalog) -> None:
    """Each command has a time of its own: nothing tells which of two in one transaction came last."""
    reader, world = Reader(engine), next(_worlds)
    said: dict[tuple[str, datetime], Balance] = {}

    def ask(moment: datetime) -> None:
        for user in (f"{world}-u0", f"{world}-u1"):
            with suppress(NotFoundError):
                said[user, moment] = reader.balance(user, moment, prices)

    for now, command in one_by_one(day):
        ask(now - TICK)
        applied(engine, prices, in_world(world, command), now=now)
        ask(now)
    for (user, at), balance in said.items():
        if at >= balance.opened_at:
            assert without_trace(reader.balance_at(user, at, prices)) == without_trace(balance)


def without_trace(balance: Balance) -> Balance:
    """Balance without a renewal that grants nothing: it can't be seen once the subscription was canceled."""
    subscription = balance.subscription
    if subscription.tier == "idle" and subscription.ends_at is not None:
        return replace(balance, subscription=replace(subscription, granted_until=subscription.ends_at))
    return balance


# -- by example -------------------------------------------------------------------------------------------


@on_sqlite
def test_past_balance_leaves_out_expired_tokens_before_and_after_posting(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    end = NOW + 2 * DAY
    apply(given(ada, 500, "brief", expires_at=end), now=NOW)
    apply(used("d", 1), now=NOW + 5 * DAY)
    looks = [NOW - TICK, NOW, end - TICK, end, NOW + 5 * DAY - TICK, NOW + 5 * DAY]
    seen = [reader.balance_at(ada, at, catalog) for at in looks]
    assert [view.balance for view in seen] == [10_000, 10_500, 10_500, 10_000, 10_000, 9_999]
    assert [view.unsettled.expired for view in seen] == [0, 0, 0, 500, 500, 0]
    assert [view.sequence for view in seen] == [1, 2, 2, 2, 2, 4]
    assert [view.updated_at for view in seen][-2:] == [NOW, NOW + 5 * DAY]


def test_a_subscription_is_seen_as_it_was(reader: Reader, apply: Apply, catalog: Catalog) -> None:
    apply(opened("eve", "basic"), now=NOW)
    changes = (
        ChangeSubscription(reference_id="up", user_id="eve", tier="pro"),
        RenewSubscription(reference_id="ahead", user_id="eve", period_start=NOW + 30 * DAY),
        ChangeSubscription(reference_id="down", user_id="eve", tier="basic"),
        CancelSubscription(reference_id="end", user_id="eve", at="now"),
        ChangeSubscription(reference_id="back", user_id="eve", tier="pro"),
    )
    end = NOW + 30 * DAY
    times = [NOW + DAY, *(end - timedelta(hours=hours) for hours in (20, 15, 10, 5))]
    for change, moment in zip(changes, times, strict=True):
        apply(change, now=moment)
    month, next_month = datetime(2026, 12, 22, 10, 15, tzinfo=UTC), datetime(2027, 1, 22, 10, 15, tzinfo=UTC)
    seen = [reader.balance_at("eve", moment, catalog) for moment in (NOW, *times)]
    subscriptions = [view.subscription for view in seen]
    assert [(view.tier, view.granted_until, view.ends_at) for view in subscriptions] == [
        ("basic", month, None),
        ("pro", month, None),
        ("pro", next_month, None),
        ("pro", next_month, None),
        ("pro", month, month),
        ("pro", month, None),
    ]
    assert [view.pending for view in seen] == [0, 0, 500_000, 500_000, 0, 0]
    assert [view.quotas[0].limit for view in seen[3:]] == [10 * 2**30] * 3


@on_sqlite
def test_future_balance_is_that_of_an_account_nobody_touches(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(given(ada, 500, "brief", expires_at=NOW + 2 * DAY), now=NOW)
    ahead = NOW + 3 * DAY
    assert reader.balance_at(ada, ahead, catalog) == reader.balance(ada, ahead, catalog)


def test_user_has_no_balance_before_the_account_was_opened(
    reader: Reader, ada: str, catalog: Catalog
) -> None:
    opened_at = NOW - timedelta(days=365)
    assert reader.balance_at(ada, opened_at, catalog).balance == 10_000
    with pytest.raises(
        NotFoundError, match=r"had no token account at .* it was opened at 2025-11-22T10:15:00"
    ):
        reader.balance_at(ada, opened_at - TICK, catalog)


@on_sqlite
def test_a_time_without_an_offset_is_no_time(reader: Reader, ada: str, catalog: Catalog) -> None:
    with pytest.raises(QueryError, match="at must have an offset"):
        reader.balance_at(ada, NOW.replace(tzinfo=None), catalog)


def test_a_look_back_over_many_entries_takes_few_statements(
    reader: Reader, engine: Engine, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(*(used(f"d{number}", 1) for number in range(1_000)), now=NOW)
    apply(*(used(f"e{number}", 1) for number in range(1_000)), now=NOW + DAY)
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _u, sql, *_: statements.append(sql))
    assert reader.balance_at(ada, NOW, catalog).balance == 9_000
    assert len(statements) <= 11 + 12  # a look for each bit of 2,001, and the rest


def test_an_account_that_was_carried_over_is_granted_nothing_it_did_not_have(
    tmp_path: Path, catalog: Catalog
) -> None:
    engine = ledger_engine(f"sqlite:///{tmp_path / 'old.sqlite3'}")
    migrate(engine, "0001")
    history = Path(__file__).with_name("ledger_0001.sql").read_text(encoding="utf-8")
    with engine.begin() as connection:
        for statement in filter(str.strip, history.split(";\n")):
            connection.exec_driver_sql(statement)
    migrate(engine)
    reader = Reader(engine)
    april = datetime(2026, 4, 3, 8, tzinfo=UTC)
    looks = (april - TICK, april)
    before = [reader.balance_at("ben", at, catalog).balance for at in looks]
    assert before == [1_000, 0]
    renewal = reader.balance("ben", april, catalog).subscription.granted_until
    applied(engine, catalog, SettleAccount(reference_id="s", user_id="ben"), now=renewal + DAY)
    assert [reader.balance_at("ben", at, catalog).balance for at in looks] == before
    assert reader.balance_at("ben", renewal - TICK, catalog).balance == 0
    assert reader.balance_at("ben", renewal, catalog).balance == 10_000
    engine.dispose()
