"""Access to the console: people, addresses and permissions."""

import re
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.routing import Rule

from tests.console.conftest import NOWHERE, PASSWORD, app_on
from tests.console.visiting import Visitor, words
from worker.bootstrap import Application
from worker.cli.statement import as_csv
from worker.console.app import create_app
from worker.console.guard import AccessGuard
from worker.console.parts import Parts
from worker.console.people import People, Role, remove_person, write_person
from worker.settings import load_settings

FOR_EVERYBODY = {"/sign-in", "/sign-out", "/theme"}


def paths(app: Flask, method: str) -> list[str]:
    """Return every path that takes ``method``, with its parameters filled in."""

    def filled(rule: Rule) -> str:
        return re.sub(r"<[^>]+>", "7", rule.rule)

    return sorted({filled(rule) for rule in app.url_map.iter_rules() if method in (rule.methods or ())})


def signed_in(app: Flask, name: str) -> Visitor:
    visitor = Visitor(app.test_client())
    visitor.sign_in(name, PASSWORD)
    return visitor


def test_visitor_who_has_not_signed_in_sees_nothing(guarded: Flask) -> None:
    visitor = Visitor(guarded.test_client())
    for path in set(paths(guarded, "GET")) - {"/sign-in", "/static/7"}:
        response = visitor.client.get(path)
        assert response.status_code == 303, path
        assert response.location.startswith("/sign-in?next="), path
    for path in set(paths(guarded, "POST")) - {"/sign-in"}:
        visitor.post(path, status=303)


def test_after_signing_in_one_is_where_one_wanted_to_be(guarded: Flask) -> None:
    visitor = Visitor(guarded.test_client())
    asked = visitor.client.get("/letters/list?reason=not_json")
    page = visitor.get(asked.location)
    target = re.search(r'name="next" value="([^"]+)"', page)
    assert target is not None
    response = visitor.post("/sign-in", name="ann", password=PASSWORD, next=target[1])
    assert response.location == "/letters/list?reason=not_json"
    assert "ann" in visitor.get("/letters")


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "/letters\r\nSet-Cookie: a=b",
        "javascript:alert(1)",
        "evil",
    ],
)
def test_signing_in_leads_nowhere_else(target: str, guarded: Flask) -> None:
    visitor = Visitor(guarded.test_client())
    assert visitor.post("/sign-in", name="ann", password=PASSWORD, next=target).location == "/"


@pytest.mark.parametrize(
    ("name", "password"), [("ann", "wrong"), ("nobody", PASSWORD), ("", ""), ("ann", "")]
)
def test_a_wrong_name_or_password_says_the_same(name: str, password: str, guarded: Flask) -> None:
    page = Visitor(guarded.test_client()).sign_in(name, password, status=401).text
    assert "don't belong together" in words(page)


def test_trying_too_often_has_to_wait_even_with_the_right_password(guarded: Flask) -> None:
    visitor = Visitor(guarded.test_client())
    for _ in range(5):
        visitor.sign_in("ann", "wrong", status=401)
    response = visitor.sign_in("ann", PASSWORD, status=429)
    assert 0 < int(response.headers["Retry-After"]) <= 60
    visitor.sign_in("vic", PASSWORD)  # others need not wait


def test_a_viewer_may_look_at_everything_and_change_nothing(guarded: Flask) -> None:
    visitor = signed_in(guarded, "vic")
    for path in set(paths(guarded, "POST")) - FOR_EVERYBODY:
        page = visitor.post(path, status=403).text
        assert "Only for operators" in page, path
    page = visitor.get("/letters/list")
    assert "Discard" not in page
    assert "Replay…" not in page
    for path in ("/letters/1/edit", "/letters/discard?n=1", "/letters/replay?n=1"):
        assert "Only for operators" in visitor.get(path, status=403)


def test_read_only_makes_a_viewer_of_everybody(application_: Application, people_file: Path) -> None:
    for app in (
        app_on(application_, read_only=True),
        app_on(application_, People(people_file), read_only=True),
    ):
        visitor = Visitor(app.test_client())
        visitor.client.post(
            "/sign-in", data={"csrf_token": visitor.token(), "name": "ann", "password": PASSWORD}
        )
        visitor.post("/letters/restore", status=403, n="1")


def test_a_form_without_its_token_is_refused(application_: Application, guarded: Flask) -> None:
    for app, client in (
        (guarded, signed_in(guarded, "ann").client),
        (open_ := app_on(application_), open_.test_client()),
    ):
        for path in paths(app, "POST"):
            for token in ({}, {"csrf_token": "made-up"}):
                response = client.post(path, data=token)
                assert response.status_code == 400, path
                assert "The form was too old" in response.text, path


def test_a_session_ends_when_its_person_is_taken_out_or_gets_another_password(
    guarded: Flask, people_file: Path
) -> None:
    ann, vic = signed_in(guarded, "ann"), signed_in(guarded, "vic")
    write_person(people_file, "ann", Role.OPERATOR, "another password")
    assert remove_person(people_file, "vic")
    for visitor in (ann, vic):
        visitor.get("/letters", status=303)


def test_a_session_cannot_be_made_without_the_secret(guarded: Flask, application_: Application) -> None:
    client = app_on(application_).test_client()
    with client.session_transaction() as session:
        session["person"], session["mark"] = "ann", "guessed"
    cookie = client.get_cookie("billing_console")
    assert cookie is not None
    stranger = guarded.test_client()
    stranger.set_cookie("billing_console", cookie.value[:-2] + "xx")
    assert stranger.get("/letters").status_code == 303


