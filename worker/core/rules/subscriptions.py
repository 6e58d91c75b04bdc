"""Accounts and their subscriptions. Each period's allocation is granted once, as a lot that ends with it."""

from datetime import timedelta

from schemas import CancelSubscription, ChangeSubscription, Code, OpenAccount, RenewSubscription
from worker.catalog import Tier
from worker.core.account import Account
from worker.core.credits import credit, forfeit, schedule
from worker.core.known import Source, present_period
from worker.core.lots import Credit
from worker.core.outcomes import Outcome
from worker.core.periods import Period, period_at
from worker.core.rules.decisions import Context, Decision, applied, rejected
from worker.core.thresholds import compare_balance

# Two calendars never agree to the second: a renewal so shortly before a period is about that period.
_AHEAD = timedelta(days=1)


def open_account(account: Account, command: OpenAccount, outcome: Outcome, tier: Tier) -> Decision:
    """Open the account and begin its first period."""
    state = account.change()
    state.tier, state.period_granted = command.tier, tier.monthly_tokens
    if tier.monthly_tokens:
        new = Credit(tier.monthly_tokens, Source.ALLOCATION, expires_at=state.granted_until)
        credit(account, outcome, new)
    account.look_again_to_renew()
    compare_balance(account)  # an account that is opened below a threshold has not fallen to it
    return applied(Code.ACCOUNT_OPENED, tier.monthly_tokens, tier=command.tier)


def change(account: Account, command: ChangeSubscription, outcome: Outcome, context: Context) -> Decision:
    """Change the tier: grant what the new one gives beyond what this period has had already."""
    tier = context.catalog.tiers.get(command.tier)
    if tier is None:
        return rejected(Code.UNKNOWN_TIER, tier=command.tier)
    state = account.change()
    previous = state.tier
    if context.now >= state.granted_until:
        state.granted_until = present_period(state, context.now).end
        state.period_granted = 0
    extra = max(tier.monthly_tokens - state.period_granted, 0)
    state.period_granted += extra
    state.tier, state.ends_at = command.tier, None
    if extra:
        credit(account, outcome, Credit(extra, Source.ALLOCATION, expires_at=state.granted_until))
    account.look_again_to_renew()
    return applied(
        Code.SUBSCRIPTION_CHANGED,
        extra,
        tier=command.tier,
        previous_tier=previous,
        period_end=state.granted_until.isoformat(),
    )


def renew(account: Account, command: RenewSubscription, outcome: Outcome, context: Context) -> Decision:
    """Grant a period's allocation once: the present one's, or the next one's within a day of its start."""
    state, now = account.state, context.now
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
    tier = account.tier
    if tier is None:
        return rejected(Code.UNKNOWN_TIER, tier=state.tier)
    state = account.change()
    state.granted_until, state.period_granted = period.end, tier.monthly_tokens
    if tier.monthly_tokens:
        new = Credit(tier.monthly_tokens, Source.ALLOCATION, period.start, period.end)
        grant = schedule if is_next else credit
        grant(account, outcome, new)
    account.look_again_to_renew()
    code = Code.RENEWAL_SCHEDULED if is_next else Code.SUBSCRIPTION_RENEWED
    return applied(code, tier.monthly_tokens, tier=state.tier, **_named(period))


def cancel(account: Account, command: CancelSubscription, outcome: Outcome, context: Context) -> Decision:
    """End the subscription: no more periods; what was bought or given otherwise stays."""
    if account.state.ends_at is not None:
        return rejected(Code.SUBSCRIPTION_NOT_ACTIVE)
    state = account.change()
    lost = 0
    if command.at == "now":
        state.ends_at = context.now
        for lot in list(account.lots.values()):
            if lot.source is Source.ALLOCATION and (lot.remaining or lot.pending):
                lost += forfeit(account, outcome, lot)
    else:
        state.ends_at = max(state.granted_until, context.now)
    return applied(Code.SUBSCRIPTION_CANCELED, lost, period_end=state.ends_at.isoformat())


def _named(period: Period) -> dict[str, str]:
    return {"period_start": period.start.isoformat(), "period_end": period.end.isoformat()}
