"""Held messages: those of a type that an operator has paused, moved to a queue of their own and back.

A lane is one queue, and a message of a paused type would stand before the others for ever. So a worker
publishes it to ``billing.held`` and acknowledges it when the broker has it. It is no dead letter: it returns
with its bytes, its properties and its sender, behind what waits in its lane by then. A crash between the two
leaves two copies of one reference, which is applied once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from schemas import DeadLetterReason
from schemas.dead_letter import HELD_HEADER, HELD_TYPE_HEADER
from worker.broker import Delivery, Outgoing, Publishes, Topology
from worker.broker.partitions import partition_in
from worker.errors import BrokerUnavailableError, ConfigurationError, UnansweredError
from worker.messages.dead_letters import SAID_ANEW, Failure, dead_letter_for, sendable, sendable_properties
from worker.messages.origin import is_key_of, is_returned, origin_of, republished, wrong_way
from worker.messages.policy import Policy

#: Lane and type of held messages, such as ("billing.usage", "usage.deduct").
LaneType = tuple[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class OutgoingHeld(Outgoing):
    """A message to the queue of what is held, or back to its lane."""


def held_copy(delivery: Delivery, type_: str, policy: Policy) -> OutgoingHeld:
    """Return the copy of a lane's delivery that is held."""
    return _copy(delivery, (delivery.queue, type_), policy.topology.held.name, policy)


def may_be_held_unread(delivery: Delivery, type_: str, policy: Policy) -> bool:
    """Return True where a delivery came by the way and the key on which rights to send ``type_`` are granted.

    Its copy comes back by another way: what nobody has judged before it is held is never judged by these. And
    with properties that nobody can read it would come back without them.
    """
    if delivery.unreadable is not None:
        return False
    origin = origin_of(delivery, policy.worker_users)
    if origin.is_forged or wrong_way(delivery, origin, policy.topology) is not None:
        return False
    if is_returned(delivery, origin):
        return delivery.headers.get(HELD_TYPE_HEADER) == type_
    return is_key_of(delivery.routing_key, type_)


def copy_of_held(delivery: Delivery, paused: Collection[LaneType], policy: Policy, now: datetime) -> Outgoing:
    """Return the next copy of a held delivery: back to its lane, or held again where its type is ``paused``.

    What no worker has held, as the broker vouches, becomes a dead letter: it would get a worker's rights.
    """
    if (held := lane_type_of(delivery, policy)) is None:
        text = f"A message came into {delivery.queue} that no worker has held; publish it to an exchange."
        failure = Failure(DeadLetterReason.WRONG_EXCHANGE, text)
        return dead_letter_for(delivery, failure, policy, tries=1, now=now)
    came_from = str(delivery.headers[HELD_HEADER])
    queue = policy.topology.held.name if held in paused else _queue_to(came_from, policy.topology)
    return _copy(delivery, (came_from, held[1]), queue, policy)


def publish_held(link: Publishes, held: Sequence[Delivery], copies: Sequence[Outgoing]) -> Sequence[Delivery]:
    """Publish the copies of ``held`` with a confirm; return the deliveries that no queue took.

    Raises UnansweredError where the broker doesn't take them now: they may be published again.
    """
    try:
        result = link.publish(copies)
    except (BrokerUnavailableError, ConfigurationError) as error:
        raise UnansweredError(str(error)) from error
    if result.refused:
        raise UnansweredError(result.refusal)
    lost = set(result.returned)
    return [delivery for delivery, copied in zip(held, copies, strict=True) if copied in lost]


def lane_type_of(delivery: Delivery, policy: Policy) -> LaneType | None:
    """Return the lane and the type of a held delivery; None where no worker vouches for them.

    What came from the queue of a partition is of its lane, whose pause holds it.
    """
    if not origin_of(delivery, policy.worker_users).is_republished:
        return None
    queue, type_ = delivery.headers.get(HELD_HEADER), delivery.headers.get(HELD_TYPE_HEADER)
    if not isinstance(queue, str) or not isinstance(type_, str):
        return None
    lane = policy.topology.lane_of(queue)
    return (lane, type_) if any(lane == one.name for one in policy.topology.work) else None


def _queue_to(came_from: str, topology: Topology) -> str:
    """Return the queue that a held message returns to: the one it came from, so that it keeps its order.

    A partition above their number may be deleted by now: then the lane's own queue, which any worker serves.
    """
    partition = partition_in(came_from)
    is_there = partition is None or partition < topology.partitions
    return came_from if is_there else topology.lane_of(came_from)


def _copy(delivery: Delivery, held: tuple[str, str], queue: str, policy: Policy) -> OutgoingHeld:
    origin = origin_of(delivery, policy.worker_users)
    headers, _ = sendable(delivery.headers, origin)
    if origin.is_ours:  # a replay stays one; of anybody else these headers mean nothing
        headers |= {name: delivery.headers[name] for name in SAID_ANEW if name in delivery.headers}
    came_from, type_ = held
    headers |= {HELD_HEADER: came_from, HELD_TYPE_HEADER: type_}
    message = OutgoingHeld(delivery.body, "", queue, sendable_properties(delivery), headers)
    return republished(message, sender=origin.sender, sent_as=policy.user)
