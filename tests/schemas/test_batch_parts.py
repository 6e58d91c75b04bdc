"""Parts of a batch by the partitions of its users, and the one reply to all of them."""

from collections.abc import Sequence

import pytest

from schemas import Code, DeductUsage, Reply, Status, UsageBatch, partition_of, routing_key_of, slot_of
from schemas.batch_parts import BatchPart, joined, parts_of
from schemas.fields import IDENTIFIER_MAX

USERS = [f"u-{number}" for number in range(12)]


def batch(users: Sequence[str], reference: str = "b-1") -> UsageBatch:
    items = tuple(
        DeductUsage(reference_id=f"d-{place}", user_id=user, tokens=1) for place, user in enumerate(users)
    )
    return UsageBatch(reference_id=reference, items=items, replies="all")


def applied(part: BatchPart, **fields: object) -> Reply:
    items = tuple(
        Reply(
            status=Status.APPLIED,
            code=Code.TOKENS_DEDUCTED,
            message="",
            reference_id=item.reference_id,
            user_id=item.user_id,
        )
        for item in part.batch.items
    )
    return Reply.model_validate(
        {"status": "applied", "code": "batch_processed", "message": "", "items": items} | fields
    )


def failed(part: BatchPart) -> Reply:
    return Reply(
        status=Status.FAILED,
        code=Code.UNPROCESSABLE,
        message="The worker failed on this message; operators have it.",
        type="usage.batch",
        reference_id=part.batch.reference_id,
    )


def test_every_item_is_in_the_part_of_its_partition_in_order() -> None:
    whole = batch(USERS)
    parts = parts_of(whole, 8)

    assert sorted(place for part in parts for place in part.places) == list(range(len(USERS)))
    for part in parts:
        (partition,) = {partition_of(slot_of(item.user_id), 8) for item in part.batch.items}
        assert part.batch.reference_id == f"b-1:{partition:02d}"
        assert list(part.places) == sorted(part.places)
        assert [whole.items[place] for place in part.places] == list(part.batch.items)
        assert routing_key_of(part.batch, 8) == f"usage.batch.{partition:02d}"


def test_same_batch_has_the_same_parts_again() -> None:
    assert parts_of(batch(USERS), 16) == parts_of(batch(USERS), 16)


def test_batch_of_one_partition_stays_whole() -> None:
    (part,) = parts_of(one := batch(["ann", "ann"]), 64)

    assert part == BatchPart(one, (0, 1))


@pytest.mark.parametrize(
    ("partitions", "reference"), [(0, "b-1"), (16, "b" * IDENTIFIER_MAX), (16, "b" * (IDENTIFIER_MAX - 2))]
)
def test_batch_is_not_split_without_partitions_or_room_for_one(partitions: int, reference: str) -> None:
    (part,) = parts_of(whole := batch(USERS, reference), partitions)

    assert part.batch is whole
    assert routing_key_of(whole, partitions) == "usage.batch"


def test_joined_reply_has_the_replies_to_the_items_in_their_order() -> None:
    whole = batch(USERS)
    parts = parts_of(whole, 8)
    reply = joined(whole, [(part, applied(part)) for part in reversed(parts)])

    assert reply.items is not None
    assert [item.reference_id for item in reply.items] == [item.reference_id for item in whole.items]
    assert (reply.reference_id, reply.applied, reply.rejected, reply.failed) == ("b-1", len(USERS), 0, 0)
    assert (reply.status, reply.code, reply.duplicate) == ("applied", "batch_processed", False)


def test_joined_reply_is_a_duplicate_where_every_part_is_one() -> None:
    whole = batch(USERS)
    replies = [(part, applied(part, duplicate=True)) for part in parts_of(whole, 8)]
    some = [(part, applied(part, duplicate=place > 0)) for place, (part, _) in enumerate(replies)]

    assert joined(whole, replies).duplicate
    assert not joined(whole, some).duplicate


def test_failed_part_fails_for_each_of_its_items() -> None:
    whole = batch(USERS)
    first, *others = parts_of(whole, 8)
    reply = joined(whole, [(first, failed(first)), *((part, applied(part)) for part in others)])

    assert reply.items is not None
    assert {place for place, item in enumerate(reply.items) if item.status == "failed"} == {*first.places}
    assert all(reply.items[place].reference_id == f"d-{place}" for place in first.places)
    assert reply.failed == len(first.places)


def test_reply_is_failed_where_every_part_failed() -> None:
    whole = batch(USERS)
    reply = joined(whole, [(part, failed(part)) for part in parts_of(whole, 8)])

    assert (reply.status, reply.reference_id, reply.items) == ("failed", "b-1", None)
