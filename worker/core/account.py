"""One account while a batch is decided: its lots, its holds, and the only place where a balance changes.

It posts what is due whenever a command touches the account: nothing waits for a job. Where something was due,
a command that may still be refused works on a ``branch``, so that a refusal leaves nothing behind.
"""

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import NamedTuple, assert_never

from worker.catalog import Catalog, NoticeThreshold, Tier
from worker.core.known import (
    ALERT_DEPLETED,
    ALERT_LOW,
    AccountState,
    Hold,
    HoldState,
    Lot,
    Payment,
    PaymentEvent,
    QuotaKey,
    QuotaState,
    Source,
    present_period,
)
from worker.core.outcomes import Detail, Outcome
from worker.core.periods import period_at
from worker.core.plan import AccountMove, Counter, Entry, Plan, QuotaEntry, UsageRefund

#: The counter-account of a lot's tokens when they come in.
COUNTER_OF: dict[Source, Counter] = {
    Source.ALLOCATION: Counter.ALLOCATION,
    Source.PURCHASE: Counter.PURCHASES,
    Source.PURCHASE_BONUS: Counter.BONUS,
    Source.BONUS: Counter.BONUS,
    Source.REFUND: Counter.REFUNDS,
    Source.ADJUSTMENT: Counter.ADJUSTMENTS,
}

#: Longest time between two looks at an account whose subscription runs, even where nothing seems due.
_LOOKED_AT_EVERY = timedelta(days=31)

# The order of things that are due at the same time.
_RUNS_OUT, _EXPIRES, _RENEWS, _TAKES_EFFECT = range(4)


class _Due(NamedTuple):
    """One thing that is due. Of several at one time, the lower rank comes first, then the earlier place.

    The place is one that the ledger remembers: a lot's number, or when a hold was opened and its reference.
    """

    at: datetime
    rank: int
    place: int | tuple[datetime, str]
    what: Hold | Lot | None


class _Waiting:
    """Things that are due, in their order; posting one of them may add more."""

    def __init__(self, due: Iterable[_Due | None]) -> None:
        self._heap: list[tuple[datetime, int, int | tuple[datetime, str], int, _Due]] = []
        self._count = 0
        self.add(due)

    def add(self, due: Iterable[_Due | None]) -> None:
        for one in due:
            if one is not None:
                self._count += 1
                heappush(self._heap, (one.at, one.rank, one.place, self._count, one))

    def next(self) -> _Due | None:
        """Return the earliest that is still to be posted, or None."""
        while self._heap:
            due = heappop(self._heap)[-1]
            if not isinstance(due.what, Lot) or due.what.free or due.rank == _TAKES_EFFECT:
                return due
        return None


@dataclass(slots=True)
class Written:
    """The rows that a batch writes about one account, in order."""

    entries: list[Entry] = field(default_factory=list)
    new_lots: list[Lot] = field(default_factory=list)
    changed_lots: dict[int, Lot] = field(default_factory=dict)
    new_holds: list[Hold] = field(default_factory=list)
    closed_holds: list[Hold] = field(default_factory=list)
    quota_entries: list[QuotaEntry] = field(default_factory=list)
    payments: list[Payment] = field(default_factory=list)
    payment_events: list[PaymentEvent] = field(default_factory=list)
    usage_refunds: list[UsageRefund] = field(default_factory=list)

    def branch(self, lots: Mapping[int, Lot], holds: Mapping[str, Hold]) -> "Written":
        """Return the same rows, with copies of the lots and holds."""
        return Written(
            entries=list(self.entries),
            new_lots=[lots[lot.number] for lot in self.new_lots],
            changed_lots={number: lots[number] for number in self.changed_lots},
            new_holds=[holds[hold.reference_id] for hold in self.new_holds],
            closed_holds=[holds[hold.reference_id] for hold in self.closed_holds],
            quota_entries=list(self.quota_entries),
            payments=list(self.payments),
            payment_events=list(self.payment_events),
            usage_refunds=list(self.usage_refunds),
        )


