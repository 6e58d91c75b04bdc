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
    PaymentNamed,
    PaymentRefunded,
    PaymentSucceeded,
    RefundFailed,
    SubscriptionPayment,
)
from worker.catalog import Package
from worker.core.account import Account
from worker.core.credits import credit
from worker.core.known import Happened, Payment, PaymentEvent, Source
from worker.core.lots import Credit
from worker.core.outcomes import Outcome
from worker.core.paid_lots import PaidLots
from worker.core.reversals import fits, is_disputed, is_refund_style_mixed, money_back
from worker.core.rules.decisions import Context, Decision, applied, rejected
from worker.core.rules.freezing import freeze, unfreeze

Reversing = PaymentRefunded | RefundFailed | PaymentDisputed | DisputeClosed | PaymentFailed


# -- a payment --------------------------------------------------------------------------------------------


def purchase(account: Account, command: PaymentSucceeded, outcome: Outcome, context: Context) -> Decision:
    """Credit a package: its tokens, and its bonus as a lot of its own that belongs to the purchase."""
    if (refused := name_taken(command.reference_id, command.also_known_as or (), context)) is not None:
        return refused
    package = context.catalog.package(command.package_id, command.package_index)
    if package is None:
        named = command.package_id if command.package_id is not None else f"#{command.package_index}"
        return rejected(Code.UNKNOWN_PACKAGE, package_id=named)
    mismatch = _mismatch(command, package, context)
    if mismatch is not None and context.catalog.payments.on_mismatch == "reject":
        return mismatch
    base, bonus = _tokens(command, package)
    if base == 0:
        return rejected(
            Code.AMOUNT_MISMATCH,
            package_id=package.id,
            expected=_price_text(command, package, context),
            received=f"{_list_price(command)} {command.currency}",
        )
    payment = Payment(
        account_id=account.state.account_id,
        reference_id=command.reference_id,
        user_id=account.state.user_id,
        package_id=package.id,
        amount_minor=command.amount_minor,
        currency=command.currency,
        base_tokens=base,
        bonus_tokens=bonus,
        provider=command.provider,
        recorded_at=context.now,
        occurred_at=command.occurred_at,
        outcome=outcome,
    )
    bought = credit(
        account, outcome, Credit(base, Source.PURCHASE, expires_at=_in_days(context, package.valid_days))
    )
    if bonus:
        until = _in_days(context, package.bonus_valid_days)
        credit(account, outcome, Credit(bonus, Source.PURCHASE_BONUS, expires_at=until, parent=bought.number))
    detail: dict[str, int | str] = {"package_id": package.id, "base_tokens": base, "bonus_tokens": bonus}
    if (list_price := _list_price(command)) != command.amount_minor:
        detail["list_minor"] = list_price
    detail |= record_payment(account, payment, command.also_known_as or (), context)
    if mismatch is not None:
        detail |= {"expected": mismatch.detail["expected"], "received": mismatch.detail["received"]}
    code = Code.TOKENS_PURCHASED if mismatch is None else Code.PURCHASE_FLAGGED
    return applied(code, base + bonus, **detail)


def record_payment(
    account: Account, payment: Payment, other_names: Sequence[str], context: Context
) -> dict[str, int]:
    """Record a payment whose tokens are credited, and take in the events that wait for it."""
    account.add_payment(payment)
    bound = context.bind((payment.reference_id, *other_names), payment)
    return take_in(account, payment, bound, context)


def subscription_payment(
    account: Account, paid: SubscriptionPayment, tokens: int, outcome: Outcome, context: Context
) -> dict[str, int]:
    """Record the payment of a period, which granted ``tokens``, and take in the events that wait for it."""
    payment = Payment(
        account_id=account.state.account_id,
        reference_id=paid.reference_id,
        user_id=account.state.user_id,
        tier=account.state.tier,
        amount_minor=paid.amount_minor,
        currency=paid.currency,
        base_tokens=tokens,
        bonus_tokens=0,
        provider=paid.provider,
        recorded_at=context.now,
        occurred_at=outcome.occurred_at,
        outcome=outcome,
    )
    return record_payment(account, payment, paid.also_known_as or (), context)


