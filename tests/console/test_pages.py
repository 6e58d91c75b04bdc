"""Every page on both databases, with hostile content; unknown values are shown as unknown."""

import csv
import html
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from sqlalchemy import create_engine

from schemas import DeductUsage, OpenAccount
from tests.console import furnishing
from tests.console.conftest import NOWHERE, app_on
from tests.console.visiting import Visitor, row_numbers, words
from tests.support.asking import opened
from tests.support.books import applied
from worker.bootstrap import Application
from worker.broker import Delivery
from worker.deadletters.explain import DEAD_LETTERS_MAX
from worker.settings import load_settings


@pytest.fixture
def in_transaction(database_url: str) -> Iterator[Application]:
    """An application on a database, once of each dialect."""
    application = Application(load_settings(broker_url=NOWHERE, database_url=database_url))
    yield application
    application.engine.dispose()


def test_every_page_comes(in_transaction: Application) -> None:
    now = datetime.now(UTC)
    furnishing.small(in_transaction.engine, in_transaction.service(), in_transaction.catalog, now)
    visitor = Visitor(app_on(in_transaction).test_client())
    group = in_transaction.service().groups().groups[0].fingerprint
    for path in (
        "/", "/?window=week", "/overview/live", "/letters", "/letters?order=tokens&waiting=all",
        "/letters/list", "/letters/list?status=all&reason=invalid_field&since=2026-01-01T00:00",
        "/letters/list?text=deduce", f"/groups/{group}", f"/groups/{group}?status=all", "/letters/1",
        "/letters/15", "/letters/1/edit", "/letters/1/body", "/letters/dry-run",
        "/letters/dry-run?n=1&n=11", "/letters/replay", "/letters/replay?n=1", "/letters/discard?n=1",
        "/replays", "/accounts", "/accounts?prefix=ad", "/account?user=ada", "/account/history?user=ada",
        "/account/usage?user=ada", "/account/usage?user=ada&by=feature&days=366",
        "/account/statement?user=ada", "/account/statement?user=ada&format=csv", "/explain",
        "/explain?reference=pay-ada", "/explain?reference=hold-ada-1", "/explain?reference=bug-1",
        "/audit",
    ):  # fmt: skip
        visitor.get(path)


def test_the_numbers_are_the_ledgers_own(in_transaction: Application) -> None:
    furnishing.small(
        in_transaction.engine, in_transaction.service(), in_transaction.catalog, datetime.now(UTC)
    )
    visitor = Visitor(app_on(in_transaction).test_client())
    balance = in_transaction.service().counts()
    page = words(visitor.get("/letters"))
    assert f"Parked {balance.parked}" in page
    assert f"Tokens at stake {balance.tokens_at_stake:,} and {balance.tokens_unknown} not known" in page
    assert "Available" in words(visitor.get("/account?user=ada"))
    assert "2,500 held" in words(visitor.get("/account?user=ada"))


def test_hostile_content_is_shown_and_does_no_harm(application_: Application) -> None:
    now = datetime.now(UTC)
    furnishing.large(application_.engine, application_.service(), application_.catalog, now, groups=60)
    visitor = Visitor(app_on(application_).test_client())
    dead_letters = [f"/letters/{number}" for number in range(1, 9)]
    edits = [f"/letters/{number}/edit" for number in range(1, 9)]
    hostile = quote(furnishing.HOSTILE)
    for path in (
        *dead_letters,
        *edits,
        "/letters",
        "/letters/list?status=all",
        f"/letters/list?text={hostile}&reason={hostile}",
        "/letters/dry-run?n=1&n=2&n=3&n=4&n=5",
        f"/accounts?prefix={hostile}",
        "/accounts?prefix=%3Cb",
        "/account?user=%3Cb%3Ebold%3C%2Fb%3E",
        f"/explain?reference={'r' * 180}3",
        f"/audit?actor={hostile}",
    ):
        page = visitor.get(path)
        assert "<script>alert" not in page, path
        assert "<b>bold" not in page, path
        assert "49" not in re.findall(r"&amp;(\d+)", page), path
        assert "\u202e" not in page, path
    assert "&lt;script&gt;" in visitor.get("/letters/3")
    assert f'"title{furnishing.HOSTILE}' not in visitor.get("/letters/5")
    assert "00000000  00 00" in visitor.get("/letters/1")
    page = words(visitor.get("/letters/4"))
    assert "ada\\u202egnp.exe" in page


