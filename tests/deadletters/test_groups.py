"""Groups of like failures with stored counts; and lists that the database pages."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, text, update

from schemas import DeadLetterReason
from tests.deadletters.parts import NOW, World, deduct, failed
from worker import __version__
from worker.deadletters.models import DeadLetterStatus, GroupOrder
from worker.deadletters.store import group_parts, tables
from worker.deadletters.store.arrivals import failures_between
from worker.deadletters.store.filters import DeadLetterFilter
from worker.errors import NotFoundError, QueryError
from worker.ledger.queries import snapshot
from worker.messages.dead_letters import EPOCH, Failure

# -- groups -----------------------------------------------------------------------------------------------


@pytest.fixture
def true_world(world: World) -> Iterator[World]:
    """World whose groups must match their dead letters at the end of each test."""
    yield world
    assert world.service.drifts() == []


def refused(reference: str, user: str, tokens: int, field: str = "tokenz") -> Failure:
    del tokens
    text = f"The field {field!r} is not known"
    return Failure(DeadLetterReason.UNKNOWN_FIELD, text, field, None, "usage.deduct", reference, user)


def park(world: World, count: int, *, users: int = 3, field: str = "tokenz", first: int = 0) -> None:
    world.park(
        *(
            failed(
                json.dumps(deduct(f"{field}-{n}", tokens=n, user=f"u{n % users}")).encode(),
                reason=refused(f"{field}-{n}", f"u{n % users}", n, field),
                at=NOW + timedelta(seconds=n),
            )
            for n in range(first, first + count)
        )
    )


def test_group_counts_waiting_dead_letters_users_and_tokens_affected(true_world: World) -> None:
    park(true_world, 10)
    (group,) = true_world.service.groups().groups
    assert (group.reason, group.type, group.field) == ("unknown_field", "usage.deduct", "tokenz")
    assert (group.waiting, group.users, group.users_is_least) == (10, 3, False)
    assert (group.tokens_at_stake, group.tokens_unknown) == (45, 0)
    assert (group.first_failed_at, group.last_failed_at) == (NOW, NOW + timedelta(seconds=9))
    assert true_world.service.dead_letter(group.sample).reference_id == "tokenz-9"
    assert true_world.service.group(group.fingerprint[:6]) == group


def test_the_sample_of_a_group_is_one_that_waits_in_it(true_world: World) -> None:
    park(true_world, 3)
    one, two, three = [dead_letter.number for dead_letter in true_world.parked()]
    true_world.service.discard([three], "a test", "eva")
    (group,) = true_world.service.groups().groups
    assert group.sample == two
    bodies = {number: true_world.service.dead_letter(number).body for number in (one, two)}
    true_world.park(
        failed(
            bodies[two], reason=Failure(DeadLetterReason.UNPROCESSABLE, "a bug"), at=NOW + timedelta(hours=1)
        )
    )
    groups = true_world.service.groups(waiting_only=False).groups
    assert {(group.reason, group.sample) for group in groups} == {
        ("unknown_field", one),
        ("unprocessable", two),
    }


def test_headline_of_a_group_is_that_of_a_dead_letter_that_waits(true_world: World) -> None:
    for reference, amount in (("old", "10"), ("new", "11")):
        message = f"tokens: at most {amount} is taken."
        reason = Failure(
            DeadLetterReason.INVALID_FIELD, message, "tokens", None, "usage.deduct", reference, "ann"
        )
        true_world.park(failed(json.dumps(deduct(reference)).encode(), reason=reason))
    old, new = [dead_letter.number for dead_letter in true_world.parked()]
    (group,) = true_world.service.groups().groups
    assert (group.sample, group.message, group.waiting) == (new, "tokens: at most 11 is taken.", 2)
    true_world.service.discard([new], "a test", "eva")
    (group,) = true_world.service.groups().groups
    assert (group.sample, group.message, group.waiting) == (old, "tokens: at most 10 is taken.", 1)
    true_world.service.discard([old], "a test", "eva")
    (group,) = true_world.service.groups(waiting_only=False).groups
    assert (group.sample, group.waiting) == (new, 0)


def test_a_group_follows_its_dead_letters_wherever_they_go(true_world: World) -> None:
    park(true_world, 5)
    numbers = [dead_letter.number for dead_letter in true_world.parked()]
    true_world.service.discard(numbers[:2], "tests", "eva")
    (group,) = true_world.service.groups().groups
    assert (group.parked, group.discarded, group.tokens_at_stake) == (3, 2, 2 + 3 + 4)
    true_world.service.restore(numbers[:1], None, "eva")
    body = true_world.service.dead_letter(numbers[4]).body
    true_world.service.edit(numbers[4], b"no number", "a try", "eva", instead_of=body, unchecked=True)
    (group,) = true_world.service.groups().groups
    assert (group.parked, group.tokens_at_stake, group.tokens_unknown) == (4, 0 + 2 + 3, 1)
    true_world.service.discard(DeadLetterFilter(fingerprint=group.fingerprint[:8]), "all", "eva")
    assert true_world.service.groups().groups == ()
    (group,) = true_world.service.groups(waiting_only=False).groups
    assert (group.waiting, group.users, group.tokens_at_stake) == (0, 0, 0)


def test_unrecorded_values_are_unknown_and_not_zero(true_world: World) -> None:
    true_world.park(failed(b"oops", at=EPOCH), failed(b"again", at=EPOCH))
    (group,) = true_world.service.groups().groups
    assert (group.first_failed_at, group.last_failed_at) == (None, None)
    assert (group.tokens_at_stake, group.tokens_unknown, group.waiting) == (0, 2, 2)


def test_known_time_takes_the_place_of_an_unknown_one(true_world: World) -> None:
    true_world.park(failed(b"oops", at=EPOCH))
    true_world.park(failed(b"again", at=NOW), failed(b"once more", at=EPOCH))
    (group,) = true_world.service.groups().groups
    assert (group.first_failed_at, group.last_failed_at) == (NOW, NOW)
    first, *_ = true_world.service.page().dead_letters
    assert (first.first_failed_at, first.last_failed_at) == (None, None)
    assert true_world.service.counts().last_failed_at == NOW


def test_bounds_of_time_leave_out_unknown_times(true_world: World) -> None:
    true_world.park(failed(b"oops", at=EPOCH), failed(b"again", at=NOW))
    for bound in (DeadLetterFilter(until=NOW + timedelta(1)), DeadLetterFilter(since=NOW - timedelta(1))):
        page = true_world.service.page(bound)
        assert (page.total, len(page.dead_letters)) == (1, 1)
    assert true_world.service.page().total == 2


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_groups_of_unknown_time_come_last_and_paging_reaches_them(true_world: World, limit: int) -> None:
    for place, field in enumerate("abcde"):
        at = EPOCH if place % 2 else NOW + timedelta(seconds=place)
        true_world.park(
            failed(json.dumps(deduct(field)).encode(), reason=refused(field, "u", 1, field), at=at)
        )
    seen: list[str] = []
    after: str | None = None
    while True:
        page = true_world.service.groups(limit=limit, after=after)
        seen += [group.field or "" for group in page.groups]
        if (after := page.next) is None:
            break
    assert seen[:3] == ["e", "c", "a"]
    assert sorted(seen[3:]) == ["b", "d"]


def test_users_are_counted_to_a_thousand(true_world: World) -> None:
    park(true_world, 1_002, users=1_001)
    (group,) = true_world.service.groups().groups
    assert (group.users, group.users_is_least) == (1_000, True)


@pytest.fixture
def large_amounts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let ten messages hold more tokens than 64 bits do, so that no test needs ten thousand."""
    monkeypatch.setattr("worker.deadletters.tokens._TOKENS_MAX", 10**18)
    return 10**18


