"""Money that has gone back of a payment: it follows from the set of its events.

Nothing here depends on the order in which the events came, nor on when somebody looked.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from worker.catalog import PaymentPolicy
from worker.core.known import Happened, Payment, PaymentEvent

_CLOSINGS: Mapping[Happened, bool] = {
    Happened.DISPUTE_LOST: True,
    Happened.DISPUTE_WON: False,
    Happened.DISPUTE_PREVENTED: False,
    Happened.DISPUTE_WITHDRAWN: False,
}
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Back(NamedTuple):
    """Part of a payment that has gone back: ``minor`` units of money ``of`` so many, which is never 0."""

    minor: int
    of: int

    def share(self, tokens: int) -> int:
        """Return the tokens for this part of the payment, of ``tokens`` for all of it; rounded down."""
        return tokens * self.minor // self.of


class MoneyBack(NamedTuple):
    """Minor units of a payment that have gone back, by their reason; together never more than was paid."""

    refunded: int
    disputed: int
    failed: int

    @property
    def minor(self) -> int:
        """Money that has gone back, for any reason."""
        return self.refunded + self.disputed + self.failed

    def since(self, before: "MoneyBack") -> "MoneyBack":
        """Return what has gone back since ``before``; negative where it was given back again."""
        return MoneyBack(*(now - then for now, then in zip(self, before, strict=True)))


def money_back(payment: Payment, events: Collection[PaymentEvent], policy: PaymentPolicy) -> Back:
    """Return what has gone back of a payment.

    Refunds add up, and so do disputes that were lost (or are open, where the policy takes tokens for that);
    together they never count for more than was paid. A failure takes all of it.
    """
    of = max(payment.amount_minor, 1)
    if any(_failed(payment, event) for event in events):
        return Back(of, of)
    return Back(money_back_by_reason(payment, events, policy).minor, of)


def money_back_by_reason(
    payment: Payment, events: Collection[PaymentEvent], policy: PaymentPolicy
) -> MoneyBack:
    """Return the money of ``money_back`` by reason: refunds first, then disputes, and a failure the rest."""
    paid = payment.amount_minor
    refunded = min(_refunded(payment, events), paid)
    disputes = _disputes(events).values()
    disputed = min(sum(_disputed(payment, dispute, policy) for dispute in disputes), paid - refunded)
    has_failed = any(_failed(payment, event) for event in events)
    return MoneyBack(refunded, disputed, paid - refunded - disputed if has_failed else 0)


def is_refund_style_mixed(payment: Payment, events: Iterable[PaymentEvent]) -> bool:
    """Return True where single refunds and totals were both sent; the larger sum counts then."""
    kinds = {event.happened for event in events if event.currency == payment.currency}
    return {Happened.REFUNDED, Happened.REFUNDED_TOTAL} <= kinds


def is_disputed(events: Iterable[PaymentEvent]) -> bool:
    """Return True while a chargeback is open."""
    return any(
        not any(event.happened in _CLOSINGS for event in dispute)
        and any(event.happened is Happened.DISPUTED for event in dispute)
        for dispute in _disputes(events).values()
    )


def fits(payment: Payment, event: PaymentEvent) -> bool:
    """Return True where the event's money can count for the payment.

    A dispute in another currency counts for all of the payment; nobody knows its part. A refund in another
    currency is a mistake.
    """
    is_refund = event.happened in (Happened.REFUNDED, Happened.REFUNDED_TOTAL)
    return not is_refund or event.currency == payment.currency


def lapsed_share(
    payment: Payment,
    events: Sequence[PaymentEvent],
    policy: PaymentPolicy,
    back: Back,
    lapsed: int,
    ended_at: datetime,
) -> int:
    """Return the tokens of ``back`` that are not asked for, because they expired unspent.

    ``lapsed`` tokens of one lot expired at ``ended_at``, when some of the money had gone back already: they
    belong to the rest of it.
    """
    before = money_back(payment, _known_before(events, ended_at), policy)
    if back.minor <= before.minor:
        return 0
    return lapsed * (back.minor - before.minor) // (back.of - before.minor)


def _known_before(events: Iterable[PaymentEvent], moment: datetime) -> list[PaymentEvent]:
    """Return the events of refunds and disputes that were known before ``moment``, with what came of them.

    A refund that failed later, or a dispute that was won later, had taken nothing for good.
    """
    events = list(events)
    known = {_subject(event) for event in events if event.recorded_at < moment}
    return [event for event in events if _subject(event) in known]


def _subject(event: PaymentEvent) -> tuple[str, str]:
    """Return the dispute or the refund that an event is about: a gateway may number both alike."""
    if event.dispute_id is not None:
        return "dispute", event.dispute_id
    return "refund", event.refund_reference or event.reference_id


def _refunded(payment: Payment, events: Iterable[PaymentEvent]) -> int:
    """Return the money of refunds: the sum of single ones, or the latest total; of both the larger."""
    failed = {event.refund_reference for event in events if event.happened is Happened.REFUND_FAILED}
    singles, totals = 0, []
    for event in events:
        if event.currency != payment.currency:
            continue
        if event.happened is Happened.REFUNDED and event.reference_id not in failed:
            singles += event.amount_minor or 0
        elif event.happened is Happened.REFUNDED_TOTAL:
            totals.append((event.occurred_at or _LONG_AGO, event.amount_minor or 0))
    return max(singles, max(totals)[1] if totals else 0)


def _failed(payment: Payment, event: PaymentEvent) -> bool:
    """Return True for a failure that counts: not where both times are known and the success is later."""
    if event.happened is not Happened.FAILED:
        return False
    if event.occurred_at is None or payment.occurred_at is None:
        return True
    return event.occurred_at >= payment.occurred_at


def _disputes(events: Iterable[PaymentEvent]) -> dict[str, list[PaymentEvent]]:
    found: dict[str, list[PaymentEvent]] = {}
    for event in events:
        if event.dispute_id is not None:
            found.setdefault(event.dispute_id, []).append(event)
    return found


def _latest_closing(payment: Payment, dispute: Iterable[PaymentEvent]) -> PaymentEvent | None:
    """Return the closing that counts: the latest, one without a time before all others.

    Of a tie it is a lost one, of several lost ones the one of the most money for the payment.
    """
    amount = _amount_in(payment)

    def order(event: PaymentEvent) -> tuple[datetime, bool, int]:
        return event.occurred_at or _LONG_AGO, _CLOSINGS[event.happened], amount(event)

    return max((event for event in dispute if event.happened in _CLOSINGS), key=order, default=None)


def _disputed(payment: Payment, dispute: Sequence[PaymentEvent], policy: PaymentPolicy) -> int:
    """Return the money that a dispute takes."""
    amount = _amount_in(payment)
    closing = _latest_closing(payment, dispute)
    if closing is not None:
        return amount(closing) if _CLOSINGS[closing.happened] else 0
    if policy.on_dispute != "take":
        return 0
    return max((amount(event) for event in dispute if event.happened is Happened.DISPUTED), default=0)


def _amount_in(payment: Payment) -> Callable[[PaymentEvent], int]:
    """Return the amount of a dispute's event in the payment's currency: all of it, where that is another."""

    def amount(event: PaymentEvent) -> int:
        return event.amount_minor or 0 if event.currency == payment.currency else payment.amount_minor

    return amount
