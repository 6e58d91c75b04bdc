"""Edits of many dead letters on the pages, applied ones resolved, and both sides of a conflict."""

import json
import re
from datetime import UTC, datetime

import pytest
from flask import Flask

from schemas import DeductUsage, OpenAccount
from tests.console import sample_data
from tests.console.conftest import PASSWORD, app_on
from tests.console.visitor import Visitor, row_numbers, words
from tests.support.apply_commands import applied
from worker.bootstrap import Application

WRONG = {"type": "usage.deduct", "userId": "ada", "tokenz": 120}


@pytest.fixture
def dead_letters(application_: Application) -> Application:
    """Three dead letters with a misspelt field, of a user with an account."""
    now = datetime.now(UTC)
    opening = OpenAccount(reference_id="open-ada", user_id="ada", tier="free")
    applied(application_.engine, application_.catalog, opening, now=now)
    wrong = [sample_data.refused(WRONG | {"referenceId": f"job-{n}"}, now) for n in range(1, 4)]
    sample_data.drain(application_.service(), wrong)
    return application_


@pytest.fixture
def ann(dead_letters: Application) -> Visitor:
    return Visitor(app_on(dead_letters).test_client())


def group_of(application: Application) -> str:
    (group,) = application.service().groups(waiting_only=False).groups
    return group.fingerprint


def deduct(application: Application, reference: str, tokens: int = 120) -> None:
    command = DeductUsage(reference_id=reference, user_id="ada", tokens=tokens)
    applied(application.engine, application.catalog, command, now=datetime.now(UTC))


# -- editing ----------------------------------------------------------------------------------------------


def test_preview_shows_the_diff_and_the_judgement_and_saves_nothing(
    ann: Visitor, dead_letters: Application
) -> None:
    group = group_of(dead_letters)
    assert f"/dead-letters/edit?status=parked&amp;status=replaying&amp;group={group}" in ann.get(
        f"/groups/{group}"
    )
    page = ann.get(f"/dead-letters/edit?group={group}&rename=tokenz%3Dtokens&preview=1")
    text = words(page)
    assert "3 of 3 dead letters change, 3 of these decode" in text
    assert '- "tokenz": 120' in text
    assert '+ "tokens": 120' in text
    assert "Deducted 120 tokens" in text
    assert dead_letters.service().dead_letter(1).edited_body is None


def test_set_is_edited_and_undone_by_one_button(ann: Visitor, dead_letters: Application) -> None:
    group = group_of(dead_letters)
    response = ann.post(
        "/dead-letters/edit", group=group, rename="tokenz=tokens\r\n", set="metadata.job=7", reason="T-17"
    )
    body = json.loads(dead_letters.service().dead_letter(2).current_body)
    assert (body["tokens"], body["metadata"]) == (120, {"job": 7})
    page = ann.get(response.location)
    assert "Edited 3 dead letters. A replay sends the edited bodies." in words(page)
    edit = re.search(r'name="edit" value="(\d+)"', page)
    assert edit is not None
    assert "in edit 1 of a set" in words(ann.get("/dead-letters/2"))
    undone = ann.post("/dead-letters/edit/undo", edit=edit[1], reason="no")
    assert "Undone 3 dead letters" in words(ann.get(undone.location))
    assert dead_letters.service().dead_letter(2).edited_body is None


def test_dead_letter_that_came_after_the_preview_is_not_edited_unseen(
    ann: Visitor, dead_letters: Application
) -> None:
    page = ann.get(f"/dead-letters/edit?group={group_of(dead_letters)}&rename=tokenz%3Dtokens&preview=1")
    seen = re.search(r'name="seen" value="([^"]+)"', page)
    assert seen is not None
    late = sample_data.refused(WRONG | {"referenceId": "job-4"}, datetime.now(UTC))
    sample_data.drain(dead_letters.service(), [late])
    group, rename = group_of(dead_letters), "tokenz=tokens"
    again = ann.post(
        "/dead-letters/edit", status=409, group=group, rename=rename, reason="x", seen=seen[1]
    ).text
    assert "The dead letters have changed since you looked" in words(again)
    assert "4 of 4 dead letters change" in words(again)
    assert dead_letters.service().dead_letter(1).edited_body is None
    now_seen = re.search(r'name="seen" value="([^"]+)"', again)
    assert now_seen is not None
    ann.post("/dead-letters/edit", group=group, rename=rename, reason="x", seen=now_seen[1])
    assert dead_letters.service().dead_letter(4).edited_body is not None


