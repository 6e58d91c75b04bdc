"""Heavy pages: bounded for each user and in all, while the others stay quick."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
from flask import Flask

from schemas import OpenAccount
from tests.console import sample_data
from tests.console.conftest import PASSWORD
from tests.console.visitor import Visitor, words
from tests.support.apply_commands import applied
from tests.support.waiting import PATIENCE_S
from worker.bootstrap import Application
from worker.console import heavy_work
from worker.console.context import ConsoleContext
from worker.console.heavy_work import HeavyWork

HEAVY = (
    "/dead-letters/dry-run?status=all",
    "/dead-letters/list?text=x",
    "/explain?reference=job-1",
    "/find?q=ada",
    "/account/usage?user=ada",
    "/account/statement?user=ada&format=csv",
    "/operations?feature=ocr",
    "/operations?top=user",
    "/account/operations?user=ada&format=csv",
    "/reverse?feature=ocr",
    "/reports?report=usage",
)
QUICK = (
    "/",
    "/overview/live",
    "/dead-letters",
    "/dead-letters/list",
    "/account?user=ada",
    "/account/history?user=ada",
    "/activity-log",
    "/payments",
    "/operations?status=rejected",
    "/account/operations?user=ada",
)


@pytest.fixture
def console(guarded: Flask, application_: Application) -> ConsoleContext:
    """Context of a console with an account and a dead letter, whose heavy work waits for nobody."""
    now = datetime.now(UTC)
    opening = OpenAccount(reference_id="open-ada", user_id="ada", tier="basic")
    applied(application_.engine, application_.catalog, opening, now=now)
    sample_data.drain(application_.service(), [sample_data.refused(b"no message", now)])
    console: ConsoleContext = guarded.extensions["billing"]
    console.heavy = HeavyWork(each=1, in_all=2, wait_s=0.01)
    return console


@pytest.fixture
def vic(guarded: Flask, console: ConsoleContext) -> Visitor:
    visitor = Visitor(guarded.test_client())
    visitor.sign_in("vic", PASSWORD)
    return visitor


@pytest.fixture
def busy(console: ConsoleContext) -> Iterator[ExitStack]:
    """Heavy work that goes on until the test ends."""
    with ExitStack() as work:
        yield work


def test_user_with_a_heavy_page_in_work_is_refused_another(
    vic: Visitor, console: ConsoleContext, busy: ExitStack
) -> None:
    busy.enter_context(console.heavy.one("vic"))
    for path in HEAVY:
        response = vic.client.get(path)
        assert response.status_code == 429, path
        assert response.headers["Retry-After"] == "5"
        assert "or in 5 s" in words(response.text)
    for path in QUICK:
        vic.get(path)


def test_heavy_pages_of_others_are_refused_while_the_console_has_enough(
    vic: Visitor, guarded: Flask, console: ConsoleContext, busy: ExitStack
) -> None:
    for user in ("ann", "bob"):
        busy.enter_context(console.heavy.one(user))
    response = vic.client.get(HEAVY[0])
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert "Try again in 5 s" in words(response.text)
    for path in QUICK:
        vic.get(path)
    Visitor(guarded.test_client()).sign_in("ann", PASSWORD)


def test_export_is_heavy(guarded: Flask, console: ConsoleContext, busy: ExitStack) -> None:
    ann = Visitor(guarded.test_client())
    ann.sign_in("ann", PASSWORD)
    token = ann.token()
    with console.heavy.one("ann"):
        assert ann.client.post("/dead-letters/export", data={"csrf_token": token}).status_code == 429
    assert ann.client.post("/dead-letters/export", data={"csrf_token": token}).status_code == 200


def test_heavy_pages_come_again_after_a_fault(
    vic: Visitor, console: ConsoleContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.service, "dry_run", None)
    for _ in range(3):
        vic.get(HEAVY[0], status=500)
    monkeypatch.undo()
    for path in HEAVY[:2]:
        vic.get(path)


def test_twenty_dry_runs_of_a_viewer_leave_the_others_alone(
    vic: Visitor, guarded: Flask, console: ConsoleContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    console.heavy = HeavyWork()
    dry_run, go_on, statuses = console.service.dry_run, threading.Event(), []

    def wait(*args: object, **more: object) -> object:
        assert go_on.wait(PATIENCE_S)
        return dry_run(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(console.service, "dry_run", wait)
    refused = threading.Semaphore(0)

    def ask(cookie: str) -> None:
        client = guarded.test_client()
        client.set_cookie("billing_console", cookie)
        status = client.get(HEAVY[0]).status_code
        statuses.append(status)
        if status == 429:
            refused.release()

    cookie = vic.client.get_cookie("billing_console")
    assert cookie is not None
    threads = [threading.Thread(target=ask, args=(cookie.value,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for _ in range(20 - heavy_work.EACH):
        assert refused.acquire(timeout=PATIENCE_S)  # while the first two still run
    vic.get("/")
    Visitor(guarded.test_client()).sign_in("ann", PASSWORD)
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(statuses) == [200] * heavy_work.EACH + [429] * (20 - heavy_work.EACH)