def name_taken(reference_id: str, other_names: Iterable[str], context: Context) -> Decision | None:
    """Return the refusal of a payment of which a name is another payment's; None where all are free."""
    for name in (reference_id, *other_names):
        bound = context.name_of(name)
        if bound is not None and bound.payment_reference is not None:
            return rejected(Code.REFERENCE_TAKEN, original_reference_id=name)
    return None


def _list_price(command: PaymentSucceeded) -> int:
    """Return what the goods cost without tax, shipping and discount, as far as the payment says so."""
    if command.list_minor is not None:
        return command.list_minor
    beside = (command.tax_minor or 0) + (command.other_minor or 0)
    return command.amount_minor - beside + (command.discount_minor or 0)


def _mismatch(command: PaymentSucceeded, package: Package, context: Context) -> Decision | None:
    """Return the refusal of a payment whose price isn\'t the catalog\'s; None where it is."""
    received = _list_price(command)
    if package.rates:
        is_good = command.currency in package.rates
    else:
        check = context.catalog.payments.price_check
        price = _price(command, package, context)
        is_good = check == "off" or (
            price is not None and (received == price or (check == "at_least" and received > price))
        )
    if is_good:
        return None
    return rejected(
        Code.AMOUNT_MISMATCH,
        package_id=package.id,
        expected=_price_text(command, package, context),
        received=f"{received} {command.currency}",
    )


def _price(command: PaymentSucceeded, package: Package, context: Context) -> int | None:
    price = package.prices_at(command.occurred_at or context.now).get(command.currency)
    return None if price is None else price * (command.quantity or 1)


def _price_text(command: PaymentSucceeded, package: Package, context: Context) -> str:
    if package.rates:
        return " or ".join(f"an amount in {currency}" for currency in sorted(package.rates))
    if (price := _price(command, package, context)) is not None:
        return f"{price} {command.currency}"
    quantity = command.quantity or 1
    prices = package.prices_at(command.occurred_at or context.now)
    return " or ".join(f"{price * quantity} {currency}" for currency, price in sorted(prices.items()))