def test_more_tokens_than_a_column_of_64_bits_holds_are_summed_up(world: World, large_amounts: int) -> None:
    body = json.dumps(deduct("r", tokens=large_amounts)).encode()
    world.dead.waiting.extend([failed(body, properties={"message_id": str(n)}) for n in range(10)])
    assert world.service.drain(world.dead) == 10
    (group,) = world.service.groups().groups
    assert (group.waiting, group.tokens_unknown) == (10, 0)
    if world.engine.dialect.name == "postgresql":
        assert group.tokens_at_stake == 10**19 > 2**63
    else:
        assert group.tokens_at_stake == 2**63 - 1, "it has no such number, and goes on"
        world.service.discard(DeadLetterFilter(), "a test", "ann")
    assert world.service.drifts() == []


def test_sum_that_ended_with_the_numbers_is_exact_again_when_it_shrinks(
    true_world: World, large_amounts: int
) -> None:
    body = json.dumps(deduct("r", tokens=large_amounts)).encode()
    true_world.dead.waiting.extend([failed(body, properties={"message_id": str(n)}) for n in range(10)])
    true_world.service.drain(true_world.dead)
    true_world.service.discard(range(1, 9), "a test", "ann")
    assert true_world.service.counts().tokens_at_stake == 2 * large_amounts


