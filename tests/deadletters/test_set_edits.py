"""Edits of many dead letters as one: previewed, applied, undone, whatever happens in between."""

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import event

from schemas import DeadLetterReason
from tests.deadletters.parts import World, deduct, failed
from worker.deadletters.body_fields import BodyChanges
from worker.deadletters.store.filters import DeadLetterFilter
from worker.errors import NotFoundError, NotPossibleError
from worker.messages.dead_letters import Failure

RENAME = BodyChanges.read(renames=["tokenz=tokens"])
UNKNOWN = Failure(DeadLetterReason.UNKNOWN_FIELD, "The field 'tokenz' is not known", "tokenz")


@pytest.fixture
def true_world(world: World) -> Iterator[World]:
    """World with an account, whose groups must match their dead letters at the end of each test."""
    world.open("ann")
    yield world
    assert world.service.drifts() == []


def misspelt(count: int, first: int = 0) -> list[dict[str, object]]:
    """Return deductions of 5 tokens with a misspelt field."""
    wrong = [deduct(f"r-{n}", tokenz=5) for n in range(first, first + count)]
    for message in wrong:
        del message["tokens"]
    return wrong


def body_of(world: World, number: int) -> dict[str, object]:
    found: dict[str, object] = json.loads(world.service.dead_letter(number).current_body)
    return found


def test_set_is_edited_and_undone_as_one_and_originals_stay(true_world: World) -> None:
    service = true_world.service
    numbers = true_world.park_failed(*misspelt(3), reason=UNKNOWN)
    originals = [service.dead_letter(number).body for number in numbers]
    done = service.edit_set(DeadLetterFilter(code="unknown_field"), RENAME, "T-17", "eva")
    assert (done.number, done.changed, done.unchanged, done.skipped, done.unedited) == (1, 3, 0, 0, ())
    assert all(body_of(true_world, number)["tokens"] == 5 for number in numbers)
    assert [service.dead_letter(number).body for number in numbers] == originals
    (group,) = service.groups().groups
    assert (group.tokens_at_stake, group.tokens_unknown) == (15, 0)
    undone = service.undo_set_edit(1, "no", "eva")
    assert (undone.number, undone.changed) == (2, 3)
    assert all(service.dead_letter(number).edited_body is None for number in numbers)
    again = service.undo_set_edit(2, "yes", "eva")
    assert (again.number, again.changed) == (3, 3)
    assert body_of(true_world, numbers[0])["tokens"] == 5


def test_set_edit_is_in_the_activity_log_and_in_each_history(true_world: World) -> None:
    service = true_world.service
    numbers = true_world.park_failed(*misspelt(2), reason=UNKNOWN)
    service.edit_set(numbers, RENAME, "T-17", "eva")
    service.undo_set_edit(1, "no", "ann")
    undo, edit = service.activity_log().entries
    assert (edit.action, edit.actor, edit.reason) == ("edit.set", "eva", "T-17")
    assert edit.subject == "edit 1: letters 1, 2"
    assert edit.detail["letters"] == numbers
    assert edit.detail["changes"] == RENAME.to_dict()
    assert (undo.action, undo.subject) == ("edit.undo", "edit 2, which undoes 1: letters 1, 2")
    for number in numbers:
        details = service.details(number)
        assert [(one.kind, one.actor, one.detail.get("set_edit")) for one in details.events[1:]] == [
            ("edited", "eva", 1),
            ("edited", "ann", 2),
        ]
        assert [(one.before, one.after) for one in details.edits][::-1] == [
            (one.after, one.before) for one in details.edits
        ]


def test_preview_judges_all_changed_bodies_and_writes_nothing(true_world: World) -> None:
    service = true_world.service
    wrong = misspelt(4)
    wrong[1]["tokenz"] = -5
    wrong[2]["tokenz"] = 999_999
    numbers = true_world.park_failed(*wrong, deduct("fine"), reason=UNKNOWN)
    true_world.park(failed(b"oops", reason=UNKNOWN))
    seen: list[tuple[int, int | None]] = []
    preview = service.preview_set_edit(
        DeadLetterFilter(code="unknown_field"), RENAME, on_progress=lambda *at: seen.append(at)
    )
    assert (preview.total, preview.unchanged, preview.judged.total, preview.decodes) == (6, 1, 4, 3)
    assert {one.would: one.dead_letters for one in preview.judged.forecasts} == {
        "apply": 2,
        "malformed": 1,
        "reject": 1,
    }
    ((cause, count, _),) = [(one.text, one.dead_letters, one.sample) for one in preview.unedited]
    assert (cause, count) == ("it is no JSON", 1)
    assert {sample.forecast.would for sample in preview.samples} == {"apply", "malformed", "reject"}
    assert seen == [(6, 6)]
    assert all(service.dead_letter(number).edited_body is None for number in numbers)
    assert service.activity_log().entries == ()
    service.discard([numbers[0]], "a test", "eva")
    preview = service.preview_set_edit(numbers[:2], RENAME)
    assert (preview.total, preview.skipped, preview.judged.total) == (2, 1, 1)


