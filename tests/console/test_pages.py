"""Every page on both databases, with hostile content; unknown values are shown as unknown."""

import csv
import html
import io
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from sqlalchemy import create_engine

from schemas import DeductUsage, OpenAccount
from tests.console import sample_data
from tests.console.conftest import NOWHERE, app_on
from tests.console.visitor import Visitor, row_numbers, words
from tests.support.apply_commands import applied
from tests.support.query_samples import opened
from worker.bootstrap import Application
from worker.broker import Delivery
from worker.checks import health_of
from worker.deadletters.explain import DEAD_LETTERS_MAX
from worker.ledger.senders import UNNAMED, Sender
from worker.runtime.identity import Operator
from worker.settings import load_settings


@pytest.fixture
def on_each_database(database_url: str) -> Iterator[Application]:
    """Application on a database, once for each dialect."""
    application = Application(load_settings(broker_url=NOWHERE, database_url=database_url))
    yield application
    application.engine.dispose()


def test_every_page_is_served(on_each_database: Application) -> None:
    now = datetime.now(UTC)
    sample_data.small(on_each_database.engine, on_each_database.service(), on_each_database.catalog, now)
    visitor = Visitor(app_on(on_each_database).test_client())
    group = on_each_database.service().groups().groups[0].fingerprint
    for path in (
        "/", "/?window=week", "/overview/live", "/dead-letters", "/dead-letters?order=tokens&waiting=all",
        "/dead-letters/list", "/dead-letters/list?status=all&code=invalid_field&since=2026-01-01T00:00",
        "/dead-letters/list?text=deduce", f"/groups/{group}", f"/groups/{group}?status=all",
        "/dead-letters/1", "/dead-letters/15", "/dead-letters/1/edit", "/dead-letters/1/body",
        "/dead-letters/dry-run", "/dead-letters/dry-run?n=1&n=11", "/dead-letters/replay",
        "/dead-letters/replay?n=1", "/dead-letters/discard?n=1",
        "/replays", "/payments", "/payments?kind=all", "/workers", "/workers/live",
        "/operations", "/operations?status=rejected&feature=x", "/operations?top=user",
        "/operations?format=csv", "/account/operations?user=ada", "/reports",
        "/reports?report=revenue&by=month&by=package", "/reports?report=liability&by=day",
        "/reports?report=usage&by=day&by=feature", "/reports?report=breakage&format=csv",
        "/accounts", "/accounts?prefix=ad", "/account?user=ada", "/account/history?user=ada",
        "/account/usage?user=ada", "/account/usage?user=ada&by=feature&days=366",
        "/account/statement?user=ada", "/account/statement?user=ada&format=csv", "/explain",
        "/explain?reference=pay-ada", "/explain?reference=hold-ada-1", "/explain?reference=bug-1",
        "/activity-log",
    ):  # fmt: skip
        visitor.get(path)


def test_pages_show_the_numbers_of_the_ledger(on_each_database: Application) -> None:
    sample_data.small(
        on_each_database.engine, on_each_database.service(), on_each_database.catalog, datetime.now(UTC)
    )
    visitor = Visitor(app_on(on_each_database).test_client())
    balance = on_each_database.service().counts()
    page = words(visitor.get("/dead-letters"))
    assert f"Parked {balance.parked}" in page
    assert f"Tokens affected {balance.tokens_at_stake:,} and {balance.tokens_unknown} unknown" in page
    assert "Available" in words(visitor.get("/account?user=ada"))
    assert "2,500 held" in words(visitor.get("/account?user=ada"))