def test_counts_of_two_groups_at_the_largest_number_are_capped(world: World) -> None:
    sums = dict.fromkeys(("parked", "waiting"), 1) | {"tokens_at_stake": 2**63 - 1}
    rest = dict.fromkeys(("replaying", "resolved", "discarded", "tokens_unknown"), 0)
    with world.engine.begin() as connection:
        for digit in "ab":
            row = {"fingerprint": digit * 32, "reason": "x", "message": "m", "sample": 1, **sums, **rest}
            connection.execute(insert(tables.dead_letter_groups), row)
    expected = 2 * (2**63 - 1) if world.engine.dialect.name == "postgresql" else 2**63 - 1
    assert world.service.counts().tokens_at_stake == expected


@pytest.mark.parametrize("order", ["last", "count", "tokens"])
def test_groups_are_paged_in_each_order(true_world: World, order: str) -> None:
    for number in range(7):
        park(true_world, number + 1, field=f"{'abcdefg'[number]}", first=number * 10)
    seen: list[str] = []
    after: str | None = None
    for _ in range(4):
        page = true_world.service.groups(order=order, limit=2, after=after)  # type: ignore[arg-type]
        assert page.total == 7
        seen += [group.field or "" for group in page.groups]
        after = page.next
    assert after is None
    assert seen == list("gfedcba")


def test_a_group_that_is_not_there_or_not_meant_is_said(true_world: World) -> None:
    with pytest.raises(NotFoundError, match="there is no group abcd"):
        true_world.service.group("abcd")
    for digits in ("abc", "xyzw", ""):
        with pytest.raises(QueryError, match="at least 4 digits"):
            true_world.service.group(digits)
    for cursor in ("nonsense", "nonsense|x", "2026-11-22T10:15:00|x", "9999-12-31T23:59:59-12:00|x"):
        with pytest.raises(QueryError, match="no place"):
            true_world.service.groups(after=cursor)


def test_a_corrupt_group_is_found(world: World) -> None:
    park(world, 2)
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE dead_letter_groups SET parked = 5, waiting = 5"))
    (drift,) = world.service.drifts()
    assert (drift.name, drift.expected, drift.actual) == ("parked", 2, 5)


def test_all_dead_letters_together(true_world: World) -> None:
    park(true_world, 3)
    true_world.park(failed(b"oops"))
    counts = true_world.service.counts()
    assert (counts.parked, counts.groups, counts.tokens_at_stake, counts.tokens_unknown) == (4, 2, 3, 1)
    assert counts.last_failed_at == NOW + timedelta(seconds=2)


