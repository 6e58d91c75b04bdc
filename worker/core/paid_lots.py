"""Lots that a payment made, and what its events take of them, or else of other lots, or as debt.

What goes back is decided anew with each event, as if all of them had come at once: so their order doesn't
matter, and what is given back goes to the lots it came from.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from worker.catalog import PaymentPolicy
from worker.core.account import Account
from worker.core.credits import credit, take_effect
from worker.core.holds import close_hold, keep_lots
from worker.core.known import HoldState, Lot, Payment, PaymentEvent, Source
from worker.core.lots import Credit
from worker.core.outcomes import Outcome
from worker.core.plan import Counter
from worker.core.reversals import lapsed_share, money_back


@dataclass(frozen=True, slots=True)
class TokensBack:
    """Tokens that are asked for of each group of lots; ``lapsed`` ones are not, because they expired."""

    of_groups: tuple[int, ...]
    lapsed: int

    @property
    def tokens(self) -> int:
        """Return the tokens that are asked for."""
        return sum(self.of_groups)


class PaidLots:
    """Lots of a payment in an account: what was paid for, and the bonus beside it."""

    def __init__(self, account: Account, payment: Payment) -> None:
        self._account, self._payment = account, payment
        bought, bonus = _groups(account, payment)
        self._groups = ((payment.base_tokens, bought), (payment.bonus_tokens, bonus))
        self._own = [lot for _, lots in self._groups for lot in lots]

    def asked(self, events: Sequence[PaymentEvent], policy: PaymentPolicy) -> TokensBack:
        """Return the tokens that go back for ``events``."""
        back = money_back(self._payment, events, policy)
        lapsed_of = self._lapsed()
        asked, lapsed_in_all = [], 0
        for granted, lots in self._groups:
            share = back.share(granted)
            lapsed = sum(
                lapsed_share(self._payment, events, policy, back, lapsed_of[lot.number], ended_at)
                for lot in lots
                if lot.number in lapsed_of and (ended_at := _end_of(lot)) is not None
            )
            lapsed = min(lapsed, share)
            asked.append(share - lapsed)
            lapsed_in_all += lapsed
        return TokensBack(tuple(asked), lapsed_in_all)

    def take(self, outcome: Outcome, tokens: int, asked: TokensBack) -> int:
        """Let the payment's events have taken ``tokens`` of lots, as far as they suffice; return how many.

        Its own lots come first, in proportion, then what is left of them, then others as they are spent. A
        period that was paid ahead takes effect with that.
        """
        for lot in self._own:
            if tokens and lot.pending:
                take_effect(self._account, outcome, lot, self._account.now)
        account, before = self._account, self._taken()
        free = {lot.number: lot.free + before.get(lot.number, 0) for lot in self._own}
        after = self._of_own(tokens, asked, free)
        left = tokens - sum(after.values())
        others = {number: taken for number, taken in before.items() if number not in after and taken}
        debt = others.pop(None, 0)
        kept = min(sum(others.values()) + debt, left)
        after |= _first_of(others, kept)
        owed = min(debt, max(kept - sum(others.values()), 0))
        for number in (*free, *others):
            if number is not None:
                self._move(outcome, number, after.get(number, 0) - before.get(number, 0))
        self._repay(outcome, debt - owed)
        left -= kept
        for lot, free_now in account.burning():
            if not left:
                break
            part = min(free_now, left)
            self._move(outcome, lot.number, part)
            left -= part
        return tokens - left

    def _of_own(self, tokens: int, asked: TokensBack, free: Mapping[int, int]) -> dict[int, int]:
        """Return the part of each own lot in ``tokens``: in proportion, then what is left of the lots."""
        parts, left = dict.fromkeys(free, 0), tokens
        for most_of_groups in (asked.of_groups, (tokens,) * len(self._groups)):
            for (_, lots), most in zip(self._groups, most_of_groups, strict=True):
                group = min(most, left)
                for lot in lots:
                    part = min(free[lot.number] - parts[lot.number], group)
                    parts[lot.number] += part
                    group -= part
                    left -= part
        return parts

    def owe(self, outcome: Outcome, tokens: int) -> int:
        """Take ``tokens`` as debt; return them."""
        if tokens:
            self._account.owe(outcome, tokens, Counter.REVERSALS)
            self._remember(None, tokens)
        return tokens

    def let_go(self, outcome: Outcome, references: Collection[str]) -> None:
        """End the hold that one of the payment's events keeps its lots with."""
        for hold in self._account.holds.values():
            if hold.is_dispute and hold.state is HoldState.OPEN and hold.reference_id in references:
                close_hold(self._account, outcome, hold, HoldState.RELEASED)

    def keep(self, outcome: Outcome, reference_id: str, until: datetime) -> None:
        """Keep what is unspent of the payment's lots, so that nobody spends it."""
        keep_lots(self._account, outcome, reference_id, [lot for lot in self._own if lot.free], until)

    # -- one lot ------------------------------------------------------------------------------------------

    def _move(self, outcome: Outcome, number: int, tokens: int) -> None:
        """Take ``tokens`` of a lot, or give them back where they are negative."""
        if not tokens:
            return
        lot = self._account.lots[number]
        self._account.post(outcome, Counter.REVERSALS, -tokens, lot)
        self._remember(number, tokens)
        if tokens < 0:
            self._account.refill(lot, may_expire=True)

    def _repay(self, outcome: Outcome, tokens: int) -> None:
        """Give back what was taken as debt: to the debt, or where that is repaid, to the payment's lots.

        It is remembered where it went, as the entries say that the next batch reads.
        """
        if not tokens:
            return
        debt = min(self._account.state.debt, tokens)
        if debt:
            self._account.post(outcome, Counter.REVERSALS, debt, None)
            self._remember(None, -debt)
        left = tokens - debt
        for lot in self._own:
            part = min(left, lot.granted - lot.remaining - lot.pending)
            self._move(outcome, lot.number, -part)
            left -= part
        if left:
            again = Credit(left, Source.PURCHASE, counter=Counter.REVERSALS)
            self._remember(credit(self._account, outcome, again).number, -left)

    def _remember(self, number: int | None, tokens: int) -> None:
        taken = self._payment.taken
        taken[number] = taken.get(number, 0) + tokens

    def _taken(self) -> dict[int | None, int]:
        """Return what is taken of each lot; one that was given more than was taken counts as 0.

        It was given what had been taken elsewhere: as debt, of other lots, or of the payment's own.
        """
        taken = self._payment.taken
        given = -sum(tokens for tokens in taken.values() if tokens < 0)
        if not given:
            return taken
        left = {number: max(tokens, 0) for number, tokens in taken.items()}
        own = {lot.number for lot in self._own}
        others = [number for number in left if number is not None and number not in own]
        for number in (None, *reversed(others), *(lot.number for lot in reversed(self._own))):
            part = min(left.get(number, 0), given)
            if part:
                left[number] -= part
                given -= part
        return left

    def _lapsed(self) -> dict[int, int]:
        """Return the expired tokens of the payment's lots, those of this batch included."""
        found = dict(self._payment.lapsed)
        own = {lot.number for lot in self._own}
        for entry in self._account.written.entries:
            if entry.counter is Counter.EXPIRY and entry.lot in own:
                found[entry.lot] = found.get(entry.lot, 0) - entry.amount
        return found


