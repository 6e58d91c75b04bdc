"""Access to the console: people, addresses and permissions."""

import re
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.routing import Rule

from tests.console.conftest import NOWHERE, PASSWORD, app_on
from tests.console.sample_data import DECEIVING, HOSTILE
from tests.console.visitor import Visitor, words
from worker.bootstrap import Application
from worker.cli.statement import as_csv
from worker.console.app import create_app
from worker.console.context import ConsoleContext
from worker.console.guard import AccessGuard
from worker.console.sign_in_limit import SignInLimits
from worker.console.users import Role, Users, remove_user, write_user
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


def test_visitor_without_a_sign_in_sees_no_page(guarded: Flask) -> None:
    visitor = Visitor(guarded.test_client())
    for path in set(paths(guarded, "GET")) - {"/sign-in", "/static/7", "/healthz"}:
        response = visitor.client.get(path)
        assert response.status_code == 303, path
        assert response.location.startswith("/sign-in?next="), path
    for path in set(paths(guarded, "POST")) - {"/sign-in"}:
        visitor.post(path, status=303)


def test_liveness_needs_no_sign_in_and_no_name_of_ours(guarded: Flask, application_: Application) -> None:
    for app in (guarded, app_on(application_)):
        response = app.test_client().get("/healthz", headers={"Host": "10.0.0.7:8800", "Via": "a proxy"})
        assert (response.status_code, response.json) == (200, {"state": "live"})
        assert "Set-Cookie" not in response.headers


def test_sign_in_redirects_to_the_requested_page(guarded: Flask) -> None:
    visitor = Visitor(guarded.test_client())
    asked = visitor.client.get("/dead-letters/list?code=not_json")
    page = visitor.get(asked.location)
    target = re.search(r'name="next" value="([^"]+)"', page)
    assert target is not None
    response = visitor.post("/sign-in", name="ann", password=PASSWORD, next=target[1])
    assert response.location == "/dead-letters/list?code=not_json"
    assert "ann" in visitor.get("/dead-letters")


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "/dead-letters\r\nSet-Cookie: a=b",
        "javascript:alert(1)",
        "evil",
    ],
)
def test_sign_in_redirects_to_no_other_site(target: str, guarded: Flask) -> None:
    visitor = Visitor(guarded.test_client())
    assert visitor.post("/sign-in", name="ann", password=PASSWORD, next=target).location == "/"


@pytest.mark.parametrize(
    ("name", "password"), [("ann", "wrong"), ("nobody", PASSWORD), ("", ""), ("ann", "")]
)
def test_wrong_name_and_wrong_password_get_the_same_text(name: str, password: str, guarded: Flask) -> None:
    page = Visitor(guarded.test_client()).sign_in(name, password, status=401).text
    assert "Name or password is wrong" in words(page)


def test_user_with_too_many_failed_sign_ins_waits_despite_the_right_password(
    guarded: Flask, still_limits: SignInLimits
) -> None:
    visitor = Visitor(guarded.test_client())
    for _ in range(5):
        visitor.sign_in("ann", "wrong", status=401)
    response = visitor.sign_in("ann", PASSWORD, status=429)
    assert response.headers["Retry-After"] == "2"
    assert "try again in 2 s" in words(response.text)
    visitor.sign_in("vic", PASSWORD)  # others need not wait


def test_viewer_sees_everything_and_changes_nothing(guarded: Flask) -> None:
    visitor = signed_in(guarded, "vic")
    for path in set(paths(guarded, "POST")) - FOR_EVERYBODY:
        page = visitor.post(path, status=403).text
        assert "Only for operators" in page, path
    page = visitor.get("/dead-letters/list")
    assert "Discard" not in page
    assert "Replay…" not in page
    for path in ("/dead-letters/1/edit", "/dead-letters/discard?n=1", "/dead-letters/replay?n=1"):
        assert "Only for operators" in visitor.get(path, status=403)


def test_read_only_console_makes_everybody_a_viewer(application_: Application, users_file: Path) -> None:
    for app in (
        app_on(application_, read_only=True),
        app_on(application_, Users(users_file), read_only=True),
    ):
        visitor = Visitor(app.test_client())
        visitor.client.post(
            "/sign-in", data={"csrf_token": visitor.token(), "name": "ann", "password": PASSWORD}
        )
        visitor.post("/dead-letters/restore", status=403, n="1")


