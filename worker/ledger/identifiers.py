"""Identifiers: small numbers that stand for types, codes and statuses in the rows, and symbols of counters.

A counter-account has a symbol of one character, one byte in each entry; its number is the symbol's code. A
number is never used again for another name. The table ``identifiers`` has them for readers of SQL.
"""

from collections.abc import Mapping
from typing import Literal

from schemas import Code, Status
from worker.core.plan import Counter

Kind = Literal["type", "code", "status", "counter"]

#: Types by number. Usage is below 20.
_TYPES = {
    "usage.deduct": 1,
    "usage.free_upload": 2,
    "usage.record": 3,
    "usage.reserve": 4,
    "usage.settle": 5,
    "usage.release": 6,
    "usage.extend": 7,
    "payment.succeeded": 20,
    "payment.refunded": 21,
    "payment.disputed": 22,
    "payment.dispute_closed": 23,
    "payment.failed": 24,
    "payment.import": 25,
    "payment.refund_failed": 26,
    "payment.named": 27,
    "credit.refund": 40,
    "credit.bonus": 41,
    "credit.adjust": 42,
    "subscription.change": 50,
    "subscription.renew": 51,
    "subscription.cancel": 52,
    "account.open": 60,
    "account.settle": 61,
    "account.import": 62,
    "account.freeze": 63,
    "account.unfreeze": 64,
}

#: Codes by number: applied commands below 100, refusals from there on.
_CODES = {
    Code.ACCOUNT_OPENED: 1,
    Code.TOKENS_DEDUCTED: 2,
    Code.FREE_UPLOAD_COUNTED: 3,
    Code.TOKENS_PURCHASED: 4,
    Code.TOKENS_REFUNDED: 5,
    Code.BONUS_GRANTED: 6,
    Code.BONUS_SCHEDULED: 7,
    Code.ADJUSTMENT_CREDITED: 8,
    Code.ADJUSTMENT_DEBITED: 9,
    Code.ACCOUNT_SETTLED: 10,
    Code.TOKENS_RESERVED: 11,
    Code.HOLD_SETTLED: 12,
    Code.HOLD_RELEASED: 13,
    Code.USAGE_RECORDED: 14,
    Code.SUBSCRIPTION_CHANGED: 15,
    Code.SUBSCRIPTION_RENEWED: 16,
    Code.RENEWAL_SCHEDULED: 17,
    Code.SUBSCRIPTION_CANCELED: 18,
    Code.PAYMENT_REFUNDED: 19,
    Code.PAYMENT_DISPUTED: 20,
    Code.DISPUTE_WON: 21,
    Code.DISPUTE_LOST: 22,
    Code.PAYMENT_FAILED: 23,
    Code.PAYMENT_AWAITED: 24,
    Code.HOLD_EXTENDED: 25,
    Code.HOLD_SETTLED_LATE: 26,
    Code.ACCOUNT_IMPORTED: 30,
    Code.PAYMENT_IMPORTED: 31,
    Code.PURCHASE_FLAGGED: 32,
    Code.REFUND_FAILED: 33,
    Code.REFUND_STYLE_MIXED: 34,
    Code.INQUIRY_OPENED: 35,
    Code.DISPUTE_PREVENTED: 36,
    Code.DISPUTE_WITHDRAWN: 37,
    Code.CHANGE_SCHEDULED: 38,
    Code.FREEZE_BEGAN: 39,
    Code.FREEZE_ENDED: 40,
    Code.PAYMENT_NAMED: 43,
    Code.CANCELLATION_LATE: 44,
    Code.INSUFFICIENT_BALANCE: 100,
    Code.ACCOUNT_NOT_FOUND: 101,
    Code.ACCOUNT_EXISTS: 102,
    Code.FREE_UPLOAD_LIMIT_EXCEEDED: 103,
    Code.UNKNOWN_PACKAGE: 104,
    Code.UNKNOWN_TIER: 105,
    Code.AMOUNT_MISMATCH: 106,
    Code.CURRENCY_MISMATCH: 107,
    Code.HOLD_NOT_FOUND: 108,
    Code.HOLD_CLOSED: 109,
    Code.HOLD_EXCEEDED: 110,
    Code.UNKNOWN_METER: 111,
    Code.ORIGINAL_REQUIRED: 112,
    Code.ORIGINAL_NOT_FOUND: 113,
    Code.ORIGINAL_NOT_REFUNDABLE: 114,
    Code.REFUND_EXCEEDS_ORIGINAL: 115,
    Code.CREDIT_EXPIRED: 116,
    Code.PERIOD_ALREADY_GRANTED: 117,
    Code.PERIOD_OUT_OF_RANGE: 118,
    Code.SUBSCRIPTION_NOT_ACTIVE: 119,
    Code.TOO_LATE: 120,
    Code.REFERENCE_TAKEN: 130,
    Code.ALLOCATION_OUTLASTS_PERIOD: 131,
    Code.ACCOUNT_FROZEN: 132,
}

_STATUSES = {Status.APPLIED: 1, Status.REJECTED: 2}

_SYMBOLS = {
    Counter.ALLOCATION: "A",
    Counter.PURCHASES: "P",
    Counter.BONUS: "B",
    Counter.REFUNDS: "R",
    Counter.USAGE: "U",
    Counter.EXPIRY: "E",
    Counter.ADJUSTMENTS: "J",
    Counter.REVERSALS: "V",
    Counter.TRANSFERS: "T",
}

#: Symbols of the counter-accounts, by their names.
SYMBOLS: Mapping[str, str] = {counter.value: symbol for counter, symbol in _SYMBOLS.items()}

#: Numbers of all names, by their kind.
IDENTIFIERS: Mapping[Kind, Mapping[str, int]] = {
    "type": _TYPES,
    "code": {code.value: number for code, number in _CODES.items()},
    "status": {status.value: number for status, number in _STATUSES.items()},
    "counter": {name: ord(symbol) for name, symbol in SYMBOLS.items()},
}

#: Names by their number.
NAMES: Mapping[Kind, Mapping[int, str]] = {
    kind: {number: name for name, number in numbers.items()} for kind, numbers in IDENTIFIERS.items()
}


def number_of(kind: Kind, name: str) -> int:
    """Return the number of a name. Raises LookupError for a name without one."""
    return IDENTIFIERS[kind][str(name)]  # a member of an enumeration has another hash than its value


def name_of(kind: Kind, number: int) -> str:
    """Return the name of a number; one that a later version added is called by its number."""
    return NAMES[kind].get(number) or f"{kind} {number}"
