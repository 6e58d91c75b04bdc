"""Partitions: equal ranges of the slots, and the routing keys that name them."""

from collections import Counter

import pytest

from schemas import (
    PARTITIONS,
    SLOTS,
    DeductUsage,
    PaymentRefunded,
    UsageBatch,
    partition_of,
    routing_key,
    routing_key_of,
    slot_of,
    slots_of,
)
from schemas.partitions import is_misrouted, require_partitions


@pytest.mark.parametrize("partitions", PARTITIONS)
def test_every_slot_has_one_partition_and_partitions_are_equal(partitions: int) -> None:
    served = Counter(partition_of(slot, partitions) for slot in range(SLOTS))

    assert served == dict.fromkeys(range(partitions), SLOTS // partitions)
    assert all(
        partition_of(slot, partitions) == partition
        for partition in range(partitions)
        for slot in slots_of(partition, partitions)
    )


@pytest.mark.parametrize(("few", "many"), [(8, 16), (16, 32), (32, 64)])
def test_partition_splits_into_neighbours_where_their_number_doubles(few: int, many: int) -> None:
    assert all(partition_of(slot, many) // 2 == partition_of(slot, few) for slot in range(SLOTS))


@pytest.mark.parametrize(
    ("user", "partitions", "key"),
    [
        ("u-1", 0, "usage.deduct"),
        (None, 16, "usage.deduct"),
        ("", 16, "usage.deduct"),
        ("u-1", 64, f"usage.deduct.{slot_of('u-1'):02d}"),
        ("u-1", 8, f"usage.deduct.{slot_of('u-1') // 8:02d}"),
    ],
)
def test_routing_key_ends_in_the_partition_of_its_user(user: str | None, partitions: int, key: str) -> None:
    assert routing_key("usage.deduct", user, partitions) == key


def test_two_forms_of_one_id_have_one_partition() -> None:
    assert routing_key("usage.deduct", "Zo\u00eb", 64) == routing_key("usage.deduct", "Zoe\u0308", 64)


@pytest.mark.parametrize("partitions", [0, *PARTITIONS])
def test_number_of_partitions_is_usable(partitions: int) -> None:
    assert require_partitions(partitions) == partitions


@pytest.mark.parametrize("partitions", [-8, 1, 4, 12, 63, 128])
def test_other_number_of_partitions_is_refused(partitions: int) -> None:
    with pytest.raises(ValueError, match=f"{partitions} is no number of partitions: use 8, 16, 32 or 64"):
        require_partitions(partitions)


def deduct(user: str) -> DeductUsage:
    return DeductUsage(reference_id=f"d-{user}", user_id=user, tokens=1)


def test_batch_of_one_partition_has_its_key_and_another_has_none() -> None:
    alone = UsageBatch(reference_id="b", items=(deduct("ann"), deduct("ann")))
    users = ["u-1", "u-2", "u-3", "u-4"]
    mixed = UsageBatch(reference_id="b", items=tuple(map(deduct, users)))

    assert len({slot_of(user) for user in users}) > 1
    assert routing_key_of(alone, 64) == f"usage.batch.{slot_of('ann'):02d}"
    assert routing_key_of(mixed, 64) == "usage.batch"
    assert routing_key_of(alone, 0) == "usage.batch"


def test_event_of_a_payment_without_a_user_has_no_partition() -> None:
    refund = PaymentRefunded(reference_id="r", original_reference_id="p", amount_minor=1, currency="EUR")

    assert routing_key_of(refund, 16) == "payment.refunded"
    assert not is_misrouted(refund, 3, 16)


@pytest.mark.parametrize("partitions", PARTITIONS)
def test_message_is_misrouted_in_every_partition_but_its_own(partitions: int) -> None:
    own = partition_of(slot_of("ann"), partitions)
    right = [number for number in range(partitions) if not is_misrouted(deduct("ann"), number, partitions)]

    assert right == [own]


def test_message_is_right_by_any_number_of_partitions_where_none_is_set() -> None:
    possible = {partition_of(slot_of("ann"), partitions) for partitions in PARTITIONS}

    assert {number for number in range(64) if not is_misrouted(deduct("ann"), number, 0)} == possible