def test_form_without_its_token_is_refused(application_: Application, guarded: Flask) -> None:
    for app, client in (
        (guarded, signed_in(guarded, "ann").client),
        (open_ := app_on(application_), open_.test_client()),
    ):
        for path in paths(app, "POST"):
            for token in ({}, {"csrf_token": "made-up"}):
                response = client.post(path, data=token)
                assert response.status_code == 400, path
                assert "Form expired" in response.text, path


def test_session_ends_with_the_removal_or_a_new_password_of_its_user(
    guarded: Flask, users_file: Path
) -> None:
    ann, vic = signed_in(guarded, "ann"), signed_in(guarded, "vic")
    write_user(users_file, "ann", Role.OPERATOR, "another password")
    assert remove_user(users_file, "vic")
    for visitor in (ann, vic):
        visitor.get("/dead-letters", status=303)


def test_session_signed_without_the_secret_is_refused(guarded: Flask, application_: Application) -> None:
    client = app_on(application_).test_client()
    with client.session_transaction() as session:
        session["person"], session["mark"] = "ann", "guessed"
    cookie = client.get_cookie("billing_console")
    assert cookie is not None
    stranger = guarded.test_client()
    stranger.set_cookie("billing_console", cookie.value[:-2] + "xx")
    assert stranger.get("/dead-letters").status_code == 303


def test_sign_out_ends_the_session(guarded: Flask) -> None:
    visitor = signed_in(guarded, "ann")
    visitor.post("/sign-out")
    visitor.get("/dead-letters", status=303)


def test_copied_cookie_is_useless_after_sign_out(guarded: Flask) -> None:
    visitor, thief = signed_in(guarded, "ann"), guarded.test_client()
    cookie = visitor.client.get_cookie("billing_console")
    assert cookie is not None
    thief.set_cookie("billing_console", cookie.value)
    assert thief.get("/dead-letters").status_code == 200
    visitor.post("/sign-out")
    assert thief.get("/dead-letters").status_code == 303


def test_busy_session_ends_after_twelve_hours(application_: Application, users_file: Path) -> None:
    now = [1_000_000.0]
    guard = AccessGuard(Users(users_file), "127.0.0.1", clock=lambda: now[0])
    app = create_app(ConsoleContext(application_, guard, as_csv), b"a secret of the tests")
    visitor = signed_in(app, "ann")
    for _ in range(11):
        now[0] += 3_600
        visitor.get("/dead-letters")
    now[0] += 3_600
    visitor.get("/dead-letters", status=303)


def test_sign_in_keeps_nothing_of_the_earlier_session(guarded: Flask) -> None:
    visitor = Visitor(guarded.test_client())
    with visitor.client.session_transaction() as session:
        session["planted"] = "by somebody else"
    before = visitor.token()
    visitor.sign_in("ann", PASSWORD)
    with visitor.client.session_transaction() as session:
        assert set(session) <= {"_permanent", "person", "mark", "since", "key"}
    response = visitor.client.post("/dead-letters/1/note", data={"csrf_token": before, "text": "x"})
    assert response.status_code == 400


def test_sign_in_works_without_a_database(users_file: Path) -> None:
    nowhere = "postgresql://billing@127.0.0.1:1/billing"
    application = Application(load_settings(broker_url=NOWHERE, database_url=nowhere))
    visitor = signed_in(app_on(application, Users(users_file)), "ann")
    assert "Database Failing:" in words(visitor.get("/"))


def test_activity_log_has_sign_ins_sign_outs_and_failed_sign_ins(
    guarded: Flask, application_: Application
) -> None:
    Visitor(guarded.test_client()).sign_in("mallory", "wrong", status=401)
    signed_in(guarded, "ann").post("/sign-out")
    entries = application_.service().activity_log().entries
    assert [(entry.actor, entry.action) for entry in entries] == [
        ("ann", "sign_out"),
        ("ann", "sign_in"),
        ("not signed in", "sign_in_failed"),
    ]
    assert entries[-1].detail == {"attempted_name": "mallory"}


