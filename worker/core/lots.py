"""Lots by themselves: what opens one, the order in which they are spent, and when time touches one."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from worker.core.known import Lot, Source
from worker.core.plan import Counter

#: The counter-account of a lot's tokens when they come in.
COUNTER_OF: dict[Source, Counter] = {
    Source.ALLOCATION: Counter.ALLOCATION,
    Source.PURCHASE: Counter.PURCHASES,
    Source.PURCHASE_BONUS: Counter.BONUS,
    Source.BONUS: Counter.BONUS,
    Source.REFUND: Counter.REFUNDS,
    Source.ADJUSTMENT: Counter.ADJUSTMENTS,
}


@dataclass(frozen=True, slots=True)
class Credit:
    """New tokens, and the lot that is opened for them.

    Without ``effective_at`` they take effect now, without ``expires_at`` never expire. ``priority`` is the
    catalog's for the source unless it is given, ``counter`` the one that the source has. ``parent`` is the
    number of the lot that the new one belongs to.
    """

    amount: int
    source: Source
    effective_at: datetime | None = None
    expires_at: datetime | None = None
    priority: int | None = None
    parent: int | None = None
    counter: Counter | None = None


def in_burn_order(lots: Iterable[Lot]) -> list[Lot]:
    """Return the lots that have tokens left, in the order in which they are spent."""
    return sorted((lot for lot in lots if lot.remaining), key=_burn_order)


def _burn_order(lot: Lot) -> tuple[int, bool, float, datetime, int]:
    """Return the place of a lot: by priority, then the sooner end, then what took effect first."""
    at = lot.ends_at
    ends = 0.0 if at is None else at.timestamp()
    return lot.priority, at is None, ends, lot.effective_at, lot.number


def lot_due_at(lot: Lot, now: datetime, notice_days: int) -> datetime | None:
    """Return the next due time of the tokens that remain: of a notice or the expiry; or None."""
    if lot.ends_at is None or lot.remaining == 0:
        return None
    if now < lot.ends_at and (at := notice_due_at(lot, notice_days)) is not None:
        return at
    # Held tokens expire when they are freed: until then the end of the hold is waited for.
    return lot.ends_at if lot.free else None


def is_notice_due(lot: Lot, now: datetime, notice_days: int) -> bool:
    """Return True while a notice of the lot's expiry is to be written: not before, and not from then on."""
    at, ends_at = notice_due_at(lot, notice_days), lot.ends_at
    return at is not None and ends_at is not None and at <= now < ends_at


def notice_due_at(lot: Lot, notice_days: int) -> datetime | None:
    """Return when the notice of the lot's expiry is due; None where there is none to be written."""
    if lot.ends_at is None or lot.remaining == 0 or lot.is_noticed:
        return None
    if notice_days == 0 or lot.source is Source.ALLOCATION:
        return None
    return lot.ends_at - timedelta(days=notice_days)
