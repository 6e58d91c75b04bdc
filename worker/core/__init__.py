"""The decision, pure: commands and what is known go in, a plan comes out. No clock, logging or connection."""

from worker.core.decide import decide
from worker.core.known import AccountState, Known, QuotaKey
from worker.core.outcomes import Answer, Conflict, Decided, Outcome
from worker.core.plan import Entry, Payment, Plan, QuotaEntry
from worker.core.replies import reply_for

__all__ = [
    "AccountState",
    "Answer",
    "Conflict",
    "Decided",
    "Entry",
    "Known",
    "Outcome",
    "Payment",
    "Plan",
    "QuotaEntry",
    "QuotaKey",
    "decide",
    "reply_for",
]
