"""Replies to commands, made from what was decided."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from schemas import NO_USER, Code, Command, FreeUpload, Reply, Status, type_of
from worker.core.incidents import money_of
from worker.core.outcomes import BYTE, Answer, Conflict, Outcome
from worker.runtime.shown_money import shown_money


def reply_for(command: Command, answer: Answer) -> Reply:
    """Return the reply to ``command``; the same for the same outcome, whenever it is asked for again."""
    if isinstance(answer, Conflict):
        return _conflict_reply(command, answer)
    return reply_about(answer.outcome, duplicate=answer.duplicate)


def reply_about(outcome: Outcome, *, duplicate: bool) -> Reply:
    """Return the reply that tells ``outcome``; ``duplicate`` where it was stored before."""
    is_unknown = outcome.is_of_no_account
    # Validation takes a fifth of the time of setting so many fields in Python; it also parses the times.
    return Reply.model_validate(
        {
            "status": outcome.status,
            "code": outcome.code,
            "message": message_for(outcome),
            "type": outcome.type,
            "reference_id": outcome.reference_id,
            "user_id": outcome.user_id or None,
            "attempt": outcome.attempt,
            "duplicate": duplicate,
            "transaction_id": None if outcome.transaction_id is None else str(outcome.transaction_id),
            "unit": "bytes" if outcome.type == _FREE_UPLOAD else "tokens",
            "amount": outcome.amount,
            "balance_before": None if is_unknown else outcome.balance_before,
            "balance_after": None if is_unknown else outcome.balance_after,
            "sequence": outcome.last_entry,
            "recorded_at": outcome.recorded_at,
            **outcome.detail,
        }
    )


_FREE_UPLOAD = type_of(FreeUpload)
#: Details that are stored as text and shown to people as a time.
_TIMES = frozenset({"effective_at", "expires_at", "period_start", "period_end", "valid_until"})


def _conflict_reply(command: Command, conflict: Conflict) -> Reply:
    return Reply(
        status=Status.REJECTED,
        code=Code.REFERENCE_CONFLICT,
        message=f"The reference {command.reference_id!r} {conflict_text(conflict)}. Nothing moved.",
        type=command.type,
        reference_id=command.reference_id,
        user_id=command.user_id or None,
        attempt=command.attempt,
        field=conflict.field,
        expected=conflict.stored,
        received=conflict.received,
    )


def conflict_text(conflict: Conflict) -> str:
    """Return the rest of a sentence about the reference: the reason why the command can't have it."""
    stored, received = conflict.stored, conflict.received
    if conflict.field == "attempt":
        return f"takes {stored} as its next attempt, not {received}"
    return f"names another operation: {conflict.field} was {stored}, now {received}"


def message_for(outcome: Outcome) -> str:
    """Return the message for people: "Insufficient token balance. Required: 1.5K, Available: 300"."""
    template = _MESSAGES[outcome.code]
    if outcome.code is Code.ORIGINAL_NOT_FOUND and outcome.user_id == NO_USER:
        template = "{original_reference_id} is the reference of another operation, and of no payment"
    for field, code, longer in _LONGER:
        if code is outcome.code and outcome.detail.get(field) is not None:
            template = longer
    return template.format_map(_Words(outcome))


