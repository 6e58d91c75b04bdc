"""Accounts and their subscriptions. Each period's allocation is granted once, as a lot that ends with it."""

from datetime import timedelta

from schemas import CancelSubscription, ChangeSubscription, Code, OpenAccount, RenewSubscription
from worker.catalog import Tier
from worker.core.account import Account
from worker.core.known import Source, present_period
from worker.core.outcomes import Outcome
from worker.core.periods import Period, period_at
from worker.core.rules.decisions import Context, Decision, applied, rejected

# Two calendars never agree to the second: a renewal so shortly before a period is about that period.
_AHEAD = timedelta(days=1)


def open_account(book: Account, command: OpenAccount, outcome: Outcome, tier: Tier) -> Decision:
    """Open the account and begin its first period."""
    state = book.change()
    state.tier, state.period_granted = command.tier, tier.monthly_tokens
    if tier.monthly_tokens:
        book.credit(outcome, tier.monthly_tokens, Source.ALLOCATION, expires_at=state.granted_until)
    book.expect_renewal()
    book.look()
    return applied(Code.ACCOUNT_OPENED, tier.monthly_tokens, tier=command.tier)


def change(book: Account, command: ChangeSubscription, outcome: Outcome, context: Context) -> Decision:
    """Change the tier: grant what the new one gives beyond what this period has had already."""
    tier = context.catalog.tiers.get(command.tier)
    if tier is None:
        return rejected(Code.UNKNOWN_TIER, tier=command.tier)
    state = book.change()
    if context.now >= state.granted_until:
        state.granted_until = present_period(state, context.now).end
        state.period_granted = 0
    extra = max(tier.monthly_tokens - state.period_granted, 0)
    state.period_granted += extra
    state.tier, state.ends_at = command.tier, None
    if extra:
        book.credit(outcome, extra, Source.ALLOCATION, expires_at=state.granted_until)
    book.expect_renewal()
    return applied(
        Code.SUBSCRIPTION_CHANGED, extra, tier=command.tier, period_end=state.granted_until.isoformat()
    )


def renew(book: Account, command: RenewSubscription, outcome: Outcome, context: Context) -> Decision:
    """Grant a period's allocation once: the present one's, or the next one's within a day of its start."""
    state, now = book.state, context.now
    if state.ends_at is not None:
        return rejected(Code.SUBSCRIPTION_NOT_ACTIVE)
    at = now if command.period_start is None else command.period_start
    if not state.anchor - _AHEAD <= at <= now + _AHEAD:
        return rejected(Code.PERIOD_OUT_OF_RANGE, period_start=at.isoformat())
    present = present_period(state, now)
    period = period_at(state.anchor, max(at, state.anchor))
    if period.end <= state.granted_until and period.end - at <= _AHEAD:
        period = period_at(state.anchor, period.end)
    if period.end <= state.granted_until:
        return rejected(Code.PERIOD_ALREADY_GRANTED, **_named(period))
    is_next = period.start == present.end and state.granted_until >= period.start
    if period != present and not is_next:
        return rejected(Code.PERIOD_OUT_OF_RANGE, **_named(period))
    tier = book.tier
    if tier is None:
        return rejected(Code.UNKNOWN_TIER, tier=state.tier)
    state = book.change()
    state.granted_until, state.period_granted = period.end, tier.monthly_tokens
    if tier.monthly_tokens:
        grant = book.schedule if is_next else book.credit
        grant(
            outcome,
            tier.monthly_tokens,
            Source.ALLOCATION,
            effective_at=period.start,
            expires_at=period.end,
        )
    book.expect_renewal()
    code = Code.RENEWAL_SCHEDULED if is_next else Code.SUBSCRIPTION_RENEWED
    return applied(code, tier.monthly_tokens, tier=state.tier, **_named(period))


def cancel(book: Account, command: CancelSubscription, outcome: Outcome, context: Context) -> Decision:
    """End the subscription: no more periods; what was bought or given otherwise stays."""
    if book.state.ends_at is not None:
        return rejected(Code.SUBSCRIPTION_NOT_ACTIVE)
    state = book.change()
    lost = 0
    if command.at == "now":
        state.ends_at = context.now
        for lot in list(book.lots.values()):
            if lot.source is Source.ALLOCATION and (lot.remaining or lot.pending):
                lost += book.forfeit(outcome, lot)
    else:
        state.ends_at = max(state.granted_until, context.now)
    return applied(Code.SUBSCRIPTION_CANCELED, lost, period_end=state.ends_at.isoformat())


def _named(period: Period) -> dict[str, str]:
    return {"period_start": period.start.isoformat(), "period_end": period.end.isoformat()}
