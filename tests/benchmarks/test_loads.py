"""Messages of the benchmarks: their seed and their users."""

import json
from collections import Counter
from itertools import islice

import pytest

from schemas import decode
from schemas.decoding import Limits
from tests.benchmarks.loads import Pick, batches, deductions, hot, in_turns, outgoing, uniform, zipf
from tests.benchmarks.mixed import MixedDay
from worker.bootstrap import utc_now
from worker.broker import Outgoing
from worker.catalog import Catalog


def test_seed_decides_the_messages() -> None:
    first, again = (
        [(command.reference_id, command.user_id) for command in deductions(50, zipf(100, 1.2))]
        for _ in range(2)
    )
    assert first == again
    assert len({reference for reference, _ in first}) == 50


def test_users_in_turn_repeat_after_all_others() -> None:
    pick = in_turns(100)
    assert sorted(pick() for _ in range(100)) == list(range(100))


def test_hot_load_has_one_user() -> None:
    assert set(_picked(hot(), 20)) == {0}


def test_uniform_load_has_every_user() -> None:
    counts = Counter(_picked(uniform(20), 20_000))
    assert len(counts) == 20
    assert max(counts.values()) < 1.3 * min(counts.values())


@pytest.mark.parametrize("skew", [0.8, 1.2])
def test_zipf_load_follows_its_law(skew: float) -> None:
    users, count = 1_000, 50_000
    ranked = Counter(_picked(zipf(users, skew), count)).most_common()
    whole = sum(rank**-skew for rank in range(1, users + 1))
    for rank in (1, 2, 10):
        assert ranked[rank - 1][1] / count == pytest.approx(rank**-skew / whole, rel=0.15)
    assert [user for user, _ in ranked[:3]] != [0, 1, 2]  # the busy ones are not neighbours in the tables


@pytest.mark.parametrize(("of_one_user", "users_of_a_batch"), [(True, 1), (False, 10)])
def test_batches_have_one_user_or_many(of_one_user: bool, users_of_a_batch: int) -> None:
    made = list(batches(5, 10, users=100, of_one_user=of_one_user))
    assert [len(batch.items) for batch in made] == [10] * 5
    assert {len({item.user_id for item in batch.items}) for batch in made} == {users_of_a_batch}
    assert len({item.reference_id for batch in made for item in batch.items}) == 50


def test_sent_messages_can_be_decoded() -> None:
    now = utc_now()
    for message in outgoing([*deductions(3, hot()), *batches(2, 3, 10, of_one_user=True)]):
        decoded = decode(message.body, now=now, limits=Limits(max_quantity=10**15))
        assert message.routing_key == getattr(decoded, "type", None)


# -- the mixed day ----------------------------------------------------------------------------------------


@pytest.fixture
def day(catalog: Catalog) -> MixedDay:
    return MixedDay(4_000, 100, catalog)


def test_mixed_day_has_the_requested_number_of_messages(day: MixedDay) -> None:
    messages = list(day.messages())
    assert len(messages) == 4_000
    assert sum(day.kinds.values()) == 4_000


def test_mixed_day_has_its_duplicates_and_rejections(day: MixedDay) -> None:
    assert day.kinds["delivered again"] == day.kinds["rejected"] == 200
    ids = Counter(str(message.properties["message_id"]) for message in day.messages())
    assert sum(count - 1 for count in ids.values()) == 200


def test_copy_has_the_same_bytes(day: MixedDay) -> None:
    bodies: dict[str, bytes] = {}
    for message in day.messages():
        assert bodies.setdefault(str(message.properties["message_id"]), message.body) == message.body


def test_hold_precedes_its_end(day: MixedDay) -> None:
    held = {"never"}
    for fields in map(_fields, day.messages()):
        match fields["type"]:
            case "usage.reserve":
                held.add(fields["referenceId"])
            case "usage.settle" | "usage.release":
                assert fields["originalReferenceId"] in held


def test_refunded_usage_is_in_the_ledger_first(day: MixedDay) -> None:
    used = {command.reference_id for command in day.before}
    refunds = [fields for fields in map(_fields, day.messages()) if fields["type"] == "credit.refund"]
    assert refunds
    assert all(fields["originalReferenceId"] in used for fields in refunds)


def test_seed_decides_the_mixed_day(catalog: Catalog) -> None:
    first, again = (
        [_fields(message)["referenceId"] for message in MixedDay(300, 20, catalog).messages()]
        for _ in range(2)
    )
    assert first == again


def _fields(message: Outgoing) -> dict[str, str]:
    fields: dict[str, str] = json.loads(message.body)
    return fields


def _picked(pick: Pick, count: int) -> list[int]:
    return list(islice(iter(pick, -1), count))