def test_preview_of_one_result_shows_three_samples(true_world: World) -> None:
    numbers = true_world.park_failed(*misspelt(4), reason=UNKNOWN)
    preview = true_world.service.preview_set_edit(numbers, RENAME)
    assert [sample.forecast.number for sample in preview.samples] == numbers[:3]


def test_body_that_a_worker_would_still_refuse_stays_unless_unchecked(true_world: World) -> None:
    service = true_world.service
    wrong = misspelt(2)
    wrong[1]["tokenz"] = -5
    numbers = true_world.park_failed(*wrong, reason=UNKNOWN)
    done = service.edit_set(numbers, RENAME, "T-17", "eva")
    (cause,) = done.unedited
    assert (done.changed, cause.dead_letters, cause.sample) == (1, 1, numbers[1])
    assert cause.text == "a worker would still refuse it: invalid_field at tokens"
    assert service.dead_letter(numbers[1]).edited_body is None
    assert service.edit_set(numbers, RENAME, "T-17", "eva", unchecked=True).changed == 1
    assert body_of(true_world, numbers[1])["tokens"] == -5


def test_undo_skips_dead_letters_edited_since_or_not_parked_any_more(true_world: World) -> None:
    service = true_world.service
    numbers = true_world.park_failed(*misspelt(3), reason=UNKNOWN)
    service.edit_set(numbers, RENAME, "T-17", "eva")
    by_hand = json.dumps(deduct("r-0", 9)).encode()
    service.edit(numbers[0], by_hand, "mine", "ann", instead_of=service.dead_letter(numbers[0]).current_body)
    service.discard([numbers[1]], "a test", "ann")
    done = service.undo_set_edit(1, "no", "eva")
    assert (done.changed, done.skipped) == (1, 2)
    assert service.dead_letter(numbers[0]).current_body == by_hand
    assert service.dead_letter(numbers[2]).edited_body is None


def test_edit_that_changes_nothing_has_no_number(true_world: World) -> None:
    service = true_world.service
    (number,) = true_world.park_failed(deduct("r-1"))
    done = service.edit_set([number], RENAME, "T-17", "eva")
    assert (done.number, done.changed, done.unchanged) == (None, 0, 1)
    assert service.activity_log().entries == ()
    with pytest.raises(NotFoundError, match="there is no edit 1 of a set"):
        service.undo_set_edit(1, "no", "eva")
    with pytest.raises(NotFoundError, match="there is no dead letter 99"):
        service.edit_set([number, 99], RENAME, "T-17", "eva")
    with pytest.raises(NotPossibleError, match="say why"):
        service.edit_set([number], RENAME, " ", "eva")


def test_edited_set_is_replayed_with_its_new_bodies(true_world: World) -> None:
    numbers = true_world.park_failed(*misspelt(3), reason=UNKNOWN)
    true_world.service.edit_set(numbers, RENAME, "T-17", "eva")
    true_world.replay(numbers)
    assert true_world.balance("ann") == 10_000 - 3 * 5


def test_edit_of_a_set_takes_some_statements_a_thousand_dead_letters(true_world: World) -> None:
    def statements_for(count: int) -> int:
        statements: list[str] = []
        numbers = true_world.park_failed(*misspelt(count, len(true_world.parked())), reason=UNKNOWN)

        def count_statement(_c: object, _u: object, statement: str, *_: object) -> None:
            statements.append(statement)

        event.listen(true_world.engine, "before_cursor_execute", count_statement)
        done = true_world.service.edit_set(numbers, RENAME, "T-17", "eva")
        event.remove(true_world.engine, "before_cursor_execute", count_statement)
        assert done.changed == count
        return len(statements)

    statements_for(1)  # prepares
    assert statements_for(150) == statements_for(2) <= 16