def test_a_body_is_taken_away_byte_for_byte_and_never_shown(application_: Application) -> None:
    furnishing.park(
        application_.service(), [furnishing.refused(furnishing.HOSTILE.encode(), datetime.now(UTC))]
    )
    visitor = Visitor(app_on(application_).test_client())
    response = visitor.client.get("/letters/1/body")
    assert response.data == furnishing.HOSTILE.encode()
    assert response.mimetype == "application/octet-stream"
    assert response.headers["Content-Disposition"].startswith("attachment")


def test_users_with_any_name_are_found_and_have_a_page(in_transaction: Application) -> None:
    names = ["a/b?c=d#e&f", "%", "ä" * 100, "x" * 200, "..", "' OR 1=1 --", "日本"]
    applied(in_transaction.engine, in_transaction.catalog, *_openings(names))
    visitor = Visitor(app_on(in_transaction).test_client())
    for name in names:
        page = visitor.get(f"/accounts?prefix={quote(name, safe='')}")
        assert len(re.findall("data-open", page)) == 1, name
        (link,) = re.findall(r'data-open href="([^"]+)"', page)
        visitor.get(html.unescape(link))
        found = visitor.client.get(f"/find?q={quote(name, safe='')}")
        assert found.location == html.unescape(link)


def _openings(names: list[str]) -> list[OpenAccount]:
    return [
        OpenAccount(reference_id=f"open-{place}", user_id=name, tier="free")
        for place, name in enumerate(names)
    ]


def test_pages_go_on_where_the_one_before_ended(application_: Application) -> None:
    now = datetime.now(UTC)
    alike = [furnishing.refused({"type": f"usage.{n}"}, now - timedelta(seconds=n)) for n in range(120)]
    furnishing.park(application_.service(), alike)
    visitor = Visitor(app_on(application_).test_client())
    seen: list[int] = []
    path: str | None = "/letters/list"
    while path is not None:
        page = visitor.get(path)
        seen += row_numbers(page)
        following = re.search(r'href="([^"]+)" rel="next"', page)
        path = following[1].replace("&amp;", "&") if following else None
        assert len(seen) <= 120
    assert seen == list(range(120, 0, -1))


def test_a_statement_holds_nothing_that_a_spreadsheet_would_run(in_transaction: Application) -> None:
    evil = DeductUsage(
        reference_id='=HYPERLINK("http://evil.example")',
        user_id="@SUM(A1)",
        tokens=1,
        feature="+1",
        description='=cmd|"/c calc"!A1',
    )
    now = datetime.now(UTC)
    applied(in_transaction.engine, in_transaction.catalog, opened("@SUM(A1)"), evil, now=now)
    visitor = Visitor(app_on(in_transaction).test_client())
    with visitor.client.get("/account/statement?user=%40SUM(A1)&format=csv") as response:
        assert response.headers["Content-Disposition"].startswith('attachment; filename="statement_20')
        rows = list(csv.reader(io.StringIO(response.get_data(as_text=True))))
    cells = {cell for row in rows for cell in row}
    assert "'" + evil.reference_id in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "-="))]


def test_outcomes_of_a_squatted_reference_say_whose_each_is(in_transaction: Application) -> None:
    now = datetime.now(UTC)
    squat = DeductUsage(reference_id="pi_9", user_id="nobody", tokens=5)
    applied(in_transaction.engine, in_transaction.catalog, squat, now=now)
    applied(
        in_transaction.engine,
        in_transaction.catalog,
        opened("zoe").model_copy(update={"reference_id": "pi_9"}),
        now=now,
    )
    page = words(Visitor(app_on(in_transaction).test_client()).get("/explain?reference=pi_9"))
    assert "usage.deduct of nobody" in page
    assert "account.open of zoe" not in page


