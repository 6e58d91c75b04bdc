"""Effects of an applied operation on the ledger, by its code."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from schemas import Code
from worker.core.known import Happened
from worker.core.plan import Counter
from worker.core.rules.payments import CODE_OF


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
    Code.ACCOUNT_SETTLED: Effect(0, (Counter.REVERSALS,)),
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
    Code.PURCHASE_FLAGGED: Effect(1, (Counter.PURCHASES, Counter.BONUS, Counter.REVERSALS)),
    Code.REFUND_FAILED: Effect(0, (Counter.REVERSALS,)),
    Code.REFUND_STYLE_MIXED: Effect(0, (Counter.REVERSALS,)),
    Code.INQUIRY_OPENED: Effect(0, (Counter.REVERSALS,)),
    Code.DISPUTE_PREVENTED: Effect(0, (Counter.REVERSALS,)),
    Code.DISPUTE_WITHDRAWN: Effect(0, (Counter.REVERSALS,)),
    Code.CHANGE_SCHEDULED: Effect(0, (Counter.REVERSALS,)),
    Code.PAYMENT_NAMED: Effect(0, (Counter.REVERSALS,)),
    Code.FREEZE_BEGAN: Effect(0),
    Code.FREEZE_ENDED: Effect(0),
    Code.TOKENS_REFUNDED: Effect(1, (Counter.REFUNDS,)),
    Code.BONUS_GRANTED: Effect(1, (Counter.BONUS,)),
    Code.BONUS_SCHEDULED: Effect(0),
    Code.ADJUSTMENT_CREDITED: Effect(1, (Counter.ADJUSTMENTS,)),
    Code.ADJUSTMENT_DEBITED: Effect(-1, (Counter.ADJUSTMENTS,)),
    Code.SUBSCRIPTION_CHANGED: Effect(1, (Counter.ALLOCATION, Counter.REVERSALS)),
    Code.SUBSCRIPTION_RENEWED: Effect(1, (Counter.ALLOCATION, Counter.REVERSALS)),
    Code.RENEWAL_SCHEDULED: Effect(0, (Counter.REVERSALS,)),
    Code.SUBSCRIPTION_CANCELED: Effect(-1, (Counter.EXPIRY,)),
    Code.CANCELLATION_LATE: Effect(-1, (Counter.EXPIRY,)),
    Code.ACCOUNT_IMPORTED: Effect(None, _PAST),
    Code.PAYMENT_IMPORTED: Effect(None, _PAST),
}

#: Codes of operations of an import: all their entries, reversals included, add up to what is left or owed.
IMPORTING = (Code.ACCOUNT_IMPORTED, Code.PAYMENT_IMPORTED)

#: Codes of operations that always have a payment, and those that may have one.
PAYING = (Code.TOKENS_PURCHASED, Code.PURCHASE_FLAGGED, Code.PAYMENT_IMPORTED)
MAY_PAY = (
    *PAYING,
    Code.SUBSCRIPTION_CHANGED,
    Code.CHANGE_SCHEDULED,
    Code.SUBSCRIPTION_RENEWED,
    Code.RENEWAL_SCHEDULED,
)

#: The counter-accounts of entries that fell due, whatever operation posted them.
DUE_COUNTERS = (Counter.ALLOCATION, Counter.BONUS, Counter.EXPIRY, Counter.TRANSFERS)

#: Codes of the operations that bring an event of a known payment, by its kind.
CODES_OF: Mapping[Happened, Sequence[Code]] = {
    happened: (code, Code.REFUND_STYLE_MIXED) if code is Code.PAYMENT_REFUNDED else (code,)
    for happened, code in CODE_OF.items()
}

#: Codes of applied commands that bring an event with an effect on tokens.
REVERSING = (
    *(code for happened, code in CODE_OF.items() if happened not in (Happened.FROZEN, Happened.UNFROZEN)),
    Code.REFUND_STYLE_MIXED,
)

#: Codes of the operations that take in what came before its payment.
TAKING_IN = (*MAY_PAY, Code.ACCOUNT_SETTLED, Code.PAYMENT_NAMED)
