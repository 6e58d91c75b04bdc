"""Accounts and their subscriptions. Each period's allocation is granted once, as a lot that ends with it.

A period has been granted *ahead* while its tokens wait for it to begin. What happens to the subscription then
counts for that period: nothing that is paid is taken, and nothing is granted twice.
"""

from datetime import datetime

from schemas import (
    CancelSubscription,
    ChangeSubscription,
    Code,
    OpenAccount,
    RenewSubscription,
    SubscriptionPayment,
)
from worker.catalog import Tier
from worker.core.account import Account
from worker.core.calendars import (
    AHEAD,
    allocation_period,
    begin_gateways,
    begin_own,
    give_up_ahead,
    is_granted_to_gateway,
    last_start,
)
from worker.core.cancellations import is_late
from worker.core.credits import credit, forfeit, schedule
from worker.core.known import AccountState, Lot, Source
from worker.core.lots import Credit
from worker.core.outcomes import Outcome
from worker.core.periods import Period
from worker.core.rules.decisions import Context, Decision, applied, rejected
from worker.core.rules.payments import name_taken, subscription_payment
from worker.core.thresholds import compare_balance


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


# -- another tier -----------------------------------------------------------------------------------------


def change(account: Account, command: ChangeSubscription, outcome: Outcome, context: Context) -> Decision:
    """Change the tier: grant what the new one gives beyond what this period has had already."""
    tier, state, now = context.catalog.tiers.get(command.tier), account.state, context.now
    if tier is None:
        return rejected(Code.UNKNOWN_TIER, tier=command.tier)
    if (refused := _taken_name(command.payment, context)) is not None:
        return refused
    if command.effective_at == "period_end":
        if account.has_ended:
            return rejected(Code.SUBSCRIPTION_NOT_ACTIVE)
        return _change_later(account, command.tier, _paid_until(state, now))
    named = _gateways_period(command)
    if named is not None and not _is_open(named, now):
        return rejected(Code.PERIOD_OUT_OF_RANGE, **_named(named))
    if named is not None and not is_granted_to_gateway(state, named):
        return _change_with_period(account, command, tier, named, outcome, context)
    return _change_now(account, command, tier, outcome, context)


def _change_now(
    account: Account, command: ChangeSubscription, tier: Tier, outcome: Outcome, context: Context
) -> Decision:
    """Change the tier within what is granted, which is never taken back."""
    state, now = account.change(), context.now
    if (ahead := _ahead(state, now)) is not None:
        return _change_ahead(account, command, tier, ahead, outcome, context)
    if now >= state.granted_until:
        begin_own(state, allocation_period(state, now), now)
        state.period_granted = 0
    elif command.payment is not None and account.has_ended:
        state.period_granted = 0  # it is paid once more
    extra = max(tier.monthly_tokens - state.period_granted, 0)
    previous, until = state.tier, state.granted_until
    state.period_granted += extra
    _set_tier(state, command.tier)
    _grant(account, outcome, extra, Period(now, until))
    decision = applied(
        Code.SUBSCRIPTION_CHANGED,
        extra,
        tier=command.tier,
        previous_tier=previous,
        period_end=until.isoformat(),
    )
    return _with_payment(account, command, decision, outcome, context)


def _change_ahead(
    account: Account,
    command: ChangeSubscription,
    tier: Tier,
    ahead: datetime,
    outcome: Outcome,
    context: Context,
) -> Decision:
    """Change the tier on the last day of a period whose next one is granted: the change counts for that.

    An upgrade comes with it, and with what the tier gives beyond what is granted. Any other tier comes after
    it: what is paid stays.
    """
    state = account.change()
    then = state.tier
    if state.next_tier is not None and state.next_tier_at is not None and state.next_tier_at <= ahead:
        then = state.next_tier
    extra = max(tier.monthly_tokens - state.period_granted, 0)
    at = ahead if extra or command.tier == then else state.granted_until
    state.period_granted += extra
    _grant(account, outcome, extra, Period(ahead, state.granted_until))
    decision = _change_later(account, command.tier, at)._replace(amount=extra)
    return _with_payment(account, command, decision, outcome, context)


def _change_with_period(
    account: Account,
    command: ChangeSubscription,
    tier: Tier,
    period: Period,
    outcome: Outcome,
    context: Context,
) -> Decision:
    """Change the tier with the beginning of a gateway's period, and grant all that it gives.

    What is left of the period before stays until its own end.
    """
    state = account.change()
    previous = state.tier
    state.ends_at = None
    starts = _grant_gateways(account, outcome, tier.monthly_tokens, period, context.now)
    if starts > context.now:
        later = _change_later(account, command.tier, starts)._replace(amount=tier.monthly_tokens)
        later = later._replace(detail={**later.detail, **_named(period)})
        return _with_payment(account, command, later, outcome, context)
    _set_tier(state, command.tier)
    decision = applied(
        Code.SUBSCRIPTION_CHANGED,
        tier.monthly_tokens,
        tier=command.tier,
        previous_tier=previous,
        **_named(period),
    )
    return _with_payment(account, command, decision, outcome, context)


