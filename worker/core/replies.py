"""From what was decided to what is said."""

from collections.abc import Mapping
from typing import Any

from schemas import Code, Command, FreeUpload, Reply, Status
from worker.core.outcomes import Answer, Conflict, Outcome


def reply_for(command: Command, answer: Answer) -> Reply:
    """The reply to ``command``; the same for the same outcome, whenever it is asked for again."""
    if isinstance(answer, Conflict):
        return _conflict_reply(command, answer)
    outcome = answer.outcome
    detail: dict[str, Any] = dict(outcome.detail)
    return Reply.model_construct(
        status=outcome.status,
        code=outcome.code,
        message=message_for(outcome),
        type=outcome.type,
        reference_id=outcome.reference_id,
        user_id=outcome.user_id,
        attempt=outcome.attempt,
        duplicate=answer.duplicate,
        transaction_id=None if outcome.transaction_id is None else str(outcome.transaction_id),
        unit="bytes" if outcome.type == _FREE_UPLOAD else "tokens",
        amount=outcome.amount,
        balance_before=outcome.balance_before,
        balance_after=outcome.balance_after,
        recorded_at=outcome.recorded_at,
        **detail,
    )


_FREE_UPLOAD = FreeUpload.model_fields["type"].default


def _conflict_reply(command: Command, conflict: Conflict) -> Reply:
    return Reply(
        status=Status.REJECTED,
        code=Code.REFERENCE_CONFLICT,
        message=(
            f"The reference {command.reference_id!r} names another operation: {conflict.field} was "
            f"{conflict.stored}, now {conflict.received}. Nothing moved."
        ),
        type=command.type,
        reference_id=command.reference_id,
        user_id=command.user_id,
        attempt=command.attempt,
        field=conflict.field,
        expected=conflict.stored,
        received=conflict.received,
    )


def message_for(outcome: Outcome) -> str:
    """The human message, in the seed's form: "Insufficient token balance. Required: 1.5K, Available: 300"."""
    template = _MESSAGES[outcome.code]
    return template.format_map(_Words(outcome))


_MESSAGES: Mapping[Code, str] = {
    Code.ACCOUNT_OPENED: "Account opened on tier {tier} with {amount} tokens",
    Code.TOKENS_DEDUCTED: "Deducted {amount} tokens. Balance: {balance}",
    Code.FREE_UPLOAD_COUNTED: "Counted {amount} free bytes. Used: {used} of {limit}",
    Code.TOKENS_PURCHASED: (
        "Credited {amount} tokens ({base_tokens} + {bonus_tokens} bonus). Balance: {balance}"
    ),
    Code.TOKENS_REFUNDED: "Refunded {amount} tokens. Balance: {balance}",
    Code.BONUS_GRANTED: "Granted {amount} bonus tokens. Balance: {balance}",
    Code.INSUFFICIENT_BALANCE: "Insufficient token balance. Required: {required}, Available: {available}",
    Code.ACCOUNT_NOT_FOUND: "No token account for user {user}",
    Code.ACCOUNT_EXISTS: "User {user} already has an account on tier {tier}",
    Code.FREE_UPLOAD_LIMIT_EXCEEDED: (
        "Free upload limit exceeded. Required: {required}, Available: {available}"
    ),
    Code.UNKNOWN_PACKAGE: "Unknown token package {package_id}",
    Code.UNKNOWN_TIER: "Unknown subscription tier {tier}",
    Code.AMOUNT_MISMATCH: "The payment of {received} is not the price of package {package_id}: {expected}",
}


class _Words(dict[str, str]):
    """The words of a message, made when the template asks for them."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self._outcome = outcome

    def __missing__(self, name: str) -> str:
        outcome = self._outcome
        match name:
            case "amount":
                return human_amount(outcome.amount or 0)
            case "balance":
                return human_amount(outcome.balance_after or 0)
            case "user":
                return outcome.user_id
        value = outcome.detail[name]
        if isinstance(value, str):
            return value
        return human_amount(value, round_up=name == "required")


def human_amount(amount: int, *, round_up: bool = False) -> str:
    """``amount`` as a person reads it: 300, 1.5K, 2.0M, 7.1B.

    Rounded down, or up, so that what is required never looks like what is available when it is more.
    """
    for size, suffix in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        # Rounded up, 999,901 is 1.0M and not 1000.0K.
        if amount >= size or (round_up and amount > size - size // 10_000):
            tenth = size // 10
            tenths = -(-amount // tenth) if round_up else amount // tenth
            return f"{tenths // 10}.{tenths % 10}{suffix}"
    return str(amount)
