"""Partitions: shares of the slots that have queues of their own, where the broker is partitioned."""

from typing import Final

from schemas.base import NO_USER
from schemas.commands import Message, commands_of
from schemas.slots import SLOTS, slot_of
from schemas.usage import UsageBatch

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


def routing_key_of(message: Message, partitions: int) -> str:
    """Return the routing key of a message; a batch has a partition where all its items are of that one."""
    if not partitions:
        return message.type
    if not isinstance(message, UsageBatch):
        return routing_key(message.type, message.user_id, partitions)
    keys = {routing_key(message.type, command.user_id, partitions) for command in message.items}
    return keys.pop() if len(keys) == 1 else message.type


def is_misrouted(message: Message, partition: int, partitions: int) -> bool:
    """Return True where a message came by a partition that is not its users'.

    Where ``partitions`` is 0 nobody knows how many its sender counts: any number that fits is right. Nothing
    can be said of a message without a user.
    """
    if partitions and type(message) is not UsageBatch:  # nearly always
        return message.user_id != NO_USER and partition_of(slot_of(message.user_id), partitions) != partition
    users = {command.user_id for command in commands_of(message)} - {NO_USER}
    slots = {slot_of(user_id) for user_id in users}
    return bool(slots) and not any(
        {partition_of(slot, number) for slot in slots} == {partition}
        for number in ((partitions,) if partitions else PARTITIONS)
    )