# -- lists ------------------------------------------------------------------------------------------------

FILTERS = {
    "a reason": (DeadLetterFilter(code="not_json"), {"oops"}),
    "a type": (DeadLetterFilter(type="usage.deduct"), {"a-0", "a-1", "a-2"}),
    "a user": (DeadLetterFilter(user_id="u1"), {"a-1"}),
    "a reference": (DeadLetterFilter(reference_id="a-2"), {"a-2"}),
    "since": (DeadLetterFilter(since=NOW + timedelta(seconds=1)), {"a-1", "a-2"}),
    "until": (DeadLetterFilter(until=NOW + timedelta(seconds=1)), {"a-0", "oops"}),
    "a text in the body": (DeadLetterFilter(text='"tokens": 2'), {"a-2"}),
    "a text in the message": (DeadLetterFilter(text="NO JSON"), {"oops"}),
    "two at once": (DeadLetterFilter(type="usage.deduct", user_id="u2"), {"a-2"}),
    "another status": (DeadLetterFilter(status=(DeadLetterStatus.DISCARDED,)), {"away"}),
    "all": (DeadLetterFilter(status=tuple(DeadLetterStatus)), {"a-0", "a-1", "a-2", "oops", "away"}),
}


@pytest.mark.parametrize(("filter_", "expected"), FILTERS.values(), ids=FILTERS.keys())
def test_dead_letters_are_found_by_what_they_are(
    true_world: World, filter_: DeadLetterFilter, expected: set[str]
) -> None:
    park(true_world, 3, field="a")
    true_world.park(failed(b"away"), failed(b"oops"))
    away = next(dead_letter.number for dead_letter in true_world.parked() if dead_letter.body == b"away")
    true_world.service.discard([away], "away", "eva")
    page = true_world.service.page(filter_)
    names = {true_world.service.dead_letter(line.number).body for line in page.dead_letters}
    assert {
        json.loads(name)["referenceId"] if name.startswith(b"{") else name.decode() for name in names
    } == expected
    assert page.total == (None if filter_.text else len(expected))


def test_lists_are_paged_by_number_newest_first(true_world: World) -> None:
    park(true_world, 25)
    seen: list[int] = []
    before: int | None = None
    while True:
        page = true_world.service.page(limit=10, before=before)
        assert page.total == 25
        seen += [line.number for line in page.dead_letters]
        if (before := page.next) is None:
            break
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == 25


