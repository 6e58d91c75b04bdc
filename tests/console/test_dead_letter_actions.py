"""Actions of an operator on the pages: each needs a reason, is in the activity log, and can be undone."""

import json
import re
from datetime import UTC, datetime

import pytest

from tests.console import sample_data
from tests.console.conftest import app_on
from tests.console.visitor import Visitor, words
from worker.bootstrap import Application
from worker.deadletters.models import DeadLetterStatus
from worker.deadletters.service import DeadLetters
from worker.deadletters.store.filters import DeadLetterFilter

WRONG = {"type": "usage.deduct", "referenceId": "job-1", "userId": "ada", "tokens": "120"}


@pytest.fixture
def dead_letters(application_: Application) -> Application:
    """Three dead letters that a worker refused."""
    now = datetime.now(UTC)
    wrong = [sample_data.refused(WRONG | {"referenceId": f"job-{n}"}, now) for n in range(1, 4)]
    sample_data.drain(application_.service(), wrong)
    return application_


@pytest.fixture
def ann(dead_letters: Application) -> Visitor:
    return Visitor(app_on(dead_letters).test_client())


def body_digest(visitor: Visitor, number: int) -> str:
    found = re.search(r'name="instead_of" value="([^"]+)"', visitor.get(f"/dead-letters/{number}/edit"))
    assert found is not None
    return found[1]


def status(application: Application, number: int) -> str:
    return application.service().dead_letter(number).status


# -- editing ----------------------------------------------------------------------------------------------


def test_edited_body_is_kept_beside_the_original(ann: Visitor, dead_letters: Application) -> None:
    edited = json.dumps(WRONG | {"tokens": 120}, indent=2).replace("\n", "\r\n")  # as a form sends lines
    ann.post(
        "/dead-letters/1/edit", body=edited, reason="quoted", instead_of=body_digest(ann, 1), action="save"
    )
    dead_letter = dead_letters.service().dead_letter(1)
    assert json.loads(dead_letter.current_body)["tokens"] == 120
    assert b"\r" not in dead_letter.current_body
    assert json.loads(dead_letter.body)["tokens"] == "120"
    page = words(ann.get("/dead-letters/1"))
    assert "Edited body" in page
    assert "quoted" in page


def test_refused_body_is_not_saved_and_the_page_names_its_field(
    ann: Visitor, dead_letters: Application
) -> None:
    worse = json.dumps(WRONG | {"tokens": -1})
    page = ann.post(
        "/dead-letters/1/edit",
        status=422,
        body=worse,
        reason="x",
        instead_of=body_digest(ann, 1),
        action="save",
    ).text
    assert "at tokens" in words(page)
    assert "-1" in page  # the typed text is still there
    assert dead_letters.service().dead_letter(1).edited_body is None


def test_check_writes_nothing(ann: Visitor, dead_letters: Application) -> None:
    fine = json.dumps(WRONG | {"tokens": 120})
    page = ann.post(
        "/dead-letters/1/edit", status=200, body=fine, instead_of=body_digest(ann, 1), action="check"
    ).text
    assert "A worker would accept this body" in page
    assert dead_letters.service().dead_letter(1).edited_body is None


def test_edit_needs_a_reason(ann: Visitor, dead_letters: Application) -> None:
    fine = json.dumps(WRONG | {"tokens": 120})
    page = ann.post(
        "/dead-letters/1/edit",
        status=400,
        body=fine,
        reason=" ",
        instead_of=body_digest(ann, 1),
        action="save",
    ).text
    assert "Enter a reason" in page
    assert dead_letters.service().dead_letter(1).edited_body is None


def test_edit_of_an_outdated_body_is_refused(ann: Visitor, dead_letters: Application) -> None:
    old = body_digest(ann, 1)
    fine = json.dumps(WRONG | {"tokens": 120})
    ann.post("/dead-letters/1/edit", body=fine, reason="first", instead_of=old, action="save")
    page = ann.post(
        "/dead-letters/1/edit",
        status=409,
        body=fine.replace("120", "9"),
        reason="second",
        instead_of=old,
        action="save",
    ).text
    assert "Somebody else has edited" in page
    theirs = page.partition("Current body")[2]
    assert "&#34;tokens&#34;: 120" in theirs  # the edit that a second press would replace is visible


def test_edit_of_a_discarded_dead_letter_is_refused_and_its_text_is_shown(
    ann: Visitor, dead_letters: Application
) -> None:
    old = body_digest(ann, 1)
    dead_letters.service().discard([1], "in another tab", "bob")
    edited = json.dumps(WRONG | {"tokens": 77_077})
    page = ann.post(
        "/dead-letters/1/edit", status=409, body=edited, reason="x", instead_of=old, action="save"
    ).text
    assert "Your text is not saved" in page
    assert "77077" in page
    assert dead_letters.service().dead_letter(1).edited_body is None


