"""Two-phase usage: reserve, then capture (``usage.settle``) or release. The first of them ends the hold."""

from datetime import timedelta

from schemas import Code, ReleaseUsage, ReserveUsage, SettleUsage
from worker.core.account import Account
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


def capture(account: Account, command: SettleUsage, outcome: Outcome) -> Decision:
    """Capture the used tokens of a hold, also where its lots have expired meanwhile."""
    hold = account.holds.get(command.original_reference_id)
    if hold is None or hold.state is not HoldState.OPEN:
        return _gone(command, hold)
    excess = command.tokens - hold.amount
    if excess > 0:
        if command.on_excess == "refuse":
            return _of(command, short_of(command.tokens, hold.amount, Code.HOLD_EXCEEDED))
        if excess > account.state.available:
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


def release(account: Account, command: ReleaseUsage, outcome: Outcome) -> Decision:
    """Release the hold: nothing was used."""
    hold = account.holds.get(command.original_reference_id)
    if hold is None or hold.state is not HoldState.OPEN:
        return _gone(command, hold)
    close_hold(account, outcome, hold, HoldState.RELEASED)
    return applied(Code.HOLD_RELEASED, hold.amount, original_reference_id=command.original_reference_id)


def _gone(command: SettleUsage | ReleaseUsage, hold: Hold | None) -> Decision:
    if hold is None:
        return rejected(Code.HOLD_NOT_FOUND, original_reference_id=command.original_reference_id)
    return rejected(
        Code.HOLD_CLOSED, original_reference_id=command.original_reference_id, state=hold.state.value
    )


def _of(command: SettleUsage, decision: Decision) -> Decision:
    return decision._replace(
        detail={"original_reference_id": command.original_reference_id, **decision.detail}
    )
