"""Charges reversed from the console: the dry run, the form, and the runs with their charges."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from flask import Flask

from schemas import RefundCredit
from tests.console.conftest import PASSWORD, app_on
from tests.console.visitor import Visitor, words
from tests.reversing.parts import ReverseWorld
from tests.support.commands import bonus, deduct, opening
from tests.support.waiting import eventually
from worker.bootstrap import Application
from worker.console.pages import reverse_runs
from worker.reversing import store

CHAT = "/reverse?feature=chat"


@pytest.fixture
def world(application_: Application) -> ReverseWorld:
    """A world on the console's ledger, with three charges of ada."""
    world = ReverseWorld(application_.engine, now=datetime.now(UTC))
    world.apply(opening("open-ada", "ada"), bonus(1_000, "more", "ada"))
    world.apply(*(deduct(100, f"c-{n}", "ada", feature="chat") for n in range(3)))
    return world


@pytest.fixture
def app(application_: Application, world: ReverseWorld) -> Iterator[Flask]:
    app = app_on(application_)
    yield app
    app.extensions["billing"].reverse_runs.stop()


@pytest.fixture
def ann(app: Flask) -> Visitor:
    return Visitor(app.test_client())


def seen(page: str) -> str:
    (digest,) = re.findall(r'name="seen" value="(\w+)"', page)
    return str(digest)


def test_dry_run_shows_what_would_go_back_and_moves_nothing(ann: Visitor, world: ReverseWorld) -> None:
    page = words(ann.get(CHAT))
    assert "Can't be reversed 0 Tokens to go back 300" in page
    assert "Reverse 3 charges" in page
    assert world.tokens_back == []


def test_filtered_operations_lead_to_the_dry_run(ann: Visitor) -> None:
    assert 'href="/reverse?feature=chat"' in ann.get("/operations?feature=chat")
    assert 'href="/reverse-runs"' in ann.get("/operations")
    assert 'href="/reverse?user=ada&amp;feature=chat"' in ann.get("/account/operations?user=ada&feature=chat")


def test_form_starts_a_run_that_is_shown_until_its_end(ann: Visitor, app: Flask, world: ReverseWorld) -> None:
    started = ann.post(CHAT, seen=seen(ann.get(CHAT)), reason="wrong price", rate="50")
    assert started.headers["Location"] == "/reverse-runs/1"
    runs = app.extensions["billing"].reverse_runs
    eventually(lambda: not runs.is_running(1))  # this console has no broker
    page = words(ann.get("/reverse-runs/1"))
    assert "the broker is not available" in page
    assert "0 of 3 done, 0 tokens back" in page
    world.go_on(store.get(world.engine, 1))
    page = words(ann.get("/reverse-runs/1?state=reversed"))
    assert "3 of 3 done, 300 tokens back" in page
    assert "c-0 ada reversed 100 reverse:0:c-0" in page
    assert "wrong price feature chat 3 of 3 300" in words(ann.get("/reverse-runs"))
    assert "reverse" in words(ann.get("/activity-log"))
    assert 'href="/reverse-runs/1"' in ann.get("/explain?reference=c-0")


def test_form_is_shown_anew_where_something_is_wrong(ann: Visitor, world: ReverseWorld) -> None:
    before = seen(ann.get(CHAT))
    assert "Enter a reason." in ann.post(CHAT, 400, seen=before, reason=" ").text
    assert "a rate is more than 0" in ann.post(CHAT, 400, seen=before, reason="x", rate="0").text
    assert "a number a second" in ann.post(CHAT, 400, seen=before, reason="x", rate="fast").text
    world.apply(RefundCredit(reference_id="r", user_id="ada", tokens=30, original_reference_id="c-0"))
    changed = ann.post(CHAT, 409, seen=before, reason="wrong price")
    assert "have changed since you looked" in changed.text
    assert "Tokens to go back 270" in words(changed.text)
    assert store.page(world.engine, 1, None).runs == ()


def test_large_run_starts_only_after_its_amount_is_confirmed(ann: Visitor, world: ReverseWorld) -> None:
    large = "/reverse?feature=video"
    world.apply(bonus(1_000_001, "much", "ada"), deduct(1_000_001, "c-9", "ada", feature="video"))
    page = ann.get(large)
    assert "Give back 1,000,001 tokens" in words(page)
    refused = ann.post(large, 400, seen=seen(page), reason="wrong price").text
    assert "Confirm the amount" in refused
    assert store.page(world.engine, 1, None).runs == ()
    ann.post(large, seen=seen(page), reason="wrong price", is_meant="yes")
    assert "is_meant" not in ann.get(CHAT)


def test_run_is_cancelled_with_a_reason(ann: Visitor, world: ReverseWorld) -> None:
    run = world.create(feature="chat")
    ann.post(f"/reverse-runs/{run.number}/cancel", 409)
    ann.post(f"/reverse-runs/{run.number}/cancel", reason="wrong filter")
    assert store.get(world.engine, run.number).counts == {"cancelled": 3}
    ann.post(f"/reverse-runs/{run.number}/resume", 409)


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/reverse", 400, "choose operations by a filter first"),
        ("/reverse?feature=nothing", 404, "no operation matches"),
        ("/reverse-runs/9", 404, "there is no reverse run 9"),
        ("/reverse-runs/1?state=lost", 400, "no such state"),
        ("/reverse-runs?before=x", 400, "whole number"),
    ],
)
def test_wrong_addresses_say_what_is_wrong(ann: Visitor, path: str, status: int, text: str) -> None:
    assert text in words(ann.get(path, status))


def test_page_takes_no_more_charges_than_it_judges_in_some_seconds(
    ann: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reverse_runs, "CHARGES_MAX", 2)
    assert "3 charges match, more than 2" in words(ann.get(CHAT, 409))


def test_viewer_sees_the_dry_run_without_the_form(guarded: Flask, world: ReverseWorld) -> None:
    vic = Visitor(guarded.test_client())
    vic.sign_in("vic", PASSWORD)
    page = vic.get(CHAT)
    assert "Tokens to go back 300" in words(page)
    assert 'name="reason"' not in page
    run = world.create(feature="chat")
    assert "Resume" not in words(vic.get(f"/reverse-runs/{run.number}"))
