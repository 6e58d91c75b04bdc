"""The decision, pure: commands and what is known go in, a plan comes out. No clock, logging or connection."""

from worker.core.account import Account
from worker.core.decide import account_now, decide
from worker.core.known import (
    AccountState,
    Hold,
    HoldState,
    Known,
    Lot,
    Payment,
    PaymentEvent,
    PaymentName,
    QuotaKey,
    QuotaState,
    Source,
    Taken,
)
from worker.core.outcomes import Answer, Conflict, Decided, Outcome
from worker.core.plan import AccountMove, Counter, Entry, Plan, QuotaEntry, UsageRefund
from worker.core.replies import reply_for
from worker.core.superseded import Superseded

__all__ = [
    "Account",
    "AccountMove",
    "AccountState",
    "Answer",
    "Conflict",
    "Counter",
    "Decided",
    "Entry",
    "Hold",
    "HoldState",
    "Known",
    "Lot",
    "Outcome",
    "Payment",
    "PaymentEvent",
    "PaymentName",
    "Plan",
    "QuotaEntry",
    "QuotaKey",
    "QuotaState",
    "Source",
    "Superseded",
    "Taken",
    "UsageRefund",
    "account_now",
    "decide",
    "reply_for",
]
