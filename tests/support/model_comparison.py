"""Comparison of a ledger with the model: replies and stored state must be equal."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from schemas import Command
from tests.support.fake_ledger import FakeLedger
from tests.support.model import Model, predicted
from worker.core import Entry, Hold, Lot, PaymentEvent
from worker.core.calendars import last_start
from worker.core.known import ALERT_DEPLETED, ALERT_LOW


def assert_like_the_model(
    ledger: FakeLedger, model: Model, day: Iterable[tuple[datetime, Sequence[Command]]]
) -> list[dict[str, Any]]:
    """Apply the batches to both at their times; fail the test unless replies and state are equal."""
    replies: list[dict[str, Any]] = []
    for now, batch in day:
        answered = ledger.apply(batch, now)
        expected = [model.apply(command, now) for command in batch]
        assert [predicted(reply) for reply in answered] == expected
        replies += answered
    assert_same_ledger(ledger, model)
    return replies


def assert_same_ledger(ledger: FakeLedger, model: Model) -> None:
    """Fail the test unless ledger and model have equal state."""
    assert ledger.balances() == model.balances()
    for user in ledger.accounts:
        assert_same_account(ledger, model, user)
    assert {n.name: n.payment_reference for n in ledger.names.values() if n.user_id} == model.payment_names
    assert names_alike_in(ledger) == model.names_alike
    assert waiting_events_of(ledger) == sorted(model.waiting_events, key=_reference)
    assert notices_of(ledger) == {
        reference_id: [notice for notice in model.notices if notice["referenceId"] == reference_id]
        for reference_id in {notice["referenceId"] for notice in model.notices}
    }


def assert_same_account(ledger: FakeLedger, model: Model, user: str) -> None:
    """Fail the test unless one account is equal, to the last entry."""
    account = ledger.accounts[user]
    assert [movement_of(entry) for entry in ledger.history(user)] == model.history(user)
    assert [as_lot(lot) for lot in ledger.lots_of(user)] == model.lots(user)
    assert [as_hold(hold) for hold in ledger.holds_of(user)] == model.holds(user)
    assert (account.tier, account.held, account.debt) == (
        model.tier(user),
        model.held(user),
        model.debt(user),
    )
    assert {
        "grantedFrom": last_start(account),
        "grantedUntil": account.granted_until,
        "periodGranted": account.period_granted,
        "endsAt": account.ends_at,
        "nextTier": None if account.next_tier is None else (account.next_tier, account.next_tier_at),
    } == model.subscription(user)
    alerts = {"low": ALERT_LOW, "depleted": ALERT_DEPLETED}
    assert {name for name, alert in alerts.items() if account.alerts & alert} == model.warned(user)
    assert model.sums(user) == {
        "allocation": account.allocated,
        "purchases": account.purchased,
        "bonus": account.bonus,
        "refunds": account.refunded,
        "adjustments": account.adjusted,
        "usage": account.used,
        "expiry": account.expired,
        "reversals": account.reversed,
    }
    assert quotas_of(ledger, user) == model.quotas(user)
    assert payments_of(ledger, user) == [
        {name: value for name, value in paid.items() if name != "lots"}
        for paid in model.payments
        if paid["userId"] == user
    ]
    events = [event for event in model.payment_events if event["userId"] == user]
    assert payment_events_of(ledger, user) == sorted(events, key=_reference)
    due = model.next_due(user)
    assert due is None or (account.due_at is not None and account.due_at <= due), "nobody waits for it"


def movement_of(entry: Entry) -> dict[str, Any]:
    """Return an entry in the form of the model."""
    return {
        "sequence": entry.sequence,
        "referenceId": entry.outcome.reference_id,
        "counter": str(entry.counter),
        "amount": entry.amount,
        "balanceBefore": entry.balance_before,
        "balanceAfter": entry.balance_after,
        "lot": entry.lot,
        "feature": entry.feature,
        "dueAt": entry.due_at,
        "occurredAt": entry.occurred_at,
        "recordedAt": entry.recorded_at,
    }


def as_lot(lot: Lot) -> dict[str, Any]:
    """Return a lot in the form of the model."""
    return {
        "number": lot.number,
        "source": str(lot.source),
        "granted": lot.granted,
        "remaining": lot.remaining,
        "held": lot.held,
        "pending": lot.pending,
        "priority": lot.priority,
        "effectiveAt": lot.effective_at,
        "expiresAt": lot.expires_at,
        "parent": lot.parent,
        "isNoticed": lot.is_noticed,
        "endedAt": lot.ended_at,
    }


def as_hold(hold: Hold) -> dict[str, Any]:
    """Return a hold in the form of the model."""
    return {
        "reference": hold.reference_id,
        "amount": hold.amount,
        "parts": list(hold.parts),
        "state": str(hold.state),
        "captured": hold.captured,
        "openedAt": hold.opened_at,
        "expiresAt": hold.expires_at,
        "closedAt": hold.closed_at,
        "isDispute": hold.is_dispute,
    }


def quotas_of(ledger: FakeLedger, user: str) -> dict[tuple[str, Any], int]:
    """Return the counted amounts by quota and first day of the period."""
    account_id = ledger.accounts[user].account_id
    return {
        (key.meter, key.period_start): quota.used
        for key, quota in ledger.quotas.items()
        if key.account_id == account_id
    }


def payments_of(ledger: FakeLedger, user: str) -> list[dict[str, Any]]:
    """Return the payments of a user in the form of the model."""
    account_id = ledger.accounts[user].account_id
    return [
        {
            "referenceId": paid.reference_id,
            "userId": user,
            "packageId": paid.package_id,
            "tier": paid.tier,
            "amountMinor": paid.amount_minor,
            "currency": paid.currency,
            "tokens": paid.base_tokens,
            "bonusTokens": paid.bonus_tokens,
            "provider": paid.provider,
            "occurredAt": paid.occurred_at,
            "recordedAt": paid.recorded_at,
        }
        for paid in ledger.payments
        if paid.account_id == account_id
    ]


def payment_events_of(ledger: FakeLedger, user: str) -> list[dict[str, Any]]:
    """Return the payment events of a user in the form of the model, by their references."""
    account_id = ledger.accounts[user].account_id
    own = [event for event in ledger.payment_events if event.account_id == account_id]
    return sorted(({**_as_event(event), "userId": user} for event in own), key=_reference)


def names_alike_in(ledger: FakeLedger) -> list[list[str]]:
    """Return the names of payments to come, those of each payment together."""
    alike: dict[str, list[str]] = {}
    for name in ledger.names.values():
        if name.same_as is not None:
            alike.setdefault(name.same_as, []).append(name.name)
    return sorted(sorted(names) for names in alike.values())


def waiting_events_of(ledger: FakeLedger) -> list[dict[str, Any]]:
    """Return the events that wait for a payment in the form of the model, by their references."""
    return sorted(map(_as_event, ledger.waiting.values()), key=_reference)


def _as_event(event: PaymentEvent) -> dict[str, Any]:
    return {
        "referenceId": event.reference_id,
        "userId": event.user_id,
        "payment": event.name,
        "postedBy": event.outcome.reference_id if event.outcome else None,
        "happened": str(event.happened),
        "disputeId": event.dispute_id,
        "refundReference": event.refund_reference,
        "amountMinor": event.amount_minor,
        "currency": event.currency,
        "occurredAt": event.occurred_at,
        "recordedAt": event.recorded_at,
        "collected": event.collected,
        "uncollected": event.uncollected,
    }


def _reference(event: dict[str, Any]) -> str:
    reference: str = event["referenceId"]
    return reference


def notices_of(ledger: FakeLedger) -> dict[str, list[dict[str, Any]]]:
    """Return the notices of each operation with any, in order."""
    return {
        name: [
            {"userId": outcome.user_id, "referenceId": name, **_as_notice(notice)}
            for notice in outcome.notices
        ]
        for name, outcome in ledger.outcomes.items()
        if outcome.notices
    }


def _as_notice(notice: Any) -> dict[str, Any]:
    if "expires_at" not in notice:
        return dict(notice)
    rest = {name: value for name, value in notice.items() if name != "expires_at"}
    return {**rest, "expiresAt": datetime.fromisoformat(notice["expires_at"])}
