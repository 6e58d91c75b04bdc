"""Tokens that come into an account's lots, go back to them, or end before their time."""

from collections.abc import Iterable
from datetime import datetime

from worker.core.account import Account
from worker.core.known import Lot
from worker.core.lots import COUNTER_OF, Credit
from worker.core.outcomes import Outcome
from worker.core.plan import Counter


def credit(account: Account, outcome: Outcome, new: Credit, *, due_at: datetime | None = None) -> Lot:
    """Open a lot of new tokens and return it; a debt is repaid with them first."""
    lot = open_lot(account, outcome, new)
    _fill(account, outcome, lot, new.amount, new.counter or COUNTER_OF[new.source], due_at)
    return lot


def schedule(account: Account, outcome: Outcome, new: Credit) -> Lot:
    """Open a lot of tokens that take effect at their ``effective_at``; no balance has them before."""
    lot = open_lot(account, outcome, new)
    lot.pending = new.amount
    account.look_again_at(lot.effective_at)
    return lot


def take_effect(account: Account, outcome: Outcome, lot: Lot, at: datetime) -> None:
    """Post the pending tokens of a lot, whose time came at ``at``."""
    amount, lot.pending = lot.pending, 0
    account.touch(lot)
    _fill(account, outcome, lot, amount, COUNTER_OF[lot.source], at)


def open_lot(account: Account, outcome: Outcome, new: Credit) -> Lot:
    """Open the lot of ``new`` without its tokens and return it."""
    lot = Lot(
        account_id=account.state.account_id,
        number=account.number_lot(),
        source=new.source,
        granted=new.amount,
        priority=_usual_priority(account, new) if new.priority is None else new.priority,
        effective_at=new.effective_at or account.now,
        expires_at=new.expires_at,
        parent=new.parent,
        outcome=outcome,
    )
    account.add_lot(lot)
    return lot


def _usual_priority(account: Account, new: Credit) -> int:
    priority: int = getattr(account.catalog.priorities, new.source.value)
    return priority


def put_back(account: Account, outcome: Outcome, parts: Iterable[tuple[int, int]]) -> None:
    """Give refunded tokens back to their lots, as (lot, tokens); a debt is repaid first."""
    for number, tokens in parts:
        lot, repaid = account.lots[number], min(account.state.debt, tokens)
        if repaid:
            account.post(outcome, Counter.REFUNDS, repaid, None)
        if tokens > repaid:
            account.post(outcome, Counter.REFUNDS, tokens - repaid, lot)
        account.refill(lot, may_expire=True)


def forfeit(account: Account, outcome: Outcome, lot: Lot) -> int:
    """End a lot before its time and return its free tokens, which expire; pending ones never take effect.

    What a hold keeps of it, or a refund brings back, expires when it is free.
    """
    free = lot.free
    lot.ended_at = account.now
    if free:
        account.post(outcome, Counter.EXPIRY, -free, lot)
    lot.pending = 0
    account.touch(lot)
    return free


def _fill(
    account: Account, outcome: Outcome, lot: Lot, amount: int, counter: Counter, due_at: datetime | None
) -> None:
    """Post new tokens to their lot; ``due_at`` is given where time brought them."""
    repaid = min(account.state.debt, amount)
    if repaid:
        account.post(outcome, counter, repaid, None, due_at=due_at)
    if amount > repaid:
        account.post(outcome, counter, amount - repaid, lot, due_at=due_at)
    # What is given back may have an expiry that has passed.
    is_over = due_at is None and (ends_at := lot.ends_at) is not None and ends_at <= account.now
    account.refill(lot, may_expire=is_over)