_MESSAGES: Mapping[Code, str] = {
    Code.ACCOUNT_OPENED: "Account opened on tier {tier} with {amount} tokens",
    Code.TOKENS_DEDUCTED: "Deducted {amount} tokens. Balance: {balance}",
    Code.FREE_UPLOAD_COUNTED: "Counted {amount} of free uploads. Used: {used} of {limit}",
    Code.TOKENS_PURCHASED: (
        "Credited {amount} tokens ({base_tokens} + {bonus_tokens} bonus). Balance: {balance}"
    ),
    Code.TOKENS_REFUNDED: "Refunded {amount} tokens. Balance: {balance}",
    Code.BONUS_GRANTED: "Granted {amount} bonus tokens. Balance: {balance}",
    Code.BONUS_SCHEDULED: "{amount} bonus tokens take effect on {effective_at}",
    Code.ADJUSTMENT_CREDITED: "Credited {amount} tokens by hand. Balance: {balance}",
    Code.ADJUSTMENT_DEBITED: "Debited {amount} tokens by hand. Balance: {balance}",
    Code.ACCOUNT_SETTLED: "Booked what was due. Balance: {balance}",
    Code.TOKENS_RESERVED: "Holding {amount} tokens until {expires_at}",
    Code.HOLD_SETTLED: "Deducted {amount} tokens of a hold, released {released}. Balance: {balance}",
    Code.HOLD_SETTLED_LATE: (
        "Deducted {amount} of {required} tokens, whose hold had run out. Balance: {balance}"
    ),
    Code.HOLD_EXTENDED: "Holding {amount} tokens until {expires_at}",
    Code.HOLD_RELEASED: "Released {amount} held tokens. Balance: {balance}",
    Code.USAGE_RECORDED: (
        "Recorded {quantity} of {meter}: {free_quantity} free, {amount} tokens for {charged_quantity}. "
        "Balance: {balance}"
    ),
    Code.SUBSCRIPTION_CHANGED: "Subscription is now {tier}, {amount} tokens granted. Balance: {balance}",
    Code.SUBSCRIPTION_RENEWED: "Granted {amount} tokens until {period_end}. Balance: {balance}",
    Code.RENEWAL_SCHEDULED: "{amount} tokens take effect on {period_start}",
    Code.SUBSCRIPTION_CANCELED: "Subscription ends on {period_end}. Balance: {balance}",
    Code.PAYMENT_REFUNDED: "Took back {amount} tokens of a refunded payment. Balance: {balance}",
    Code.PAYMENT_DISPUTED: "A payment is disputed, {amount} tokens taken back. Balance: {balance}",
    Code.DISPUTE_WON: "Dispute won, {amount} tokens given back. Balance: {balance}",
    Code.DISPUTE_LOST: "Dispute lost, {amount} tokens taken back. Balance: {balance}",
    Code.PAYMENT_FAILED: "A payment failed, {amount} tokens taken back. Balance: {balance}",
    Code.PURCHASE_FLAGGED: (
        "Credited {amount} tokens for {received}, whose price is {expected}. Balance: {balance}"
    ),
    Code.REFUND_FAILED: "A refund failed, {amount} tokens given back. Balance: {balance}",
    Code.REFUND_STYLE_MIXED: (
        "Took back {amount} tokens; the payment has single refunds and totals. Balance: {balance}"
    ),
    Code.INQUIRY_OPENED: "An inquiry about a payment; it takes nothing. Balance: {balance}",
    Code.DISPUTE_PREVENTED: "Dispute prevented, {amount} tokens given back. Balance: {balance}",
    Code.DISPUTE_WITHDRAWN: "Dispute withdrawn, {amount} tokens given back. Balance: {balance}",
    Code.CHANGE_SCHEDULED: "Subscription changes to {tier} on {effective_at}",
    Code.FREEZE_BEGAN: "The account is frozen: no usage and no holds",
    Code.FREEZE_ENDED: "The account may be used again",
    Code.CANCELLATION_LATE: "The subscription was taken up since, and goes on. Balance: {balance}",
    Code.PAYMENT_NAMED: "The payment {original_reference_id} is found by its other names as well",
    Code.ACCOUNT_FROZEN: "The account of user {user} is frozen",
    Code.PAYMENT_AWAITED: "Recorded; it counts when the payment {original_reference_id} comes",
    Code.ACCOUNT_IMPORTED: "Account imported on tier {tier}. Balance: {balance}",
    Code.PAYMENT_IMPORTED: (
        "Imported a payment for {base_tokens} + {bonus_tokens} bonus tokens, of which {amount} are left"
    ),
    Code.INSUFFICIENT_BALANCE: "Insufficient token balance. Required: {required}, Available: {available}",
    Code.ACCOUNT_NOT_FOUND: "No token account for user {user}",
    Code.ACCOUNT_EXISTS: "User {user} already has an account on tier {tier}",
    Code.FREE_UPLOAD_LIMIT_EXCEEDED: (
        "Free upload limit exceeded. Required: {required}, Available: {available}"
    ),
    Code.UNKNOWN_PACKAGE: "Unknown token package {package_id}",
    Code.UNKNOWN_TIER: "Unknown subscription tier {tier}",
    Code.AMOUNT_MISMATCH: "The payment of {received} is not the price of package {package_id}: {expected}",
    Code.CURRENCY_MISMATCH: "{received} does not fit the payment {original_reference_id} of {expected}",
    Code.HOLD_NOT_FOUND: "User {user} has no hold {original_reference_id}",
    Code.HOLD_CLOSED: "The hold {original_reference_id} is {state} already. Nothing moved",
    Code.HOLD_EXCEEDED: "Required: {required}, held: {available}. Settle less, or take the excess",
    Code.UNKNOWN_METER: "Unknown meter {meter}",
    Code.ORIGINAL_REQUIRED: "A refund names the usage it refunds in originalReferenceId",
    Code.ORIGINAL_NOT_FOUND: "User {user} has no operation {original_reference_id} to take back",
    Code.ORIGINAL_NOT_REFUNDABLE: "{original_reference_id} has nothing left that could be given back",
    Code.REFUND_EXCEEDS_ORIGINAL: (
        "Refund of {required} tokens exceeds what is left of {original_reference_id}: {available}"
    ),
    Code.CREDIT_EXPIRED: "The credit expired on {expires_at}",
    Code.PERIOD_ALREADY_GRANTED: "The period from {period_start} to {period_end} is granted already",
    Code.PERIOD_OUT_OF_RANGE: "The period of {period_start} can't be granted now",
    Code.REFERENCE_TAKEN: "The payment {original_reference_id} is another operation in the ledger already",
    Code.ALLOCATION_OUTLASTS_PERIOD: (
        "An allocation until {expires_at} outlasts its period, which ends on {period_end}; "
        "import it as carried_over"
    ),
    Code.SUBSCRIPTION_NOT_ACTIVE: "The subscription of user {user} is canceled",
    Code.TOO_LATE: "The usage was valid until {valid_until} and came too late. Nothing moved",
}