def _tokens(command: PaymentSucceeded, package: Package) -> tuple[int, int]:
    """Return the base and bonus tokens that a payment buys."""
    quantity = command.quantity or 1
    if not package.rates:
        return package.tokens * quantity, package.bonus_tokens * quantity
    rate = package.rates.get(command.currency)
    return (0 if rate is None else max(_list_price(command), 0) * rate.tokens // rate.per_minor), 0


def _in_days(context: Context, days: int | None) -> datetime | None:
    return None if days is None else context.now + timedelta(days=days)


# -- its names --------------------------------------------------------------------------------------------


def name(account: Account, payment: Payment, command: PaymentNamed, context: Context) -> Decision:
    """Give a payment more names, and take in the events that wait for it under them."""
    names = (command.original_reference_id, *command.also_known_as)
    bound = context.bind(context.without_payment(names), payment)
    return applied(
        Code.PAYMENT_NAMED,
        0,
        original_reference_id=command.original_reference_id,
        payment_reference_id=payment.reference_id,
        **take_in(account, payment, bound, context),
    )


# -- its events -------------------------------------------------------------------------------------------


def reverse(
    account: Account, payment: Payment, command: Reversing, outcome: Outcome, context: Context
) -> Decision:
    """Apply an event of a payment: take back or give back the tokens that follow from it now."""
    event = event_of(command, context.now)
    detail = detail_of(command)
    if not fits(payment, event):
        return rejected(
            Code.CURRENCY_MISMATCH,
            original_reference_id=command.original_reference_id,
            expected=f"{payment.amount_minor} {payment.currency}",
            received=f"{event.amount_minor} {event.currency}",
        )
    event.account_id, event.outcome = account.state.account_id, outcome
    before = context.events_of(payment, account)
    account.add_payment_event(payment, event)
    events = [*before, event]
    _bring_up_to_date(account, payment, before, events, outcome, context)
    policy = context.catalog.payments
    counted = money_back(payment, events, policy).minor - money_back(payment, before, policy).minor
    if (less := _counted_less(event, payment, counted)) is not None:
        detail["counted_minor"] = less
    if event.uncollected > 0:
        detail["uncollected"] = event.uncollected
    code = CODE_OF[event.happened]
    if event.happened in _REFUNDS and is_refund_style_mixed(payment, events):
        code = Code.REFUND_STYLE_MIXED
    return applied(code, abs(event.collected), **detail)


def _counted_less(event: PaymentEvent, payment: Payment, counted: int) -> int | None:
    """Return how much of the event's money counts, where that is less; None for money of another currency."""
    if event.amount_minor is None or event.currency != payment.currency:
        return None
    match event.happened:
        case Happened.REFUNDED | Happened.DISPUTE_LOST if counted < event.amount_minor:
            return counted
        case Happened.REFUNDED_TOTAL if payment.amount_minor < event.amount_minor:
            return payment.amount_minor
    return None


def take_in(account: Account, payment: Payment, names: Iterable[str], context: Context) -> dict[str, int]:
    """Let the events count that wait for a payment under these names; return what a reply says of it.

    They are posted by the operation that takes them in.
    """
    outcome = context.present
    waiting = context.waiting_under(names, account)
    taken = []
    for event in waiting:
        if context.is_counted(event.reference_id, payment, account):
            account.take_in(event)  # a crash kept it from being forgotten
        elif fits(payment, event):
            taken.append(event)
        else:
            account.leave_waiting(event)
    if not taken:
        return {}
    before = context.events_of(payment, account)
    for event in taken:
        event.account_id, event.outcome, event.name = account.state.account_id, outcome, payment.reference_id
        account.add_payment_event(payment, event)
        account.take_in(event)
    for event in sorted(taken, key=_time):
        if event.happened is Happened.FROZEN:
            freeze(account, _time(event))
        elif event.happened is Happened.UNFROZEN:
            unfreeze(account, _time(event))
    moved = PaymentEvent(
        reference_id=outcome.reference_id,
        name=payment.reference_id,
        happened=Happened.SUCCEEDED,
        recorded_at=context.now,
        occurred_at=outcome.occurred_at,
        account_id=account.state.account_id,
        outcome=outcome,
    )
    account.add_payment_event(payment, moved)
    _bring_up_to_date(account, payment, before, context.events_of(payment, account), outcome, context)
    return {"uncollected": moved.uncollected} if moved.uncollected > 0 else {}


def take_in_one(account: Account, context: Context) -> None:
    """Take in the events of one payment of the account that is there while they wait for it.

    A crash, or another slot, may have left some. Of several payments each comes with an operation of its own.
    """
    for name in sorted({*context.known.waiting, *context.waiting}):
        payment = context.payment_named(name)
        if payment is None or payment.account_id != account.state.account_id:
            continue
        awaited = context.names_awaited(payment)
        if context.waiting_under(awaited, account):
            take_in(account, payment, awaited, context)
            return


def _time(event: PaymentEvent) -> datetime:
    return event.occurred_at or event.recorded_at


_REFUNDS = frozenset({Happened.REFUNDED, Happened.REFUNDED_TOTAL})

#: Codes of the replies to events.
CODE_OF: Mapping[Happened, Code] = {
    Happened.REFUNDED: Code.PAYMENT_REFUNDED,
    Happened.REFUNDED_TOTAL: Code.PAYMENT_REFUNDED,
    Happened.REFUND_FAILED: Code.REFUND_FAILED,
    Happened.INQUIRED: Code.INQUIRY_OPENED,
    Happened.DISPUTED: Code.PAYMENT_DISPUTED,
    Happened.DISPUTE_WON: Code.DISPUTE_WON,
    Happened.DISPUTE_LOST: Code.DISPUTE_LOST,
    Happened.DISPUTE_PREVENTED: Code.DISPUTE_PREVENTED,
    Happened.DISPUTE_WITHDRAWN: Code.DISPUTE_WITHDRAWN,
    Happened.FAILED: Code.PAYMENT_FAILED,
    Happened.FROZEN: Code.FREEZE_BEGAN,
    Happened.UNFROZEN: Code.FREEZE_ENDED,
}
_CLOSED: Mapping[str, Happened] = {
    "won": Happened.DISPUTE_WON,
    "lost": Happened.DISPUTE_LOST,
    "prevented": Happened.DISPUTE_PREVENTED,
    "withdrawn": Happened.DISPUTE_WITHDRAWN,
}


def event_of(command: Reversing, now: datetime) -> PaymentEvent:
    """Return the event that a command tells, of no account yet."""
    event = PaymentEvent(
        reference_id=command.reference_id,
        name=command.original_reference_id,
        happened=Happened.FAILED,
        recorded_at=now,
        occurred_at=command.occurred_at,
        user_id=command.user_id or None,
    )
    match command:
        case PaymentRefunded():
            is_total = command.refunded_total_minor is not None
            event.happened = Happened.REFUNDED_TOTAL if is_total else Happened.REFUNDED
            event.amount_minor = command.refunded_total_minor if is_total else command.amount_minor
            event.currency = command.currency
        case RefundFailed():
            event.happened, event.refund_reference = Happened.REFUND_FAILED, command.refund_reference_id
        case PaymentDisputed() | DisputeClosed():
            event.happened = _happened_in(command)
            event.dispute_id = command.dispute_id
            event.amount_minor, event.currency = command.amount_minor, command.currency
        case PaymentFailed():
            pass
        case _:
            assert_never(command)
    return event


def _happened_in(command: PaymentDisputed | DisputeClosed) -> Happened:
    if isinstance(command, DisputeClosed):
        return _CLOSED[command.result]
    return Happened.INQUIRED if command.stage == "inquiry" else Happened.DISPUTED


def detail_of(command: Reversing) -> dict[str, int | str]:
    """Return what the reply to an event repeats of it."""
    detail: dict[str, int | str] = {"original_reference_id": command.original_reference_id}
    amount = getattr(command, "amount_minor", None)
    if amount is None:
        amount = getattr(command, "refunded_total_minor", None)
    if amount is not None:
        detail["amount_minor"] = amount
    return detail


# -- tokens that follow from the events -------------------------------------------------------------------


def _bring_up_to_date(
    account: Account,
    payment: Payment,
    before: Sequence[PaymentEvent],
    events: Sequence[PaymentEvent],
    outcome: Outcome,
    context: Context,
) -> None:
    """Take back or give back what all ``events`` ask for, and write on the last one what that was.

    ``before`` are those that counted already: what they ask for and didn't get was written off. It is not
    claimed again, and what goes back goes back of it first.
    """
    event, policy = events[-1], context.catalog.payments
    lots = PaidLots(account, payment)
    lots.let_go(outcome, {one.reference_id for one in events})
    collected = sum(past.collected for past in events)
    uncollected = sum(past.uncollected for past in events)
    asked = lots.asked(events, policy)
    had_asked = lots.asked(before, policy).tokens
    claimed = min(collected, asked.tokens) + max(asked.tokens - max(collected, had_asked), 0)
    taken = lots.take(outcome, claimed, asked)
    if policy.when_spent == "debt":
        taken += lots.owe(outcome, claimed - taken)
    event.collected = taken - collected
    event.uncollected = asked.tokens + asked.lapsed - taken - uncollected
    if policy.on_dispute == "hold" and is_disputed(events):
        until = context.now + timedelta(days=policy.dispute_hold_days)
        lots.keep(outcome, event.reference_id, until)