def _change_later(account: Account, tier: str, at: datetime) -> Decision:
    """Let ``tier`` take the place of the present one at ``at``, which keeps all of its own until then."""
    state = account.change()
    if state.next_tier is not None and state.next_tier_at is not None and state.next_tier_at < at:
        state.tier = state.next_tier  # that of a period granted ahead, which isn't lost
    state.next_tier, state.next_tier_at, state.ends_at = tier, at, None
    account.look_again_at(at)
    account.look_again_to_renew()
    return applied(Code.CHANGE_SCHEDULED, 0, tier=tier, previous_tier=state.tier, effective_at=at.isoformat())


def _set_tier(state: AccountState, tier: str) -> None:
    """Set the tier; neither another one nor an end is waited for."""
    state.tier, state.next_tier, state.next_tier_at, state.ends_at = tier, None, None, None


# -- another period ---------------------------------------------------------------------------------------


def renew(account: Account, command: RenewSubscription, outcome: Outcome, context: Context) -> Decision:
    """Grant a period's allocation once: the present one's, or the next one's within a day of its start."""
    state, now = account.state, context.now
    if state.ends_at is not None:
        return rejected(Code.SUBSCRIPTION_NOT_ACTIVE)
    if (refused := _taken_name(command.payment, context)) is not None:
        return refused
    named = _gateways_period(command)
    period = _own_period(state, command.period_start, now) if named is None else _fresh(state, named, now)
    if isinstance(period, Decision):
        return period
    following = _next_tier_of(state, period, is_gateways=named is not None)
    name = state.tier if following is None else following
    tier = context.catalog.tiers.get(name)
    if tier is None:
        return rejected(Code.UNKNOWN_TIER, tier=name)
    state, tokens = account.change(), tier.monthly_tokens
    if named is not None:
        starts = _grant_gateways(account, outcome, tokens, period, now)
        if state.next_tier_at is not None and period.start < state.next_tier_at - AHEAD:
            state.next_tier_at = period.start
            account.look_again_at(period.start)
    else:
        starts = period.start if period != allocation_period(state, now) else now
        begin_own(state, period, now)
        state.period_granted = tokens
        _grant(account, outcome, tokens, period, is_ahead=starts > now)
    code = Code.RENEWAL_SCHEDULED if starts > now else Code.SUBSCRIPTION_RENEWED
    decision = applied(code, tokens, tier=name, **_named(period))
    return _with_payment(account, command, decision, outcome, context)


def _own_period(state: AccountState, named: datetime | None, now: datetime) -> Period | Decision:
    """Return the period of the account's own calendar that a renewal is about, or the refusal.

    On the last day of a granted period, by now, a renewal is about the next one, unless it names the day on
    which the present one began.
    """
    present, at = allocation_period(state, now), now if named is None else named
    earliest = state.anchor if state.granted_from is None else present.start
    if not (earliest - AHEAD <= at <= now + AHEAD or present.start <= at < present.end):
        return rejected(Code.PERIOD_OUT_OF_RANGE, period_start=at.isoformat())
    period = allocation_period(state, max(at, earliest))
    is_about_next = period.end - at <= AHEAD or (period == present and at - present.start > AHEAD)
    if period.end <= state.granted_until and is_about_next and period.end - now <= AHEAD:
        period = allocation_period(state, period.end)
    if period.end <= state.granted_until:
        return rejected(Code.PERIOD_ALREADY_GRANTED, **_named(period))
    is_next = period.start == present.end and state.granted_until >= period.start
    if period != present and not is_next:
        return rejected(Code.PERIOD_OUT_OF_RANGE, **_named(period))
    return period


def _fresh(state: AccountState, period: Period, now: datetime) -> Period | Decision:
    """Return a gateway's own period where it can be granted, or the refusal."""
    if is_granted_to_gateway(state, period):
        return rejected(Code.PERIOD_ALREADY_GRANTED, **_named(period))
    if not _is_open(period, now):
        return rejected(Code.PERIOD_OUT_OF_RANGE, **_named(period))
    return period


def _is_open(period: Period, now: datetime) -> bool:
    """Return True for a period that goes on, or begins within a day."""
    return period.start <= now + AHEAD and now < period.end


def _next_tier_of(state: AccountState, period: Period, *, is_gateways: bool) -> str | None:
    """Return the tier that was chosen for the time from ``period`` on; None where it goes on as it is.

    The gateway's next period is the one that was meant, wherever it begins.
    """
    if state.next_tier is None or state.next_tier_at is None:
        return None
    return state.next_tier if is_gateways or period.start > state.next_tier_at - AHEAD else None


