"""Accounts page: order, filters, and a search by user, reference, metadata or tokens."""

import re
from datetime import UTC, datetime

import pytest

from tests.console.conftest import app_on
from tests.console.visitor import Visitor, words
from tests.support import commands
from tests.support.apply_commands import applied
from worker.bootstrap import Application


@pytest.fixture
def ann(application_: Application) -> Visitor:
    """Visitor of a console with three accounts, of which one owes tokens."""
    engine, catalog, now = application_.engine, application_.catalog, datetime.now(UTC)
    users = ("ada", "alf", "ben")
    applied(engine, catalog, *(commands.opening(f"o-{user}", user, "free") for user in users), now=now)
    owed = commands.adjust(-12_000, reference_id="t-ben", user_id="ben", allow_negative=True)
    used = commands.deduct(500, "job-1", "alf", metadata={"job": 17})
    applied(engine, catalog, owed, used, now=now)
    return Visitor(app_on(application_).test_client())


def users_in(page: str) -> list[str]:
    return re.findall(r'data-row-link href="/account\?user=(\w+)"', page)


@pytest.mark.parametrize(
    ("query", "users"),
    [
        ("", ["ada", "alf", "ben"]),
        ("prefix=al", ["alf"]),
        ("only=in_debt", ["ben"]),
        ("only=negative&sort=least_balance", ["ben"]),
        ("sort=most_balance", ["ada", "alf", "ben"]),
        ("sort=least_balance", ["ben", "alf", "ada"]),
        ("sort=most_used&prefix=a", ["alf", "ada"]),
    ],
)
def test_order_and_filter_of_accounts(ann: Visitor, query: str, users: list[str]) -> None:
    assert users_in(ann.get(f"/accounts?{query}")) == users


def test_page_goes_on_in_its_order(ann: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.console.pages.accounts._LINES", 2)
    first = ann.get("/accounts?sort=least_balance")
    found = re.search(r'href="([^"]*after=[^"]*)"', first)
    assert found is not None
    assert users_in(first) == ["ben", "alf"]
    assert users_in(ann.get(found[1].replace("&amp;", "&"))) == ["ada"]


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("by=user&q=al", "/accounts?prefix=al"),
        ("by=reference&q=job-", "/operations?prefix=job-"),
        ("by=metadata&q=job%3D17", "/operations?metadata=job%3D17"),
        ("by=tokens&q=500", "/operations?least=500&most=500"),
    ],
)
def test_search_leads_to_what_it_is_for(ann: Visitor, query: str, place: str) -> None:
    with ann.client.get(f"/accounts?{query}") as response:
        assert (response.status_code, response.headers["Location"]) == (303, place)
    assert "alf" in words(ann.get(place))


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("sort=name", "no such sort: 'name'; there are most_balance"),
        ("only=rich", "no such only: 'rich'; there are in_debt, negative"),
        ("by=colour&q=red", "no such search: 'colour'; there are user, reference, metadata, tokens"),
        ("by=tokens&q=many", "tokens must be a whole number, not 'many'"),
        ("sort=most_used&after=x", "the cursor is none of this list's"),
    ],
)
def test_bad_request_names_the_way_out(ann: Visitor, query: str, text: str) -> None:
    assert text in words(ann.get(f"/accounts?{query}", status=400))


def test_unknown_reference_leads_to_those_that_begin_so(ann: Visitor) -> None:
    assert 'href="/operations?prefix=job-"' in ann.get("/explain?reference=job-", status=404)
