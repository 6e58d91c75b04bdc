"""Payments, and their refunds, disputes and failures.

The tokens taken back of a payment follow from the set of its events alone, not from their order: each event
brings them up to date, and an event that came before its payment counts when the payment comes.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import assert_never

from schemas import (
    Code,
    DisputeClosed,
    PaymentDisputed,
    PaymentFailed,
    PaymentRefunded,
    PaymentSucceeded,
)
from worker.catalog import PaymentPolicy
from worker.core.account import Account
from worker.core.credits import credit
from worker.core.known import Happened, Lot, Payment, PaymentEvent, Source
from worker.core.lots import Credit
from worker.core.outcomes import Outcome
from worker.core.plan import Counter
from worker.core.rules.decisions import Context, Decision, applied, rejected

Reversing = PaymentRefunded | PaymentDisputed | DisputeClosed | PaymentFailed


def purchase(account: Account, command: PaymentSucceeded, outcome: Outcome, context: Context) -> Decision:
    """Credit a package: its tokens, and its bonus as a lot of its own that belongs to the purchase."""
    package = context.catalog.package(command.package_id, command.package_index)
    if package is None:
        named = command.package_id if command.package_id is not None else f"#{command.package_index}"
        return rejected(Code.UNKNOWN_PACKAGE, package_id=named)
    price = f"{package.price_minor} {package.currency}"
    paid = f"{command.amount_minor} {command.currency}"
    if paid != price:
        return rejected(Code.AMOUNT_MISMATCH, package_id=package.id, expected=price, received=paid)
    payment = Payment(
        account_id=account.state.account_id,
        reference_id=command.reference_id,
        package_id=package.id,
        amount_minor=command.amount_minor,
        currency=command.currency,
        base_tokens=package.tokens,
        bonus_tokens=package.bonus_tokens,
        provider=command.provider,
        recorded_at=context.now,
        occurred_at=command.occurred_at,
        outcome=outcome,
    )
    account.add_payment(payment)
    until = _in_days(context, package.valid_days)
    bought = credit(account, outcome, Credit(package.tokens, Source.PURCHASE, expires_at=until))
    if package.bonus_tokens:
        until = _in_days(context, package.bonus_valid_days)
        bonus = Credit(package.bonus_tokens, Source.PURCHASE_BONUS, expires_at=until, parent=bought.number)
        credit(account, outcome, bonus)
    detail: dict[str, int | str] = {
        "package_id": package.id,
        "base_tokens": package.tokens,
        "bonus_tokens": package.bonus_tokens,
    }
    if _events(account, command.reference_id, context):
        event = _event(command, Happened.SUCCEEDED, command.reference_id, account, outcome, context)
        _bring_up_to_date(account, payment, event, outcome, context)
        if event.uncollected:
            detail["uncollected"] = event.uncollected
    return applied(Code.TOKENS_PURCHASED, package.tokens + package.bonus_tokens, **detail)


def reverse(account: Account, command: Reversing, outcome: Outcome, context: Context) -> Decision:
    """Apply an event of a payment: take back or give back the tokens that follow from it now."""
    named = command.original_reference_id
    detail: dict[str, int | str] = {"original_reference_id": named}
    if not isinstance(command, PaymentFailed):
        detail["amount_minor"] = command.amount_minor
    happened = _happened(command)
    payment = _payment(account, named, context)
    if payment is None:
        original = context.outcome_of(named)
        # Usage that moved nothing gives the reference up when the payment comes.
        if original is not None and not original.moved_nothing:
            return rejected(Code.ORIGINAL_NOT_FOUND, original_reference_id=named)
        _event(command, happened, named, account, outcome, context)
        return applied(Code.PAYMENT_AWAITED, 0, **detail)
    if not isinstance(command, PaymentFailed) and command.currency != payment.currency:
        return rejected(
            Code.CURRENCY_MISMATCH,
            original_reference_id=named,
            expected=f"{payment.amount_minor} {payment.currency}",
            received=f"{command.amount_minor} {command.currency}",
        )
    event = _event(command, happened, named, account, outcome, context)
    _bring_up_to_date(account, payment, event, outcome, context)
    if event.uncollected > 0:
        detail["uncollected"] = event.uncollected
    return applied(_CODE[happened], abs(event.collected), **detail)


_CODE: Mapping[Happened, Code] = {
    Happened.REFUNDED: Code.PAYMENT_REFUNDED,
    Happened.DISPUTED: Code.PAYMENT_DISPUTED,
    Happened.DISPUTE_WON: Code.DISPUTE_WON,
    Happened.DISPUTE_LOST: Code.DISPUTE_LOST,
    Happened.FAILED: Code.PAYMENT_FAILED,
}


def _happened(command: Reversing) -> Happened:
    match command:
        case PaymentRefunded():
            return Happened.REFUNDED
        case PaymentDisputed():
            return Happened.DISPUTED
        case DisputeClosed():
            return Happened.DISPUTE_WON if command.result == "won" else Happened.DISPUTE_LOST
        case PaymentFailed():
            return Happened.FAILED
        case _:
            assert_never(command)


def _event(
    command: PaymentSucceeded | Reversing,
    happened: Happened,
    payment_reference: str,
    account: Account,
    outcome: Outcome,
    context: Context,
) -> PaymentEvent:
    money = command if isinstance(command, PaymentRefunded | PaymentDisputed | DisputeClosed) else None
    event = PaymentEvent(
        account_id=account.state.account_id,
        payment_reference=payment_reference,
        happened=happened,
        recorded_at=context.now,
        dispute_id=command.dispute_id if isinstance(command, PaymentDisputed | DisputeClosed) else None,
        amount_minor=None if money is None else money.amount_minor,
        currency=None if money is None else money.currency,
        occurred_at=command.occurred_at,
        outcome=outcome,
    )
    account.add_payment_event(event)
    return event


def _payment(account: Account, reference_id: str, context: Context) -> Payment | None:
    payment = context.known.payments.get(reference_id)
    if payment is not None and payment.account_id == account.state.account_id:
        return payment
    return next((fresh for fresh in account.written.payments if fresh.reference_id == reference_id), None)


def _events(account: Account, reference_id: str, context: Context) -> list[PaymentEvent]:
    """Return the events of the payment so far, those of this batch included."""
    return [
        *(
            event
            for event in context.known.payment_events.get(reference_id, ())
            if event.account_id == account.state.account_id
        ),
        *(event for event in account.written.payment_events if event.payment_reference == reference_id),
    ]


def _in_days(context: Context, days: int | None) -> datetime | None:
    return None if days is None else context.now + timedelta(days=days)


# -- tokens that follow from the events -------------------------------------------------------------------


def money_back(payment: Payment, events: Iterable[PaymentEvent], policy: PaymentPolicy) -> int:
    """Return the money that has gone back of a payment, in minor units, whatever the order of its events.

    Refunds add up, and so do disputes that were lost (or are open, where the policy takes tokens for that);
    together they never count for more than was paid. A failure takes all of it.
    """
    events = [event for event in events if event.currency in (None, payment.currency)]
    if any(_failed(payment, event) for event in events):
        return payment.amount_minor
    refunded = sum(event.amount_minor or 0 for event in events if event.happened is Happened.REFUNDED)
    disputes = {event.dispute_id for event in events if event.dispute_id is not None}
    disputed = sum(
        _lost([event for event in events if event.dispute_id == dispute], policy) for dispute in disputes
    )
    return min(refunded + disputed, payment.amount_minor)


def _failed(payment: Payment, event: PaymentEvent) -> bool:
    """Return True for a failure that counts: not where both times are known and the success is later."""
    if event.happened is not Happened.FAILED:
        return False
    if event.occurred_at is None or payment.occurred_at is None:
        return True
    return event.occurred_at >= payment.occurred_at


def _lost(dispute: Sequence[PaymentEvent], policy: PaymentPolicy) -> int:
    amounts: dict[Happened, int] = {}
    for event in dispute:
        amounts[event.happened] = max(amounts.get(event.happened, 0), event.amount_minor or 0)
    if Happened.DISPUTE_LOST in amounts:
        return amounts[Happened.DISPUTE_LOST]
    if Happened.DISPUTE_WON in amounts or policy.on_dispute == "wait":
        return 0
    return amounts[Happened.DISPUTED]


def _share(payment: Payment, back: int) -> tuple[int, int]:
    """Return the base and bonus tokens for ``back`` minor units, rounded down; all of them for all money."""
    return (
        payment.base_tokens * back // payment.amount_minor,
        payment.bonus_tokens * back // payment.amount_minor,
    )


def _bring_up_to_date(
    account: Account, payment: Payment, event: PaymentEvent, outcome: Outcome, context: Context
) -> None:
    """Take back or give back what the events, ``event`` included, ask for beyond what was done before."""
    events = _events(account, payment.reference_id, context)
    policy = context.catalog.payments
    collected = sum(past.collected for past in events)
    uncollected = sum(past.uncollected for past in events)
    base, bonus = _share(payment, money_back(payment, events, policy))
    delta = base + bonus - collected - uncollected
    if delta > 0:
        # When the payment comes last, nothing was taken back of it yet, whatever had happened to it.
        earlier = (
            [] if event.happened is Happened.SUCCEEDED else [past for past in events if past is not event]
        )
        base_before, bonus_before = _share(payment, money_back(payment, earlier, policy))
        wanted = {Source.PURCHASE: base - base_before, Source.PURCHASE_BONUS: bonus - bonus_before}
        missing = delta - _take_own(account, payment, delta, wanted, outcome)
        # What has expired of it is gone already: nobody spent it, and nobody pays for it again.
        event.uncollected = min(missing, max(_lapsed(account, payment) - uncollected, 0))
        missing -= event.uncollected
        missing -= account.take(outcome, missing, Counter.REVERSALS)
        if policy.when_spent == "write_off":
            event.uncollected += missing
        else:
            account.owe(outcome, missing, Counter.REVERSALS)
        event.collected = delta - event.uncollected
    elif delta < 0:
        event.uncollected = -min(uncollected, -delta)
        event.collected = delta - event.uncollected
        _give_back(account, payment, -event.collected, outcome)


def _take_own(
    account: Account, payment: Payment, tokens: int, wanted: Mapping[Source, int], outcome: Outcome
) -> int:
    """Take up to ``tokens`` of what the payment bought: in proportion first, then what is left of it.

    Where the policy has changed since, less may be wanted of one lot than was taken of it: then nothing is.
    Returns the number taken.
    """
    own, left = _lots(account, payment), tokens
    parts = [0] * len(own)
    for most in (wanted, None):
        for place, lot in enumerate(own):
            limit = left if most is None else min(max(most[lot.source], 0), left)
            part = min(lot.free - parts[place], limit)
            parts[place] += part
            left -= part
    for lot, part in zip(own, parts, strict=True):
        if part:
            account.post(outcome, Counter.REVERSALS, -part, lot)
    return tokens - left


def _lapsed(account: Account, payment: Payment) -> int:
    """Return the expired tokens of the payment's lots, those of this batch included."""
    own = {lot.number for lot in _lots(account, payment)}
    return payment.lapsed + sum(
        -entry.amount
        for entry in account.written.entries
        if entry.counter is Counter.EXPIRY and entry.lot in own
    )


def _give_back(account: Account, payment: Payment, tokens: int, outcome: Outcome) -> None:
    if tokens == 0:
        return
    bought = next((lot for lot in _lots(account, payment) if lot.source is Source.PURCHASE), None)
    again = Credit(
        tokens,
        Source.PURCHASE,
        effective_at=None if bought is None else bought.effective_at,
        expires_at=None if bought is None else bought.expires_at,
        parent=None if bought is None else bought.number,
        counter=Counter.REVERSALS,
    )
    credit(account, outcome, again)


def _lots(account: Account, payment: Payment) -> list[Lot]:
    """Return the lots that the payment made, the purchase and its bonus; empty if there were no lots then.

    What is due is posted with the next operation, whatever it is: such lots are its own, but it bought none.
    """
    return [
        lot
        for lot in account.lots.values()
        if lot.source in (Source.PURCHASE, Source.PURCHASE_BONUS)
        and (
            (lot.operation_id is not None and lot.operation_id == payment.operation_id)
            or (lot.outcome is not None and lot.outcome is payment.outcome)
        )
    ]
