"""Credit that is given, given back, or corrected by hand."""

from collections.abc import Iterator
from dataclasses import replace

from schemas import (
    AdjustCredit,
    BonusCredit,
    Code,
    DeductUsage,
    RecordUsage,
    RefundCredit,
    SettleUsage,
    type_of,
)
from worker.core.account import Account
from worker.core.credits import credit, put_back, schedule
from worker.core.known import Source, Taken
from worker.core.lots import Credit
from worker.core.outcomes import Outcome
from worker.core.plan import Counter, UsageRefund
from worker.core.rules.decisions import Context, Decision, applied, rejected, short_of

#: Types of commands whose tokens a refund may give back.
REFUNDABLE = frozenset({type_of(DeductUsage), type_of(SettleUsage), type_of(RecordUsage)})


def refund(account: Account, command: RefundCredit, outcome: Outcome, context: Context) -> Decision:
    """Give tokens back to the lots they were taken from, the last first, with the expiry of the lots."""
    named = command.original_reference_id
    if named is None:
        return _unbound(account, command, outcome, context)
    original = context.outcome_of(named)
    if original is None or original.user_id != command.user_id:
        return rejected(Code.ORIGINAL_NOT_FOUND, original_reference_id=named)
    if not original.is_applied or original.type not in REFUNDABLE:
        return rejected(Code.ORIGINAL_NOT_REFUNDABLE, original_reference_id=named)
    taken = _taken(account, original, context)
    left = sum(tokens for _, tokens in taken.parts) - taken.refunded
    if command.tokens > left:
        refused = short_of(command.tokens, left, Code.REFUND_EXCEEDS_ORIGINAL)
        return refused._replace(detail={"original_reference_id": named, **refused.detail})
    put_back(account, outcome, _back(taken, command.tokens))
    account.add_usage_refund(
        UsageRefund(account.state.account_id, outcome, original, command.tokens, context.now)
    )
    return applied(Code.TOKENS_REFUNDED, command.tokens, original_reference_id=named)


def _unbound(account: Account, command: RefundCredit, outcome: Outcome, context: Context) -> Decision:
    if context.catalog.refunds.unbound == "refuse":
        return rejected(Code.ORIGINAL_REQUIRED)
    credit(account, outcome, Credit(command.tokens, Source.REFUND))
    return applied(Code.TOKENS_REFUNDED, command.tokens)


def _taken(account: Account, original: Outcome, context: Context) -> Taken:
    known = context.known.usages.get(original.reference_id)
    if known is not None and original.reference_id not in context.fresh:
        parts, refunded = known.parts, known.refunded
    else:  # it was taken in this batch
        parts = tuple(
            (entry.lot, -entry.amount)
            for entry in account.written.entries
            if entry.outcome is original and entry.counter is Counter.USAGE and entry.lot is not None
        )
        refunded = 0
    refunded += sum(row.tokens for row in account.written.usage_refunds if row.original is original)
    return Taken(parts, refunded)


def _back(taken: Taken, tokens: int) -> Iterator[tuple[int, int]]:
    """Yield the next ``tokens`` of what was taken, from its end, behind what has been refunded."""
    skip, left = taken.refunded, tokens
    for lot, amount in reversed(taken.parts):
        skipped = min(skip, amount)
        skip -= skipped
        part = min(amount - skipped, left)
        if part:
            yield lot, part
        left -= part


def bonus(account: Account, command: BonusCredit, outcome: Outcome, context: Context) -> Decision:
    """Grant promotional tokens, now or later, with or without an end."""
    until = {} if command.expires_at is None else {"expires_at": command.expires_at.isoformat()}
    if command.expires_at is not None and command.expires_at <= context.now:
        return rejected(Code.CREDIT_EXPIRED, **until)
    new = Credit(command.tokens, Source.BONUS, expires_at=command.expires_at, priority=command.priority)
    if command.effective_at is not None and command.effective_at > context.now:
        schedule(account, outcome, replace(new, effective_at=command.effective_at))
        start = command.effective_at.isoformat()
        return applied(Code.BONUS_SCHEDULED, command.tokens, effective_at=start, **until)
    credit(account, outcome, new)
    return applied(Code.BONUS_GRANTED, command.tokens, **until)


def adjust(account: Account, command: AdjustCredit, outcome: Outcome, context: Context) -> Decision:
    """Correct the balance by hand, with a reason and the actor's name."""
    who = {"reason": command.reason, "actor": command.actor}
    if command.tokens > 0:
        if command.expires_at is not None and command.expires_at <= context.now:
            return rejected(Code.CREDIT_EXPIRED, expires_at=command.expires_at.isoformat(), **who)
        credit(account, outcome, Credit(command.tokens, Source.ADJUSTMENT, expires_at=command.expires_at))
        return applied(Code.ADJUSTMENT_CREDITED, command.tokens, **who)
    tokens = -command.tokens
    if tokens > account.state.available and not command.allow_negative:
        refused = short_of(tokens, account.state.available)
        return refused._replace(detail={**refused.detail, **who})
    taken = account.take(outcome, tokens, Counter.ADJUSTMENTS)
    account.owe(outcome, tokens - taken, Counter.ADJUSTMENTS)
    return applied(Code.ADJUSTMENT_DEBITED, tokens, **who)