def _first_of(taken: dict[int | None, int], tokens: int) -> dict[int, int]:
    """Return the first ``tokens`` of what was taken of lots, in order."""
    found: dict[int, int] = {}
    for number, most in taken.items():
        part = min(most, tokens)
        if number is not None:
            found[number] = part
        tokens -= part
    return found


def _end_of(lot: Lot) -> datetime | None:
    """Return when the lot's tokens expired, or will."""
    ends = [end for end in (lot.expires_at, lot.ended_at) if end is not None]
    return min(ends, default=None)


def _groups(account: Account, payment: Payment) -> tuple[list[Lot], list[Lot]]:
    """Return the lots that were paid for, and those of the bonus; of a tier the allocation and its heirs."""
    made = [lot for lot in account.lots.values() if _is_of(lot, payment)]
    if payment.tier is None:
        return (
            [lot for lot in made if lot.source is Source.PURCHASE],
            [lot for lot in made if lot.source is Source.PURCHASE_BONUS],
        )
    # What is due is posted by the same operation before: the last allocation is the one that was paid.
    allocations = [lot for lot in made if lot.source is Source.ALLOCATION and lot.parent is None]
    if not allocations or not payment.base_tokens:
        return [], []
    own = {max(lot.number for lot in allocations)}
    for lot in account.lots.values():  # in the order of numbers: an heir is younger than its parent
        if lot.parent in own and lot.source is Source.ALLOCATION:
            own.add(lot.number)
    return [account.lots[number] for number in sorted(own)], []


def _is_of(lot: Lot, payment: Payment) -> bool:
    return (lot.operation_id is not None and lot.operation_id == payment.operation_id) or (
        lot.outcome is not None and lot.outcome is payment.outcome
    )
