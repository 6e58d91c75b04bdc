"""Receiving: the message in a delivery, or the reason why it is refused; each delivery by itself."""

from datetime import datetime
from typing import TypeVar

from schemas import (
    DeadLetterReason,
    Malformed,
    Message,
    OpenAccount,
    UsageBatch,
    UsageWithDeadline,
    commands_of,
    decode,
    type_of,
)
from schemas.dead_letter import RECOVERY_HEADER, RECOVERY_SINCE_HEADER, SENDER_HEADER
from worker.broker import Delivery
from worker.messages.dead_letters import Failure
from worker.messages.origin import Origin, is_key_of, is_replay, origin_of, wrong_way
from worker.messages.policy import Policy


def message_in(delivery: Delivery, policy: Policy, now: datetime) -> Message | Failure:
    """Return the message in ``delivery``, or the failure that refuses it; never raises."""
    if delivery.unreadable is not None:
        return Failure(
            DeadLetterReason.UNREADABLE_PROPERTIES,
            "The message's properties or headers can't be parsed; times are seconds, names are UTF-8.",
        )
    decoded = decode(delivery.body, now=now, limits=policy.limits)
    if isinstance(decoded, Malformed):
        return Failure.of_malformed(decoded)
    origin = origin_of(delivery, policy.worker_users)
    message = _without_past_deadline(delivery, origin, decoded)
    return (
        _refused_lane(delivery, message, policy)
        or _refused_way(delivery, message, origin, policy)
        or _refused_route(delivery, message, policy)
        or _refused_sender(message, origin, policy)
        or message
    )


def _without_past_deadline(delivery: Delivery, origin: Origin, message: Message) -> Message:
    """Return ``message`` without deadlines that are over only because one of us sends it again.

    An operator who replays or recovers it has decided that it is still to be done. A recovery leaves what was
    too late when it was sent.
    """
    if is_replay(delivery, origin):
        return without_deadline(message)
    if origin.is_ours and RECOVERY_HEADER in delivery.headers:
        since = delivery.headers.get(RECOVERY_SINCE_HEADER)
        return without_deadline(message, since if isinstance(since, int) else 0)
    return message


def without_deadline(message: Message, since: int = 0) -> Message:
    """Return ``message`` without the times until which its usage was valid.

    Those before ``since``, in seconds, stay.
    """
    if isinstance(message, UsageBatch):
        items = tuple(_without_deadline(item, since) for item in message.items)
        return message.model_copy(update={"items": items})
    return _without_deadline(message, since) if isinstance(message, UsageWithDeadline) else message


_Timed = TypeVar("_Timed", bound=UsageWithDeadline)


def _without_deadline(usage: _Timed, since: int) -> _Timed:
    if usage.valid_until is None or usage.valid_until.timestamp() < since:
        return usage
    return usage.model_copy(update={"valid_until": None})


def deadline_of(message: Message) -> datetime | None:
    """Return the first time after which usage of ``message`` is too late; None without one."""
    times = [
        command.valid_until
        for command in commands_of(message)
        if isinstance(command, UsageWithDeadline) and command.valid_until is not None
    ]
    return min(times, default=None)


def poison_failure(
    delivery: Delivery, policy: Policy, now: datetime, crashes: int, *, decoded: bool
) -> Failure:
    """Return the failure of a message that was tried alone in so many crashes.

    With ``decoded`` false the body is not read: decoding it may bring workers down.
    """
    text = f"{crashes} workers crashed while this message was applied alone; it may bring workers down."
    if not decoded or delivery.unreadable is not None:
        return Failure(DeadLetterReason.DELIVERY_LIMIT, text)
    decoded_body = decode(delivery.body, now=now, limits=policy.limits)
    return Failure.of(decoded_body, DeadLetterReason.DELIVERY_LIMIT, text)