class Account:
    """State of one account after the commands answered so far, and the rows they wrote about it."""

    def __init__(
        self, state: AccountState, lots: Iterable[Lot], holds: Iterable[Hold], catalog: Catalog, now: datetime
    ) -> None:
        self.state = state
        self.lots = {lot.number: lot for lot in lots}
        self.holds = {hold.reference_id: hold for hold in holds}
        self.expired_now = 0
        self._catalog, self._now = catalog, now
        self._sequence_before = state.sequence
        self._freed = False
        self._only_used, self._is_changed = True, False
        #: The lots with something left, in the order in which they are spent; None until it is asked for.
        self.burn_order: list[Lot] | None = None
        self.quotas: dict[QuotaKey, QuotaState] = {}
        self.written = Written()

    def branch(self) -> "Account":
        """Return a copy that can be thrown away: its changes don't reach this one."""
        other = copy(self)
        other.state = self.state.clone()
        other.lots = {number: lot.clone() for number, lot in self.lots.items()}
        other.holds = {reference: hold.clone() for reference, hold in self.holds.items()}
        other.burn_order = None
        other.quotas = {key: quota.clone() for key, quota in self.quotas.items()}
        other.written = self.written.branch(other.lots, other.holds)
        return other

    def enter(self, plan: Plan) -> None:
        """Add all rows that were written about this account to ``plan``."""
        if self._is_changed:
            plan.accounts.append(AccountMove(self.state, self._sequence_before, self._only_used))
        written = self.written
        plan.entries += written.entries
        if self._only_used:  # then it wrote no other rows
            plan.used_lots += written.changed_lots.values()
            return
        plan.changed_lots += written.changed_lots.values()
        plan.new_lots += written.new_lots
        plan.new_holds += written.new_holds
        plan.closed_holds += written.closed_holds
        plan.quota_entries += written.quota_entries
        plan.payments += written.payments
        plan.payment_events += written.payment_events
        plan.usage_refunds += written.usage_refunds

    def change(self) -> AccountState:
        """Return the state, to change more of it than usage does."""
        self._is_changed = True
        self._only_used = False
        return self.state

    @property
    def tier(self) -> Tier | None:
        """The account's tier; None where the catalog no longer has it."""
        return self._catalog.tiers.get(self.state.tier)

    @property
    def has_ended(self) -> bool:
        """True where the subscription was canceled and its last period is over."""
        return self.state.ends_at is not None and self.state.ends_at <= self._now

    # -- tokens -------------------------------------------------------------------------------------------

    def credit(
        self,
        outcome: Outcome,
        amount: int,
        source: Source,
        *,
        counter: Counter | None = None,
        expires_at: datetime | None = None,
        effective_at: datetime | None = None,
        priority: int | None = None,
        parent: int | None = None,
        due_at: datetime | None = None,
    ) -> Lot:
        """Open a lot of ``amount`` new tokens and return it. A debt is repaid with them first."""
        lot = self._open_lot(outcome, amount, source, effective_at, expires_at, priority, parent)
        self._fill(outcome, lot, amount, counter or COUNTER_OF[source], due_at)
        return lot

    def schedule(
        self,
        outcome: Outcome,
        amount: int,
        source: Source,
        *,
        effective_at: datetime,
        expires_at: datetime | None = None,
        priority: int | None = None,
    ) -> Lot:
        """Open a lot of tokens that take effect at ``effective_at``; no balance has them before."""
        lot = self._open_lot(outcome, amount, source, effective_at, expires_at, priority, None)
        lot.pending = amount
        self._look_again_at(effective_at)
        return lot

    def take(self, outcome: Outcome, amount: int, counter: Counter, feature: str | None = None) -> int:
        """Take up to ``amount`` free tokens in burn order; return the number taken."""
        left = amount
        for lot, free in self.burning():
            if left == 0:
                break
            part = min(free, left)
            self.post(outcome, counter, -part, lot, feature=feature)
            left -= part
        return amount - left

    def post(
        self,
        outcome: Outcome,
        counter: Counter,
        amount: int,
        lot: Lot | None,
        *,
        feature: str | None = None,
        due_at: datetime | None = None,
    ) -> None:
        """Post one entry to the account and the lot: the only place where a balance changes.

        Without a lot the entry moves the account's debt.
        """
        state = self.state
        before = state.balance
        after = state.balance = before + amount
        sequence = state.sequence = state.sequence + 1
        self._is_changed = True
        if counter is Counter.USAGE:
            state.used -= amount
        else:
            self._only_used = False
            self._sum(counter, amount)
            if counter is Counter.EXPIRY and due_at is not None:
                self.expired_now -= amount
        if lot is None:
            state.debt -= amount
        else:
            lot.remaining += amount
            if lot.outcome is None:  # a new lot is written whole
                self.written.changed_lots[lot.number] = lot
        if outcome.first_entry is None:
            outcome.first_entry = sequence
        outcome.last_entry = sequence
        self.written.entries.append(
            Entry(
                state.account_id,
                sequence,
                outcome,
                counter,
                amount,
                before,
                after,
                None if lot is None else lot.number,
                feature,
                due_at,
                due_at or outcome.occurred_at or self._now,
                self._now,
            )
        )

    def put_back(self, outcome: Outcome, parts: Iterable[tuple[int, int]]) -> None:
        """Give refunded tokens back to their lots, as (lot, tokens); a debt is repaid first."""
        for number, tokens in parts:
            repaid = min(self.state.debt, tokens)
            if repaid:
                self.post(outcome, Counter.REFUNDS, repaid, None)
            if tokens > repaid:
                lot = self.lots[number]
                self.post(outcome, Counter.REFUNDS, tokens - repaid, lot)
                self._expect_of(lot)
        self.burn_order = None  # what was used up may be spent again
        self._freed = True

    def forfeit(self, outcome: Outcome, lot: Lot) -> int:
        """End a lot before its time: its free tokens expire, its pending ones never take effect."""
        free = lot.free
        if free:
            self.post(outcome, Counter.EXPIRY, -free, lot)
        lot.pending = 0
        self._touch(lot)
        return free

    def owe(self, outcome: Outcome, amount: int, counter: Counter) -> None:
        """Take ``amount`` tokens as debt: the balance falls below what the lots hold."""
        if amount:
            self.post(outcome, counter, -amount, None)

    # -- holds --------------------------------------------------------------------------------------------

    def hold(self, outcome: Outcome, amount: int, expires_at: datetime) -> Hold:
        """Keep ``amount`` tokens, which are available, for work to come."""
        parts, left = [], amount
        for lot, free in self.burning():
            part = min(free, left)
            lot.held += part
            self._touch(lot)
            parts.append((lot.number, part))
            left -= part
            if left == 0:
                break
        state = self.change()
        state.held += amount
        hold = Hold(
            account_id=state.account_id,
            reference_id=outcome.reference_id,
            amount=amount,
            parts=tuple(parts),
            opened_at=self._now,
            expires_at=expires_at,
            outcome=outcome,
        )
        self.holds[hold.reference_id] = hold
        self.written.new_holds.append(hold)
        self._look_again_at(expires_at)
        return hold

    def close(
        self, outcome: Outcome, hold: Hold, state: HoldState, *, at: datetime | None = None, captured: int = 0
    ) -> None:
        """End a hold; its tokens are free again for any command."""
        hold.state, hold.captured = state, captured
        hold.closed_at, hold.closed_by = at or self._now, outcome
        for number, amount in hold.parts:
            lot = self.lots[number]
            lot.held -= amount
            self._touch(lot)
            self._expect_of(lot)  # while all of it was held, its expiry was not waited for
        self.change().held -= hold.amount
        if hold.outcome is None:
            self.written.closed_holds.append(hold)
        self.burn_order = None
        self._freed = True

    # -- quotas -------------------------------------------------------------------------------------------

    def count(self, outcome: Outcome, key: QuotaKey, amount: int) -> QuotaState:
        """Use ``amount`` units of a quota."""
        quota = self.quotas[key]
        before = quota.used
        quota.used += amount
        quota.sequence += 1
        self._only_used = False
        self.written.quota_entries.append(
            QuotaEntry(key, quota.sequence, outcome, amount, before, quota.used, self._now)
        )
        return quota

    # -- what falls due -----------------------------------------------------------------------------------

    @property
    def is_due(self) -> bool:
        """True where something may be due."""
        return self.state.due_at is not None and self.state.due_at <= self._now

    def settle_due(self, outcome: Outcome) -> None:
        """Post what is due, in the order in which it fell due."""
        rolled: dict[datetime, int] = {}
        waiting = _Waiting(self._due())
        while (due := waiting.next()) is not None:
            lots_before = len(self.written.new_lots)
            match due.what:
                case Hold() as hold:
                    self._run_out(outcome, hold)
                    waiting.add(self._due_of(self.lots[number]) for number, _ in hold.parts)
                case Lot() as lot if due.rank == _TAKES_EFFECT:
                    self._take_effect(outcome, lot)
                    waiting.add([self._due_of(lot)])
                case Lot() as lot:
                    self._expire_and_roll_over(outcome, lot, due.at, rolled)
                case None:
                    self._renew(outcome)
                case _:
                    assert_never(due.what)
            waiting.add(self._due_of(lot) for lot in self.written.new_lots[lots_before:])
        self._freed = False
        self.change().due_at = self._next_due()

    def finish(self, outcome: Outcome) -> None:
        """Finish an applied command: expire the freed tokens that must expire, and write the notices."""
        if self._freed:
            self._freed = False
            for lot in list(self.lots.values()):
                self._expire_if_over(outcome, lot, self._now)
            self._repay(outcome, self._now)
        expiring: tuple[Detail, ...] = ()
        if self.is_due:
            expiring = tuple(self._expiring())
            self.change().due_at = self._next_due()
        outcome.notices = expiring + self._crossed()

    def look(self) -> None:
        """Compare the opening balance with the marks: an account opened below one has not crossed it."""
        self._crossed()

    def expect_renewal(self) -> None:
        """Look at the account again when its granted period ends."""
        if self.state.ends_at is None:
            self._look_again_at(self.state.granted_until)

    def _due(self) -> Iterator[_Due | None]:
        now, state = self._now, self.state
        for hold in self.holds.values():
            if hold.state is HoldState.OPEN and hold.expires_at <= now:
                yield _Due(hold.expires_at, _RUNS_OUT, (hold.opened_at, hold.reference_id), hold)
        for lot in self.lots.values():
            yield self._due_of(lot)
        tier = self.tier
        if tier is not None and tier.auto_renew and state.ends_at is None and state.granted_until <= now:
            yield _Due(present_period(state, now).start, _RENEWS, 0, None)

    def _due_of(self, lot: Lot) -> _Due | None:
        if lot.free and lot.expires_at is not None and lot.expires_at <= self._now:
            return _Due(lot.expires_at, _EXPIRES, lot.number, lot)
        if lot.pending and lot.effective_at <= self._now:
            return _Due(lot.effective_at, _TAKES_EFFECT, lot.number, lot)
        return None

    def _next_due(self) -> datetime | None:
        moments = [hold.expires_at for hold in self.holds.values() if hold.state is HoldState.OPEN]
        for lot in self.lots.values():
            if lot.pending:
                moments.append(lot.effective_at)
            if (at := self._lot_due_at(lot)) is not None:
                moments.append(at)
        if self.state.ends_at is None:
            # The end of the granted period; but at least once a month, since catalogs change.
            latest = self._now + _LOOKED_AT_EVERY
            is_ahead = self._now < self.state.granted_until < latest
            moments.append(self.state.granted_until if is_ahead else latest)
        return min(moments, default=None)

    def _lot_due_at(self, lot: Lot) -> datetime | None:
        """Return the next due time of what remains in ``lot``: of a notice or its expiry; or None."""
        if lot.expires_at is None or lot.remaining == 0:
            return None
        days = self._catalog.notices.expiring_days
        is_to_be_noticed = days and lot.source is not Source.ALLOCATION and not lot.is_noticed
        if is_to_be_noticed and self._now < lot.expires_at:
            return _days_before(lot.expires_at, days)
        # Held tokens expire when they are freed: until then the end of the hold is waited for.
        return lot.expires_at if lot.free else None

    def _run_out(self, outcome: Outcome, hold: Hold) -> None:
        self.close(outcome, hold, HoldState.EXPIRED, at=hold.expires_at)
        for number, _ in hold.parts:
            lot = self.lots[number]
            if lot.expires_at is not None and lot.expires_at < hold.expires_at:
                self._expire_if_over(outcome, lot, hold.expires_at)
        self._repay(outcome, hold.expires_at)

    def _take_effect(self, outcome: Outcome, lot: Lot) -> None:
        amount, lot.pending = lot.pending, 0
        self._touch(lot)
        self._fill(outcome, lot, amount, COUNTER_OF[lot.source], lot.effective_at)

    def _expire_and_roll_over(
        self, outcome: Outcome, lot: Lot, at: datetime, rolled: dict[datetime, int]
    ) -> None:
        tier = self.tier
        if lot.source is Source.ALLOCATION and lot.parent is None and tier is not None:
            has_ended = self.state.ends_at is not None and self.state.ends_at <= at
            cap = 0 if has_ended else tier.rollover_tokens
            if roll := min(lot.free, cap - rolled.get(at, 0)):
                rolled[at] = rolled.get(at, 0) + roll
                end = period_at(self.state.anchor, at).end
                heir = self._open_lot(outcome, roll, Source.ALLOCATION, at, end, None, lot.number)
                self.post(outcome, Counter.TRANSFERS, -roll, lot, due_at=at)
                self.post(outcome, Counter.TRANSFERS, roll, heir, due_at=at)
                self._repay(outcome, at)
        self._expire_if_over(outcome, lot, at)

    def _expire_if_over(self, outcome: Outcome, lot: Lot, at: datetime) -> None:
        free = lot.free
        if free and lot.expires_at is not None and lot.expires_at <= at:
            self.post(outcome, Counter.EXPIRY, -free, lot, due_at=lot.expires_at)

    def _renew(self, outcome: Outcome) -> None:
        period = present_period(self.state, self._now)
        tier = self._catalog.tiers[self.state.tier]
        state = self.change()
        state.granted_until, state.period_granted = period.end, tier.monthly_tokens
        if tier.monthly_tokens:
            self.credit(
                outcome,
                tier.monthly_tokens,
                Source.ALLOCATION,
                effective_at=period.start,
                expires_at=period.end,
                due_at=period.start,
            )

    def _repay(self, outcome: Outcome, at: datetime) -> None:
        """Repay the debt with free tokens, in pairs of entries: the balance stays the same."""
        if self.state.debt == 0:
            return
        for lot, free in self.burning():
            if lot.expires_at is not None and lot.expires_at <= at:
                continue
            part = min(free, self.state.debt)
            self.post(outcome, Counter.TRANSFERS, -part, lot, due_at=at)
            self.post(outcome, Counter.TRANSFERS, part, None, due_at=at)
            if self.state.debt == 0:
                return

    # -- notices ------------------------------------------------------------------------------------------

    def _expiring(self) -> Iterator[Detail]:
        days = self._catalog.notices.expiring_days
        for lot in self.lots.values() if days else ():
            at = lot.expires_at
            if at is None or lot.is_noticed or lot.remaining == 0 or lot.source is Source.ALLOCATION:
                continue
            if _days_before(at, days) <= self._now < at:
                lot.is_noticed = True
                self._touch(lot)
                yield {
                    "type": "credit.expiring",
                    "lot": lot.number,
                    "tokens": lot.remaining,
                    "source": lot.source.value,
                    "expires_at": at.isoformat(),
                }

    def _crossed(self) -> tuple[Detail, ...]:
        state, marks = self.state, self._catalog.notices
        available = state.balance - state.held
        low = self._alerted(ALERT_LOW, "balance.low", marks.low, available)
        return low + self._alerted(ALERT_DEPLETED, "balance.depleted", marks.depleted, available)

    def _alerted(
        self, alert: int, kind: str, mark: NoticeThreshold | None, available: int
    ) -> tuple[Detail, ...]:
        """Return the notice of a crossing; another one only after a recovery."""
        if mark is None:
            return ()
        if self.state.alerts & alert:
            if available >= mark.again_from:
                self.change().alerts &= ~alert
        elif available <= mark.at:
            self.change().alerts |= alert
            return ({"type": kind, "available": available, "mark": mark.at},)
        return ()

    # -- lots ---------------------------------------------------------------------------------------------

    def _open_lot(
        self,
        outcome: Outcome,
        amount: int,
        source: Source,
        effective_at: datetime | None,
        expires_at: datetime | None,
        priority: int | None,
        parent: int | None,
    ) -> Lot:
        state = self.change()
        state.lot_count += 1
        lot = Lot(
            account_id=state.account_id,
            number=state.lot_count,
            source=source,
            granted=amount,
            priority=getattr(self._catalog.priorities, source.value) if priority is None else priority,
            effective_at=effective_at or self._now,
            expires_at=expires_at,
            parent=parent,
            outcome=outcome,
        )
        self.lots[lot.number] = lot
        self.written.new_lots.append(lot)
        self.burn_order = None
        return lot

    def _fill(
        self, outcome: Outcome, lot: Lot, amount: int, counter: Counter, due_at: datetime | None
    ) -> None:
        repaid = min(self.state.debt, amount)
        if repaid:
            self.post(outcome, counter, repaid, None, due_at=due_at)
        if amount > repaid:
            self.post(outcome, counter, amount - repaid, lot, due_at=due_at)
        self.burn_order = None
        self._expect_of(lot)
        if due_at is None and lot.expires_at is not None and lot.expires_at <= self._now:
            self._freed = True  # given back with an expiry that has passed

    def _expect_of(self, lot: Lot) -> None:
        if (at := self._lot_due_at(lot)) is not None:
            self._look_again_at(at)

    def burning(self) -> Iterator[tuple[Lot, int]]:
        """Yield the lots with free tokens, and how many are free, in burn order."""
        if self.burn_order is None:
            self.burn_order = sorted((lot for lot in self.lots.values() if lot.remaining), key=_burn_order)
        for lot in self.burn_order:
            if free := lot.remaining - lot.held:
                yield lot, free

    def _touch(self, lot: Lot) -> None:
        if lot.outcome is None:
            self.written.changed_lots[lot.number] = lot
        self.change()

    def _look_again_at(self, moment: datetime) -> None:
        state = self.change()
        if state.due_at is None or moment < state.due_at:
            state.due_at = moment

    def _sum(self, counter: Counter, amount: int) -> None:
        state = self.state
        match counter:
            case Counter.ALLOCATION:
                state.allocated += amount
            case Counter.PURCHASES:
                state.purchased += amount
            case Counter.BONUS:
                state.bonus += amount
            case Counter.REFUNDS:
                state.refunded += amount
            case Counter.ADJUSTMENTS:
                state.adjusted += amount
            case Counter.EXPIRY:
                state.expired -= amount
            case Counter.REVERSALS:
                state.reversed -= amount
            case Counter.TRANSFERS | Counter.USAGE:
                pass  # between two lots; usage is summed where it is posted
            case _:
                assert_never(counter)


def _burn_order(lot: Lot) -> tuple[int, bool, float, int]:
    at = lot.expires_at
    return lot.priority, at is None, 0.0 if at is None else at.timestamp(), lot.number


def _days_before(moment: datetime, days: int) -> datetime:
    return moment - timedelta(days=days)
