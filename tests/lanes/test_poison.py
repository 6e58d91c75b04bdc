"""Poison messages: keys, groups of trials, and the record that crashes leave."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.support.fakes import FakeRecord, delivery
from worker.broker import Delivery
from worker.errors import LedgerUnavailableError
from worker.lanes.poison import SHRINK, PoisonTrials, key_of, may_be_poison
from worker.ledger.trials import Trial, Trying
from worker.messages.policy import GIVE_UP_AFTER, TRIAL_AFTER

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def returned(body: bytes, count: int = TRIAL_AFTER) -> Delivery:
    return delivery(body, delivery_count=count)


def trials(record: FakeRecord) -> PoisonTrials:
    return PoisonTrials(record, lambda: NOW)


@pytest.mark.parametrize(("count", "is_tried"), [(0, False), (TRIAL_AFTER - 1, False), (TRIAL_AFTER, True)])
def test_message_that_came_back_often_may_be_poison(count: int, *, is_tried: bool) -> None:
    assert may_be_poison(returned(b"{}", count)) == is_tried


def test_key_names_a_message_by_its_bytes_and_place() -> None:
    message = returned(b"{}")
    assert key_of(message) == key_of(replace(message, tag=2, redelivered=False))
    others = [
        replace(message, body=b"{ }"),
        replace(message, queue="billing.payments"),
        replace(message, routing_key="usage.settle"),
        replace(message, properties={"message_id": "m"}),
        replace(message, unreadable=b"{}"),
    ]
    assert len({key_of(one) for one in [message, *others]}) == len(others) + 1


def test_messages_without_a_record_are_tried_together() -> None:
    messages = [returned(bytes([n])) for n in range(20)]
    (group,) = trials(FakeRecord()).groups(messages)
    assert list(group.deliveries.values()) == messages
    assert (group.crashes_alone, group.is_given_up) == (0, False)


def test_copies_of_one_message_are_tried_apart() -> None:
    one, other = returned(b"1"), returned(b"2")
    groups = trials(FakeRecord()).groups([one, other, one])
    assert [list(group.deliveries.values()) for group in groups] == [[one, other], [one]]


def test_messages_of_a_group_that_crashed_are_tried_in_a_part_of_its_size() -> None:
    messages = [returned(bytes([n])) for n in range(16)]
    record = FakeRecord({key_of(one): Trial(16, 0, TRIAL_AFTER - 1) for one in messages})
    assert [len(group.deliveries) for group in trials(record).groups(messages)] == [16 // SHRINK] * SHRINK


@pytest.mark.parametrize(
    ("alone", "given_up", "read"),
    [(GIVE_UP_AFTER - 1, False, True), (GIVE_UP_AFTER, True, True), (GIVE_UP_AFTER + 1, True, False)],
)
def test_message_that_crashed_alone_too_often_is_given_up(alone: int, *, given_up: bool, read: bool) -> None:
    message = returned(b"{}")
    record = FakeRecord({key_of(message): Trial(1, alone, TRIAL_AFTER - 1)})
    (group,) = trials(record).groups([message])
    assert (group.is_given_up, group.may_be_read) == (given_up, read)


def test_prefetch_is_small_after_a_crash_and_full_otherwise() -> None:
    assert trials(FakeRecord()).first_prefetch(1500) == 1500
    assert trials(FakeRecord({"k": Trial(64, 0, 3)})).first_prefetch(1500) == 64 // SHRINK
    assert trials(FakeRecord({"k": Trial(1, 1, 3)})).first_prefetch(1500) == 1


def test_ended_trial_leaves_no_record() -> None:
    record, message = FakeRecord(), returned(b"{}")
    poison = trials(record)
    (group,) = poison.groups([message])
    poison.begin(group)
    assert record.trials == {key_of(message): Trial(1, 1, TRIAL_AFTER)}
    poison.end(group)
    assert record.trials == {}


def test_broken_off_trial_leaves_the_record_as_it_was() -> None:
    message = returned(b"{}")
    before = {key_of(message): Trial(16, 1, TRIAL_AFTER - 1)}
    record = FakeRecord(dict(before))
    poison = trials(record)
    (group,) = poison.groups([message])
    poison.begin(group)
    poison.break_off(group)
    assert record.trials == before


def test_trial_broken_off_in_an_outage_is_withdrawn_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(_messages: Mapping[str, Trying], _known: Mapping[str, Trial], _now: datetime) -> None:
        raise LedgerUnavailableError("down")

    record, message = FakeRecord(), returned(b"{}")
    poison = trials(record)
    (group,) = poison.groups([message])
    poison.begin(group)
    with monkeypatch.context() as outage:
        outage.setattr(record, "withdraw", unavailable)
        poison.break_off(group)
        with pytest.raises(LedgerUnavailableError):
            poison.groups([message])
    (again,) = poison.groups([message])
    assert again.crashes_alone == 0
    assert record.trials == {}