def test_a_number_of_a_dead_letter_is_found_and_nothing_else_is_taken_for_one(
    in_transaction: Application,
) -> None:
    visitor = Visitor(app_on(in_transaction).test_client())
    assert visitor.client.get("/find?q=%237").location == "/letters/7"
    for text in ("#²", "#18446744073709551623", "#seven", "#"):
        assert visitor.client.get(f"/find?q={quote(text)}").location.startswith("/explain?reference=")


def test_buttons_act_on_exactly_the_listed_dead_letters(application_: Application) -> None:
    now = datetime.now(UTC)
    furnishing.park(
        application_.service(), [furnishing.refused({"type": "usage.a", "n": n}, now) for n in range(3)]
    )
    application_.service().discard([3], "gone", "ann")
    visitor = Visitor(app_on(application_).test_client())
    page = visitor.get("/letters/list?n=1")  # an operator comes back here from a form without sending it
    assert "2 letters" in words(page)
    assert "/letters/discard?n=" not in page
    assert "status=parked" in page
    page = visitor.get("/letters/list?status=discarded")
    assert "Restore all of them" in page
    assert "/letters/discard?status" not in page  # it would act on other dead letters than these
    assert "/letters/replay?status" not in page


def test_dead_letters_with_a_text_are_not_said_to_be_more_than_they_are(application_: Application) -> None:
    furnishing.park(application_.service(), [furnishing.refused({"type": "usage.a"}, datetime.now(UTC))])
    visitor = Visitor(app_on(application_).test_client())
    for path in ("/letters/discard", "/letters/replay"):
        assert "10,000" not in words(visitor.get(f"{path}?text=usage"))
        assert "1 letter" in words(visitor.get(f"{path}?type=usage.a"))


def test_a_reference_of_very_many_dead_letters_shows_the_newest_and_where_the_others_are(
    in_transaction: Application,
) -> None:
    now = datetime.now(UTC)
    body = {"type": "usage.deduct", "referenceId": "undefined", "userId": "ada"}
    dead_letters = [furnishing.refused({**body, "tokens": f"{n}"}, now) for n in range(DEAD_LETTERS_MAX + 1)]
    furnishing.park(in_transaction.service(), dead_letters)
    page = Visitor(app_on(in_transaction).test_client()).get("/explain?reference=undefined")
    assert row_numbers(page) == list(range(DEAD_LETTERS_MAX + 1, DEAD_LETTERS_MAX - 99, -1))
    assert "/letters/list?status=all&amp;reference=undefined" in page


def test_a_time_that_a_dead_letter_came_without_is_not_known(application_: Application) -> None:
    bare = Delivery(b"{}", "billing.dead", "", "billing.dead", 1)
    furnishing.park(application_.service(), [bare])
    visitor = Visitor(app_on(application_).test_client())
    for path in ("/", "/letters", "/letters/list", "/letters/1"):
        page = visitor.get(path)
        assert "1970" not in page, path
    assert "First failed not known Last failed not known" in words(visitor.get("/letters/1"))


def test_a_request_that_is_too_large_is_said_to_be(visitor: Visitor) -> None:
    page = visitor.post("/letters/1/edit", status=413, body="x" * 3_000_000).text
    assert "413" in words(page)


def test_a_statement_is_taken_away_as_the_command_line_writes_it(furnished: Application) -> None:
    visitor = Visitor(app_on(furnished).test_client())
    path = "/account/statement?user=ada&from=2020-01-01&to=2100-01-01"
    with visitor.client.get(f"{path}&format=csv") as response:
        assert response.mimetype == "text/csv"
        lines = response.get_data(as_text=True).splitlines()
    assert lines[0].startswith("row,sequence,recordedAt")
    balance = re.search(r"closing,.*,(\d+)$", lines[-1])
    assert balance is not None
    assert f"{int(balance[1]):,}" in visitor.get(path)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/letters/list?since=tomorrow", "since must be a time"),
        ("/letters/list?before=-1", "before must be a whole number"),
        ("/letters/list?status=lost", "no such status"),
        ("/letters?order=size", "there is no order"),
        ("/letters/list?n=x", "n must be a whole number"),
        ("/account?user=", "name the user"),
        ("/account/usage?user=u&days=999", "days must be from 1 to 366"),
        ("/account/usage?user=u&timezone=Mars", "time zone"),
        ("/account/statement?user=u&from=x", "from must be a day"),
        ("/explain?reference=a%00b", "no database stores"),
        ("/letters/99999999999999999999", None),
        ("/letters/9223372036854775808/body", None),
        (f"/letters/{'9' * 5000}", None),
        ("/replays/9223372036854775808", None),
        ("/letters?order=count&after=x", "no place in a list"),
        ("/letters?after=2026-11-22|x", "no place in a list"),
        ("/letters?order=tokens&after=99999999999999999999|x", "no place in a list"),
        ("/account/statement?user=u&from=0001-01-01&timezone=Asia/Tokyo", "years 1 to 9999"),
        ("/account/usage?user=u&timezone=../../etc/passwd", "time zone"),
        ("/letters/discard?status=resolved", "the filter finds those that are resolved"),
        ("/replays/1?state=odd", None),
        ("/account/history?user=u&cursor=made-up", "cursor"),
    ],
)
def test_invalid_request_is_refused_with_the_way_out(
    path: str, says: str | None, application_: Application
) -> None:
    applied(application_.engine, application_.catalog, opened("u"))
    visitor = Visitor(app_on(application_).test_client())
    page = visitor.get(path, status=404 if says is None else 400)
    assert says is None or says in words(page)


