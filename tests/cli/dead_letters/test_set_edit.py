"""``dead-letters edit`` of many: shown with samples, judged, saved and undone as one; needs no broker."""

import json
from datetime import UTC, datetime

import pytest

from tests.cli.console import Cli, FilledLedger
from tests.cli.dead_letters.parts import AWAY
from tests.console import sample_data
from worker.bootstrap import Application
from worker.settings import load_settings

WRONG = {"type": "usage.deduct", "userId": "ann", "tokenz": 5}


@pytest.fixture
def many_cli(ledger_cli: Cli, ledger: FilledLedger) -> Cli:
    """The command line on a ledger with three dead letters of one cause, and one of another."""
    ledger_cli.environment["BILLING_BROKER_URL"] = AWAY
    url = ledger_cli.environment["BILLING_DATABASE_URL"]
    application = Application(load_settings(broker_url=AWAY, database_url=url))
    wrong = [{**WRONG, "referenceId": f"r-{n}"} for n in range(3)]
    now = datetime.now(UTC)
    refused = [*(sample_data.refused(each, now) for each in wrong), sample_data.refused(b"oops", now)]
    sample_data.drain(application.service(), refused)
    application.engine.dispose()
    return ledger_cli


def edit(*options: str) -> tuple[str, ...]:
    return ("dead-letters", "edit", "--code", "unknown_field", "--rename", "tokenz=tokens", *options)


def test_edit_of_many_is_shown_and_judged_before_it_is_saved(many_cli: Cli) -> None:
    ended = many_cli(*edit())
    assert ended.code == 0
    assert "dead letter 1 would be applied: Deducted 5 tokens. Balance: 9.9K" in ended.lines
    assert {'-   "tokenz": 5,', '+   "tokens": 5,'} <= set(ended.lines)
    names, counts = next((a, b) for a, b in zip(ended.rows, ended.rows[1:], strict=False) if "result" in a)
    assert dict(zip(names, counts, strict=True)) | {"text": ""} == {
        "dead letters": "3",
        "result": "apply",
        "code": "tokens_deducted",
        "field": "",
        "tokens": "15",
        "sample": "1",
        "text": "",
    }
    assert "3 of 3 dead letters change, 3 of these decode; 0 stay as they are" in ended.err
    assert "editedBody" not in many_cli("dead-letters", "show", "1", "--json").json


def test_edit_of_many_is_saved_and_undone_as_one(many_cli: Cli) -> None:
    saved = many_cli(*edit("--yes", "--reason", "T-17", "--actor", "eva"))
    assert (saved.code, saved.out) == (0, "edited 3 dead letters\n")
    assert "edit --undo 1 --reason" in saved.err
    shown = many_cli("dead-letters", "show", "2", "--json").json
    assert json.loads(shown["editedBody"])["tokens"] == 5
    assert json.loads(shown["body"])["tokenz"] == 5, "the original is kept"
    assert "edit 1 of a set: T-17" in many_cli("dead-letters", "show", "2").out
    undone = many_cli("dead-letters", "edit", "--undo", "1", "--reason", "the wrong group")
    assert (undone.code, undone.out) == (0, "given their bodies back: 3 dead letters\n")
    assert "editedBody" not in many_cli("dead-letters", "show", "2", "--json").json
    actions = [entry["action"] for entry in many_cli("activity", "--json").json["entries"]]
    assert actions == ["edit.undo", "edit.set"]


def test_dead_letters_that_would_still_be_refused_are_left_and_counted(many_cli: Cli) -> None:
    ended = many_cli("dead-letters", "edit", "1", "2", "--set", "tokenz=5", "--json")
    assert (ended.code, ended.json["changed"], ended.json["unchanged"]) == (1, 0, 2)
    command = ("dead-letters", "edit", "1", "4", "--rename", "tokenz=token")
    assert many_cli(*command, "--json").json["decodes"] == 0
    ended = many_cli(*command, "--yes", "--reason", "a try", "--json")
    assert ended.code == 1
    assert (ended.json["number"], ended.json["changed"]) == (None, 0)
    assert {cause["text"]: cause["sample"] for cause in ended.json["unedited"]} == {
        "it is no JSON": 4,
        "a worker would still refuse it: unknown_field at token": 1,
    }
    unchecked = many_cli(*command, "--yes", "--reason", "a try", "--unchecked", "--json")
    assert (unchecked.json["changed"], unchecked.code) == (1, 1)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--set", "tokens=5"], "give the numbers of dead letters, or a filter"),
        (["1", "2"], "say what to change in many"),
        (["1"], "Missing option '--reason'"),
        (["--code", "x", "--set", "tokens=5", "--yes"], "Missing option '--reason'"),
        (["1", "--set", "tokens"], "must be field=value"),
        (["1", "--set", 'm={"a":'], "begins like JSON and isn't"),
        (["1", "--set", "a=5", "--from-file", "x", "--reason", "x"], "either --from-file, or --set"),
        (["--undo", "1", "--set", "a=5", "--reason", "x"], "--undo takes back all of an edit"),
        (["1", "--code", "x", "--set", "a=5"], "give either numbers or filters"),
    ],
)
def test_edit_that_makes_no_sense_names_the_way_out(many_cli: Cli, options: list[str], why: str) -> None:
    ended = many_cli("dead-letters", "edit", *options)
    assert ended.code == 2
    assert why in ended.err