def _refused_lane(delivery: Delivery, message: Message, policy: Policy) -> Failure | None:
    """Refuse what is no usage in the bulk lane, by whichever way it came there: it would be served last."""
    topology = policy.topology
    is_in_bulk = topology.bulk_exchange == delivery.exchange or topology.is_bulk(delivery.queue)
    if not is_in_bulk or topology.bulk.takes(message.type):
        return None
    kinds = ", ".join(topology.bulk.routing_keys)
    return Failure.of(
        message,
        DeadLetterReason.WRONG_LANE,
        f"A {message.type} came by the bulk lane, which takes {kinds} alone; "
        f"publish it to the exchange {topology.exchange!r}.",
        "type",
    )


def _refused_way(delivery: Delivery, message: Message, origin: Origin, policy: Policy) -> Failure | None:
    """Refuse what walked past the exchanges on which rights are granted, unless we published it again."""
    way = wrong_way(delivery, origin, policy.topology)
    if way is None:
        return None
    return Failure.of(
        message,
        DeadLetterReason.WRONG_EXCHANGE,
        f"A {message.type} came {way}; publish it to the exchange {policy.topology.exchange!r}.",
    )


def _refused_route(delivery: Delivery, message: Message, policy: Policy) -> Failure | None:
    """Refuse another type than the routing key says, by which rights to publish are granted."""
    is_command = delivery.exchange in policy.topology.command_exchanges
    if not is_command or is_key_of(delivery.routing_key, message.type):
        return None
    return Failure.of(
        message,
        DeadLetterReason.WRONG_ROUTING_KEY,
        f"A {message.type} came with the routing key {delivery.routing_key!r}; they must be equal, "
        "but for a partition behind the type.",
        "type",
    )


def _refused_sender(message: Message, origin: Origin, policy: Policy) -> Failure | None:
    """Return the failure where a user of ``origin`` may not send ``message``."""
    if origin.is_forged:
        return _forged_sender(message, origin)
    if not policy.senders:
        return None
    refusals = (_refused_user(message, user, policy) for user in origin.users)
    return next((refusal for refusal in refusals if refusal is not None), None)


def _refused_user(message: Message, sender: str | None, policy: Policy) -> Failure | None:
    """Return the failure where ``sender`` may not send ``message``; each item of a batch counts alone.

    The reference of a batch itself follows the rule of its type like any other: the ledger claims it for
    nothing, but readers of a shared reply queue tell replies by it.
    """
    commands = [(-1, message)]
    if isinstance(message, UsageBatch):
        commands += zip(message.places, message.items, strict=True)
    prefixes: dict[str, str | None] = {}
    for index, command in commands:
        if command.type not in prefixes:
            prefixes[command.type] = policy.prefix_of_references(command.type, sender)
        prefix = prefixes[command.type]
        place = "" if index < 0 else f"items.{index}."
        if prefix is None or not command.reference_id.startswith(prefix):
            return _wrong_sender(message, sender, command.type, prefix, place)
        is_opening = getattr(command, "open_tier", None) is not None
        if is_opening and policy.prefix_of_references(_OPEN, sender) is None:
            return _wrong_opener(message, sender, place)
    return None


_OPEN = type_of(OpenAccount)


def _forged_sender(message: Message, origin: Origin) -> Failure:
    text = (
        f"{_named(origin.publisher)} is no worker user, so its header {SENDER_HEADER} is not believed: leave "
        "the header out, or name the user in BILLING_WORKER_USERS."
    )
    return Failure.of(message, DeadLetterReason.WRONG_SENDER, text)


def _wrong_opener(message: Message, sender: str | None, place: str) -> Failure:
    text = f"{_named(sender)} may not open accounts: leave openTier out, or grant {_OPEN} to this sender."
    return Failure.of(message, DeadLetterReason.WRONG_SENDER, text, f"{place}openTier")


def _wrong_sender(
    message: Message, sender: str | None, type_: str, prefix: str | None, place: str
) -> Failure:
    who = _named(sender)
    if prefix is None:
        field = f"{place}type" if place else None
        return Failure.of(message, DeadLetterReason.WRONG_SENDER, f"{who} may not send {type_}.", field)
    text = f"{who} may send {type_} only with references that begin with {prefix!r}."
    return Failure.of(message, DeadLetterReason.WRONG_SENDER, text, f"{place}referenceId")


def _named(sender: str | None) -> str:
    return "An anonymous user" if sender is None else repr(sender)
