"""Actions of operators, and export and import of dead letters."""

import json
from typing import Any

import pytest

from tests.deadletters.parts import NOW, World, deduct, failed
from worker import __version__
from worker.deadletters.models import DeadLetterStatus
from worker.deadletters.store.filters import DeadLetterFilter
from worker.errors import BadLineError, NotFoundError, NotPossibleError, RefusedBodyError
from worker.messages.dead_letters import EPOCH
from worker.runtime.identity import Operator


def test_an_edit_keeps_the_original_and_names_who_did_it(world: World) -> None:
    (number,) = world.park_failed(deduct("r-1", tokenz=5))
    before = world.service.dead_letter(number).body
    after = json.dumps(deduct("r-1", tokens=7)).encode()
    edited = world.service.edit(number, after, "a typo", "eva", instead_of=before)
    assert (edited.body, edited.edited_body, edited.current_body) == (before, after, after)
    assert edited.tokens_at_stake == 7
    (edit,) = world.service.details(number).edits
    assert (edit.actor, edit.reason, edit.before, edit.after) == ("eva", "a typo", before, after)
    (entry,) = world.service.activity_log(action="edit").entries
    assert (entry.actor, entry.reason, entry.subject) == ("eva", "a typo", f"letter {number}")
    again = world.service.edit(number, before, "no, it was right", "eva", instead_of=after, unchecked=True)
    assert again.edited_body is None
    assert len(world.service.details(number).edits) == 2


def test_a_body_that_a_worker_would_refuse_is_refused_with_the_field_and_the_way_out(world: World) -> None:
    (number,) = world.park_failed(deduct("r-1"))
    body = world.service.dead_letter(number).body
    wrong = json.dumps(deduct("r-1", tokens=-1)).encode()
    with pytest.raises(RefusedBodyError, match="0 or more") as refused:
        world.service.edit(number, wrong, "x", "eva", instead_of=body)
    assert (refused.value.code, refused.value.field) == ("invalid_field", "tokens")
    no_type = world.service.problem_with(number, b'{"userId": "ann"}')
    assert no_type is not None
    assert no_type.code == "missing_field"
    other_type = json.dumps({**deduct("r-1"), "type": "usage.reserve", "ttlSeconds": 5}).encode()
    assert world.service.problem_with(number, other_type) is None, "a replay has the type as its key"
    assert world.service.problem_with(number, body) is None
    assert world.service.dead_letter(number).edited_body is None


def test_second_of_two_edits_of_the_same_dead_letter_is_refused(world: World) -> None:
    (number,) = world.park_failed(deduct("r-1"))
    body = world.service.dead_letter(number).body
    world.service.edit(number, json.dumps(deduct("r-1", 6)).encode(), "x", "ann", instead_of=body)
    with pytest.raises(NotPossibleError, match="edited by somebody else"):
        world.service.edit(number, json.dumps(deduct("r-1", 7)).encode(), "x", "eva", instead_of=body)


def test_each_action_of_an_operator_has_where_it_was_done(world: World) -> None:
    ann = Operator.here(" ann ")
    (number,) = world.park_failed(deduct("r-1", tokenz=5))
    service, body = world.service, world.service.dead_letter(number).body
    service.note(number, "seen", ann)
    service.edit(number, json.dumps(deduct("r-1", 7)).encode(), "a typo", ann, instead_of=body)
    service.cancel_replay(service.create_replay([number], "x", ann).number, ann)
    service.discard([number], "x", ann)
    service.restore([number], "x", ann)
    list(service.export(DeadLetterFilter(), ann))
    entries = service.activity_log().entries
    assert len(entries) == 7
    assert {(entry.actor, entry.os_user, entry.host) for entry in entries} == {("ann", ann.os_user, ann.host)}


def test_action_without_a_name_or_a_reason_is_refused(world: World) -> None:
    (number,) = world.park_failed(deduct("r-1"))
    body = world.service.dead_letter(number).body
    for name, reason in (("", "x"), ("x" * 201, "x"), ("ann", " "), ("ann", "x" * 4_001)):
        with pytest.raises(NotPossibleError, match="say w"):
            world.service.discard([number], reason, name)
        with pytest.raises(NotPossibleError, match="say w"):
            world.service.edit(number, b"{}", reason, name, instead_of=body, unchecked=True)
    assert world.status(number) == "parked"
    assert world.service.activity_log().entries == ()


