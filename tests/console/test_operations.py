"""Operations page: filters, pages of the database, who spends most, and the export."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from schemas import DeductUsage, OpenAccount, PaymentSucceeded
from tests.console.conftest import app_on
from tests.console.visitor import Visitor, words
from tests.support.apply_commands import applied
from worker.bootstrap import Application
from worker.console.pages import operations as operations_page
from worker.ledger.queries import operation_walk
from worker.ledger.senders import Sender

HOSTILE = "<script>alert(1)</script>"


def used(reference: str, tokens: int, user: str = "ada", **more: Any) -> DeductUsage:
    return DeductUsage.model_validate({"reference_id": reference, "user_id": user, "tokens": tokens, **more})


@pytest.fixture
def busy(application_: Application) -> Application:
    """Usage of two users, a rejected payment, and a rejected deduction of a hostile name."""
    now = datetime.now(UTC)
    opening = [OpenAccount(reference_id=f"open-{user}", user_id=user, tier="free") for user in ("ada", "bob")]
    usage = [
        used("job-1", 700, feature="ocr", metadata={"job": 17}),
        used("job-2", 300, feature="search", description=HOSTILE),
        used("job-3", 40, "bob", feature="ocr"),
    ]
    paid = PaymentSucceeded.model_validate(
        {
            "reference_id": "stripe:pi_1",
            "user_id": "ada",
            "package_id": "gone",
            "amount_minor": 1_999,
            "currency": "USD",
        }
    )
    engine, catalog = application_.engine, application_.catalog
    applied(engine, catalog, *opening, now=now - timedelta(hours=2))
    applied(engine, catalog, *usage, now=now - timedelta(hours=1), sender=Sender("app", "uploads"))
    applied(engine, catalog, paid, used(HOSTILE, 10**9), now=now)
    return application_


@pytest.fixture
def ann(busy: Application) -> Visitor:
    return Visitor(app_on(busy).test_client())


def rows(page: str) -> list[str]:
    return [words(row) for row in re.findall(r"<tr data-row>.*?</tr>", page, re.DOTALL)]


def test_page_lists_operations_newest_first_with_rejected_ones(ann: Visitor) -> None:
    page = ann.get("/operations")
    found = rows(page)
    assert len(found) == 7
    assert "<script>alert" not in page
    (payment,) = [row for row in found if "stripe:pi_1" in row]
    assert "rejected payment.succeeded unknown package 19.99 USD" in payment
    (usage,) = [row for row in found if "job-1" in row]
    assert usage.endswith("usage.deduct tokens deducted job-1 ada −700 9,300 ocr app (uploads)")


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("status=rejected", 2),
        ("type=account.open", 2),
        ("code=unknown_package,insufficient_balance", 2),
        ("user=bob", 2),
        ("sender=uploads", 3),
        ("feature=ocr", 2),
        ("metadata=job%3D17", 1),
        ("prefix=job-", 3),
        ("least=300&most=700", 2),
        ("until=2020-01-01T00:00", 0),
    ],
)
def test_filters_find_their_own_operations(ann: Visitor, query: str, count: int) -> None:
    page = ann.get(f"/operations?{query}")
    assert len(rows(page)) == count
    assert ("No operation matches." in page) == (count == 0)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("type=usage.deduce", "no such type: 'usage.deduce'; there are usage.deduct"),
        ("status=parked", "no such status: 'parked'; there are applied, rejected"),
        ("code=poor", "no such code: 'poor'"),
        ("metadata=job", "metadata must be key=value, such as job=17, not 'job'"),
        ("least=few", "least must be a whole number"),
        ("least=5&most=4", "min_tokens is above max_tokens"),
        ("since=soon", "since must be a time such as 2026-11-22T10:15"),
        ("sender=nobody", "nothing came from the sender 'nobody'; there are app (uploads)"),
        ("cursor=x", "the cursor is none of this list's"),
        ("top=gateway", "no such top: 'gateway'; there are user, feature, sender"),
    ],
)
def test_bad_filter_is_refused_with_the_way_out(ann: Visitor, query: str, text: str) -> None:
    assert text in words(ann.get(f"/operations?{query}", status=400))


def test_account_has_its_own_operations(ann: Visitor) -> None:
    page = ann.get("/account/operations?user=ada&status=rejected")
    assert len(rows(page)) == 2
    assert re.search(r'href="/account/operations\?user=ada" aria-current="true">Operations<', page)
    assert "no token account for user" in words(ann.get("/account/operations?user=zoe", status=404))


def test_pages_follow_each_other(ann: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations_page, "_LINES", 4)
    first = ann.get("/operations?until=2100-01-01T00:00")
    found = re.search(r'href="([^"]*cursor=[^"]*)"', first)
    assert found is not None
    second = ann.get(found[1].replace("&amp;", "&"))
    assert (len(rows(first)), len(rows(second))) == (4, 3)
    assert "Last page." in second


def test_bounded_search_says_how_far_it_came(ann: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation_walk, "SCANNED_MAX", 1)
    monkeypatch.setattr(operation_walk, "_FIRST_WINDOW", 1)
    assert "Looked at all operations back to" in words(ann.get("/operations?status=rejected&feature=x"))


def test_top_shows_the_users_who_spend_most(ann: Visitor) -> None:
    assert rows(ann.get("/operations?top=user")) == ["ada 1,000 2", "bob 40 1"]
    assert rows(ann.get("/operations?top=feature&user=ada")) == ["ocr 700 1", "search 300 1"]
    assert 'href="/operations?sender=app+(uploads)"' in ann.get("/operations?top=sender")


def test_export_has_what_the_filter_finds(ann: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    with ann.client.get("/operations?prefix=job-&format=csv") as response:
        lines = response.get_data().decode().splitlines()
        assert response.headers["Content-Disposition"] == 'attachment; filename="operations.csv"'
    assert len(lines) == 4
    assert lines[0].startswith("recorded_at,")
    monkeypatch.setattr(operations_page, "EXPORTED_MAX", 2)
    *_, last = ann.get("/operations?format=csv").splitlines()
    assert last.startswith('"there are more: narrow the filter')