def test_hostile_content_is_shown_escaped(application_: Application) -> None:
    now = datetime.now(UTC)
    sample_data.large(application_.engine, application_.service(), application_.catalog, now, groups=60)
    visitor = Visitor(app_on(application_).test_client())
    dead_letters = [f"/dead-letters/{number}" for number in range(1, 9)]
    edits = [f"/dead-letters/{number}/edit" for number in range(1, 9)]
    hostile = quote(sample_data.HOSTILE)
    for path in (
        *dead_letters,
        *edits,
        "/dead-letters",
        "/dead-letters/list?status=all",
        f"/dead-letters/list?text={hostile}&code={hostile}",
        "/dead-letters/dry-run?n=1&n=2&n=3&n=4&n=5",
        f"/accounts?prefix={hostile}",
        "/accounts?prefix=%3Cb",
        "/account?user=%3Cb%3Ebold%3C%2Fb%3E",
        f"/explain?reference={'r' * 180}3",
        f"/activity-log?actor={hostile}",
    ):
        page = visitor.get(path)
        assert "<script>alert" not in page, path
        assert "<b>bold" not in page, path
        assert "49" not in re.findall(r"&amp;(\d+)", page), path
        assert "\u202e" not in page, path
    assert "&lt;script&gt;" in visitor.get("/dead-letters/3")
    assert f'"title{sample_data.HOSTILE}' not in visitor.get("/dead-letters/5")
    assert "00000000  00 00" in visitor.get("/dead-letters/1")
    page = words(visitor.get("/dead-letters/4"))
    assert "ada\\u202egnp.exe" in page


def test_download_has_the_bytes_of_the_body_as_an_attachment(application_: Application) -> None:
    sample_data.drain(
        application_.service(), [sample_data.refused(sample_data.HOSTILE.encode(), datetime.now(UTC))]
    )
    visitor = Visitor(app_on(application_).test_client())
    response = visitor.client.get("/dead-letters/1/body")
    assert response.data == sample_data.HOSTILE.encode()
    assert response.mimetype == "application/octet-stream"
    assert response.headers["Content-Disposition"].startswith("attachment")


def test_user_with_any_name_is_found_and_has_a_page(on_each_database: Application) -> None:
    names = ["a/b?c=d#e&f", "%", "ä" * 100, "x" * 200, "..", "' OR 1=1 --", "日本"]
    applied(on_each_database.engine, on_each_database.catalog, *_openings(names))
    visitor = Visitor(app_on(on_each_database).test_client())
    for name in names:
        page = visitor.get(f"/accounts?prefix={quote(name, safe='')}")
        assert len(re.findall("data-row-link", page)) == 1, name
        (link,) = re.findall(r'data-row-link href="([^"]+)"', page)
        visitor.get(html.unescape(link))
        found = visitor.client.get(f"/find?q={quote(name, safe='')}")
        assert found.location == html.unescape(link)


def _openings(names: list[str]) -> list[OpenAccount]:
    return [
        OpenAccount(reference_id=f"open-{place}", user_id=name, tier="free")
        for place, name in enumerate(names)
    ]


def test_next_page_continues_the_list(application_: Application) -> None:
    now = datetime.now(UTC)
    alike = [sample_data.refused({"type": f"usage.{n}"}, now - timedelta(seconds=n)) for n in range(120)]
    sample_data.drain(application_.service(), alike)
    visitor = Visitor(app_on(application_).test_client())
    seen: list[int] = []
    path: str | None = "/dead-letters/list"
    while path is not None:
        page = visitor.get(path)
        seen += row_numbers(page)
        following = re.search(r'href="([^"]+)" rel="next"', page)
        path = following[1].replace("&amp;", "&") if following else None
        assert len(seen) <= 120
    assert seen == list(range(120, 0, -1))


def test_pages_show_escapes_of_a_look_alike_and_where_an_operator_acted(sqlite_url: str) -> None:
    application = Application(load_settings(broker_url=NOWHERE, database_url=sqlite_url))
    look_alike = "\u0430da"
    opening = OpenAccount(reference_id=f"open-{look_alike}", user_id=look_alike, tier="free")
    applied(application.engine, application.catalog, opening)
    application.service().record(Operator.here("ann"), "adjust", f"adj-{look_alike}", "outage")
    visitor = Visitor(app_on(application).test_client())
    for path in (
        "/accounts",
        f"/account?user={quote(look_alike)}",
        f"/explain?reference=open-{quote(look_alike)}",
    ):
        assert look_alike + r" (\u0430da)" in html.unescape(visitor.get(path)), path
    log = words(visitor.get("/activity-log"))
    assert rf"adj-{look_alike} (adj-\u0430da)" in log
    assert f" on {socket.gethostname()}" in log
    application.engine.dispose()