def _grant_gateways(
    account: Account, outcome: Outcome, tokens: int, period: Period, now: datetime
) -> datetime:
    """Grant a period that a gateway named; return when its tokens take effect.

    It is when the period begins, or at once where no other is granted until then.
    """
    state = account.change()
    starts = period.start if now < state.granted_until else min(period.start, now)
    begin_gateways(state, period, now)
    state.period_granted = tokens
    _grant(account, outcome, tokens, Period(starts, period.end), is_ahead=starts > now)
    return starts


def _grant(
    account: Account, outcome: Outcome, tokens: int, period: Period, *, is_ahead: bool | None = None
) -> None:
    """Grant the tokens of a period, which take effect when it begins."""
    if tokens:
        new = Credit(tokens, Source.ALLOCATION, *period)
        waits = period.start > account.now if is_ahead is None else is_ahead
        (schedule if waits else credit)(account, outcome, new)
    account.look_again_to_renew()


# -- the end ----------------------------------------------------------------------------------------------


def cancel(account: Account, command: CancelSubscription, outcome: Outcome, context: Context) -> Decision:
    """End the subscription: no more periods; what was bought or given otherwise stays."""
    is_now = command.at == "now"
    if is_late(command, context.taken_up(account.state.user_id)):
        return _cancel_late(account, command, outcome)
    if account.has_ended or (account.state.ends_at is not None and not is_now):
        return rejected(Code.SUBSCRIPTION_NOT_ACTIVE)
    state, lost = account.change(), 0
    state.next_tier = state.next_tier_at = None
    if not is_now:
        state.ends_at = max(state.granted_until, context.now)
    elif (ahead := _ahead(state, context.now)) is not None:
        lost = _give_up(account, outcome, ahead)  # pending, unless a clock ahead began it
        give_up_ahead(state, ahead, context.now)
        state.ends_at = ahead
        present = (lot for lot in _allocations(account) if lot.parent is None and lot.expires_at == ahead)
        state.period_granted = sum(lot.granted for lot in present)
    else:
        state.ends_at = context.now
        lost = _give_up(account, outcome, None)
        # Who pays again gets what is paid. What costs nothing can be taken up again, and not refreshed.
        is_free = account.tier is not None and account.tier.auto_renew
        if context.now < state.granted_until:
            state.period_granted = max(state.period_granted - lost, 0) if is_free else 0
    return applied(Code.SUBSCRIPTION_CANCELED, lost, period_end=state.ends_at.isoformat())


def _cancel_late(account: Account, command: CancelSubscription, outcome: Outcome) -> Decision:
    """Let a subscription go on that was taken up after this cancellation.

    One at once ends what is left of periods that had begun by then, unless they are the present one.
    """
    lost = 0
    if command.at == "now" and command.occurred_at is not None:
        own = [
            lot
            for lot in _allocations(account)
            if lot.effective_at <= command.occurred_at and lot.expires_at != account.state.granted_until
        ]
        lost = sum(forfeit(account, outcome, lot) for lot in own)
    return applied(Code.CANCELLATION_LATE, lost)


def _give_up(account: Account, outcome: Outcome, since: datetime | None) -> int:
    """End the allocations, or those from ``since`` on; return the tokens that expire."""
    own = _allocations(account)
    return sum(forfeit(account, outcome, lot) for lot in own if since is None or lot.effective_at >= since)


def _allocations(account: Account) -> list[Lot]:
    """Return the lots of allocations that haven't ended, also where they are used up."""
    return [
        lot
        for lot in account.lots.values()
        if lot.source is Source.ALLOCATION
        and lot.ended_at is None  # also where another worker's clock is behind the one that ended it
        and (lot.expires_at is None or lot.expires_at > account.now)
    ]


# -- helpers of all ---------------------------------------------------------------------------------------


def _ahead(state: AccountState, now: datetime) -> datetime | None:
    """Return the start of the period that is granted ahead; None where none is."""
    start = last_start(state)
    return start if start is not None and start > now else None


def _paid_until(state: AccountState, now: datetime) -> datetime:
    """Return the end of what is granted, or of the present period where nothing is."""
    return state.granted_until if now < state.granted_until else allocation_period(state, now).end


def _gateways_period(command: ChangeSubscription | RenewSubscription) -> Period | None:
    if command.period_start is None or command.period_end is None:
        return None
    return Period(command.period_start, command.period_end)


def _taken_name(payment: SubscriptionPayment | None, context: Context) -> Decision | None:
    if payment is None:
        return None
    return name_taken(payment.reference_id, payment.also_known_as or (), context)


def _with_payment(
    account: Account,
    command: ChangeSubscription | RenewSubscription,
    decision: Decision,
    outcome: Outcome,
    context: Context,
) -> Decision:
    """Record the payment of what was granted, where the command carries one."""
    if command.payment is None:
        return decision
    tokens = decision.amount or 0
    more = subscription_payment(account, command.payment, tokens, outcome, context)
    return decision._replace(detail={**decision.detail, **more})


def _named(period: Period) -> dict[str, str]:
    return {"period_start": period.start.isoformat(), "period_end": period.end.isoformat()}
