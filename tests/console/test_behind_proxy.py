"""Sign-in limits by client, behind proxies: spoofed headers, browsers that are known, clear text."""

import logging
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.security import generate_password_hash
from werkzeug.test import TestResponse

from tests.console.conftest import PASSWORD, app_on
from tests.console.visitor import Visitor, words
from worker.bootstrap import Application
from worker.console.guard import AccessGuard
from worker.console.sign_in_limit import OF_NAME, OF_NETWORK, OF_PAIR, SignInAttempt, SignInLimits
from worker.console.users import Users
from worker.http.permits import Permits

PROXY, HOME, ELSEWHERE = "10.0.0.7", "203.0.113.9", "198.51.100.1"


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    """File of users whose hashes take no time: many sign-ins fail here."""
    path = tmp_path / "users"
    password_hash = generate_password_hash(PASSWORD, "pbkdf2:sha256:1")
    path.touch(0o600)
    path.write_text(f"ann:operator:{password_hash}\nvic:viewer:{password_hash}\n")
    return path


@pytest.fixture
def guarded(application_: Application, users_file: Path) -> Flask:
    """Console behind a proxy at ``PROXY``."""
    app = app_on(application_, Users(users_file), proxies=["10.0.0.0/24"])
    app.config["WTF_CSRF_ENABLED"] = False
    return app


def sign_in(
    app: Flask | Visitor,
    name: str = "ann",
    password: str = PASSWORD,
    *,
    peer: str = PROXY,
    forwarded: str | None = HOME,
    status: int,
) -> TestResponse:
    """Try to sign in from ``peer``, which says ``forwarded``; the response must have ``status``."""
    client = app.client if isinstance(app, Visitor) else app.test_client()
    response = client.post(
        "/sign-in",
        data={"name": name, "password": password},
        environ_base={"REMOTE_ADDR": peer},
        headers={} if forwarded is None else {"X-Forwarded-For": forwarded},
    )
    assert response.status_code == status, words(response.text)
    return response


def fail(app: Flask, count: int, **more: str) -> None:
    """Fail to sign in so often."""
    for _ in range(count):
        sign_in(app, password="wrong", status=401, **more)


@pytest.mark.usefixtures("still_limits")
def test_attacker_who_knows_a_name_locks_its_owner_out_nowhere_else(guarded: Flask) -> None:
    fail(guarded, OF_PAIR.free + 1, forwarded=ELSEWHERE)
    sign_in(guarded, forwarded=ELSEWHERE, status=429)
    sign_in(guarded, forwarded=HOME, status=303)


@pytest.mark.usefixtures("still_limits")
def test_spoofed_header_gives_no_new_tries(guarded: Flask) -> None:
    fail(guarded, OF_PAIR.free + 1, forwarded=ELSEWHERE)
    for number in range(5):
        sign_in(guarded, forwarded=f"192.0.2.{number}, {ELSEWHERE}", status=429)
    fail(guarded, 1, peer="10.0.1.1", forwarded="192.0.2.1")  # no proxy of ours
    for number in range(OF_PAIR.free):
        fail(guarded, 1, peer="10.0.1.1", forwarded=f"192.0.2.{number}")
    sign_in(guarded, peer="10.0.1.1", forwarded="192.0.2.99", status=429)


@pytest.mark.usefixtures("still_limits")
def test_addresses_of_one_ipv6_network_are_one_client(guarded: Flask) -> None:
    for number in range(OF_PAIR.free + 1):
        fail(guarded, 1, forwarded=f"2001:db8::{number:x}")
    sign_in(guarded, forwarded="2001:db8::ffff", status=429)
    sign_in(guarded, forwarded="2001:db8:0:1::1", status=303)


def test_browser_that_has_signed_in_before_gets_in_despite_others(
    guarded: Flask, still_limits: SignInLimits
) -> None:
    browser = Visitor(guarded.test_client())
    sign_in(browser, status=303)
    browser.post("/sign-out")
    for number in range(OF_NAME.free + 1):
        still_limits.begin(SignInAttempt("ann", f"192.0.2.{number}"))
    for number in range(OF_NETWORK.free + 1):
        still_limits.begin(SignInAttempt(f"n{number}", HOME))
    sign_in(guarded, status=429)
    sign_in(browser, "vic", status=429)  # its cookie is for ann
    sign_in(browser, status=303)


