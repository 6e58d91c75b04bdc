"""Two-phase usage: reserve, extend, then capture (``usage.settle``) or release, which ends the hold.

A hold that has run out is closed before any rule is asked: time ends it, and not whoever posts that.
"""

from datetime import timedelta

from schemas import Code, ExtendUsage, ReleaseUsage, ReserveUsage, SettleUsage
from worker.core.account import Account
from worker.core.due import next_due
from worker.core.holds import close_hold, open_hold
from worker.core.known import Hold, HoldState
from worker.core.outcomes import Outcome
from worker.core.plan import Counter
from worker.core.rules.decisions import Context, Decision, applied, rejected, short_of


def reserve(account: Account, command: ReserveUsage, outcome: Outcome, context: Context) -> Decision:
    """Keep tokens for work to come; the balance stays, less of it is available."""
    available = account.state.available
    if command.tokens > available:
        return short_of(command.tokens, available)
    expires_at = context.now + timedelta(seconds=command.ttl_seconds)
    open_hold(account, outcome, command.tokens, expires_at)
    return applied(Code.TOKENS_RESERVED, command.tokens, expires_at=expires_at.isoformat())


def extend(account: Account, command: ExtendUsage, context: Context) -> Decision:
    """Let the hold end so many seconds from now, never earlier than it would have."""
    hold = _named(account, command)
    if hold is None or hold.state is not HoldState.OPEN:
        return _gone(command, hold)
    account.extend_hold(hold, context.now + timedelta(seconds=command.ttl_seconds))
    account.change().due_at = next_due(account)  # nobody need come for the old end
    return applied(
        Code.HOLD_EXTENDED,
        hold.amount,
        original_reference_id=command.original_reference_id,
        expires_at=hold.expires_at.isoformat(),
    )


def capture(account: Account, command: SettleUsage, outcome: Outcome) -> Decision:
    """Capture the used tokens of a hold, also where its lots have expired meanwhile."""
    hold = _named(account, command)
    if hold is None or hold.state not in (HoldState.OPEN, HoldState.EXPIRED):
        return _gone(command, hold)
    has_run_out = hold.state is HoldState.EXPIRED
    if has_run_out and command.on_expired == "refuse":
        return _gone(command, hold)
    excess = command.tokens - hold.amount
    if excess > 0 and command.on_excess == "refuse":
        return _of(command, short_of(command.tokens, hold.amount, Code.HOLD_EXCEEDED))
    if has_run_out:
        return _capture_late(account, command, outcome, hold)
    if excess > account.state.available and excess > 0:
        return _of(command, short_of(command.tokens, hold.amount + account.state.available))
    close_hold(account, outcome, hold, HoldState.SETTLED, captured=command.tokens)
    left = min(command.tokens, hold.amount)
    for number, amount in hold.parts:
        part = min(amount, left)
        if part:
            account.post(outcome, Counter.USAGE, -part, account.lots[number], feature=command.feature)
        left -= part
    if excess > 0:
        account.take(outcome, excess, Counter.USAGE, command.feature)
    return applied(
        Code.HOLD_SETTLED,
        command.tokens,
        original_reference_id=command.original_reference_id,
        released=max(-excess, 0),
    )


def _capture_late(account: Account, command: SettleUsage, outcome: Outcome, hold: Hold) -> Decision:
    """Take up to the used tokens from what is available, once: the hold is settled from then on."""
    available = account.state.available
    tokens = min(command.tokens, max(available, 0))
    account.take(outcome, tokens, Counter.USAGE, command.feature)
    account.capture_late(hold, tokens)
    return applied(
        Code.HOLD_SETTLED_LATE,
        tokens,
        original_reference_id=command.original_reference_id,
        required=command.tokens,
        available=available,
        shortfall=command.tokens - tokens,
    )


def release(account: Account, command: ReleaseUsage, outcome: Outcome) -> Decision:
    """Release the hold: nothing was used."""
    hold = _named(account, command)
    if hold is None or hold.state is not HoldState.OPEN:
        return _gone(command, hold)
    close_hold(account, outcome, hold, HoldState.RELEASED)
    return applied(Code.HOLD_RELEASED, hold.amount, original_reference_id=command.original_reference_id)


def _named(account: Account, command: ExtendUsage | SettleUsage | ReleaseUsage) -> Hold | None:
    """Return the hold that usage opened; what a dispute keeps is none of it."""
    hold = account.holds.get(command.original_reference_id)
    return None if hold is None or hold.is_dispute else hold


def _gone(command: ExtendUsage | SettleUsage | ReleaseUsage, hold: Hold | None) -> Decision:
    if hold is None:
        return rejected(Code.HOLD_NOT_FOUND, original_reference_id=command.original_reference_id)
    return rejected(
        Code.HOLD_CLOSED, original_reference_id=command.original_reference_id, state=hold.state.value
    )


def _of(command: SettleUsage, decision: Decision) -> Decision:
    return decision._replace(
        detail={"original_reference_id": command.original_reference_id, **decision.detail}
    )