#: Messages of a code whose reply has this field.
_LONGER: Sequence[tuple[str, Code, str]] = (
    (
        "free_quantity",
        Code.TOKENS_REFUNDED,
        "Refunded {amount} tokens. Free again: {free_quantity}. Balance: {balance}",
    ),
    (
        "field",
        Code.REFUND_EXCEEDS_ORIGINAL,
        "Refund of {required} of free usage exceeds what is left of {original_reference_id}: {available}",
    ),
    *(
        (
            "counted_minor",
            code,
            f"{_MESSAGES[code]}. {{counted_minor}} of {{amount_minor}} counted",
        )
        for code in (Code.PAYMENT_REFUNDED, Code.REFUND_STYLE_MIXED, Code.DISPUTE_LOST)
    ),
)

#: Words that are quantities of a meter, where the operation has one; all others are tokens.
_QUANTITIES = frozenset({"quantity", "free_quantity", "charged_quantity", "used", "limit"})
#: Words that are bytes in the outcome of a free upload, refused or counted.
_UPLOADED = frozenset({"amount", "required", "available", "used", "limit"})
#: Words that are money of the currency that the command names, in minor units.
_MONEY = frozenset({"counted_minor", "amount_minor"})
#: Words that are texts with money in minor units: 999 EUR or 1099 USD.
_PRICES = frozenset({"expected", "received"})
_PRICE = re.compile(r"(\d+) ([A-Z]{3})\b", re.ASCII)


class _Words(dict[str, str]):
    """Words of a message, made when the template asks for them."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self._outcome = outcome

    def __missing__(self, name: str) -> str:
        outcome = self._outcome
        match name:
            case "amount":
                return self._figure(name, outcome.amount or 0)
            case "balance":
                return human_amount(outcome.balance_after or 0)
            case "user":
                return outcome.user_id
        value = outcome.detail[name]
        if name in _PRICES:
            return _PRICE.sub(lambda price: shown_money(int(price[1]), price[2], grouped=False), str(value))
        if isinstance(value, str):
            return f"{datetime.fromisoformat(value):%Y-%m-%d %H:%M}Z" if name in _TIMES else value
        if name in _MONEY:
            return shown_money(value, money_of(outcome)[1], grouped=False)
        return self._figure(name, value)

    def _figure(self, name: str, value: int) -> str:
        format_ = human_bytes if self._is_bytes(name) else human_amount
        return format_(value, round_up=name == "required")

    def _is_bytes(self, name: str) -> bool:
        outcome = self._outcome
        if outcome.type == _FREE_UPLOAD:
            return name in _UPLOADED
        if outcome.detail.get("meter_unit") != BYTE:
            return False
        is_of_refund = outcome.code is Code.REFUND_EXCEEDS_ORIGINAL and name in _UPLOADED
        return name in _QUANTITIES or is_of_refund


_SIZES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_AMOUNTS = ((10**9, "B"), (10**6, "M"), (10**3, "K"))


def human_bytes(size: int, *, round_up: bool = False) -> str:
    """Return a number of bytes as a person reads it, in powers of 1,000: 7 B, 1.5 kB, 1.0 GB."""
    digits, unit = _scaled(size, _SIZES, round_up=round_up)
    return f"{digits} {unit or 'B'}"


def human_amount(amount: int, *, round_up: bool = False) -> str:
    """Return ``amount`` as a person reads it: 300, 1.5K, 2.0M, 7.1B.

    Rounded down, or up, so that what is required never looks like what is available when it is more.
    """
    return "".join(_scaled(amount, _AMOUNTS, round_up=round_up))


def _scaled(amount: int, units: Iterable[tuple[int, str]], *, round_up: bool) -> tuple[str, str]:
    """Return the digits of ``amount`` in the first of ``units`` that it reaches, and the unit; or no unit."""
    if amount < 0:
        digits, unit = _scaled(-amount, units, round_up=not round_up)
        return f"-{digits}", unit
    for size, unit in units:
        # Rounded up, 999,901 is 1.0M and not 1000.0K.
        if amount >= size or (round_up and amount > size - size // 10_000):
            tenth = size // 10
            tenths = -(-amount // tenth) if round_up else amount // tenth
            return f"{tenths // 10}.{tenths % 10}", unit
    return str(amount), ""
