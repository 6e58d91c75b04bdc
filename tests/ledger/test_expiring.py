"""Tokens that will expire: of a user and of everybody, whole and page by page."""

from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from schemas import (
    CancelSubscription,
    ReserveUsage,
    SettleAccount,
)
from tests.support.apply_commands import applied
from tests.support.in_world import in_world
from tests.support.query_samples import (
    DAY,
    NOW,
    Apply,
    asked_catalog,
    given,
    on_sqlite,
    opened,
)
from tests.support.strategies import SMALL_CATALOG, Day, examples, passing_days
from worker.catalog import Catalog
from worker.errors import QueryError
from worker.ledger.queries import Expiring, Reader, expiring


@pytest.fixture
def catalog() -> Catalog:
    return asked_catalog()


@on_sqlite
def test_tokens_that_expire_within_the_days_are_listed_in_the_order_of_time(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(
        given(ada, 10, "ten", expires_at=NOW + 3 * DAY),
        given(ada, 20, "twenty", expires_at=NOW + DAY),
        given(ada, 30, "thirty", expires_at=NOW + 4 * DAY),
        now=NOW,
    )
    assert reader.expiring(ada, NOW, 3, catalog) == (
        Expiring(ada, 3, "bonus", 20, NOW + DAY),
        Expiring(ada, 2, "bonus", 10, NOW + 3 * DAY),
    )
    assert [lot.tokens for lot in reader.expiring(ada, NOW + DAY, 3, catalog)] == [10, 30]


@on_sqlite
def test_tokens_that_roll_over_are_not_listed_as_expiring(
    reader: Reader, apply: Apply, catalog: Catalog
) -> None:
    apply(opened("eve", "pro"), now=NOW)
    assert [lot.tokens for lot in reader.expiring("eve", NOW, 30, catalog)] == [400_000]
    apply(CancelSubscription(reference_id="c", user_id="eve"), now=NOW)
    assert [lot.tokens for lot in reader.expiring("eve", NOW, 30, catalog)] == [500_000]


@on_sqlite
def test_held_tokens_expire_when_the_hold_runs_out(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(
        given(ada, 50, "brief", expires_at=NOW + DAY, priority=0),
        ReserveUsage(reference_id="h", user_id=ada, tokens=20, ttl_seconds=3 * 24 * 3_600),
        now=NOW,
    )
    assert [lot.tokens for lot in reader.expiring(ada, NOW, 2, catalog)] == [30]
    assert [lot.tokens for lot in reader.expiring(ada, NOW, 3, catalog)] == [30, 20]


@on_sqlite
def test_expired_lot_is_not_listed_as_expiring(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(given(ada, 50, "brief", expires_at=NOW + DAY), now=NOW)
    assert reader.expiring(ada, NOW + DAY, 30, catalog) == ()


@on_sqlite
@pytest.mark.parametrize("days", [0, 3_661])
def test_expiring_looks_ahead_from_one_day_to_ten_years(
    reader: Reader, ada: str, catalog: Catalog, days: int
) -> None:
    with pytest.raises(QueryError, match="days must be from 1 to 3660"):
        reader.expiring(ada, NOW, days, catalog)
    with pytest.raises(QueryError, match="days must be from 1 to 3660"):
        list(reader.all_expiring(NOW, days, catalog))


def test_list_of_everybody_has_each_account_once_page_by_page(
    reader: Reader, engine: Engine, apply: Apply, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiring, "_PAGE", 3)
    users = [f"user-{number}" for number in range(8)]
    for number, user in enumerate(users):  # two and two are due at one time
        brief = given(user, 10 + number, "brief", expires_at=NOW + (10 + number // 2) * DAY)
        apply(opened(user, "none"), brief, now=NOW)
    apply(opened("idle", "none"), given("idle", 5), now=NOW)
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _u, sql, *_: statements.append(sql))
    found = list(reader.all_expiring(NOW, 12, catalog))
    assert [(lot.user_id, lot.tokens) for lot in found] == [
        (user, 10 + number) for number, user in enumerate(users[:6])
    ]
    assert len(statements) <= 3 * 4 + 2  # the pages, and the lots of each


# -- pages ------------------------------------------------------------------------------------------------


def pages(
    reader: Reader, user: str | None, catalog: Catalog, *, limit: int, days: int = 12
) -> list[tuple[Expiring, ...]]:
    """Read a list page by page, to its end."""
    found: list[tuple[Expiring, ...]] = []
    cursor = None
    while not found or cursor is not None:
        page = reader.expiring_page(user, NOW, days, catalog, limit, cursor)
        found.append(page.expiring)
        cursor = page.next_cursor
    return found


@pytest.fixture
def ada_and_eve(ada: str, apply: Apply) -> None:
    """Two users with three lots each, at the same times; one lot of ada's is lost in two parts."""
    apply(opened("eve", "none"), now=NOW)
    for user in (ada, "eve"):
        ends = [NOW + number * DAY for number in (1, 2, 3)]
        apply(*(given(user, 10, f"{number}", expires_at=at) for number, at in enumerate(ends)), now=NOW)
    apply(ReserveUsage(reference_id="h", user_id=ada, tokens=4, ttl_seconds=2 * 24 * 3_600), now=NOW)


@pytest.mark.usefixtures("ada_and_eve")
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1_000])
@pytest.mark.parametrize("page", [1, 500])
def test_pages_of_everybody_are_the_list_cut_in_pieces(
    reader: Reader, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, limit: int, page: int
) -> None:
    monkeypatch.setattr(expiring, "_PAGE", page)
    found = pages(reader, None, catalog, limit=limit)
    assert [lot for page in found for lot in page] == list(reader.all_expiring(NOW, 12, catalog))
    assert [len(page) for page in found] == [min(limit, 7 - start) for start in range(0, 7, limit)]


@pytest.mark.usefixtures("ada_and_eve")
@pytest.mark.parametrize("limit", [1, 2, 4, 1_000])
def test_pages_of_a_user_are_the_list_cut_in_pieces(
    reader: Reader, ada: str, catalog: Catalog, limit: int
) -> None:
    found = pages(reader, ada, catalog, limit=limit)
    assert [lot for page in found for lot in page] == list(reader.expiring(ada, NOW, 12, catalog))
    assert [len(page) for page in found] == [min(limit, 4 - start) for start in range(0, 4, limit)]
    assert reader.expiring_page(ada, NOW, 12, catalog, limit).tokens == 30


@pytest.mark.usefixtures("ada_and_eve")
def test_account_that_is_posted_between_pages_comes_again_at_its_new_place(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    first = reader.expiring_page(None, NOW, 12, catalog, 2)
    assert [lot.user_id for lot in first.expiring] == [ada, ada]
    now = NOW + DAY
    apply(SettleAccount(reference_id="s", user_id=ada), now=now)
    second = reader.expiring_page(None, now, 12, catalog, 1_000, first.next_cursor)
    assert [lot.user_id for lot in second.expiring] == ["eve", "eve", ada, ada, ada]


@on_sqlite
@pytest.mark.usefixtures("ada_and_eve")
@pytest.mark.parametrize(
    "cursor", ["", "7", "2026-11-23/1/1", "no time+00:00/1/1", f"{NOW.isoformat()}/1/-1"]
)
def test_invalid_cursor_is_refused(reader: Reader, ada: str, catalog: Catalog, cursor: str) -> None:
    for user in (ada, None):
        with pytest.raises(QueryError, match="the cursor is none of this list"):
            reader.expiring_page(user, NOW, 12, catalog, 1, cursor)


@on_sqlite
@pytest.mark.usefixtures("ada_and_eve")
def test_cursor_of_another_user_is_refused(reader: Reader, ada: str, catalog: Catalog) -> None:
    cursor = reader.expiring_page("eve", NOW, 12, catalog, 1).next_cursor
    with pytest.raises(QueryError, match="the cursor is none of this list"):
        reader.expiring_page(ada, NOW, 12, catalog, 1, cursor)
    with pytest.raises(QueryError, match="limit must be from 1 to 1000"):
        reader.expiring_page(ada, NOW, 12, catalog, 1_001)


# -- what a worker posts ----------------------------------------------------------------------------------

_worlds = count()


@settings(examples(8), suppress_health_check=list(HealthCheck))
@drawn(day=passing_days(max_steps=4), days=st.sampled_from([1, 5, 30, 70]))
def test_worker_posts_the_expiries_that_were_shown(engine: Engine, day: Day, days: int) -> None:
    reader, world = Reader(engine), next(_worlds)
    user, now = f"{world}-u0", day[-1][0]
    for moment, commands in day:
        applied(engine, SMALL_CATALOG, *(in_world(world, command) for command in commands), now=moment)
    applied(engine, SMALL_CATALOG, SettleAccount(reference_id=f"{world}-now", user_id=user), now=now)
    shown = reader.expiring(user, now, days, SMALL_CATALOG)
    assert [lot for lot in reader.all_expiring(now, days, SMALL_CATALOG) if lot.user_id == user] == list(
        shown
    )
    then = SettleAccount(reference_id=f"{world}-then", user_id=user)
    applied(engine, SMALL_CATALOG, then, now=now + days * DAY)
    posted = [
        (entry.lot, entry.source, -entry.amount, entry.due_at)
        for entry in reversed(reader.history(user, limit=1_000).transactions)
        if entry.reference_id == then.reference_id and entry.counter == "expiry"
    ]
    assert [(lot.lot, lot.source, lot.tokens, lot.expires_at) for lot in shown] == posted