def test_page_shows_the_newest_of_many_edits(ann: Visitor, dead_letters: Application) -> None:
    for number in range(12):
        fine = json.dumps(WRONG | {"tokens": 100 + number}).encode()
        dead_letters.service().edit(
            1, fine, "again", "bob", instead_of=dead_letters.service().dead_letter(1).current_body
        )
    page = words(ann.get("/dead-letters/1"))
    assert "Edits (12, the newest 10)" in page
    assert "111" in page


def test_edit_to_the_original_body_removes_the_edit(ann: Visitor, dead_letters: Application) -> None:
    fine = json.dumps(WRONG | {"tokens": 120})
    ann.post("/dead-letters/1/edit", body=fine, reason="first", instead_of=body_digest(ann, 1), action="save")
    as_it_came = json.dumps(json.loads(dead_letters.service().dead_letter(1).body), indent=2)
    ann.post(
        "/dead-letters/1/edit",
        body=as_it_came,
        reason="back",
        instead_of=body_digest(ann, 1),
        action="save",
        unchecked="yes",
    )
    assert dead_letters.service().dead_letter(1).edited_body is None


def test_body_with_invisible_bytes_is_not_editable_in_a_browser(
    dead_letters: Application, ann: Visitor
) -> None:
    sample_data.drain(dead_letters.service(), [sample_data.refused(b"\x00\xff", datetime.now(UTC))])
    page = ann.get("/dead-letters/4/edit")
    assert "<textarea" not in page
    assert "dead-letters edit 4 --from-file" in page


def undo_in(page: str) -> str:
    found = re.search(r'name="undo" value="([^"]+)"', page)
    assert found is not None
    return found[1]


# -- discarding -------------------------------------------------------------------------------------------


def test_discard_needs_a_reason_and_one_click_undoes_it(ann: Visitor, dead_letters: Application) -> None:
    ann.post("/dead-letters/discard", status=400, n="1", reason="")
    assert status(dead_letters, 1) == DeadLetterStatus.PARKED
    response = ann.post("/dead-letters/discard", n="1", reason="a test of theirs")
    assert status(dead_letters, 1) == DeadLetterStatus.DISCARDED
    page = ann.get(response.location)
    assert "Discarded 1 dead letter" in words(page)
    ann.post("/dead-letters/undo", undo=undo_in(page))
    assert status(dead_letters, 1) == DeadLetterStatus.PARKED


def test_undo_restores_only_the_dead_letters_of_its_discard(ann: Visitor, dead_letters: Application) -> None:
    ann.post("/dead-letters/discard", n="2", reason="first")
    response = ann.post(
        "/dead-letters/discard", reason="all of them", type="usage.deduct", code="invalid_field"
    )
    assert {status(dead_letters, n) for n in (1, 2, 3)} == {DeadLetterStatus.DISCARDED}
    ann.post("/dead-letters/undo", undo=undo_in(ann.get(response.location)))
    assert [status(dead_letters, n) for n in (1, 2, 3)] == [
        DeadLetterStatus.PARKED,
        DeadLetterStatus.DISCARDED,
        DeadLetterStatus.PARKED,
    ]


def test_second_discard_or_restore_changes_nothing_and_says_so(
    ann: Visitor, dead_letters: Application
) -> None:
    ann.post("/dead-letters/discard", n="1", reason="mine")
    again = ann.post("/dead-letters/discard", n="1", reason="mine, in another tab")
    assert "Nothing was discarded" in words(ann.get(again.location))
    dead_letters.service().restore([1], None, "bob")
    restored = ann.post("/dead-letters/restore", n="1")
    assert "Nothing was restored" in words(ann.get(restored.location))
    assert [entry.action for entry in dead_letters.service().activity_log().entries] == ["restore", "discard"]


def test_filter_for_resolved_dead_letters_changes_no_parked_ones(
    ann: Visitor, dead_letters: Application
) -> None:
    for path in ("/dead-letters/discard", "/dead-letters/replay"):
        fields = {"csrf_token": ann.token(), "status": "resolved", "reason": "x"}
        assert ann.client.post(path, data=fields).status_code == 400
    assert dead_letters.service().counts().parked == 3
    assert dead_letters.service().replays().replays == ()


def test_discarded_dead_letter_can_be_restored(ann: Visitor, dead_letters: Application) -> None:
    ann.post("/dead-letters/discard", n="1", reason="gone")
    assert "Restore" in ann.get("/dead-letters/1")
    ann.post("/dead-letters/restore", n="1")
    assert status(dead_letters, 1) == DeadLetterStatus.PARKED


