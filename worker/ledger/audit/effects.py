"""Effects of an applied operation on the ledger, by its code."""

from collections.abc import Mapping
from typing import NamedTuple

from schemas import Code
from worker.core.known import Happened
from worker.core.plan import Counter


class Effect(NamedTuple):
    """Own entries that an operation may have; entries of what was due are not among them.

    They add up to ``sign`` times its amount and name these counter-accounts. Reversals are not added up here:
    their sum is in the payment's event. Without a sign the check is one of imports.
    """

    sign: int | None
    counters: tuple[Counter, ...] = ()


_PAST = (
    Counter.ALLOCATION,
    Counter.PURCHASES,
    Counter.BONUS,
    Counter.REFUNDS,
    Counter.USAGE,
    Counter.EXPIRY,
    Counter.ADJUSTMENTS,
    Counter.REVERSALS,
    Counter.TRANSFERS,
)

#: By the codes that an applied operation may have. Another code is of a later version and is not checked.
EFFECTS: Mapping[Code, Effect] = {
    Code.ACCOUNT_OPENED: Effect(1, (Counter.ALLOCATION,)),
    Code.ACCOUNT_SETTLED: Effect(0),
    Code.TOKENS_DEDUCTED: Effect(-1, (Counter.USAGE,)),
    Code.FREE_UPLOAD_COUNTED: Effect(0),
    Code.TOKENS_RESERVED: Effect(0),
    Code.HOLD_SETTLED: Effect(-1, (Counter.USAGE,)),
    Code.HOLD_SETTLED_LATE: Effect(-1, (Counter.USAGE,)),
    Code.HOLD_EXTENDED: Effect(0),
    Code.HOLD_RELEASED: Effect(0),
    Code.USAGE_RECORDED: Effect(-1, (Counter.USAGE,)),
    Code.TOKENS_PURCHASED: Effect(1, (Counter.PURCHASES, Counter.BONUS, Counter.REVERSALS)),
    Code.PAYMENT_REFUNDED: Effect(0, (Counter.REVERSALS,)),
    Code.PAYMENT_DISPUTED: Effect(0, (Counter.REVERSALS,)),
    Code.DISPUTE_WON: Effect(0, (Counter.REVERSALS,)),
    Code.DISPUTE_LOST: Effect(0, (Counter.REVERSALS,)),
    Code.PAYMENT_FAILED: Effect(0, (Counter.REVERSALS,)),
    Code.PAYMENT_AWAITED: Effect(0),
    Code.TOKENS_REFUNDED: Effect(1, (Counter.REFUNDS,)),
    Code.BONUS_GRANTED: Effect(1, (Counter.BONUS,)),
    Code.BONUS_SCHEDULED: Effect(0),
    Code.ADJUSTMENT_CREDITED: Effect(1, (Counter.ADJUSTMENTS,)),
    Code.ADJUSTMENT_DEBITED: Effect(-1, (Counter.ADJUSTMENTS,)),
    Code.SUBSCRIPTION_CHANGED: Effect(1, (Counter.ALLOCATION,)),
    Code.SUBSCRIPTION_RENEWED: Effect(1, (Counter.ALLOCATION,)),
    Code.RENEWAL_SCHEDULED: Effect(0),
    Code.SUBSCRIPTION_CANCELED: Effect(-1, (Counter.EXPIRY,)),
    Code.ACCOUNT_IMPORTED: Effect(None, _PAST),
    Code.PAYMENT_IMPORTED: Effect(None, _PAST),
}

#: Codes of operations of an import: all their entries, reversals included, add up to what is left or owed.
IMPORTING = (Code.ACCOUNT_IMPORTED, Code.PAYMENT_IMPORTED)

#: Codes of operations that have a payment.
PAYING = (Code.TOKENS_PURCHASED, Code.PAYMENT_IMPORTED)

#: The counter-accounts of entries that fell due, whatever operation posted them.
DUE_COUNTERS = (Counter.ALLOCATION, Counter.BONUS, Counter.EXPIRY, Counter.TRANSFERS)

#: Codes of the operations that brought an event of a known payment.
CODE_OF: Mapping[Happened, Code] = {
    Happened.REFUNDED: Code.PAYMENT_REFUNDED,
    Happened.DISPUTED: Code.PAYMENT_DISPUTED,
    Happened.DISPUTE_WON: Code.DISPUTE_WON,
    Happened.DISPUTE_LOST: Code.DISPUTE_LOST,
    Happened.FAILED: Code.PAYMENT_FAILED,
    Happened.SUCCEEDED: Code.TOKENS_PURCHASED,
}

#: Codes of applied commands that bring an event.
REVERSING = (
    Code.PAYMENT_REFUNDED,
    Code.PAYMENT_DISPUTED,
    Code.DISPUTE_WON,
    Code.DISPUTE_LOST,
    Code.PAYMENT_FAILED,
    Code.PAYMENT_AWAITED,
)