def test_forged_cookie_of_a_known_browser_is_not_believed(
    guarded: Flask, still_limits: SignInLimits, application_: Application, users_file: Path
) -> None:
    fail(guarded, OF_PAIR.free + 1)
    for value in ("", "x", '["ann","k"]', "WyJhbm4iLCJrIl0.aa.bb"):
        browser = Visitor(guarded.test_client())
        browser.client.set_cookie("billing_console_device", value, path="/sign-in")
        sign_in(browser, status=429)
    assert len(still_limits) == 3


@pytest.mark.usefixtures("still_limits")
def test_unknown_name_waits_as_a_known_one_does(guarded: Flask) -> None:
    answers = []
    for name in ("ann", "nobody"):
        for _ in range(OF_PAIR.free + 1):
            sign_in(guarded, name, "wrong", status=401)
        answers.append(words(sign_in(guarded, name, "wrong", status=429).text))
    assert answers[0] == answers[1]


def test_unknown_name_is_compared_with_the_hash_of_a_user(
    users_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def check(password_hash: str, _password: str) -> bool:
        compared.append(password_hash)
        return True

    monkeypatch.setattr("worker.console.users.check_password_hash", check)
    users = Users(users_file)
    assert [users.authenticate(name, "x") for name in ("nobody", "nobody", "ann ")] == [None] * 3
    assert all(found in users_file.read_text() for found in compared)
    assert compared[0] == compared[1]


def test_few_passwords_are_hashed_at_a_time(guarded: Flask, still_limits: SignInLimits) -> None:
    guard: AccessGuard = guarded.extensions["billing"].guard
    browser = Visitor(guarded.test_client())
    sign_in(browser, status=303)
    browser.post("/sign-out")
    guard._hashing = Permits(1, 0.01)
    with guard._hashing.one():
        response = sign_in(guarded, status=503)
        assert response.headers["Retry-After"] == "3"
        assert "try again in 3 s" in words(response.text)
        assert len(still_limits) == 0  # nothing was judged
        sign_in(browser, status=303)


def test_activity_log_has_the_address_that_the_proxy_names(guarded: Flask, application_: Application) -> None:
    sign_in(guarded, forwarded=f"192.0.2.1, {HOME}", status=303)
    sign_in(guarded, peer=ELSEWHERE, forwarded="192.0.2.1", password="wrong", status=401)
    entries = application_.service().activity_log().entries
    assert [entry.reason for entry in entries] == [f"from {ELSEWHERE}", f"from {HOME}"]


def test_log_names_the_proxy_that_is_not_trusted(guarded: Flask, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            guarded.test_client().get(
                "/sign-in", environ_base={"REMOTE_ADDR": ELSEWHERE}, headers={"X-Forwarded-For": HOME}
            )
    assert caplog.text.count("BILLING_CONSOLE_TRUSTED_PROXIES") == 1
    assert ELSEWHERE in caplog.text


def test_log_has_sign_ins_that_must_wait_with_the_name_escaped(
    guarded: Flask, still_limits: SignInLimits, caplog: pytest.LogCaptureFixture
) -> None:
    attempt = SignInAttempt("ann\nWARNING forged", HOME)
    for _ in range(OF_PAIR.free + 1):
        still_limits.begin(attempt)
    with caplog.at_level(logging.WARNING):
        sign_in(guarded, attempt.name, status=429)
    assert f"sign-ins from {HOME} wait" in caplog.text
    assert "\nWARNING forged" not in caplog.text


# -- clear text -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "proto", "status"),
    [
        (PROXY, "https", 200),
        (PROXY, None, 200),  # a proxy that doesn't say
        (PROXY, "http", 403),
        (PROXY, "https, http", 403),
        (ELSEWHERE, "https", 403),  # past the proxy
        (ELSEWHERE, None, 403),
        ("127.0.0.1", None, 200),
    ],
)
def test_console_through_https_refuses_clear_text(
    peer: str, proto: str | None, status: int, application_: Application, users_file: Path
) -> None:
    app = app_on(application_, Users(users_file), proxies=["10.0.0.0/24"], through_https=True)
    headers = {} if proto is None else {"X-Forwarded-Proto": proto}
    page = Visitor(app.test_client()).get(
        "/sign-in", status=status, environ_base={"REMOTE_ADDR": peer}, headers=headers
    )
    if status == 403:
        assert "open it with https://" in words(page)
        assert "BILLING_CONSOLE_TRUSTED_PROXIES" in page


def test_console_without_named_proxies_refuses_nobody(application_: Application, users_file: Path) -> None:
    app = app_on(application_, Users(users_file), through_https=True)
    headers = {"X-Forwarded-Proto": "http", "X-Forwarded-For": HOME}
    Visitor(app.test_client()).get("/sign-in", environ_base={"REMOTE_ADDR": PROXY}, headers=headers)
