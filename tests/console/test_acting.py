"""Actions of an operator on the pages: each needs a reason, is in the activity log, and can be undone."""

import json
import re
from datetime import UTC, datetime

import pytest

from tests.console import furnishing
from tests.console.conftest import app_on
from tests.console.visiting import Visitor, words
from worker.bootstrap import Application
from worker.deadletters.models import DeadLetterStatus
from worker.deadletters.store.filters import DeadLetterFilter

WRONG = {"type": "usage.deduct", "referenceId": "job-1", "userId": "ada", "tokens": "120"}


@pytest.fixture
def dead_letters(application_: Application) -> Application:
    """Three dead letters that a worker refused."""
    now = datetime.now(UTC)
    wrong = [furnishing.refused(WRONG | {"referenceId": f"job-{n}"}, now) for n in range(1, 4)]
    furnishing.park(application_.service(), wrong)
    return application_


@pytest.fixture
def ann(dead_letters: Application) -> Visitor:
    return Visitor(app_on(dead_letters).test_client())


def mark(visitor: Visitor, number: int) -> str:
    found = re.search(r'name="instead_of" value="([^"]+)"', visitor.get(f"/letters/{number}/edit"))
    assert found is not None
    return found[1]


def status(application: Application, number: int) -> str:
    return application.service().dead_letter(number).status


# -- editing ----------------------------------------------------------------------------------------------


def test_a_mended_body_is_kept_beside_the_original(ann: Visitor, dead_letters: Application) -> None:
    mended = json.dumps(WRONG | {"tokens": 120}, indent=2).replace("\n", "\r\n")  # as a form sends lines
    ann.post("/letters/1/edit", body=mended, why="quoted", instead_of=mark(ann, 1), do="save")
    dead_letter = dead_letters.service().dead_letter(1)
    assert json.loads(dead_letter.current_body)["tokens"] == 120
    assert b"\r" not in dead_letter.current_body
    assert json.loads(dead_letter.body)["tokens"] == "120"
    page = words(ann.get("/letters/1"))
    assert "Body, as it was mended" in page
    assert "quoted" in page


def test_a_body_that_a_worker_would_refuse_is_not_kept_and_says_where(
    ann: Visitor, dead_letters: Application
) -> None:
    worse = json.dumps(WRONG | {"tokens": -1})
    page = ann.post(
        "/letters/1/edit", status=422, body=worse, why="x", instead_of=mark(ann, 1), do="save"
    ).text
    assert "at tokens" in words(page)
    assert "-1" in page  # the typed text is still there
    assert dead_letters.service().dead_letter(1).edited_body is None


def test_checking_writes_nothing(ann: Visitor, dead_letters: Application) -> None:
    fine = json.dumps(WRONG | {"tokens": 120})
    page = ann.post("/letters/1/edit", status=200, body=fine, instead_of=mark(ann, 1), do="check").text
    assert "A worker would take this body" in page
    assert dead_letters.service().dead_letter(1).edited_body is None


def test_an_edit_says_why(ann: Visitor, dead_letters: Application) -> None:
    fine = json.dumps(WRONG | {"tokens": 120})
    page = ann.post(
        "/letters/1/edit", status=400, body=fine, why=" ", instead_of=mark(ann, 1), do="save"
    ).text
    assert "Say why" in page
    assert dead_letters.service().dead_letter(1).edited_body is None


def test_an_edit_of_what_another_has_edited_meanwhile_is_refused(
    ann: Visitor, dead_letters: Application
) -> None:
    old = mark(ann, 1)
    fine = json.dumps(WRONG | {"tokens": 120})
    ann.post("/letters/1/edit", body=fine, why="first", instead_of=old, do="save")
    page = ann.post(
        "/letters/1/edit",
        status=409,
        body=fine.replace("120", "9"),
        why="second",
        instead_of=old,
        do="save",
    ).text
    assert "Somebody else has edited" in page
    theirs = page.partition("The body as it is now")[2]
    assert "&#34;tokens&#34;: 120" in theirs  # the edit that a second press would replace is visible


