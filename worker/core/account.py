"""Account while a batch is decided: the owner of its state, and the only place where a balance changes.

Steps made of several changes live beside it: ``credits`` and ``holds`` for commands, ``due`` for time,
``notices`` for the user.
"""

from collections.abc import Iterable, Iterator
from copy import copy
from datetime import datetime
from typing import assert_never

from worker.catalog import Catalog, Tier
from worker.core.known import (
    AccountState,
    Hold,
    HoldState,
    Lot,
    Payment,
    PaymentEvent,
    QuotaKey,
    QuotaState,
)
from worker.core.lots import in_burn_order, lot_due_at
from worker.core.outcomes import Outcome
from worker.core.plan import AccountMove, Counter, Entry, Plan, QuotaEntry, UsageRefund
from worker.core.written import AccountRows


class Account:
    """State of one account after the commands answered so far, and the rows they wrote about it.

    Where something was due, a command that may still be refused works on a ``branch``, so that a refusal
    leaves nothing behind. ``expired_now`` counts the tokens that have expired with the present command.
    """

    def __init__(
        self, state: AccountState, lots: Iterable[Lot], holds: Iterable[Hold], catalog: Catalog, now: datetime
    ) -> None:
        self.state = state
        self.lots = {lot.number: lot for lot in lots}
        self.holds = {hold.reference_id: hold for hold in holds}
        self.quotas: dict[QuotaKey, QuotaState] = {}
        self.written = AccountRows()
        self.catalog, self.now = catalog, now
        self.expired_now = 0
        self._sequence_before = state.sequence
        self._has_freed = False
        self._only_used, self._is_changed = True, False
        #: The lots with something left, in the order in which they are spent; None until it is asked for.
        self._burn_order: list[Lot] | None = None

    def branch(self) -> "Account":
        """Return a copy that can be thrown away: its changes don't reach this one."""
        other = copy(self)
        other.state = self.state.clone()
        other.lots = {number: lot.clone() for number, lot in self.lots.items()}
        other.holds = {reference: hold.clone() for reference, hold in self.holds.items()}
        other.quotas = {key: quota.clone() for key, quota in self.quotas.items()}
        other.written = self.written.branch(other.lots, other.holds)
        other.reorder_lots()
        return other

    def add_to(self, plan: Plan) -> None:
        """Add all rows that were written about this account to ``plan``."""
        if self._is_changed:
            plan.accounts.append(AccountMove(self.state, self._sequence_before, self._only_used))
        if self._only_used:
            self.written.add_usage_to(plan)
        else:
            self.written.add_to(plan)

    # -- state --------------------------------------------------------------------------------------------

    @property
    def tier(self) -> Tier | None:
        """Return the account's tier; None where the catalog no longer has it."""
        return self.catalog.tiers.get(self.state.tier)

    @property
    def has_ended(self) -> bool:
        """True where the subscription was canceled and its last period is over."""
        return self.state.ends_at is not None and self.state.ends_at <= self.now

    @property
    def is_due(self) -> bool:
        """True where something may be due."""
        return self.state.due_at is not None and self.state.due_at <= self.now

    def begin(self) -> None:
        """Begin another command: nothing has expired with it yet."""
        self.expired_now = 0

    def change(self) -> AccountState:
        """Return the state, to change more of it than usage does."""
        self._is_changed = True
        self._only_used = False
        return self.state

    def bring_forward(self, moment: datetime) -> None:
        """Look for what is due at ``moment``, sooner than so far; it is written with the next change."""
        self.state.due_at = moment
        self._only_used = False

    def look_again_at(self, moment: datetime) -> None:
        """Look for what is due at ``moment`` at the latest."""
        state = self.change()
        if state.due_at is None or moment < state.due_at:
            state.due_at = moment

    def look_again_for(self, lot: Lot) -> None:
        """Look for what is due when something of ``lot`` is."""
        if (at := lot_due_at(lot, self.now, self.catalog.notices.expiring_days)) is not None:
            self.look_again_at(at)

    def look_again_to_renew(self) -> None:
        """Look for what is due when the granted period ends."""
        if self.state.ends_at is None:
            self.look_again_at(self.state.granted_until)

    # -- tokens -------------------------------------------------------------------------------------------

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
            _add_up(state, counter, amount)
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
                due_at or outcome.occurred_at or self.now,
                self.now,
            )
        )

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

    def owe(self, outcome: Outcome, amount: int, counter: Counter) -> None:
        """Take ``amount`` tokens as debt: the balance falls below what the lots hold."""
        if amount:
            self.post(outcome, counter, -amount, None)

    def repay(self, outcome: Outcome, at: datetime) -> None:
        """Repay the debt with tokens free at ``at``, in pairs of entries: the balance stays the same."""
        if self.state.debt == 0:
            return
        for lot, free in self.burning():
            if (ends_at := lot.ends_at) is not None and ends_at <= at:
                continue
            part = min(free, self.state.debt)
            self.post(outcome, Counter.TRANSFERS, -part, lot, due_at=at)
            self.post(outcome, Counter.TRANSFERS, part, None, due_at=at)
            if self.state.debt == 0:
                return

    # -- lots ---------------------------------------------------------------------------------------------

    def burning(self) -> Iterator[tuple[Lot, int]]:
        """Yield the lots with free tokens, and how many are free, in burn order."""
        if self._burn_order is None:
            self._burn_order = in_burn_order(self.lots.values())
        for lot in self._burn_order:
            if free := lot.remaining - lot.held:
                yield lot, free

    def reorder_lots(self) -> None:
        """Put the lots in burn order anew before the next are spent."""
        self._burn_order = None

    def number_lot(self) -> int:
        """Return the number of a new lot."""
        state = self.change()
        state.lot_count += 1
        return state.lot_count

    def add_lot(self, lot: Lot) -> None:
        """Add a new lot."""
        self.lots[lot.number] = lot
        self.written.new_lots.append(lot)
        self.reorder_lots()

    def touch(self, lot: Lot) -> None:
        """Write the lot with the batch, because more than its remaining tokens has changed."""
        if lot.outcome is None:
            self.written.changed_lots[lot.number] = lot
        self.change()

    def refill(self, lot: Lot, *, may_expire: bool) -> None:
        """Reckon with tokens that are free in ``lot`` again; ``may_expire`` where its time may be over."""
        self.reorder_lots()
        self._has_freed = self._has_freed or may_expire
        self.look_again_for(lot)

    @property
    def has_freed(self) -> bool:
        """True where tokens became free that may have to expire at once."""
        return self._has_freed

    def forget_freed(self) -> None:
        """Forget what became free: all that had to expire has expired."""
        self._has_freed = False

    # -- other rows ---------------------------------------------------------------------------------------

    def add_hold(self, hold: Hold) -> None:
        """Add a new hold, whose tokens its lots keep already."""
        self.change().held += hold.amount
        self.holds[hold.reference_id] = hold
        self.written.new_holds.append(hold)

    def end_hold(self, hold: Hold) -> None:
        """Write the end of a hold, whose tokens its lots keep no longer."""
        self.change().held -= hold.amount
        self._change_hold(hold)

    def extend_hold(self, hold: Hold, until: datetime) -> None:
        """Let a hold that is open end at ``until``, where that is later."""
        if until > hold.expires_at:
            self.change()
            hold.expires_at = until
            self._change_hold(hold)

    def capture_late(self, hold: Hold, tokens: int) -> None:
        """Write that ``tokens`` were captured of a hold after it had run out; its end stays as it was."""
        self.change()
        hold.state, hold.captured = HoldState.SETTLED, tokens
        if hold.outcome is None and hold.reference_id not in self.written.changed_holds:
            self.written.late_holds.append(hold)

    def _change_hold(self, hold: Hold) -> None:
        if hold.outcome is None:  # a new hold is written whole
            self.written.changed_holds[hold.reference_id] = hold

    def add_payment(self, payment: Payment) -> None:
        """Add a payment."""
        self.change()
        self.written.payments.append(payment)

    def add_payment_event(self, payment: Payment, event: PaymentEvent) -> None:
        """Add an event of a payment."""
        self.change()
        event.name = payment.reference_id
        self.written.payment_events.append(event)

    def take_in(self, event: PaymentEvent) -> None:
        """Let an event wait no longer."""
        self.change()
        self.written.taken_in.append(event.reference_id)

    def leave_waiting(self, event: PaymentEvent) -> None:
        """Let an event wait that can't count for its payment."""
        self.change()
        self.written.stuck.append(event.reference_id)

    def add_usage_refund(self, refund: UsageRefund) -> None:
        """Add a refund of usage."""
        self.change()
        self.written.usage_refunds.append(refund)

    def quota(self, key: QuotaKey, known: QuotaState | None) -> QuotaState:
        """Return the state of a quota in this batch, which begins with what is ``known`` of it."""
        quota = self.quotas.get(key)
        if quota is None:
            quota = self.quotas[key] = QuotaState() if known is None else known.clone()
        return quota

    def count(self, outcome: Outcome, key: QuotaKey, amount: int) -> QuotaState:
        """Use ``amount`` units of a quota; a negative amount gives units back."""
        quota = self.quotas[key]
        before = quota.used
        quota.used += amount
        quota.sequence += 1
        self._only_used = False
        self.written.quota_entries.append(
            QuotaEntry(key, quota.sequence, outcome, amount, before, quota.used, self.now)
        )
        return quota


def _add_up(state: AccountState, counter: Counter, amount: int) -> None:
    """Add ``amount`` to the sum that ``counter`` has in the account."""
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
