"""From a delivery to the command or commands it brings, or to the reason why there is none.

Each by itself, before any batch.
"""

from datetime import datetime
from fnmatch import fnmatchcase

from schemas import Command, Malformed, UsageBatch, decode
from worker.broker import Delivery
from worker.deadletters.letters import Reason
from worker.policy import Policy

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
    decoded = decode(delivery.body, now=now, limits=policy.limits)
    if isinstance(decoded, Malformed):
        return Reason.about(decoded, decoded.reason, decoded.message, decoded.field)
    return _refused_route(delivery, decoded, policy) or _refused_sender(delivery, decoded, policy) or decoded


def given_up(delivery: Delivery, policy: Policy, now: datetime, crashes: int, *, decoded: bool) -> Reason:
    """Why a message is given up that was tried alone when a worker crashed, so many times.

    Not ``decoded`` is one that brings workers down when it is read to say whose it is.
    """
    text = f"{crashes} workers crashed while this message was applied alone; it may bring workers down."
    if not decoded or delivery.unreadable is not None:
        return Reason(DELIVERY_LIMIT, text)
    return Reason.about(decode(delivery.body, now=now, limits=policy.limits), DELIVERY_LIMIT, text)


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
        for index, item in enumerate(message.items):
            places.setdefault(item.type, f"items.{index}.type")
    for type_, field in places.items():
        if not _may_send(sender, type_, policy):
            who = "An anonymous user" if sender is None else repr(sender)
            return Reason.about(message, "wrong_sender", f"{who} may not send {type_}.", field)
    return None


def _may_send(sender: str | None, type_: str, policy: Policy) -> bool:
    patterns = [pattern for pattern in policy.senders if fnmatchcase(type_, pattern)]
    return not patterns or sender in policy.senders[max(patterns, key=len)]
