"""Credit that is given, given back, or corrected by hand."""

from collections.abc import Iterator
from dataclasses import replace

from schemas import (
    AdjustCredit,
    BonusCredit,
    Code,
    DeductUsage,
    FreeUpload,
    RecordUsage,
    RefundCredit,
    SettleUsage,
    type_of,
)
from worker.core.account import Account
from worker.core.calendars import present_period
from worker.core.credits import credit, put_back, schedule
from worker.core.known import QuotaKey, Source, Taken
from worker.core.lots import Credit
from worker.core.outcomes import BYTE, Outcome
from worker.core.plan import Counter, UsageRefund
from worker.core.rules.decisions import Context, Decision, applied, rejected, short_of

#: Types of commands whose tokens, or free units, a refund may give back.
REFUNDABLE = frozenset(
    {type_of(DeductUsage), type_of(SettleUsage), type_of(RecordUsage), type_of(FreeUpload)}
)


def refund(account: Account, command: RefundCredit, outcome: Outcome, context: Context) -> Decision:
    """Give tokens back to the lots they were taken from, the last first, and free units to their period.

    Who sends it may not know how much of the usage was free: a refund of more tokens than a usage with free
    units took gives back all that is left of both.
    """
    named = command.original_reference_id
    if named is None:
        return _unbound(account, command, outcome, context)
    original = context.outcome_of(named)
    if original is None or original.user_id != command.user_id:
        return rejected(Code.ORIGINAL_NOT_FOUND, original_reference_id=named)
    if not original.is_applied or original.type not in REFUNDABLE:
        return rejected(Code.ORIGINAL_NOT_REFUNDABLE, original_reference_id=named)
    taken = _taken(account, original, context)
    share = _share(account, command, original, taken)
    if isinstance(share, Decision):
        return share
    tokens, units = share
    if not tokens and not units:
        return rejected(Code.ORIGINAL_NOT_REFUNDABLE, original_reference_id=named)
    put_back(account, outcome, _back(taken, tokens))
    if units and taken.quota is not None:
        account.quota(taken.quota, context.known.quotas.get(taken.quota))
        account.count(outcome, taken.quota, -units)
    account.add_usage_refund(
        UsageRefund(account.state.account_id, outcome, original, tokens, units, context.now)
    )
    free: dict[str, int | str] = {}
    if free_units_of(original):
        free = {"free_quantity": units, **_unit_of(original)}
    return applied(Code.TOKENS_REFUNDED, tokens, original_reference_id=named, **free)


def _share(
    account: Account, command: RefundCredit, original: Outcome, taken: Taken
) -> tuple[int, int] | Decision:
    """Return the tokens and the free units that go back, or the refusal of more than is left."""
    left = sum(tokens for _, tokens in taken.parts) - taken.refunded
    free_left, asked = free_units_of(original) - taken.freed, command.free_quantity
    if asked is not None and asked > free_left:
        return _exceeds(original, asked, free_left, is_free=True)
    period = present_period(account.state, account.now).key
    free_now = free_left if taken.quota is not None and taken.quota.period_start == period else 0
    if command.tokens > left and (asked is not None or not free_now):
        return _exceeds(original, command.tokens, left)
    tokens = min(command.tokens, left)
    if asked is not None:
        return tokens, min(asked, free_now)
    return tokens, free_now if tokens == left else 0


def free_units_of(usage: Outcome) -> int:
    """Return the free units that an applied usage took: bytes of an upload, units of its meter."""
    if usage.code is Code.FREE_UPLOAD_COUNTED:
        return usage.amount or 0
    return int(usage.detail.get("free_quantity", 0))


def _unit_of(usage: Outcome) -> dict[str, str]:
    """Return what the reply's text needs to know of a usage in bytes."""
    if usage.code is Code.FREE_UPLOAD_COUNTED:
        return {"meter_unit": BYTE}
    unit = usage.detail.get("meter_unit")
    return {} if unit is None else {"meter_unit": str(unit)}


def _exceeds(original: Outcome, asked: int, left: int, *, is_free: bool = False) -> Decision:
    """Return the refusal of a refund of more than is left of a usage, in tokens or free units."""
    refused = short_of(asked, left, Code.REFUND_EXCEEDS_ORIGINAL)
    units = {"field": "freeQuantity", **_unit_of(original)} if is_free else {}
    detail = {"original_reference_id": original.reference_id, **units, **refused.detail}
    return refused._replace(detail=detail)


def _unbound(account: Account, command: RefundCredit, outcome: Outcome, context: Context) -> Decision:
    gives_nothing = command.tokens == 0 or bool(command.free_quantity)  # free units are of a usage
    if context.catalog.refunds.unbound == "refuse" or gives_nothing:
        return rejected(Code.ORIGINAL_REQUIRED)
    credit(account, outcome, Credit(command.tokens, Source.REFUND))
    return applied(Code.TOKENS_REFUNDED, command.tokens)


def _taken(account: Account, original: Outcome, context: Context) -> Taken:
    known = context.known.usages.get(original.reference_id)
    if known is not None and original.reference_id not in context.fresh:
        parts, refunded, quota, freed = known.parts, known.refunded, known.quota, known.freed
    else:  # it was taken in this batch
        parts = tuple(
            (entry.lot, -entry.amount)
            for entry in account.written.entries
            if entry.outcome is original and entry.counter is Counter.USAGE and entry.lot is not None
        )
        quota = next((key for key in _counted(account, original)), None)
        refunded = freed = 0
    for row in account.written.usage_refunds:
        if row.original is original:
            refunded += row.tokens
            freed += row.free_quantity
    return Taken(parts, refunded, quota, freed)


def _counted(account: Account, original: Outcome) -> Iterator[QuotaKey]:
    return (entry.key for entry in account.written.quota_entries if entry.outcome is original)


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
