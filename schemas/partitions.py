"""Partitions: shares of the slots that have queues of their own, where the broker is partitioned."""

from typing import Final

from schemas.slots import SLOTS, slot_of

#: Numbers of partitions that an installation may have: each serves whole slots, as many as the others.
PARTITIONS: Final = (8, 16, 32, 64)


def require_partitions(partitions: int) -> int:
    """Return ``partitions``, or raise ValueError unless it is 0 (no partitions) or one of ``PARTITIONS``."""
    if partitions and partitions not in PARTITIONS:
        raise ValueError(
            f"{partitions} is no number of partitions: use 8, 16, 32 or 64, or 0 where queues have none"
        )
    return partitions


def partition_of(slot: int, partitions: int) -> int:
    """Return the partition of a slot: partitions are equal ranges of the slots, in order."""
    return slot * partitions // SLOTS


def slots_of(partition: int, partitions: int) -> range:
    """Return the slots that a partition serves."""
    share = SLOTS // partitions
    return range(partition * share, (partition + 1) * share)


def suffix_of(partition: int) -> str:
    """Return the end of the names of a partition's queues and of its routing keys: a dot and two digits."""
    return f".{partition:02d}"


def routing_key(type_: str, user_id: str | None, partitions: int) -> str:
    """Return the routing key of a message: its type, and the partition of its user behind it.

    A message without a user (None or empty), and every one where ``partitions`` is 0, has its type alone: it
    waits in the queue of its lane that has no partition.
    """
    if not partitions or not user_id:
        return type_
    return type_ + suffix_of(partition_of(slot_of(user_id), partitions))
