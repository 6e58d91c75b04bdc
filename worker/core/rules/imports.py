"""Accounts of another system: what came in and what went, posted as entries that add up to what is left.

The ledger knows sums of the past and what each lot has left, and nothing of the order between. So every lot
is credited with all that it was granted, and what is not left of it is taken at once. What no lot names went
through a lot of its source that is closed from the beginning. Usage is taken before what expired, was
reversed and was adjusted: payments first, in the order of the message. The past is dated at its earliest,
the opening or the payment: reports on usage begin with what happens here.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime

from pydantic_core import to_json

from schemas import Code, ImportAccount, ImportedLot, ImportedPayment, Status
from worker.catalog import FREE_UPLOAD, Catalog
from worker.core.account import Account
from worker.core.credits import open_lot
from worker.core.known import Lot, Payment, QuotaKey, Source
from worker.core.lots import COUNTER_OF, Credit
from worker.core.outcomes import Outcome
from worker.core.periods import Period, period_at
from worker.core.plan import Counter
from worker.core.rules.decisions import Context, Decision, applied, rejected
from worker.core.thresholds import compare_balance

#: Type of the operation of a payment that came with an account; no message has it.
PAYMENT_IMPORT = "payment.import"

#: Counter-accounts that give tokens, each with the source of a lot that is closed from the beginning.
_CAME: Mapping[Counter, Source] = {
    Counter.ALLOCATION: Source.ALLOCATION,
    Counter.PURCHASES: Source.PURCHASE,
    Counter.BONUS: Source.BONUS,
    Counter.REFUNDS: Source.REFUND,
    Counter.ADJUSTMENTS: Source.ADJUSTMENT,
    Counter.REVERSALS: Source.PURCHASE,
}


def present_period(command: ImportAccount) -> Period:
    """Return the period that the account was in."""
    return period_at(command.anchor, command.as_of)


def refusal(command: ImportAccount, context: Context) -> Decision | None:
    """Return the reason to refuse a command of a user without an account; None where it is good."""
    if command.tier not in context.catalog.tiers:
        return rejected(Code.UNKNOWN_TIER, tier=command.tier)
    for quota in command.quotas:
        if _quota_of(quota.meter, context.catalog) is None:
            return rejected(Code.UNKNOWN_METER, meter=quota.meter)
    end = present_period(command).end
    for lot in command.lots:
        if lot.source == "allocation" and lot.expires_at is not None and lot.expires_at > end:
            return rejected(
                Code.ALLOCATION_OUTLASTS_PERIOD,
                expires_at=lot.expires_at.isoformat(),
                period_end=end.isoformat(),
            )
    return None


def _quota_of(meter: str, catalog: Catalog) -> str | None:
    """Return the quota that a meter counts against, or that has this name; None where there is none."""
    if (rule := catalog.pricing.get(meter)) is not None:
        return rule.quota or meter
    quotas = {FREE_UPLOAD, *(rule.quota or name for name, rule in catalog.pricing.items())}
    return meter if meter in quotas else None


def payment_outcome(command: ImportAccount, payment: ImportedPayment, now: datetime) -> Outcome:
    """Return the outcome of an imported payment, yet to be filled in."""
    return Outcome(
        payment.reference_id,
        PAYMENT_IMPORT,
        command.user_id,
        1,
        to_json(payment.content()).decode(),
        Status.APPLIED,
        Code.PAYMENT_IMPORTED,
        now,
        occurred_at=payment.paid_at,
    )


def import_account(
    account: Account, command: ImportAccount, outcome: Outcome, payments: list[Outcome], context: Context
) -> Decision:
    """Post all that the account had; ``payments`` are the outcomes of its payments, in their order."""
    past = _Past(account, command)
    for payment, paid in zip(command.payments, payments, strict=True):
        context.bind([payment.reference_id], _bring_payment(account, command, payment, paid, past))
    outcome.occurred_at = command.opened_at
    outcome.balance_before = account.state.balance
    _bring_lots(account, command, outcome, past)
    past.owe(outcome, command.opened_at)
    period = present_period(command)
    for quota in command.quotas:
        if quota.used:
            name = _quota_of(quota.meter, context.catalog) or quota.meter
            key = QuotaKey(account.state.account_id, name, period.key)
            account.quota(key, None)
            account.count(outcome, key, quota.used)
    compare_balance(account)  # an account that comes below a threshold has not fallen to it
    owed = {"owed": command.debt} if command.debt else {}
    left = sum(lot.tokens for lot in command.own_lots())
    return applied(
        Code.ACCOUNT_IMPORTED,
        left,
        tier=command.tier,
        period_start=period.start.isoformat(),
        period_end=period.end.isoformat(),
        **owed,
    )


def _bring_payment(
    account: Account, command: ImportAccount, payment: ImportedPayment, outcome: Outcome, past: "_Past"
) -> Payment:
    """Post a payment as it was taken, and take what is not left of it; return it."""
    outcome.balance_before = account.state.balance
    brought = Payment(
        account_id=account.state.account_id,
        reference_id=payment.reference_id,
        user_id=command.user_id,
        package_id=payment.package_id,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        base_tokens=payment.tokens,
        bonus_tokens=payment.bonus_tokens,
        provider=payment.provider,
        recorded_at=account.now,
        occurred_at=payment.paid_at,
        outcome=outcome,
    )
    account.add_payment(brought)
    left = command.lots_of(payment)
    bought = past.bring(outcome, Source.PURCHASE, payment.tokens, left.get("purchase"), payment.paid_at)
    if payment.bonus_tokens:
        past.bring(
            outcome,
            Source.PURCHASE_BONUS,
            payment.bonus_tokens,
            left.get("purchase_bonus"),
            payment.paid_at,
            bought.number,
        )
    outcome.amount = sum(lot.tokens for lot in left.values())
    outcome.balance_after = account.state.balance
    outcome.detail = {
        "package_id": payment.package_id,
        "amount_minor": payment.amount_minor,
        "base_tokens": payment.tokens,
        "bonus_tokens": payment.bonus_tokens,
    }
    return brought


def _bring_lots(account: Account, command: ImportAccount, outcome: Outcome, past: "_Past") -> None:
    """Post the lots that belong to no payment, then what came in beside all lots."""
    state = account.change()
    own = sorted(command.own_lots(), key=lambda lot: lot.source == "carried_over")
    for lot in own:
        past.bring(outcome, Source(lot.source), lot.brought, lot, command.opened_at)
        if lot.source == "allocation" and lot.expires_at == state.granted_until:
            state.period_granted += lot.brought
    for counter, source in _CAME.items():
        if rest := past.came[counter]:
            past.bring(outcome, source, rest, None, command.opened_at, counter=counter)


class _Past:
    """Tokens that came and went before, by counter-account, as far as they are not posted yet."""

    def __init__(self, account: Account, command: ImportAccount) -> None:
        self._account = account
        totals = command.lifetime()
        corrected = max(totals.adjusted, command.named()["adjusted"], 0)
        self.came = {
            Counter.ALLOCATION: totals.allocated,
            Counter.PURCHASES: totals.purchased,
            Counter.BONUS: totals.bonus,
            Counter.REFUNDS: totals.refunded,
            Counter.ADJUSTMENTS: corrected,
            Counter.REVERSALS: max(-totals.reversed, 0),
        }
        self._went = {
            Counter.USAGE: totals.used,
            Counter.EXPIRY: totals.expired,
            Counter.REVERSALS: max(totals.reversed, 0),
            Counter.ADJUSTMENTS: corrected - totals.adjusted,
        }

    def bring(
        self,
        outcome: Outcome,
        source: Source,
        granted: int,
        lot: ImportedLot | None,
        since: datetime,
        parent: int | None = None,
        counter: Counter | None = None,
    ) -> Lot:
        """Open a lot with all that it was ``granted``, and take what is not left: all, without ``lot``."""
        account = self._account
        opened = open_lot(
            account,
            outcome,
            Credit(
                granted,
                source,
                effective_at=min(since, account.now),
                expires_at=None if lot is None else lot.expires_at,
                priority=None if lot is None else lot.priority,
                parent=parent,
            ),
        )
        for by, tokens in self._credits(granted, counter or COUNTER_OF.get(source)):
            account.post(outcome, by, tokens, opened)
        for by, tokens in self._takes(granted - (0 if lot is None else lot.tokens)):
            account.post(outcome, by, -tokens, opened)
        account.reorder_lots()
        return opened

    def owe(self, outcome: Outcome, since: datetime) -> None:
        """Post what was taken beyond all that came in: the debt."""
        account = self._account
        lacking = self._went[Counter.USAGE] + self._went[Counter.EXPIRY]
        if lacking:
            # Usage takes from a lot: it is lent the tokens.
            lent = open_lot(
                account, outcome, Credit(lacking, Source.CARRIED_OVER, effective_at=min(since, account.now))
            )
            account.post(outcome, Counter.TRANSFERS, -lacking, None)
            account.post(outcome, Counter.TRANSFERS, lacking, lent)
            for by, tokens in self._takes(lacking):
                account.post(outcome, by, -tokens, lent)
        for by, tokens in self._takes(sum(self._went.values())):
            account.owe(outcome, tokens, by)

    def _credits(self, granted: int, counter: Counter | None) -> Iterator[tuple[Counter, int]]:
        """Yield the counter-accounts of a lot's tokens: its own, or any that gave more than is named."""
        return _poured(self.came, granted, _CAME if counter is None else (counter,))

    def _takes(self, spent: int) -> Iterator[tuple[Counter, int]]:
        """Yield the counter-accounts that ``spent`` tokens went to."""
        return _poured(self._went, spent, tuple(self._went))


def _poured(
    sums: dict[Counter, int], tokens: int, order: Mapping[Counter, Source] | tuple[Counter, ...]
) -> Iterator[tuple[Counter, int]]:
    """Yield parts of ``sums`` in order, ``tokens`` in all, and take them off."""
    for counter in order:
        part = min(sums[counter], tokens)
        if part:
            sums[counter] -= part
            tokens -= part
            yield counter, part
