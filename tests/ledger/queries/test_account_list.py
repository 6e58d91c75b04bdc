"""Accounts in the order of an amount, and those in debt: pages agree with a sort in Python."""

from collections.abc import Callable
from operator import attrgetter

import pytest
from sqlalchemy import Engine

from tests.support import commands
from tests.support.apply_commands import applied
from tests.support.query_plans import recorded_statements, scanned
from tests.support.query_samples import NOW, on_sqlite
from worker.catalog import Catalog
from worker.errors import QueryError
from worker.ledger.queries import snapshot
from worker.ledger.queries.account_list import SORTS, AccountFilter, AccountSort, listed_accounts
from worker.ledger.queries.search import AccountLine, accounts_by_prefix
from worker.ledger.slots import slot_by_slot

_USED = {"ada": 100, "alf": 100, "ben": 5, "cyd": 0, "dan": 9_000}
_TAKEN = {"ada": -12_000, "ben": -10_050, "dan": -900}


@pytest.fixture
def ledger(engine: Engine, catalog: Catalog) -> Engine:
    """Accounts of whom some have used more, and two owe tokens."""
    users = sorted(_USED)
    applied(engine, catalog, *(commands.opening(f"o-{user}", user, "free") for user in users), now=NOW)
    used = [commands.deduct(tokens, f"u-{user}", user) for user, tokens in _USED.items()]
    taken = [
        commands.adjust(tokens, reference_id=f"t-{user}", user_id=user, allow_negative=True)
        for user, tokens in _TAKEN.items()
    ]
    applied(engine, catalog, *used, *taken, now=NOW)
    return engine


def pages(engine: Engine, wanted: AccountFilter, sort: AccountSort, limit: int = 2) -> list[AccountLine]:
    found: list[AccountLine] = []
    cursor: str | None = None
    with snapshot(engine) as connection:
        while True:
            page = listed_accounts(connection, wanted, sort, limit, cursor)
            found += page.accounts
            if (cursor := page.next_cursor) is None:
                return found


KEYS: dict[AccountSort, Callable[[AccountLine], int]] = {
    "most_balance": lambda line: -line.balance,
    "least_balance": attrgetter("balance"),
    "most_used": lambda line: -line.used,
    "most_debt": lambda line: -line.debt,
}


def test_every_order_has_a_specification() -> None:
    assert tuple(KEYS) == SORTS


@pytest.mark.parametrize("sort", KEYS)
def test_pages_have_all_accounts_in_order(ledger: Engine, sort: AccountSort) -> None:
    with snapshot(ledger) as connection:
        everybody = accounts_by_prefix(connection).accounts
    expected = [line for line in everybody if sort != "most_debt" or line.debt]
    found = pages(ledger, AccountFilter(), sort)
    assert sorted(line.user_id for line in found) == [line.user_id for line in expected]
    assert [KEYS[sort](line) for line in found] == sorted(map(KEYS[sort], expected))
    assert pages(slot_by_slot(ledger), AccountFilter(), sort) == found


def test_filters_find_accounts_in_debt_below_zero_and_by_user(ledger: Engine) -> None:
    assert [line.user_id for line in pages(ledger, AccountFilter(in_debt=True), "most_balance")] == [
        "ben",
        "ada",
    ]
    assert [line.user_id for line in pages(ledger, AccountFilter(negative=True), "least_balance")] == [
        "ada",
        "ben",
    ]
    assert [line.user_id for line in pages(ledger, AccountFilter("a"), "most_used")] == ["ada", "alf"]
    assert pages(ledger, AccountFilter("a", negative=True), "most_balance")[0].balance == -2_100


@on_sqlite
@pytest.mark.parametrize("cursor", ["x", "é", "MC4x"])
def test_cursor_of_no_page_is_refused(ledger: Engine, cursor: str) -> None:
    with snapshot(ledger) as connection, pytest.raises(QueryError, match="none of this list's"):
        listed_accounts(connection, AccountFilter(), cursor=cursor)


def test_accounts_in_debt_are_found_by_their_index(year_old: Engine) -> None:
    with recorded_statements(year_old) as statements, snapshot(year_old) as connection:
        listed_accounts(connection, AccountFilter(in_debt=True))
    assert scanned(year_old, statements, {"accounts"}) == []