def test_edit_of_a_dead_letter_discarded_meanwhile_is_refused_and_still_shown(
    ann: Visitor, dead_letters: Application
) -> None:
    old = mark(ann, 1)
    dead_letters.service().discard([1], "in another tab", "bob")
    mended = json.dumps(WRONG | {"tokens": 77_077})
    page = ann.post("/letters/1/edit", status=409, body=mended, why="x", instead_of=old, do="save").text
    assert "What you wrote is not saved" in page
    assert "77077" in page
    assert dead_letters.service().dead_letter(1).edited_body is None


def test_page_shows_the_newest_of_many_edits(ann: Visitor, dead_letters: Application) -> None:
    for number in range(12):
        fine = json.dumps(WRONG | {"tokens": 100 + number}).encode()
        dead_letters.service().edit(
            1, fine, "again", "bob", instead_of=dead_letters.service().dead_letter(1).current_body
        )
    page = words(ann.get("/letters/1"))
    assert "Edits (12, the newest 10)" in page
    assert "111" in page


def test_an_edit_that_changes_nothing_takes_an_edit_back(ann: Visitor, dead_letters: Application) -> None:
    fine = json.dumps(WRONG | {"tokens": 120})
    ann.post("/letters/1/edit", body=fine, why="first", instead_of=mark(ann, 1), do="save")
    as_it_came = json.dumps(json.loads(dead_letters.service().dead_letter(1).body), indent=2)
    ann.post(
        "/letters/1/edit", body=as_it_came, why="back", instead_of=mark(ann, 1), do="save", unchecked="yes"
    )
    assert dead_letters.service().dead_letter(1).edited_body is None


def test_bytes_that_a_browser_would_change_are_not_edited_there(
    dead_letters: Application, ann: Visitor
) -> None:
    furnishing.park(dead_letters.service(), [furnishing.refused(b"\x00\xff", datetime.now(UTC))])
    page = ann.get("/letters/4/edit")
    assert "<textarea" not in page
    assert "dead-letters edit 4 --from-file" in page


def undo_in(page: str) -> str:
    found = re.search(r'name="undo" value="([^"]+)"', page)
    assert found is not None
    return found[1]


# -- discarding -------------------------------------------------------------------------------------------


def test_a_discard_says_why_and_is_undone_by_one_click(ann: Visitor, dead_letters: Application) -> None:
    ann.post("/letters/discard", status=400, n="1", why="")
    assert status(dead_letters, 1) == DeadLetterStatus.PARKED
    response = ann.post("/letters/discard", n="1", why="a test of theirs")
    assert status(dead_letters, 1) == DeadLetterStatus.DISCARDED
    page = ann.get(response.location)
    assert "Discarded 1 letter" in words(page)
    ann.post("/letters/undo", undo=undo_in(page))
    assert status(dead_letters, 1) == DeadLetterStatus.PARKED


def test_a_filter_discards_what_waits_and_the_undo_brings_back_just_that(
    ann: Visitor, dead_letters: Application
) -> None:
    ann.post("/letters/discard", n="2", why="first")
    response = ann.post("/letters/discard", why="all of them", type="usage.deduct", reason="invalid_field")
    assert {status(dead_letters, n) for n in (1, 2, 3)} == {DeadLetterStatus.DISCARDED}
    ann.post("/letters/undo", undo=undo_in(ann.get(response.location)))
    assert [status(dead_letters, n) for n in (1, 2, 3)] == [
        DeadLetterStatus.PARKED,
        DeadLetterStatus.DISCARDED,
        DeadLetterStatus.PARKED,
    ]


def test_second_discard_or_restore_says_that_nothing_was_done(
    ann: Visitor, dead_letters: Application
) -> None:
    ann.post("/letters/discard", n="1", why="mine")
    again = ann.post("/letters/discard", n="1", why="mine, in another tab")
    assert "Nothing was discarded" in words(ann.get(again.location))
    dead_letters.service().restore([1], None, "bob")
    restored = ann.post("/letters/restore", n="1")
    assert "Nothing was restored" in words(ann.get(restored.location))
    assert [entry.action for entry in dead_letters.service().activity_log().entries] == ["restore", "discard"]