def test_a_number_that_is_none_stops_everything_before_it_begins(world: World) -> None:
    (number,) = world.park_failed(deduct("r-1"))
    for act in (world.service.discard, world.service.restore):
        with pytest.raises(NotFoundError, match="there is no dead letter 99"):
            act([number, 99], "x", "ann")
    assert world.status(number) == "parked"


def test_a_discard_of_any_size_is_undone_by_its_entries_of_the_log(world: World) -> None:
    world.park(*(failed(f"{n}".encode()) for n in range(1_500)))
    done = world.service.discard(DeadLetterFilter(code="not_an_object"), "x", "ann")
    assert done.done == 0
    done = world.service.discard(DeadLetterFilter(), "x", "ann")
    assert (done.done, len(done.numbers), len(done.entries)) == (1_500, 1_000, 2)
    assert world.service.counts().discarded == 1_500
    undone = world.service.undo_discard(done.entries, "ann")
    assert undone.done == 1_500
    assert world.service.counts().parked == 1_500
    assert world.service.drifts() == []
    with pytest.raises(NotFoundError, match="is no discard of dead letters"):
        world.service.undo_discard([undone.entries[0]], "ann")


def test_only_what_is_parked_is_discarded_and_only_what_is_discarded_comes_back(world: World) -> None:
    one, two = world.park_failed(deduct("r-1"), deduct("r-2"))
    world.service.discard([one], "x", "ann")
    assert (world.service.discard([one, two], "y", "ann").skipped, world.status(two)) == (1, "discarded")
    world.replay([world.park_failed(deduct("r-3"))[0]])
    resolved = (
        world.service.page(DeadLetterFilter(status=(DeadLetterStatus.RESOLVED,))).dead_letters[0].number
    )
    assert world.service.restore([resolved, one], None, "ann").numbers == (one,)


def test_history_of_a_dead_letter_is_in_order(world: World) -> None:
    (number,) = world.park_failed(deduct("r-1"))
    world.service.note(number, "see T-17 \0", "ann")
    world.service.discard([number], "a test", "ann")
    world.service.restore([number], "no test", "eva")
    events = [(event.kind, event.actor, event.text) for event in world.service.details(number).events]
    assert events == [
        ("failed", f"worker {__version__}", "KeyError: a bug"),
        ("noted", "ann", r"see T-17 \x00"),
        ("discarded", "ann", "a test"),
        ("restored", "eva", "no test"),
    ]


def test_history_shows_the_outcome_in_the_ledger(world: World) -> None:
    world.open("ann")
    (number,) = world.park_failed(deduct("r-1"))
    (line,) = world.service.details(number).ledger
    assert (line.reference_id, line.status, line.agrees) == ("r-1", None, None)
    world.replay([number])
    (line,) = world.service.details(number).ledger
    assert (line.status, line.code, line.amount, line.agrees) == ("applied", "tokens_deducted", 5, True)


# -- export and import ------------------------------------------------------------------------------------

BODIES = [b"", b"\0" * 262_144, bytes(range(256)), "ü\u2028💶".encode(), b'{"a": "\\ud800"}', b"x" * 300_000]


def test_dead_letters_come_back_as_they_went_out(world: World) -> None:
    headers = {f"h-{number}": "x" * 1_000 for number in range(90)} | {
        "b": b"\xff",
        "t": NOW.replace(tzinfo=None),
    }
    properties = {"message_id": "m", "reply_to": "amq.gen-forged", "correlation_id": "\ud800"}
    world.park(*(failed(body, headers=headers, properties=properties) for body in BODIES))
    lines = list(world.service.export(DeadLetterFilter(), "ann"))
    assert len(lines) == len(BODIES)
    assert world.service.import_lines(lines, "ann").added == 0
    with world.engine.begin() as connection:  # as if it were another ledger
        others = [json.dumps({**json.loads(line), "letterId": f"other-{n}"}) for n, line in enumerate(lines)]
        assert connection is not None
    before = {dead_letter.number for dead_letter in world.parked()}
    assert world.service.import_lines(others, "eva").added == len(BODIES)
    assert world.service.import_lines(others, "eva").known == len(BODIES)
    added = [dead_letter for dead_letter in world.parked() if dead_letter.number not in before]
    assert [dead_letter.body for dead_letter in added] == BODIES
    first = world.parked()[0]
    assert added[0].properties == first.properties
    assert world.kinds(added[0].number) == ["failed", "imported"]
    assert world.service.drifts() == []
    assert {entry.action for entry in world.service.activity_log().entries} == {"export", "import"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no json", "Invalid JSON"),
        ("{}", "Field required"),
        ('{"format": "else"}', "Field required"),
        ("[" * 100_000, "line 2"),
    ],
)
def test_a_line_that_is_no_dead_letter_is_named_and_what_came_before_is_in(
    world: World, line: str, said: str
) -> None:
    world.park(failed(b"oops"))
    (good,) = world.service.export(DeadLetterFilter(), "ann")
    other = json.dumps({**json.loads(good), "letterId": "other"})
    with pytest.raises(BadLineError, match="line 2") as bad:
        world.service.import_lines([other, line], "ann")
    assert said in str(bad.value)
    assert len(world.parked()) == 2