def test_statement_has_no_spreadsheet_formula(on_each_database: Application) -> None:
    evil = DeductUsage(
        reference_id='=HYPERLINK("http://evil.example")',
        user_id="@SUM(A1)",
        tokens=1,
        feature="+1",
        description='=cmd|"/c calc"!A1',
    )
    now = datetime.now(UTC)
    applied(on_each_database.engine, on_each_database.catalog, opened("@SUM(A1)"), evil, now=now)
    visitor = Visitor(app_on(on_each_database).test_client())
    with visitor.client.get("/account/statement?user=%40SUM(A1)&format=csv") as response:
        assert response.headers["Content-Disposition"].startswith('attachment; filename="statement_20')
        rows = list(csv.reader(io.StringIO(response.get_data(as_text=True))))
    cells = {cell for row in rows for cell in row}
    assert "'" + evil.reference_id in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "-="))]


def test_outcomes_of_a_squatted_reference_name_their_users(on_each_database: Application) -> None:
    now = datetime.now(UTC)
    squat = DeductUsage(reference_id="pi_9", user_id="nobody", tokens=5)
    applied(on_each_database.engine, on_each_database.catalog, squat, now=now)
    applied(
        on_each_database.engine,
        on_each_database.catalog,
        opened("zoe").model_copy(update={"reference_id": "pi_9"}),
        now=now,
    )
    page = words(Visitor(app_on(on_each_database).test_client()).get("/explain?reference=pi_9"))
    assert "usage.deduct of nobody" in page
    assert "account.open of zoe" not in page


def test_reference_is_shown_with_its_senders(on_each_database: Application) -> None:
    command = DeductUsage(reference_id="sent", user_id="nobody", tokens=5)
    for attempt, sender in ((1, UNNAMED), (2, Sender("ocr", "<b>day")), (3, Sender("ocr", "night"))):
        applied(
            on_each_database.engine,
            on_each_database.catalog,
            command.model_copy(update={"attempt": attempt}),
            sender=sender,
        )
    page = words(Visitor(app_on(on_each_database).test_client()).get("/explain?reference=sent"))
    assert "Sender ocr (night)" in page
    for line in ("attempt 3 rejected", "attempt 2 of ocr (<b>day)", "attempt 1 of an unknown sender"):
        assert line in page


def test_search_finds_a_dead_letter_by_its_number_only(
    on_each_database: Application,
) -> None:
    visitor = Visitor(app_on(on_each_database).test_client())
    assert visitor.client.get("/find?q=%237").location == "/dead-letters/7"
    for text in ("#²", "#18446744073709551623", "#seven", "#"):
        assert visitor.client.get(f"/find?q={quote(text)}").location.startswith("/explain?reference=")


def test_buttons_act_on_exactly_the_listed_dead_letters(application_: Application) -> None:
    now = datetime.now(UTC)
    sample_data.drain(
        application_.service(), [sample_data.refused({"type": "usage.a", "n": n}, now) for n in range(3)]
    )
    application_.service().discard([3], "gone", "ann")
    visitor = Visitor(app_on(application_).test_client())
    page = visitor.get("/dead-letters/list?n=1")  # an operator comes back here from a form without sending it
    assert "2 dead letters" in words(page)
    assert "/dead-letters/discard?n=" not in page
    assert "status=parked" in page
    page = visitor.get("/dead-letters/list?status=discarded")
    assert "Restore all" in page
    assert "/dead-letters/discard?status" not in page  # it would act on other dead letters than these
    assert "/dead-letters/replay?status" not in page