def test_activity_log_has_every_action_with_actor_and_reason(ann: Visitor, dead_letters: Application) -> None:
    ann.post("/dead-letters/1/note", text="seen with Bob")
    ann.post("/dead-letters/discard", n="1", reason="a duplicate of theirs")
    ann.post("/dead-letters/restore", n="1", reason="not quite")
    ann.post("/dead-letters/export", status=200, n="1")
    entries = dead_letters.service().activity_log().entries
    assert [entry.action for entry in entries] == ["export", "restore", "discard", "note"]
    page = words(ann.get("/activity-log"))
    assert "a duplicate of theirs" in page
    assert {entry.actor for entry in entries} == {app_actor(ann)}


def test_activity_log_shows_and_finds_stored_rows_in_todays_words(
    ann: Visitor, dead_letters: Application
) -> None:
    ann.post("/dead-letters/1/note", text="seen")
    dead_letters.service().record("bob", "park", "billing.dead", None, {"letters": 4})
    page = words(ann.get("/activity-log"))
    assert "bob drain billing.dead dead letters 4" in page
    assert "note dead letter 1 seen" in page
    for query in ("action=drain", "action=park"):
        assert "bob drain" in words(ann.get(f"/activity-log?{query}"))
    assert "note dead letter 1" in words(ann.get("/activity-log?subject=dead+letter+1"))


def app_actor(visitor: Visitor) -> str:
    """Return the name that the pages show for the person at this machine."""
    found = re.search(r"<strong>([^<]+)</strong><span class=\"role\">", visitor.get("/dead-letters"))
    assert found is not None
    return found[1]


def test_export_is_lines_of_json(ann: Visitor) -> None:
    response = ann.post("/dead-letters/export", status=200, n=["1", "2"])
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert len(lines) == 2
    assert response.headers["Content-Disposition"].startswith("attachment")


# -- draining ---------------------------------------------------------------------------------------------


def test_drain_keeps_waiting_dead_letters_and_ends_items_of_replays(
    ann: Visitor, dead_letters: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    tidied: list[bool] = []
    now = datetime.now(UTC)
    more = [sample_data.refused(WRONG | {"referenceId": f"job-{n}"}, now) for n in (8, 9)]
    queue = sample_data.dead_queue(more)
    monkeypatch.setattr(Application, "link", lambda _self, **_options: queue)
    monkeypatch.setattr(DeadLetters, "tidy", lambda _self: tidied.append(True))
    response = ann.post("/dead-letters/drain")
    assert "Drained 2 dead letters" in words(ann.get(response.location))
    assert dead_letters.service().counts().parked == 5
    assert len(tidied) == 1
    again = ann.post("/dead-letters/drain")
    assert "Nothing was drained" in words(ann.get(again.location))


def test_pages_neither_drain_nor_tidy(
    ann: Visitor, dead_letters: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = dead_letters.service().create_replay([1], "try", "ann")
    for name in ("drain", "park", "tidy"):
        monkeypatch.delattr(DeadLetters, name, raising=False)
    for path in ("/", "/dead-letters", "/dead-letters/1", "/replays", f"/replays/{replay.number}"):
        ann.get(path)


# -- replaying --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"reason": ""}, "Enter a reason"),
        ({"reason": "x", "mode": "canary", "steps": "1, two"}, "steps must be whole numbers"),
        ({"reason": "x", "mode": "canary", "steps": ""}, "steps must be whole numbers"),
        ({"reason": "x", "mode": "canary", "steps": "0"}, "at least one dead letter"),
        ({"reason": "x", "mode": "all", "rate": "fast"}, "the rate must be a number"),
        ({"reason": "x", "mode": "all", "rate": "nan"}, "the rate must be a number"),
        ({"reason": "x", "mode": "all", "rate": "-1"}, "the rate must be a number"),
    ],
)
def test_invalid_replay_form_starts_no_replay(
    fields: dict[str, str], says: str, ann: Visitor, dead_letters: Application
) -> None:
    page = ann.post("/dead-letters/replay", status=400, n="1", **fields).text
    assert says in words(page)
    assert dead_letters.service().replays().replays == ()


def test_page_of_an_ended_replay_does_not_refresh(ann: Visitor, dead_letters: Application) -> None:
    service = dead_letters.service()
    made = service.create_replay([1], "try", "ann")
    page = ann.get(f"/replays/{made.number}")
    assert 'data-state="done"' in page  # it is paused: nothing changes by itself
    assert "Resume" in page
    service.cancel_replay(made.number, "ann")
    page = ann.get(f"/replays/{made.number}?begun=1")
    assert 'data-state="done"' in page
    assert 'http-equiv="refresh"' not in page


def test_dry_run_shows_results_and_changes_nothing(ann: Visitor, dead_letters: Application) -> None:
    page = words(ann.get("/dead-letters/dry-run?n=1&n=2"))
    assert "malformed" in page
    assert "Nothing was changed" in page
    assert dead_letters.service().page(DeadLetterFilter()).total == 3
