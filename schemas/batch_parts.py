"""Parts of a ``usage.batch``, one for each partition of its users, and the one reply to all of them.

A sender splits a batch of many users, so that each part waits in the queue of its users. One that is not
split is applied all the same, by whoever takes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.fields import IDENTIFIER_MAX
from schemas.partitions import partition_of, suffix_of
from schemas.replies import Code, Reply, Status
from schemas.slots import slot_of
from schemas.usage import UsageBatch


@dataclass(frozen=True, slots=True)
class BatchPart:
    """Items of a batch as a batch of its own, with their places in the whole.

    Its reference is that of the whole with the partition behind it, as in ``b-1:07``: the same batch has the
    same parts whenever it is split, and their items have the references they had.
    """

    batch: UsageBatch
    places: tuple[int, ...]


def parts_of(batch: UsageBatch, partitions: int) -> list[BatchPart]:
    """Return the parts of ``batch`` by partition, in order; the batch alone where it is of one.

    A batch whose reference has no room for a partition behind it is not split.
    """
    whole = BatchPart(batch, tuple(range(len(batch.items))))
    if not partitions or len(batch.reference_id) + len(_ending(0)) > IDENTIFIER_MAX:
        return [whole]
    by_partition: dict[int, list[int]] = {}
    for place, item in enumerate(batch.items):
        by_partition.setdefault(partition_of(slot_of(item.user_id), partitions), []).append(place)
    if len(by_partition) == 1:
        return [whole]
    return [_part(batch, partition, places) for partition, places in sorted(by_partition.items())]


def _part(batch: UsageBatch, partition: int, places: Sequence[int]) -> BatchPart:
    items = tuple(batch.items[place] for place in places)
    reference = batch.reference_id + _ending(partition)
    return BatchPart(batch.model_copy(update={"reference_id": reference, "items": items}), tuple(places))


def _ending(partition: int) -> str:
    return suffix_of(partition).replace(".", ":")


def joined(batch: UsageBatch, replies: Sequence[tuple[BatchPart, Reply]]) -> Reply:
    """Return the one reply to ``batch``: the replies to its items, in their order, and how many they are.

    A part that failed as a whole fails for each of its items. Where all of them did, the first reply is
    returned, in the name of the batch.
    """
    if all(reply.items is None for _, reply in replies):
        return replies[0][1].model_copy(update={"reference_id": batch.reference_id})
    by_place: dict[int, Reply] = {}
    for part, reply in replies:
        by_place |= _by_place(part, reply)
    items = tuple(by_place[place] for place in range(len(batch.items)))
    applied = sum(item.status == Status.APPLIED for item in items)
    failed = sum(item.status == Status.FAILED for item in items)
    rejected = len(items) - applied - failed
    text = f"Processed {len(items)} items: {applied} applied, {rejected} rejected"
    return Reply(
        status=Status.APPLIED,
        code=Code.BATCH_PROCESSED,
        message=text + (f", {failed} failed" if failed else ""),
        type=batch.type,
        reference_id=batch.reference_id,
        user_id=batch.user_id,
        duplicate=all(reply.duplicate for _, reply in replies),
        applied=applied,
        rejected=rejected,
        failed=failed,
        items=items,
    )


def _by_place(part: BatchPart, reply: Reply) -> Mapping[int, Reply]:
    """Return the replies to the items of a part by their places in the whole."""
    items = reply.items
    if items is None:
        items = tuple(
            reply.model_copy(
                update={"type": item.type, "reference_id": item.reference_id, "user_id": item.user_id}
            )
            for item in part.batch.items
        )
    return dict(zip(part.places, items, strict=True))
