"""Ids that are older than the rule of new ids: those that the ledger has are taken.

No message pays for it but one whose ids break the rule: the ledger is then asked which of them it has.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import datetime

from schemas import Command, DeadLetterReason, Limits, Malformed, Message, UsageBatch, decode
from schemas.identifiers import ID_RULE, ids_of
from worker.broker import Delivery
from worker.messages.dead_letters import Failure
from worker.messages.policy import Policy
from worker.messages.receiving import message_in

#: Function that returns those of some ids that the ledger has.
KnownIds = Callable[[Collection[str]], frozenset[str]]


def has_unruly_ids(received: Message | Malformed | Failure | None) -> bool:
    """Return True where ids are the reason why a message, or an item of it, is refused."""
    if type(received) is UsageBatch:
        return any(one.reason is DeadLetterReason.INVALID_ID for one in received.malformed.values())
    if isinstance(received, Failure):
        return received.code is DeadLetterReason.INVALID_ID
    return isinstance(received, Malformed) and received.reason is DeadLetterReason.INVALID_ID


def unruly_ids(bodies: Iterable[bytes], now: datetime, limits: Limits) -> set[str]:
    """Return the ids in ``bodies`` that break the rule."""
    rule = limits.ids or ID_RULE
    any_id = replace(limits, ids=None)
    found = [decode(body, now=now, limits=any_id) for body in bodies]
    named = [one for message in found if not isinstance(message, Malformed) for one in ids_of(message)]
    return {value for _, value in named if rule.fault(value) is not None}


def with_known(limits: Limits, known: frozenset[str]) -> Limits:
    """Return ``limits`` under which the ids of ``known`` are taken as well."""
    rule = limits.ids or ID_RULE
    return replace(limits, ids=replace(rule, known=rule.known | known))


def decoded(
    body: bytes, now: datetime, limits: Limits, known_ids: KnownIds
) -> Command | UsageBatch | Malformed:
    """Return what ``decode`` does, where ids that the ledger has are taken."""
    first = decode(body, now=now, limits=limits)
    if not has_unruly_ids(first):
        return first
    known = known_ids(unruly_ids([body], now, limits))
    return decode(body, now=now, limits=with_known(limits, known))


def received(delivery: Delivery, policy: Policy, now: datetime, known_ids: KnownIds) -> Message | Failure:
    """Return the message in ``delivery``, or the failure that refuses it.

    Ids that the ledger has are taken.
    """
    first = message_in(delivery, policy, now)
    if not has_unruly_ids(first):
        return first
    known = known_ids(unruly_ids([delivery.body], now, policy.limits))
    return message_in(delivery, replace(policy, limits=with_known(policy.limits, known)), now)