def test_forms_never_overstate_the_number_of_dead_letters(application_: Application) -> None:
    sample_data.drain(application_.service(), [sample_data.refused({"type": "usage.a"}, datetime.now(UTC))])
    visitor = Visitor(app_on(application_).test_client())
    for path in ("/dead-letters/discard", "/dead-letters/replay"):
        assert "10,000" not in words(visitor.get(f"{path}?text=usage"))
        assert "1 dead letter" in words(visitor.get(f"{path}?type=usage.a"))


def test_reference_with_many_dead_letters_shows_the_newest_and_a_link(
    on_each_database: Application,
) -> None:
    now = datetime.now(UTC)
    body = {"type": "usage.deduct", "referenceId": "undefined", "userId": "ada"}
    dead_letters = [sample_data.refused({**body, "tokens": f"{n}"}, now) for n in range(DEAD_LETTERS_MAX + 1)]
    sample_data.drain(on_each_database.service(), dead_letters)
    page = Visitor(app_on(on_each_database).test_client()).get("/explain?reference=undefined")
    assert row_numbers(page) == list(range(DEAD_LETTERS_MAX + 1, DEAD_LETTERS_MAX - 99, -1))
    assert "/dead-letters/list?status=all&amp;reference=undefined" in page


def test_missing_time_of_a_dead_letter_is_unknown(application_: Application) -> None:
    bare = Delivery(b"{}", "billing.dead", "", "billing.dead", 1)
    sample_data.drain(application_.service(), [bare])
    visitor = Visitor(app_on(application_).test_client())
    for path in ("/", "/dead-letters", "/dead-letters/list", "/dead-letters/1"):
        page = visitor.get(path)
        assert "1970" not in page, path
    assert "First failed unknown Last failed unknown" in words(visitor.get("/dead-letters/1"))


def test_too_large_request_gets_a_413_page(visitor: Visitor) -> None:
    page = visitor.post("/dead-letters/1/edit", status=413, body="x" * 3_000_000).text
    assert "413" in words(page)


def test_downloaded_statement_equals_that_of_the_command_line(filled: Application) -> None:
    visitor = Visitor(app_on(filled).test_client())
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
        ("/dead-letters/list?since=tomorrow", "since must be a time"),
        ("/dead-letters/list?before=-1", "before must be a whole number"),
        ("/dead-letters/list?status=lost", "no such status"),
        ("/dead-letters?order=size", "no such order"),
        ("/dead-letters/list?n=x", "n must be a whole number"),
        ("/account?user=", "name the user"),
        ("/account/usage?user=u&days=999", "days must be from 1 to 366"),
        ("/account/usage?user=u&timezone=Mars", "time zone"),
        ("/account/statement?user=u&from=x", "from must be a day"),
        ("/explain?reference=a%00b", "no database stores"),
        ("/dead-letters/99999999999999999999", None),
        ("/dead-letters/9223372036854775808/body", None),
        (f"/dead-letters/{'9' * 5000}", None),
        ("/replays/9223372036854775808", None),
        ("/dead-letters?order=count&after=x", "no place in a list"),
        ("/dead-letters?after=2026-11-22|x", "no place in a list"),
        ("/dead-letters?order=tokens&after=99999999999999999999|x", "no place in a list"),
        ("/account/statement?user=u&from=0001-01-01&timezone=Asia/Tokyo", "years 1 to 9999"),
        ("/account/usage?user=u&timezone=../../etc/passwd", "time zone"),
        ("/dead-letters/discard?status=resolved", "the filter finds those that are resolved"),
        ("/replays/1?state=odd", None),
        ("/account/history?user=u&cursor=made-up", "cursor"),
    ],
)
def test_invalid_request_is_refused_with_a_correction(
    path: str, says: str | None, application_: Application
) -> None:
    applied(application_.engine, application_.catalog, opened("u"))
    visitor = Visitor(app_on(application_).test_client())
    page = visitor.get(path, status=404 if says is None else 400)
    assert says is None or says in words(page)


