"""Dead letters whose operation the ledger has by now: found by the drainer, resolved by an operator."""

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest

from schemas import DeductUsage
from tests.deadletters.parts import NOW, World, deduct, failed
from worker.deadletters import applied
from worker.deadletters.models import DeadLetterStatus
from worker.deadletters.store.filters import DeadLetterFilter
from worker.errors import NotFoundError, NotPossibleError

APPLIED = DeadLetterFilter(status=(DeadLetterStatus.RESOLVED,), applied=True)


@pytest.fixture
def true_world(world: World) -> Iterator[World]:
    """World with an account, whose groups must match their dead letters at the end of each test."""
    world.open("ann")
    yield world
    assert world.service.drifts() == []


def send_again(world: World, *references: str, tokens: int = 5) -> None:
    """Apply deductions, as a producer has sent them again."""
    world.apply(*(DeductUsage(reference_id=r, user_id="ann", tokens=tokens) for r in references))


def test_dead_letter_applied_meanwhile_says_so_and_waits_no_more(true_world: World) -> None:
    service = true_world.service
    one, two = true_world.park_failed(deduct("r-1"), deduct("r-2"))
    send_again(true_world, "r-1")
    assert service.details(one).is_applied
    assert not service.details(two).is_applied
    assert service.mark_applied().found == 1
    dead_letter = service.dead_letter(one)
    assert (dead_letter.status, dead_letter.state) == ("resolved", "applied")
    (group,) = service.groups().groups
    assert (group.waiting, group.resolved, group.applied, group.tokens_at_stake) == (1, 1, 1, 5)
    counts = service.counts()
    assert (counts.parked, counts.resolved, counts.applied) == (1, 1, 1)
    (line,) = service.page(APPLIED).dead_letters
    assert (line.number, line.state, service.page(APPLIED).total) == (one, "applied", 1)
    assert true_world.kinds(one) == ["failed", "resolved"]


def test_applied_dead_letters_are_resolved_as_a_set_with_history(true_world: World) -> None:
    service = true_world.service
    numbers = true_world.park_failed(*(deduct(f"r-{n}") for n in range(4)))
    send_again(true_world, "r-0", "r-1")
    service.mark_applied()
    send_again(true_world, "r-2")
    done = service.resolve_applied(DeadLetterFilter(), "sent again", "eva")
    assert (done.done, done.skipped, done.numbers) == (3, 1, tuple(numbers[:3]))
    assert [true_world.status(number) for number in numbers] == [*["resolved"] * 3, "parked"]
    assert service.page(APPLIED).dead_letters == ()
    for number, marks in ((numbers[0], 1), (numbers[2], 0)):
        events = service.details(number).events[1 + marks :]
        assert [(event.kind, event.actor, event.text) for event in events] == [
            ("resolved", "eva", "sent again")
        ]
    (entry,) = service.activity_log().entries
    assert (entry.action, entry.actor, entry.detail["letters"]) == ("resolve", "eva", numbers[:3])


def test_other_content_under_the_reference_is_a_conflict_and_waits(true_world: World) -> None:
    (number,) = true_world.park_failed(deduct("r-1"))
    send_again(true_world, "r-1", tokens=6)
    assert true_world.service.mark_applied().found == 0
    assert true_world.service.resolve_applied([number], "x", "eva").done == 0
    assert true_world.status(number) == "parked"


def test_rejected_operation_is_not_applied(true_world: World) -> None:
    (number,) = true_world.park_failed(deduct("r-1", 999_999))
    send_again(true_world, "r-1", tokens=999_999)
    assert true_world.service.mark_applied().found == 0
    assert true_world.status(number) == "parked"


def test_batch_counts_once_all_of_its_items_are_applied(true_world: World) -> None:
    items = [deduct("r-1"), deduct("r-2")]
    true_world.park_failed({"type": "usage.batch", "referenceId": "b-1", "userId": "ann", "items": items})
    service = true_world.service
    send_again(true_world, "r-1")
    assert service.mark_applied().found == 0
    send_again(true_world, "r-2")
    assert service.mark_applied().found == 1


def test_edit_makes_a_dead_letter_the_copy_of_what_was_applied(true_world: World) -> None:
    service = true_world.service
    wrong = deduct("r-1", tokenz=5)
    (number,) = true_world.park_failed(wrong)
    send_again(true_world, "r-1")
    assert service.mark_applied().found == 0, "a worker refuses its body"
    body = service.dead_letter(number).body
    service.edit(number, json.dumps(deduct("r-1")).encode(), "T-17", "eva", instead_of=body)
    assert service.mark_applied().found == 1


def test_mark_of_a_dead_letter_ends_when_it_fails_again(true_world: World) -> None:
    (number,) = true_world.park_failed(deduct("r-1"))
    send_again(true_world, "r-1")
    true_world.service.mark_applied()
    again = failed(
        true_world.service.dead_letter(number).body,
        properties={"message_id": "m-r-1"},
        at=NOW + timedelta(hours=1),
    )
    true_world.park(again)
    dead_letter = true_world.service.dead_letter(number)
    assert (dead_letter.status, dead_letter.applied_at) == ("parked", None)


def test_each_look_is_bounded_and_all_have_their_turn(
    true_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applied, "LOOK", 2)
    service = true_world.service
    numbers = true_world.park_failed(*(deduct(f"r-{n}") for n in range(5)))
    send_again(true_world, "r-0", "r-4")
    looks = [service.mark_applied()]
    while looks[-1].after:
        looks.append(service.mark_applied(looks[-1].after))
    assert [look.found for look in looks] == [1, 0, 1]
    assert looks[0].after == numbers[1]


def test_resolving_needs_a_reason_and_numbers_that_exist(true_world: World) -> None:
    (number,) = true_world.park_failed(deduct("r-1"))
    with pytest.raises(NotPossibleError, match="say why"):
        true_world.service.resolve_applied([number], " ", "eva")
    with pytest.raises(NotFoundError, match="no dead letter 99"):
        true_world.service.resolve_applied([99], "x", "eva")