@pytest.mark.parametrize(
    "path",
    ["/letters/7", "/replays/7", "/groups/abcdef", "/account?user=nobody", "/explain?reference=x", "/x"],
)
def test_missing_object_is_404_and_no_empty_page(path: str, visitor: Visitor) -> None:
    visitor.get(path, status=404)


# -- unknown values ---------------------------------------------------------------------------------------


def test_without_a_broker_the_overview_says_so_instead_of_zero(visitor: Visitor) -> None:
    page = words(visitor.get("/"))
    assert "Messages waiting not known the broker does not answer" in page
    assert "Oldest waiting not known the broker does not answer" in page
    assert "Broker Not fine:" in page
    assert "Workers not known" in page
    assert "Dead letters 0 waiting" in page  # the ledger answers


def test_without_a_ledger_the_overview_comes_and_says_so(tmp_path: object) -> None:
    nowhere = "postgresql://billing@127.0.0.1:1/billing"
    application = Application(load_settings(broker_url=NOWHERE, database_url=nowhere))
    visitor = Visitor(app_on(application).test_client())
    page = words(visitor.get("/"))
    for tile in ("Dead letters", "Tokens at stake", "Last booked"):
        assert f"{tile} not known the ledger does not answer" in page
    assert "Ledger Not fine:" in page
    assert not re.search(r"Dead letters 0", page)
    for path in (
        "/letters",
        "/letters/list",
        "/letters/1",
        "/accounts",
        "/account?user=a",
        "/replays",
        "/audit",
    ):
        said = words(visitor.get(path, status=503))
        assert "Not known at the moment" in said
        assert "database is not available" in said


def test_after_the_database_has_cut_its_connections_pages_come_again(postgres_url: str) -> None:
    application = Application(load_settings(broker_url=NOWHERE, database_url=postgres_url))
    visitor = Visitor(app_on(application).test_client())
    visitor.get("/letters")
    other = create_engine(postgres_url)
    with other.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    other.dispose()
    assert "not known" in words(visitor.get("/"))  # and the page comes
    visitor.get("/letters")
    application.engine.dispose()


def test_an_old_schema_is_said_with_the_way_out(tmp_path: object) -> None:
    application = Application(
        load_settings(broker_url=NOWHERE, database_url=f"sqlite:///{tmp_path}/empty.sqlite3")
    )
    page = words(Visitor(app_on(application).test_client()).get("/"))
    application.engine.dispose()
    assert "run `billing-worker migrate`" in page


def test_amounts_that_nobody_can_read_are_not_known_and_not_zero(application_: Application) -> None:
    furnishing.park(application_.service(), [furnishing.refused(b"no json", datetime.now(UTC))])
    visitor = Visitor(app_on(application_).test_client())
    group = application_.service().groups().groups[0].fingerprint
    for path in ("/", "/letters", "/letters/1", f"/groups/{group}"):
        assert "Tokens at stake not known" in words(visitor.get(path)), path
    assert "Users not known" in words(visitor.get(f"/groups/{group}"))