def test_a_text_is_looked_for_some_thousands_at_a_time(
    true_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.deadletters.store.queries._SEARCHED", 10)
    park(true_world, 25)
    first = true_world.service.page(DeadLetterFilter(text="tokenz-3"))
    assert first.dead_letters == ()
    assert first.next == first.searched_to
    second = true_world.service.page(DeadLetterFilter(text="tokenz-3"), before=first.next)
    assert second.dead_letters == ()
    third = true_world.service.page(DeadLetterFilter(text="tokenz-3"), before=second.next)
    assert [line.reference_id for line in third.dead_letters] == ["tokenz-3"]
    assert third.next is None
    assert len(list(true_world.service.every_dead_letter(DeadLetterFilter(text="tokenz-3")))) == 1


def test_more_than_are_counted_are_said_to_be_more(
    true_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.deadletters.store.queries._COUNTED_MAX", 5)
    park(true_world, 10, users=1)
    assert true_world.service.page(DeadLetterFilter(user_id="u0")).total is None
    assert true_world.service.page().total == 10


BROKEN = ["a\0b", "\ud800"]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("name", ["code", "type", "user_id", "reference_id", "text", "fingerprint"])
def test_filter_refuses_text_that_no_row_holds(name: str, broken: str) -> None:
    values: dict[str, Any] = {name: broken}
    with pytest.raises(QueryError, match=f"{name} holds NUL"):
        DeadLetterFilter(**values)


@pytest.mark.parametrize("broken", BROKEN)
def test_look_up_refuses_text_that_no_row_holds(world: World, broken: str) -> None:
    (number,) = world.park_failed(deduct("r-1"))
    replay = world.service.create_replay([number], "mended", "ann")
    service = world.service
    look_ups: list[Callable[[], object]] = [
        lambda: service.group(broken),
        lambda: service.groups(after=f"|{broken}"),
        lambda: service.activity_log(actor=broken),
        lambda: service.activity_log(subject=broken),
        lambda: service.explain(broken),
        lambda: service.replay_items(replay.number, states=[broken]),
    ]
    for look_up in look_ups:
        with pytest.raises(QueryError):
            look_up()


@pytest.mark.parametrize("name", ["since", "until"])
def test_time_outside_the_calendar_is_no_bound(world: World, name: str) -> None:
    values: dict[str, Any] = {name: datetime.fromisoformat("9999-12-31T23:59:59-12:00")}
    with pytest.raises(QueryError, match="outside the years"):
        world.service.page(DeadLetterFilter(**values))


# -- append-only rows -------------------------------------------------------------------------------------


def test_dead_letters_events_and_activity_log_are_append_only(true_world: World) -> None:
    true_world.park(failed(b"oops"))
    for change in (update(tables.dead_letters).values(body=b"else"), tables.dead_letters.delete()):
        with pytest.raises(Exception, match="append-only"), true_world.engine.begin() as connection:
            connection.execute(change)
    for table in ("dead_letter_events", "audit_log"):
        true_world.service.record("ann", "look", "nothing")
        with pytest.raises(Exception, match="append-only"), true_world.engine.begin() as connection:
            connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - one of the two above


# -- parts of a group -------------------------------------------------------------------------------------


def test_parts_of_a_group_are_its_senders_worker_versions_and_messages(
    true_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    park(true_world, 5)
    fingerprint = true_world.service.groups().groups[0].fingerprint
    parts = true_world.service.group_parts(fingerprint[:8])
    assert (parts.looked_at, parts.is_all, parts.is_waiting) == (5, True, True)
    assert [(one.value, one.dead_letters) for one in parts.messages] == [
        ("The field 'tokenz' is not known", 5)
    ]
    assert [(one.value, one.dead_letters) for one in parts.worker_versions] == [(__version__, 5)]
    senders = {dead_letter.sender for dead_letter in true_world.parked()}
    assert {one.value for one in parts.senders} == senders
    monkeypatch.setattr(group_parts, "LOOKED_AT_MAX", 2)
    assert true_world.service.group_parts(fingerprint).is_all is False
    true_world.service.discard(DeadLetterFilter(), "tests", "eva")
    assert true_world.service.group_parts(fingerprint).is_waiting is False


def test_groups_are_ordered_by_what_they_affect(true_world: World) -> None:
    park(true_world, 6, users=2, field="many")
    park(true_world, 4, users=4, field="wide", first=1)
    park(true_world, 1, field="dear", first=90)

    def fields(order: GroupOrder) -> list[str | None]:
        pages = [true_world.service.groups(order=order, limit=1)]
        while pages[-1].next:
            pages.append(true_world.service.groups(order=order, limit=1, after=pages[-1].next))
        return [group.field for page in pages for group in page.groups]

    assert fields("tokens") == ["dear", "many", "wide"]
    assert fields("users") == ["wide", "many", "dear"]
    assert fields("count") == ["many", "wide", "dear"]
    assert fields("last") == ["dear", "many", "wide"]


def test_chart_counts_dead_letters_by_their_last_failure(world: World) -> None:
    park(world, 8)
    moments = [NOW + timedelta(seconds=seconds) for seconds in (-5, 0, 3, 4, 7)]
    with snapshot(world.engine) as connection:
        assert failures_between(connection, moments) == [0, 3, 1, 3]
