"""Parts of a balance: lots and holds, and the tokens that will expire."""

from datetime import timedelta

import pytest

from schemas import (
    ReleaseUsage,
    ReserveUsage,
    SettleAccount,
    SettleUsage,
)
from tests.support.query_samples import (
    DAY,
    NOW,
    TICK,
    Apply,
    asked_catalog,
    given,
    on_sqlite,
    opened,
    paid,
    used,
)
from worker.catalog import Catalog
from worker.errors import QueryError
from worker.ledger.queries import Holds, Lots, Reader


@pytest.fixture
def catalog() -> Catalog:
    return asked_catalog()


# -- lots -------------------------------------------------------------------------------------------------


def numbers(view: Lots) -> list[int]:
    return [lot.number for lot in view.lots]


def test_lots_come_in_the_order_in_which_they_are_spent(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(
        given(ada, 10, "late", expires_at=NOW + 9 * DAY),  # 2
        given(ada, 20, "soon", expires_at=NOW + 2 * DAY),  # 3
        given(ada, 30, "first", priority=1),  # 4
        given(ada, 40, "later", effective_at=NOW + DAY),  # 5
        paid(ada),  # 6 and its bonus, 7
        now=NOW,
    )
    view = reader.lots(ada, NOW, catalog)
    assert numbers(view) == [4, 3, 2, 7, 1, 6, 5]
    apply(used("d", 85), now=NOW)
    history = reader.history(ada, limit=4).transactions
    assert [entry.lot for entry in reversed(history)] == numbers(view)[:4]


def test_lot_shows_remaining_held_and_pending_tokens(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    apply(
        given(ada, 40, "later", effective_at=NOW + DAY, expires_at=NOW + 9 * DAY),
        used("d", 1_000),
        ReserveUsage(reference_id="h", user_id=ada, tokens=300, ttl_seconds=60),
        now=NOW,
    )
    first, later = reader.lots(ada, NOW, catalog).to_dict()["lots"]
    assert first == {
        "number": 1,
        "source": "bonus",
        "granted": 10_000,
        "remaining": 9_000,
        "held": 300,
        "free": 8_700,
        "pending": 0,
        "priority": 20,
        "effectiveAt": "2025-11-22T10:15:00Z",
        "expiresAt": None,
        "parent": None,
        "referenceId": "give-ada",
        "isBooked": True,
    }
    assert (later["remaining"], later["pending"], later["referenceId"]) == (0, 40, "later-ada")
    assert (later["effectiveAt"], later["expiresAt"]) == ("2026-11-23T10:15:00Z", "2026-12-01T10:15:00Z")


def test_empty_lots_come_last_and_only_if_asked_for(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    brief = given(ada, 20, "brief", expires_at=NOW + DAY)
    apply(given(ada, 10, "spent", priority=1), brief, used("d", 10), now=NOW)
    ahead = NOW + DAY
    assert numbers(reader.lots(ada, NOW, catalog)) == [3, 1]
    assert numbers(reader.lots(ada, ahead, catalog)) == [1]
    shown = reader.lots(ada, ahead, catalog, used_up=True)
    assert [(lot.number, lot.remaining) for lot in shown.lots] == [(1, 10_000), (3, 0), (2, 0)]


@on_sqlite
def test_lots_are_listed_page_by_page(reader: Reader, ada: str, apply: Apply, catalog: Catalog) -> None:
    spent = [given(ada, 10, f"spent-{number}", priority=1) for number in (2, 3)]
    apply(*spent, used("d", 20), given(ada, 20, "brief", expires_at=NOW + DAY), now=NOW)
    pages: list[list[int]] = []
    behind, has_more = None, True
    while has_more:
        page = reader.lots(ada, NOW, catalog, used_up=True, limit=2, behind=behind)
        pages.append(numbers(page))
        behind, has_more = page.lots[-1].number, page.has_more
    assert pages == [[4, 1], [3, 2]]
    with pytest.raises(QueryError, match="lot 3 is not in this list"):
        reader.lots(ada, NOW, catalog, behind=3)
    with pytest.raises(QueryError, match="limit must be from 1 to 1000"):
        reader.lots(ada, NOW, catalog, limit=0)


@on_sqlite
def test_lot_that_is_due_and_not_posted_is_shown_as_such(
    reader: Reader, apply: Apply, catalog: Catalog
) -> None:
    apply(opened("eve", "free"), now=NOW)
    (lot,) = reader.lots("eve", NOW + 30 * DAY, catalog).lots
    assert (lot.number, lot.remaining, lot.reference_id, lot.is_booked) == (2, 10_000, None, False)


# -- holds ------------------------------------------------------------------------------------------------


def states(view: Holds) -> list[tuple[str, str]]:
    return [(hold.reference_id, hold.state) for hold in view.holds]


@pytest.fixture
def holding(ada: str, apply: Apply) -> str:
    """Ada with four holds: open for a minute, open for an hour, captured, and released."""
    for number, seconds in enumerate((60, 3_600, 60, 60)):
        apply(
            ReserveUsage(reference_id=f"h{number}", user_id=ada, tokens=100, ttl_seconds=seconds),
            now=NOW + number * TICK,
        )
    apply(
        SettleUsage(reference_id="s", user_id=ada, original_reference_id="h2", tokens=30),
        ReleaseUsage(reference_id="r", user_id=ada, original_reference_id="h3"),
        now=NOW + 9 * TICK,
    )
    return ada


def test_open_holds_are_shown_oldest_first(reader: Reader, holding: str, catalog: Catalog) -> None:
    view = reader.holds(holding, NOW + 10 * TICK, catalog)
    assert states(view) == [("h0", "open"), ("h1", "open")]
    assert view.holds[0].to_dict() == {
        "referenceId": "h0",
        "state": "open",
        "amount": 100,
        "captured": 0,
        "openedAt": "2026-11-22T10:15:00Z",
        "expiresAt": "2026-11-22T10:16:00Z",
        "closedAt": None,
        "closedBy": None,
        "parts": [{"lot": 1, "tokens": 100}],
    }


def test_ended_holds_come_behind_them_newest_first_with_who_ended_them(
    reader: Reader, holding: str, catalog: Catalog
) -> None:
    view = reader.holds(holding, NOW + 10 * TICK, catalog, ended=True)
    assert states(view) == [("h0", "open"), ("h1", "open"), ("h3", "released"), ("h2", "settled")]
    assert [(hold.closed_by, hold.captured, hold.closed_at) for hold in view.holds[2:]] == [
        ("r", 0, NOW + 9 * TICK),
        ("s", 30, NOW + 9 * TICK),
    ]


def test_hold_that_ran_out_is_ended_before_and_after_that_is_posted(
    reader: Reader, holding: str, apply: Apply, catalog: Catalog
) -> None:
    end = NOW + timedelta(seconds=60)
    for closed_by in (None, "look"):
        assert states(reader.holds(holding, end, catalog)) == [("h1", "open")]
        ended = reader.holds(holding, end, catalog, ended=True).holds[1:]
        (ran_out,) = [hold for hold in ended if hold.state == "expired"]
        assert (ran_out.reference_id, ran_out.closed_at, ran_out.closed_by) == ("h0", end, closed_by)
        apply(SettleAccount(reference_id="look", user_id=holding), now=end)


@on_sqlite
def test_holds_say_that_there_are_more_ended_ones(reader: Reader, holding: str, catalog: Catalog) -> None:
    one = reader.holds(holding, NOW + 10 * TICK, catalog, ended=True, limit=1)
    both = reader.holds(holding, NOW + 10 * TICK, catalog, ended=True, limit=2)
    assert (len(one.holds), one.has_more) == (3, True)
    assert (len(both.holds), both.has_more) == (4, False)


def test_ended_holds_go_on_behind_a_reference(reader: Reader, holding: str, catalog: Catalog) -> None:
    end, pages, behind = NOW + timedelta(seconds=60), [], None
    while True:  # h0 ran out, which isn't posted yet
        view = reader.holds(holding, end, catalog, ended=True, limit=1, behind=behind)
        pages.append([hold.reference_id for hold in view.holds])
        if not view.has_more:
            break
        behind = view.holds[-1].reference_id
    assert pages == [["h1", "h0"], ["h3"], ["h2"]]
    with pytest.raises(QueryError, match="'nothing' is no hold of this user"):
        reader.holds(holding, end, catalog, ended=True, behind="nothing")


def test_ended_holds_of_one_batch_come_once_each(
    reader: Reader, ada: str, apply: Apply, catalog: Catalog
) -> None:
    holds = [f"h{number}" for number in (3, 1, 4, 2, 5)]
    apply(*(ReserveUsage(reference_id=h, user_id=ada, tokens=1, ttl_seconds=60) for h in holds), now=NOW)
    apply(*(ReleaseUsage(reference_id=f"r{h}", user_id=ada, original_reference_id=h) for h in holds), now=NOW)
    found, behind, has_more = [], None, True
    while has_more:
        view = reader.holds(ada, NOW, catalog, ended=True, limit=2, behind=behind)
        found += [hold.reference_id for hold in view.holds]
        behind, has_more = found[-1], view.has_more
    assert found == sorted(holds, reverse=True)


@on_sqlite
@pytest.mark.parametrize("limit", [0, 1_001])
def test_holds_have_from_one_to_a_thousand_ended_ones(
    reader: Reader, ada: str, catalog: Catalog, limit: int
) -> None:
    with pytest.raises(QueryError, match="limit must be from 1 to 1000"):
        reader.holds(ada, NOW, catalog, ended=True, limit=limit)
