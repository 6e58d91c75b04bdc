"""From a delivery to the command or commands it brings, or to the reason why there is none.

Each by itself, before any batch.
"""

from datetime import datetime
from fnmatch import fnmatchcase

from schemas import Command, Malformed, UsageBatch, decode
from worker.broker import Delivery
from worker.deadletters.letters import Reason
from worker.policy import GIVE_UP_AFTER, Policy

DELIVERY_LIMIT = "delivery_limit"

#: What one delivery brings.
Message = Command | UsageBatch


def commands_of(message: Message) -> tuple[Command, ...]:
    """What ``message`` asks of the ledger, in order."""
    return message.items if isinstance(message, UsageBatch) else (message,)


def taken_in(delivery: Delivery, policy: Policy, now: datetime) -> Message | Reason:
    """The message that ``delivery`` brings, or why it is refused; never raises."""
    if delivery.unreadable is not None:
        return Reason(
            "unreadable_properties",
            "The message's properties or headers can't be parsed; times are seconds, names are UTF-8.",
        )
    if delivery.delivery_count > GIVE_UP_AFTER:
        # Reading it to say whose it is has brought one down too: it is not even decoded.
        return Reason(DELIVERY_LIMIT, _given_up(delivery))
    decoded = decode(delivery.body, now=now, limits=policy.limits)
    if delivery.delivery_count == GIVE_UP_AFTER:
        return Reason.about(decoded, DELIVERY_LIMIT, _given_up(delivery))
    if isinstance(decoded, Malformed):
        return Reason.about(decoded, decoded.reason, decoded.message, decoded.field)
    return _refused_route(delivery, decoded, policy) or _refused_sender(delivery, decoded, policy) or decoded


def _given_up(delivery: Delivery) -> str:
    count = delivery.delivery_count
    return f"Delivered {count} times before and never settled; it may bring the worker down."


def _refused_route(delivery: Delivery, message: Message, policy: Policy) -> Reason | None:
    """Who may publish what is granted by routing key: another type inside would walk past it."""
    if delivery.exchange != policy.topology.exchange or delivery.routing_key == message.type:
        return None
    return Reason.about(
        message,
        "wrong_routing_key",
        f"A {message.type} came with the routing key {delivery.routing_key!r}; they must be equal.",
        "type",
    )


def _refused_sender(delivery: Delivery, message: Message, policy: Policy) -> Reason | None:
    """Who may send a type by itself may send it in a batch, and nobody else."""
    if not policy.senders:
        return None
    sender = delivery.text("user_id")
    places: dict[str, str | None] = {message.type: None}
    if isinstance(message, UsageBatch):
        for index, item in zip(message.places, message.items, strict=True):
            places.setdefault(item.type, f"items.{index}.type")
    for type_, field in places.items():
        if not _may_send(sender, type_, policy):
            who = "An anonymous user" if sender is None else repr(sender)
            return Reason.about(message, "wrong_sender", f"{who} may not send {type_}.", field)
    return None


def _may_send(sender: str | None, type_: str, policy: Policy) -> bool:
    patterns = [pattern for pattern in policy.senders if fnmatchcase(type_, pattern)]
    return not patterns or sender in policy.senders[max(patterns, key=len)]
