"""Page of reports: each of them on both databases, its chart and download, and requests that are refused."""

import csv
import io
import re
from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest

from schemas import AdjustCredit
from tests.console.conftest import app_on
from tests.console.visitor import Visitor, words
from tests.support.apply_commands import applied
from tests.support.commands import payment
from tests.support.true_ledger import OPENED, fill
from worker.bootstrap import Application
from worker.console.pages import reports as reports_page
from worker.ledger.queries.reports import GROUPINGS, ReportName

RANGE = {"from": "2026-11-01", "to": "2027-01-01"}


def path(report: str, *by: str, **more: str) -> str:
    """Return the address of a report."""
    pairs = [("report", report), *RANGE.items(), *(("by", one) for one in by), *more.items()]
    return f"/reports?{urlencode(pairs)}"


@pytest.fixture
def visitor(application_: Application) -> Visitor:
    """Operator at a console over a ledger with everything in it."""
    fill(application_.engine)
    return Visitor(app_on(application_).test_client())


def test_every_report_is_served_with_each_of_its_groupings(visitor: Visitor) -> None:
    for name in ReportName:
        for grouping in ("", *GROUPINGS[name]):
            page = visitor.get(path(name, grouping))
            assert f'aria-current="true">{name.capitalize()}' in page


def test_money_is_shown_with_its_currency_and_a_chart_for_each(visitor: Visitor) -> None:
    page = visitor.get(path("payments", "month", "package"))
    assert "Payments: gross in EUR" in page
    assert "Payments: gross in USD" in page
    assert page.count('<svg class="bars"') == 2
    assert re.search(
        r"2026-11: brief 9\.99 EUR, rich 19\.98 EUR|2026-11: rich 19\.98 EUR, brief 9\.99 EUR", page
    )
    assert "All EUR" in words(page)


def test_debt_is_red_in_the_report_and_on_the_pages_of_accounts(
    visitor: Visitor, application_: Application
) -> None:
    slip = AdjustCredit(
        reference_id="slip", user_id="eve", tokens=-49_000, reason="slip", actor="ann", allow_negative=True
    )
    applied(application_.engine, application_.catalog, slip, now=datetime.now(UTC))
    assert '<span class="owed">0 to spend, 49,000 owed</span>' in visitor.get("/account?user=eve")
    assert '<span class="owed">0 to spend, 49,000 owed</span>' in visitor.get("/accounts?prefix=eve")
    assert 'title="49,000 owed"' in visitor.get("/account/history?user=eve")
    assert '<span class="owed"' in visitor.get(path("liability"))


def test_download_has_the_rows_of_the_page(visitor: Visitor) -> None:
    with visitor.client.get(path("payments", "package", format="csv")) as response:
        named = response.headers["Content-Disposition"]
        rows = list(csv.DictReader(io.StringIO(response.get_data(as_text=True))))
    assert named == 'attachment; filename="payments_2026-11-01_2027-01-01.csv"'
    assert [(row["package"], row["currency"], row["gross"], row["net"]) for row in rows] == [
        ("brief", "EUR", "9.99", "9.99"),
        ("gone", "EUR", "0.00", "0.00"),
        ("plain", "USD", "24.95", "12.47"),
        ("rich", "EUR", "49.94", "38.30"),
    ]


def test_long_report_shows_its_first_rows(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports_page, "ROWS_SHOWN", 3)
    page = words(visitor.get(path("liability", "month")))
    assert re.search(r"The first 3 of \d+ rows; the download has all", page)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("report=sales", "there is no report"),
        ("report=usage&by=package", "usage can't be grouped by package, only by day, month, feature"),
        ("report=usage&from=2026-02-01&to=2026-01-01", "a report ends after it begins"),
        ("report=usage&from=soon", "from must be a day such as 2026-11-01"),
        ("report=usage&timezone=Mars", "the time zone 'Mars' is not known"),
        ("report=usage&by=day&from=0001-01-02&to=9999-01-01", "days, and a report has at most 3,660"),
    ],
)
def test_bad_request_is_refused_with_the_way_out(application_: Application, query: str, text: str) -> None:
    page = words(Visitor(app_on(application_).test_client()).get(f"/reports?{query}", status=400))
    assert text in page


def test_report_that_takes_too_long_names_the_command(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports_page, "TIMEOUT_S", 0.0)
    page = words(visitor.get(path("payments"), status=400))
    assert "takes longer than 0 s here" in page
    assert "billing-worker report payments" in page


def test_hostile_names_are_escaped(visitor: Visitor, application_: Application) -> None:
    taken = payment(999, "EUR", reference_id="<script>alert(1)</script>:x", user_id="ada", package_id="rich")
    applied(application_.engine, application_.catalog, taken, now=OPENED)
    assert "<script>alert" not in visitor.get(path("payments", "gateway"))