@pytest.mark.parametrize(
    "properties",
    [
        {"headers": {"a": {"$decimal": "much"}}},
        {"headers": {"a": {"$float": "much"}}},
        {"headers": {"a": "\0"}},
        {"headers": {"a\0": 1}},
        {"headers": {"a": [1e999]}},
        {"headers": 5},
        {"properties": []},
        {"$bytes": "AAAA"},
    ],
)
def test_properties_that_no_export_writes_are_refused_and_not_found_out_later(
    world: World, properties: dict[str, Any]
) -> None:
    world.park(failed(b"oops"))
    (line,) = world.service.export(DeadLetterFilter(), "ann")
    other = {**json.loads(line), "letterId": "other", "properties": properties}
    text = json.dumps(other).replace("Infinity", "1e999")
    with pytest.raises(BadLineError, match="line 1"):
        world.service.import_lines([text], "ann")
    assert len(world.parked()) == 1


def test_an_imported_dead_letter_is_replayed_like_any_other(world: World) -> None:
    world.open("ann")
    (number,) = world.park_failed(deduct("r-1"))
    (line,) = world.service.export([number], "ann")
    fields = {**json.loads(line), "letterId": "other", "status": "replaying"}
    world.service.import_lines([json.dumps(fields)], "ann")
    assert world.replay([number + 1]).counts["applied"] == 1
    with pytest.raises(BadLineError, match="line 1"):
        world.service.import_lines(
            [json.dumps({**fields, "letterId": "x", "properties": {"headers": {"a": {"$float": "much"}}}})],
            "ann",
        )


def test_unknown_time_is_null_in_an_export_and_after_an_import(world: World) -> None:
    world.park(failed(b"oops", at=EPOCH))
    (line,) = world.service.export(DeadLetterFilter(), "ann")
    assert (json.loads(line)["firstFailedAt"], json.loads(line)["lastFailedAt"]) == (None, None)
    earlier = dict.fromkeys(("firstFailedAt", "lastFailedAt"), EPOCH.isoformat())
    lines = [
        json.dumps(json.loads(line) | {"letterId": "other"}),
        json.dumps(json.loads(line) | {"letterId": "of an earlier version"} | earlier),
    ]
    assert world.service.import_lines(lines, "ann").added == 2
    assert {dead_letter.last_failed_at for dead_letter in world.parked()} == {None}
    assert world.service.drifts() == []


@pytest.mark.parametrize(
    "time", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00", "yesterday", 1e30]
)
@pytest.mark.parametrize("name", ["firstFailedAt", "lastFailedAt"])
def test_imported_time_that_no_calendar_has_is_refused_with_its_line(
    world: World, name: str, time: object
) -> None:
    world.park(failed(b"oops"))
    (line,) = world.service.export(DeadLetterFilter(), "ann")
    with pytest.raises(BadLineError, match=f"line 1: {name}: "):
        world.service.import_lines([json.dumps({**json.loads(line), "letterId": "other", name: time})], "ann")


def test_long_filter_is_cut_in_the_activity_log_and_whole_in_the_detail(world: World) -> None:
    world.park_failed(deduct("r-1"))
    text = "ü".join(map(str, range(3_000)))
    assert list(world.service.export(DeadLetterFilter(text=text), "ann")) == []
    (entry,) = world.service.activity_log(action="export").entries
    assert (len(entry.subject), entry.detail["subject"]) == (500, str(DeadLetterFilter(text=text)))
    long = DeadLetterFilter(user_id="ann", status=(DeadLetterStatus.PARKED,) * 200)
    done = world.service.discard(long, "a test", "ann")
    assert world.service.undo_discard(done.entries, "eva").done == 1


def test_reason_of_a_pause_is_kept_with_its_nul_spelled_out(world: World) -> None:
    (number,) = world.park_failed(deduct("r-1"))
    created = world.service.create_replay([number], "mended", "ann")
    assert world.service.cancel_replay(created.number, "ann", "no \0").state_reason == r"no \x00"
