"""Rejected payments: money was taken, and no tokens follow. Operators and listeners are told of each."""

import json
from collections.abc import Mapping
from typing import Any

from worker.core.outcomes import Detail, Outcome

_PAYMENT, _SUBSCRIPTION = "payment.", "subscription."


def is_rejected_payment(outcome: Outcome) -> bool:
    """Return True for a rejected payment, also of a subscription, and for a rejected event of one."""
    if outcome.is_applied:
        return False
    return outcome.type.startswith(_PAYMENT) or subscription_payment_of(outcome) is not None


def subscription_payment_of(outcome: Outcome) -> Mapping[str, Any] | None:
    """Return the payment that a subscription's command brings, as its content has it; None without one."""
    if not outcome.type.startswith(_SUBSCRIPTION):
        return None
    paid: Mapping[str, Any] | None = json.loads(outcome.content).get("payment")
    return paid


def money_of(outcome: Outcome) -> tuple[int | None, str | None]:
    """Return the minor units and the currency that an outcome's command names, as far as it does."""
    content = json.loads(outcome.content)
    money = content.get("payment") or content
    amount = money.get("amountMinor")
    return (money.get("refundedTotalMinor") if amount is None else amount), money.get("currency")


def notices_of(outcome: Outcome) -> tuple[Detail, ...]:
    """Return the notices that go out with the reply: the stored ones, or that of a rejected payment.

    A rejected operation stores none: its notice follows from its outcome.
    """
    if not is_rejected_payment(outcome):
        return outcome.notices
    amount, currency = money_of(outcome)
    notice: dict[str, int | str] = {"type": "payment.rejected", "code": outcome.code.value}
    if amount is not None:
        notice["amount_minor"] = amount
    if currency is not None:
        notice["currency"] = currency
    return (notice,)