@pytest.mark.parametrize(
    "path",
    ["/dead-letters/7", "/replays/7", "/groups/abcdef", "/account?user=nobody", "/explain?reference=x", "/x"],
)
def test_missing_object_is_404(path: str, visitor: Visitor) -> None:
    visitor.get(path, status=404)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/letters", "/dead-letters"),
        ("/letters/7/edit", "/dead-letters/7/edit"),
        ("/letters/list?reason=not_json&user=a%26b", "/dead-letters/list?code=not_json&user=a%26b"),
        ("/letters/dry-run?n=1&n=2", "/dead-letters/dry-run?n=1&n=2"),
        ("/audit?actor=ann", "/activity-log?actor=ann"),
    ],
)
def test_path_of_an_earlier_version_redirects_for_ever(old: str, new: str, visitor: Visitor) -> None:
    with visitor.client.get(old) as response:
        assert response.status_code == 308
        assert response.location.removeprefix("http://localhost") == new


# -- unknown values ---------------------------------------------------------------------------------------


def test_overview_without_a_broker_shows_unknown_values(visitor: Visitor) -> None:
    page = words(visitor.get("/"))
    assert "Unknown : Messages waiting, Lag: the broker does not answer" in page
    assert "Users 0" in page, "a known number has the place"
    assert "Broker Failing:" in page
    assert "Workers unknown:" in page
    assert "Dead letters 0 waiting" in page  # the ledger answers


def test_overview_and_check_say_the_same(application_: Application) -> None:
    page = words(Visitor(app_on(application_).test_client()).get("/"))
    for health in health_of(application_):
        assert health.name.capitalize() in page
        assert health.text.partition("\n")[0][:60] in page


def test_overview_without_a_ledger_shows_unknown_values(tmp_path: object) -> None:
    nowhere = "postgresql://billing@127.0.0.1:1/billing"
    application = Application(load_settings(broker_url=NOWHERE, database_url=nowhere))
    visitor = Visitor(app_on(application).test_client())
    page = words(visitor.get("/"))
    unknown = "Workers, Dead letters, Tokens affected, Last posted"
    assert f"{unknown}: the ledger does not answer" in page
    assert "Database Failing:" in page
    assert not re.search(r"Dead letters 0", page)
    for path in (
        "/dead-letters",
        "/dead-letters/list",
        "/dead-letters/1",
        "/accounts",
        "/account?user=a",
        "/replays",
        "/activity-log",
    ):
        page = words(visitor.get(path, status=503))
        assert "Unknown at the moment" in page
        assert "database is not available" in page


def test_pages_recover_from_cut_connections(postgres_url: str) -> None:
    application = Application(load_settings(broker_url=NOWHERE, database_url=postgres_url))
    visitor = Visitor(app_on(application).test_client())
    visitor.get("/dead-letters")
    other = create_engine(postgres_url)
    with other.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    other.dispose()
    assert "unknown" in words(visitor.get("/"))  # and the page comes
    visitor.get("/dead-letters")
    application.engine.dispose()


def test_overview_names_the_command_for_an_old_schema(tmp_path: object) -> None:
    application = Application(
        load_settings(broker_url=NOWHERE, database_url=f"sqlite:///{tmp_path}/empty.sqlite3")
    )
    page = words(Visitor(app_on(application).test_client()).get("/"))
    application.engine.dispose()
    assert "run `billing-worker migrate`" in page


def test_unreadable_amounts_are_unknown_not_zero(application_: Application) -> None:
    sample_data.drain(application_.service(), [sample_data.refused(b"no json", datetime.now(UTC))])
    visitor = Visitor(app_on(application_).test_client())
    group = application_.service().groups().groups[0].fingerprint
    for path in ("/dead-letters", "/dead-letters/1", f"/groups/{group}"):
        assert "Tokens affected unknown" in words(visitor.get(path)), path
    assert "Tokens affected: no waiting dead letter has a known amount" in words(visitor.get("/"))
    assert "Users unknown" in words(visitor.get(f"/groups/{group}"))