def test_attempted_name_is_shown_as_such_and_escaped(guarded: Flask) -> None:
    for name in (HOSTILE[:100], "dead letter 7", "letter", DECEIVING, ""):
        Visitor(guarded.test_client()).sign_in(name, "wrong", status=401)
    page = signed_in(guarded, "vic").get("/activity-log?action=sign_in_failed")
    assert "<script>alert" not in page
    assert page.count("<strong>not signed in</strong>") == 5
    shown = words(page)
    for text in ("attempted name <script>alert", "attempted name dead letter 7", "attempted name letter"):
        assert text in shown
    assert "ada\\u202egnp.exe" in shown


@pytest.mark.parametrize("through_https", [True, False])
def test_cookies_are_out_of_reach_of_scripts_and_other_sites(
    application_: Application, users_file: Path, through_https: bool
) -> None:
    app = app_on(application_, Users(users_file), through_https=through_https)
    app.config["WTF_CSRF_ENABLED"] = False
    client, https = app.test_client(), "https://console.example"
    signed_in = client.post("/sign-in", base_url=https, data={"name": "ann", "password": PASSWORD})
    themed = client.post("/theme", base_url=https, data={"theme": "dark"})
    cookies = [*signed_in.headers.getlist("Set-Cookie"), *themed.headers.getlist("Set-Cookie")]
    names = {cookie.partition("=")[0] for cookie in cookies}
    assert names == {"billing_console", "billing_console_device", "theme"}
    for cookie in cookies:
        assert "HttpOnly" in cookie
        assert re.search("SameSite=(Lax|Strict)", cookie)
        assert ("Secure" in cookie) is through_https


# -- without users, this machine alone --------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1:8800", "localhost:8800", "[::1]:8800", "localhost"])
def test_console_without_users_serves_this_machine(host: str, application_: Application) -> None:
    visitor = Visitor(app_on(application_).test_client())
    visitor.get("/dead-letters", headers={"Host": host})


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8800", "10.0.0.1"]
)
def test_console_without_users_refuses_other_host_names(host: str, application_: Application) -> None:
    visitor = Visitor(app_on(application_).test_client())
    page = visitor.get("/dead-letters", status=403, headers={"Host": host})
    assert "serves this machine alone" in page


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
def test_console_without_users_refuses_requests_through_a_proxy(
    header: str, application_: Application
) -> None:
    visitor = Visitor(app_on(application_).test_client())
    assert "through a proxy" in visitor.get("/dead-letters", status=403, headers={header: "10.0.0.7"})


def test_console_without_users_refuses_forms_of_other_sites(application_: Application) -> None:
    visitor = Visitor(app_on(application_).test_client())
    for origin in ("https://console.example", "http://127.0.0.1.evil.example", "http://[evil"):
        page = visitor.client.post("/theme", headers={"Origin": origin}, data={"csrf_token": visitor.token()})
        assert page.status_code == 403, origin
    for origin in ("http://localhost:8800", "http://[::1]:8800", "null"):
        page = visitor.client.post("/theme", headers={"Origin": origin}, data={"csrf_token": visitor.token()})
        assert page.status_code == 303, origin


def test_static_path_never_leaves_its_folder(visitor: Visitor) -> None:
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
        visitor.get(path, status=404)


def test_every_response_has_the_security_headers(visitor: Visitor) -> None:
    for path in (
        "/",
        "/dead-letters",
        "/static/console.js",
        "/nowhere",
        "/dead-letters/77",
        "/dead-letters/list?since=x",
    ):
        with visitor.client.get(path) as response:
            headers = response.headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
    assert visitor.client.get("/dead-letters").headers["Cache-Control"] == "no-store"


def test_pages_have_no_inline_code_and_no_foreign_content(visitor: Visitor) -> None:
    for path in ("/", "/dead-letters", "/dead-letters/list", "/accounts", "/activity-log", "/explain"):
        page = visitor.get(path)
        assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
        assert re.findall(r"\son\w+=|\sstyle=|<style", page) == []
        assert re.findall(r'(?:src|href|action)="(?:https?:)?//', page) == []


def test_theme_is_kept_and_an_unknown_one_is_ignored(visitor: Visitor) -> None:
    visitor.post("/theme", theme="dark", next="/dead-letters")
    assert 'data-theme="dark"' in visitor.get("/dead-letters")
    visitor.post("/theme", theme='"><script>')
    assert 'data-theme="auto"' in visitor.get("/dead-letters")
