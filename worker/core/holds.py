"""Holds: tokens that lots keep for work to come, and their end."""

from collections.abc import Iterable
from datetime import datetime

from worker.core.account import Account
from worker.core.known import Hold, HoldState, Lot
from worker.core.outcomes import Outcome


def open_hold(account: Account, outcome: Outcome, amount: int, expires_at: datetime) -> Hold:
    """Keep ``amount`` tokens, which are available, for work to come."""
    hold = Hold(
        account_id=account.state.account_id,
        reference_id=outcome.reference_id,
        amount=amount,
        parts=_keep(account, amount),
        opened_at=account.now,
        expires_at=expires_at,
        outcome=outcome,
    )
    account.add_hold(hold)
    account.look_again_at(expires_at)
    return hold


def keep_lots(
    account: Account, outcome: Outcome, reference_id: str, lots: Iterable[Lot], expires_at: datetime
) -> None:
    """Keep all that is free of ``lots``, which a disputed payment made; nothing where none is."""
    parts = []
    for lot in lots:
        if free := lot.free:
            lot.held += free
            account.touch(lot)
            parts.append((lot.number, free))
    if not parts:
        return
    account.reorder_lots()
    hold = Hold(
        account_id=account.state.account_id,
        reference_id=reference_id,
        amount=sum(tokens for _, tokens in parts),
        parts=tuple(parts),
        opened_at=account.now,
        expires_at=expires_at,
        is_dispute=True,
        outcome=outcome,
    )
    account.add_hold(hold)
    account.look_again_at(expires_at)


def _keep(account: Account, amount: int) -> tuple[tuple[int, int], ...]:
    """Keep free tokens in burn order; return the parts, as (lot, tokens)."""
    parts, left = [], amount
    for lot, free in account.burning():
        part = min(free, left)
        lot.held += part
        account.touch(lot)
        parts.append((lot.number, part))
        left -= part
        if left == 0:
            break
    return tuple(parts)


def close_hold(
    account: Account,
    outcome: Outcome,
    hold: Hold,
    state: HoldState,
    *,
    at: datetime | None = None,
    captured: int = 0,
) -> None:
    """End a hold, at ``at`` or now; its tokens are free again for any command."""
    hold.state, hold.captured = state, captured
    hold.closed_at, hold.closed_by = at or account.now, outcome
    for number, amount in hold.parts:
        lot = account.lots[number]
        lot.held -= amount
        account.touch(lot)
        account.refill(lot, may_expire=True)  # while all of it was held, its expiry was not waited for
    account.end_hold(hold)