def test_a_filter_for_dead_letters_that_are_done_with_discards_none_that_wait(
    ann: Visitor, dead_letters: Application
) -> None:
    for path in ("/letters/discard", "/letters/replay"):
        fields = {"csrf_token": ann.token(), "status": "resolved", "why": "x"}
        assert ann.client.post(path, data=fields).status_code == 400
    assert dead_letters.service().counts().parked == 3
    assert dead_letters.service().replays().replays == ()


def test_discarded_dead_letters_can_be_restored_later(ann: Visitor, dead_letters: Application) -> None:
    ann.post("/letters/discard", n="1", why="gone")
    assert "Restore" in ann.get("/letters/1")
    ann.post("/letters/restore", n="1")
    assert status(dead_letters, 1) == DeadLetterStatus.PARKED


def test_every_action_is_in_the_audit_log_with_who_what_and_why(
    ann: Visitor, dead_letters: Application
) -> None:
    ann.post("/letters/1/note", text="seen with Bob")
    ann.post("/letters/discard", n="1", why="a duplicate of theirs")
    ann.post("/letters/restore", n="1", why="not quite")
    ann.post("/letters/export", status=200, n="1")
    entries = dead_letters.service().activity_log().entries
    assert [entry.action for entry in entries] == ["export", "restore", "discard", "note"]
    page = words(ann.get("/audit"))
    assert "a duplicate of theirs" in page
    assert {entry.actor for entry in entries} == {app_actor(ann)}


def app_actor(visitor: Visitor) -> str:
    """Return the name that the pages show for the person at this machine."""
    found = re.search(r"<strong>([^<]+)</strong><span class=\"role\">", visitor.get("/letters"))
    assert found is not None
    return found[1]


def test_an_export_is_lines_of_json(ann: Visitor) -> None:
    response = ann.post("/letters/export", status=200, n=["1", "2"])
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert len(lines) == 2
    assert response.headers["Content-Disposition"].startswith("attachment")


# -- replaying --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"why": ""}, "Say why"),
        ({"why": "x", "how": "canary", "steps": "1, two"}, "the steps must be whole numbers"),
        ({"why": "x", "how": "canary", "steps": ""}, "the steps must be whole numbers"),
        ({"why": "x", "how": "canary", "steps": "0"}, "at least one letter"),
        ({"why": "x", "how": "all", "rate": "fast"}, "the rate must be a number"),
        ({"why": "x", "how": "all", "rate": "nan"}, "the rate must be a number"),
        ({"why": "x", "how": "all", "rate": "-1"}, "the rate must be a number"),
    ],
)
def test_a_replay_that_makes_no_sense_is_not_begun(
    fields: dict[str, str], says: str, ann: Visitor, dead_letters: Application
) -> None:
    page = ann.post("/letters/replay", status=400, n="1", **fields).text
    assert says in words(page)
    assert dead_letters.service().replays().replays == ()


def test_a_replay_that_has_ended_is_watched_no_more(ann: Visitor, dead_letters: Application) -> None:
    service = dead_letters.service()
    made = service.create_replay([1], "try", "ann")
    page = ann.get(f"/replays/{made.number}")
    assert 'data-state="done"' in page  # it is paused: nothing changes by itself
    assert "Resume" in page
    service.cancel_replay(made.number, "ann")
    page = ann.get(f"/replays/{made.number}?begun=1")
    assert 'data-state="done"' in page
    assert 'http-equiv="refresh"' not in page


def test_a_dry_run_says_what_would_come_of_each_and_changes_nothing(
    ann: Visitor, dead_letters: Application
) -> None:
    page = words(ann.get("/letters/dry-run?n=1&n=2"))
    assert "malformed" in page
    assert "Nothing was changed" in page
    assert dead_letters.service().page(DeadLetterFilter()).total == 3
