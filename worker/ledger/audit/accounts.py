"""Checks of what an account caches: the sums of its entries, its lots and its holds."""

from typing import Any

from sqlalchemy import and_, case, func, or_, select
from sqlalchemy.sql import FromClause

from schemas import Code, Status
from worker.core.known import HoldState, Source
from worker.core.plan import Counter
from worker.ledger.audit.comparing import (
    ONE,
    ZERO,
    Checks,
    Column,
    Condition,
    detail_of,
    differences,
    only,
    rows,
    sums_without,
    untrue,
    zero_if_none,
)
from worker.ledger.audit.scope import Scope, agree
from worker.ledger.audit.user_slots import slot_of_user
from worker.ledger.tables import accounts, entries, holds, lots, operations

#: Checks that find an account without exactly one entry for each number up to its sequence.
NUMBERED = ("sequence", "entry_gap")

# The account's column, the entries behind it, and their sign.
_SUMS = (
    ("allocated", Counter.ALLOCATION, 1),
    ("purchased", Counter.PURCHASES, 1),
    ("bonus", Counter.BONUS, 1),
    ("refunded", Counter.REFUNDS, 1),
    ("adjusted", Counter.ADJUSTMENTS, 1),
    ("used", Counter.USAGE, -1),
    ("expired", Counter.EXPIRY, -1),
    ("reversed", Counter.REVERSALS, -1),
)


def sums(scope: Scope) -> Checks:
    """Compare all sums of an account with the rows that they sum, and its slot with its user."""
    account = accounts.c
    posted, kept, held = _posted(scope), _kept(scope), _held(scope)
    statement = (
        rows(slot=account.slot, account_id=account.account_id)
        .join_from(accounts, posted, agree(posted, accounts, account_id="account_id"), isouter=True)
        .join(kept, agree(kept, accounts, account_id="account_id"), isouter=True)
        .join(held, agree(held, accounts, account_id="account_id"), isouter=True)
        .where(scope.of(accounts))
    )
    names = ("balance", "sequence", "debt", *(name for name, _, _ in _SUMS))
    # Tokens granted before there were lots are in a lot that was carried over.
    has_lots_only = zero_if_none(kept.c.carried) == 0
    granted, ended = zero_if_none(kept.c.period), zero_if_none(kept.c.ended)
    unseen = zero_if_none(kept.c.unseen) + zero_if_none(held.c.unseen)
    allocated, bonus = (zero_if_none(posted.c[name]) for name in ("allocated", "bonus"))
    allocations, bonuses = (zero_if_none(kept.c[name]) for name in ("allocations", "bonuses"))
    return differences(
        statement,
        {
            "account_slot": (slot_of_user(account.user_id), account.slot),
            **{name: (zero_if_none(posted.c[name]), account[name]) for name in names},
            "lots": (zero_if_none(kept.c.remaining) - account.debt, account.balance),
            "lot_count": (zero_if_none(kept.c.last), account.lot_count),
            "held": (zero_if_none(held.c.amount), account.held),
            "due": (ZERO, unseen + case((_is_unseen(account.next_tier_at), ONE), else_=ZERO)),
            # Of what a cancellation ended a part may count, where the tier costs nothing.
            "period_granted": only(
                and_(
                    or_(has_lots_only, granted > account.period_granted),
                    ~account.period_granted.between(granted, granted + ended),
                ),
                granted,
                account.period_granted,
            ),
            "next_tier": untrue(_is_next_tier_wrong(scope), ONE),
            # Less, where one was given up before it took effect.
            "allocation_lots": only(and_(has_lots_only, allocated > allocations), allocations, allocated),
            "bonus_lots": only(has_lots_only, bonuses, bonus),
        },
    )


def _is_next_tier_wrong(scope: Scope) -> Condition:
    """Return the condition that no change of the account's user chose the tier that is to follow."""
    account, change = accounts.c, operations.alias("change")
    is_its = and_(
        scope.on(change, accounts, user_id="user_id"),
        change.c.status == Status.APPLIED.value,
        change.c.code == Code.CHANGE_SCHEDULED.value,
        detail_of(change, "tier") == account.next_tier,
    )
    is_chosen = and_(account.next_tier_at.is_not(None), select(1).where(is_its).exists())
    is_none = and_(account.next_tier.is_(None), account.next_tier_at.is_(None))
    return case((is_none, False), else_=~is_chosen)


def missing(scope: Scope) -> Checks:
    """Find entries without an account; only needed where the accounts have fewer entries than there are."""
    return [sums_without(scope, "account_missing", entries, accounts, "account_id")]


def _posted(scope: Scope) -> FromClause:
    entry = entries.c
    return (
        select(
            entry.slot,
            entry.account_id,
            func.sum(entry.amount).label("balance"),
            func.max(entry.sequence).label("sequence"),
            (-func.sum(entry.amount).filter(entry.lot.is_(None))).label("debt"),
            *(
                (sign * func.sum(entry.amount).filter(entry.counter == counter.value)).label(name)
                for name, counter, sign in _SUMS
            ),
        )
        .where(scope.of(entries))
        .group_by(entry.account_id, entry.slot)
        .subquery("posted")
    )


def _kept(scope: Scope) -> FromClause:
    lot = lots.c
    is_allocation = and_(lot.source == Source.ALLOCATION.value, lot.parent.is_(None))
    is_present = and_(is_allocation, lot.expires_at == accounts.c.granted_until)
    is_bonus = lot.source.in_([Source.BONUS.value, Source.PURCHASE_BONUS.value])
    in_effect = lot.granted - lot.pending
    return (
        select(
            lot.slot,
            lot.account_id,
            func.sum(lot.remaining).label("remaining"),
            func.max(lot.number).label("last"),
            func.sum(in_effect).filter(is_allocation).label("allocations"),
            func.sum(in_effect).filter(is_bonus).label("bonuses"),
            func.sum(lot.granted).filter(is_present, lot.ended_at.is_(None)).label("period"),
            func.sum(lot.granted).filter(is_present, lot.ended_at.is_not(None)).label("ended"),
            func.count().filter(lot.source == Source.CARRIED_OVER.value).label("carried"),
            func.count()
            .filter(
                or_(
                    and_(lot.pending > 0, _is_unseen(lot.effective_at)),
                    and_(lot.remaining > lot.held, _is_unseen(lot.expires_at)),
                )
            )
            .label("unseen"),
        )
        .join_from(lots, accounts, scope.on(accounts, lots, account_id="account_id"))
        .where(scope.of(lots))
        .group_by(lot.account_id, lot.slot)
        .subquery("kept")
    )


def _held(scope: Scope) -> FromClause:
    hold = holds.c
    return (
        select(
            hold.slot,
            hold.account_id,
            func.sum(hold.amount).label("amount"),
            func.count().filter(_is_unseen(hold.expires_at)).label("unseen"),
        )
        .join_from(holds, accounts, scope.on(accounts, holds, account_id="account_id"))
        .where(scope.of(holds), hold.state == HoldState.OPEN.value)
        .group_by(hold.account_id, hold.slot)
        .subquery("held")
    )


def _is_unseen(moment: Column) -> Any:
    """Return the condition that the account waits for something later than ``moment``, or for nothing."""
    return and_(moment.is_not(None), or_(accounts.c.due_at.is_(None), accounts.c.due_at > moment))
