"""Accounts by the beginning of a name: in the order of code points, page by page, on either dialect."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from tests.support.query_samples import Apply, given, on_sqlite, opened
from worker.errors import QueryError
from worker.ledger.queries import snapshot
from worker.ledger.queries.search import AccountPage, accounts_by_prefix

Ask = Callable[..., AccountPage]

HOSTILE = ("%", "100%", "1000", "_x", "ax", "a_x", "A", "ä", "Ä", "日本", "\\", "'--")


@pytest.fixture
def ask(engine: Engine) -> Ask:
    def asked(prefix: str = "", after: str | None = None, limit: int = 50) -> AccountPage:
        with snapshot(engine) as connection:
            return accounts_by_prefix(connection, prefix, after, limit)

    return asked


def users(page: AccountPage) -> list[str]:
    return [line.user_id for line in page.accounts]


def test_a_prefix_finds_those_that_begin_with_it_and_no_others(ask: Ask, apply: Apply) -> None:
    apply(*(opened(user, "none") for user in ("ada", "adam", "Ada", "bob", "ad", "ae")))
    assert users(ask("ada")) == ["ada", "adam"]
    assert users(ask("ad")) == ["ad", "ada", "adam"]
    assert users(ask("z")) == []
    assert users(ask()) == ["Ada", "ad", "ada", "adam", "ae", "bob"]


def test_prefix_has_no_wildcards(ask: Ask, apply: Apply) -> None:
    apply(*(opened(user, "none") for user in HOSTILE))
    for prefix in HOSTILE:
        assert users(ask(prefix)) == sorted(user for user in HOSTILE if user.startswith(prefix))


@pytest.mark.parametrize("prefix", ["\ud7ff", "\U0010ffff", "x\U0010ffff"])
def test_the_last_of_the_characters_can_be_asked_for(prefix: str, ask: Ask, apply: Apply) -> None:
    apply(opened("y", "none"))
    assert users(ask(prefix)) == []


def test_pages_go_on_behind_the_last_and_hold_each_account_once(ask: Ask, apply: Apply) -> None:
    everybody = [f"u-{number:02}" for number in range(25)]
    apply(*(opened(user, "none") for user in everybody), opened("v", "none"))
    seen, page = [], ask("u-", limit=10)
    seen += users(page)
    while page.next_after is not None:
        page = ask("u-", page.next_after, limit=10)
        seen += users(page)
    assert seen == everybody


def test_line_shows_the_posted_account(ask: Ask, apply: Apply) -> None:
    apply(opened("ada", "none"), given("ada", 70))
    (line,) = ask("ada").accounts
    assert (line.tier, line.balance, line.held, line.debt) == ("none", 70, 0, 0)


@on_sqlite
def test_a_page_has_bounds(ask: Ask) -> None:
    with pytest.raises(QueryError, match="limit must be from 1 to 200"):
        ask(limit=0)