def test_form_keeps_its_text_and_says_why_it_saved_nothing(ann: Visitor, dead_letters: Application) -> None:
    wrong = ann.get("/dead-letters/edit?n=1&set=tokens&preview=1", status=400)
    assert "must be field=value" in words(wrong)
    no_reason = ann.post("/dead-letters/edit", status=400, n="1", rename="tokenz=tokens").text
    assert "Enter a reason" in words(no_reason)
    assert "tokenz=tokens" in no_reason
    nothing = ann.post("/dead-letters/edit", status=409, n="1", rename="tokenz=token", reason="x").text
    assert "Nothing was edited" in words(nothing)
    shown = words(ann.get("/dead-letters/edit?n=1&rename=tokenz%3Dtoken&preview=1"))
    assert "Save anyway those that a worker would still refuse" in shown
    ann.post("/dead-letters/edit", n="1", rename="tokenz=token", reason="x", unchecked="yes")
    assert b'"token":' in dead_letters.service().dead_letter(1).current_body


def test_viewer_edits_no_set(guarded: Flask, dead_letters: Application) -> None:
    vic = Visitor(guarded.test_client())
    vic.sign_in("vic", PASSWORD)
    vic.get("/dead-letters/edit?n=1", status=403)
    assert "Edit all" not in vic.get(f"/groups/{group_of(dead_letters)}")


# -- applied meanwhile, and conflicts ---------------------------------------------------------------------


def test_applied_dead_letters_say_so_and_are_resolved_by_a_button(
    ann: Visitor, dead_letters: Application
) -> None:
    ann.post(
        "/dead-letters/edit", status=303, group=group_of(dead_letters), rename="tokenz=tokens", reason="x"
    )
    for reference in ("job-1", "job-2"):
        deduct(dead_letters, reference)
    assert "The ledger has its operation, with the same content" in words(ann.get("/dead-letters/1"))
    assert dead_letters.service().mark_applied().found == 2
    assert "Applied meanwhile 2" in words(ann.get("/dead-letters?waiting=all"))
    group = group_of(dead_letters)
    assert "Resolve 2" in ann.get(f"/groups/{group}")
    assert row_numbers(ann.get("/dead-letters/list?status=applied")) == [2, 1]
    form = {"csrf_token": ann.token(), "status": "applied", "group": group, "reason": "sent"}
    done = ann.client.post("/dead-letters/resolve", data=form)
    assert "Resolved 2 dead letters" in words(ann.get(done.location))
    assert row_numbers(ann.get("/dead-letters/list?status=applied")) == []
    assert "resolved by" in words(ann.get("/dead-letters/1"))
    none = ann.post("/dead-letters/resolve", n="3", reason="sent")
    assert "Nothing was resolved" in words(ann.get(none.location))


def test_both_sides_of_a_conflict_are_on_the_page(ann: Visitor, dead_letters: Application) -> None:
    ann.post("/dead-letters/edit", n="1", rename="tokenz=tokens", reason="x")
    deduct(dead_letters, "job-1", 99)
    page = words(ann.get("/dead-letters/1"))
    assert "Conflict of job-1" in page
    assert "tokens differs 99 120" in page
    assert "Conflict of" not in words(ann.get("/dead-letters/2"))


# -- replays ----------------------------------------------------------------------------------------------


def test_head_and_table_of_a_replay_refresh_together_and_are_exported(
    ann: Visitor, dead_letters: Application
) -> None:
    service = dead_letters.service()
    made = service.create_replay([1, 2], "mended", "ann", stop_on=["rejected=2%"])
    page = ann.get(f"/replays/{made.number}?state=waiting")
    assert f'data-refresh-url="/replays/{made.number}/progress?state=waiting"' in page
    part = ann.get(f"/replays/{made.number}/progress?state=waiting")
    assert row_numbers(part) == [1, 2]
    text = words(part)
    assert "Stops on rejected=2%" in text
    assert "Ran for 0 s" in text
    exported = ann.get(f"/replays/{made.number}/items.csv?state=waiting")
    assert exported.splitlines()[1].startswith("1,1,waiting,usage.deduct,job-1,ada,")
    assert json.loads(ann.get(f"/replays/{made.number}/items.jsonl").splitlines()[0])["number"] == 1
    ann.get(f"/replays/{made.number}/items.xml", status=400)


def test_replay_form_refuses_a_limit_that_makes_no_sense(ann: Visitor) -> None:
    page = ann.post(
        "/dead-letters/replay", status=400, n="1", reason="x", mode="all", stop_on="rejected"
    ).text
    assert "is no limit: write a state and a number" in words(page)


def test_group_page_has_its_parts(ann: Visitor, dead_letters: Application) -> None:
    text = words(ann.get(f"/groups/{group_of(dead_letters)}"))
    assert "Counted among 3 dead letters that wait" in text
    assert "Senders" in text
    assert "Worker versions" in text