def test_signing_out_ends_the_session(guarded: Flask) -> None:
    visitor = signed_in(guarded, "ann")
    visitor.post("/sign-out")
    visitor.get("/letters", status=303)


def test_a_copy_of_the_cookie_of_who_has_signed_out_opens_nothing(guarded: Flask) -> None:
    visitor, thief = signed_in(guarded, "ann"), guarded.test_client()
    cookie = visitor.client.get_cookie("billing_console")
    assert cookie is not None
    thief.set_cookie("billing_console", cookie.value)
    assert thief.get("/letters").status_code == 200
    visitor.post("/sign-out")
    assert thief.get("/letters").status_code == 303


def test_a_session_ends_after_half_a_day_however_busy_it_is(
    application_: Application, people_file: Path
) -> None:
    now = [1_000_000.0]
    guard = AccessGuard(People(people_file), "127.0.0.1", clock=lambda: now[0])
    app = create_app(Parts(application_, guard, as_csv), b"a secret of the tests")
    visitor = signed_in(app, "ann")
    for _ in range(11):
        now[0] += 3_600
        visitor.get("/letters")
    now[0] += 3_600
    visitor.get("/letters", status=303)


def test_signing_in_takes_over_nothing_of_the_session_before(guarded: Flask) -> None:
    visitor = Visitor(guarded.test_client())
    with visitor.client.session_transaction() as session:
        session["planted"] = "by somebody else"
    before = visitor.token()
    visitor.sign_in("ann", PASSWORD)
    with visitor.client.session_transaction() as session:
        assert set(session) <= {"_permanent", "person", "mark", "since", "key"}
    response = visitor.client.post("/letters/1/note", data={"csrf_token": before, "text": "x"})
    assert response.status_code == 400


def test_one_comes_in_while_the_database_is_down_to_see_that_it_is(people_file: Path) -> None:
    nowhere = "postgresql://billing@127.0.0.1:1/billing"
    application = Application(load_settings(broker_url=NOWHERE, database_url=nowhere))
    visitor = signed_in(app_on(application, People(people_file)), "ann")
    assert "Ledger Not fine:" in words(visitor.get("/"))


def test_activity_log_has_sign_ins_sign_outs_and_failed_sign_ins(
    guarded: Flask, application_: Application
) -> None:
    Visitor(guarded.test_client()).sign_in("mallory", "wrong", status=401)
    signed_in(guarded, "ann").post("/sign-out")
    entries = application_.service().activity_log().entries
    assert [(entry.actor, entry.action) for entry in entries] == [
        ("ann", "sign_out"),
        ("ann", "sign_in"),
        ("mallory", "sign_in_failed"),
    ]


def test_cookies_are_for_this_site_and_no_script(guarded: Flask) -> None:
    visitor = Visitor(guarded.test_client())
    response = visitor.sign_in("ann", PASSWORD)
    (cookie,) = response.headers.getlist("Set-Cookie")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie


# -- without users, this machine alone --------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1:8800", "localhost:8800", "[::1]:8800", "localhost"])
def test_without_users_the_machine_itself_is_served(host: str, application_: Application) -> None:
    visitor = Visitor(app_on(application_).test_client())
    visitor.get("/letters", headers={"Host": host})


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8800", "10.0.0.1"]
)
def test_without_users_no_other_name_is_served(host: str, application_: Application) -> None:
    visitor = Visitor(app_on(application_).test_client())
    page = visitor.get("/letters", status=403, headers={"Host": host})
    assert "serves this machine alone" in page


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
def test_without_users_nothing_comes_through_a_proxy(header: str, application_: Application) -> None:
    visitor = Visitor(app_on(application_).test_client())
    assert "through a proxy" in visitor.get("/letters", status=403, headers={header: "10.0.0.7"})


def test_without_users_no_form_of_another_site_is_taken(application_: Application) -> None:
    visitor = Visitor(app_on(application_).test_client())
    for origin in ("https://console.example", "http://127.0.0.1.evil.example", "http://[evil"):
        page = visitor.client.post("/theme", headers={"Origin": origin}, data={"csrf_token": visitor.token()})
        assert page.status_code == 403, origin
    for origin in ("http://localhost:8800", "http://[::1]:8800", "null"):
        page = visitor.client.post("/theme", headers={"Origin": origin}, data={"csrf_token": visitor.token()})
        assert page.status_code == 303, origin


def test_no_path_leads_out_of_the_static_files(visitor: Visitor) -> None:
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
        visitor.get(path, status=404)


def test_every_answer_has_the_headers_that_keep_others_out(visitor: Visitor) -> None:
    for path in ("/", "/letters", "/static/console.js", "/nowhere", "/letters/77", "/letters/list?since=x"):
        with visitor.client.get(path) as response:
            headers = response.headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
    assert visitor.client.get("/letters").headers["Cache-Control"] == "no-store"


def test_pages_hold_nothing_inline_and_nothing_from_elsewhere(visitor: Visitor) -> None:
    for path in ("/", "/letters", "/letters/list", "/accounts", "/audit", "/explain"):
        page = visitor.get(path)
        assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
        assert re.findall(r"\son\w+=|\sstyle=|<style", page) == []
        assert re.findall(r'(?:src|href|action)="(?:https?:)?//', page) == []


def test_the_theme_is_kept_and_nothing_else_is_taken_for_one(visitor: Visitor) -> None:
    visitor.post("/theme", theme="dark", next="/letters")
    assert 'data-theme="dark"' in visitor.get("/letters")
    visitor.post("/theme", theme='"><script>')
    assert 'data-theme="auto"' in visitor.get("/letters")
