"""Answers about one account: balance and affordability, from what was read of it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from schemas import AffordAnswer, BalanceAnswer, Command, DeductUsage, QueryAfford, RecordUsage
from schemas.answers import QuotaStatus, SubscriptionStatus, Totals
from worker.catalog import Catalog
from worker.core import Conflict, decide
from worker.core.replies import human_amount
from worker.ledger.queries.balances import Balance
from worker.ledger.queries.posted import PostedState

#: Reference of the usage that a question is decided as; nothing is known under it.
_QUESTION = "query.afford"


def balance_answer(balance: Balance, as_of: datetime) -> BalanceAnswer:
    """Return the answer that tells ``balance``."""
    subscription = balance.subscription
    allocation = balance.monthly_allocation
    return BalanceAnswer(
        as_of=as_of,
        user_id=balance.user_id,
        sequence=balance.sequence,
        balance=balance.balance,
        held=balance.held,
        available=balance.available,
        debt=balance.debt,
        pending=balance.pending,
        balance_formatted=human_amount(balance.balance),
        held_formatted=human_amount(balance.held),
        available_formatted=human_amount(balance.available),
        lots=balance.lots,
        totals=totals_of(balance),
        subscription=SubscriptionStatus(
            tier=subscription.tier,
            is_active=subscription.ends_at is None or balance.at < subscription.ends_at,
            period_start=subscription.period_start,
            period_end=subscription.period_end,
            granted_until=subscription.granted_until,
            ends_at=subscription.ends_at,
        ),
        monthly_allocation=allocation,
        monthly_allocation_formatted=None if allocation is None else human_amount(allocation),
        quotas=tuple(
            QuotaStatus(
                name=quota.name,
                unit=quota.unit,
                limit=quota.limit,
                used=quota.used,
                remaining=quota.remaining,
            )
            for quota in balance.quotas
        ),
        frozen_at=balance.frozen_at,
        next_credit_at=balance.next_credit_at,
        next_credit_tokens=balance.next_credit_tokens,
        opened_at=balance.opened_at,
        updated_at=balance.updated_at,
    )


def totals_of(balance: Balance) -> Totals:
    """Return the sums of an account's entries."""
    return Totals(**{name: getattr(balance, name) for name in Totals.model_fields})


def afford_answer(
    query: QueryAfford, posted: PostedState, now: datetime, as_of: datetime, catalog: Catalog
) -> AffordAnswer:
    """Return the result that the usage of ``query`` would have at ``now``, as ``decide`` itself gives it."""
    (answer,) = decide([_usage_of(query)], posted.known(), now, catalog).answers
    assert not isinstance(answer, Conflict)  # noqa: S101 - nothing known can conflict with it
    outcome = answer.outcome
    detail: Mapping[str, Any] = outcome.detail
    return AffordAnswer(
        as_of=as_of,
        user_id=query.user_id,
        sequence=posted.state.sequence,
        affordable=outcome.is_applied,
        code=outcome.code,
        required=outcome.amount if outcome.is_applied else detail.get("required"),
        available=(outcome.balance_before or 0) - detail.get("held", 0),
        shortfall=detail.get("shortfall", 0),
        meter=query.meter,
        quantity=query.quantity,
        free_quantity=detail.get("free_quantity"),
        charged_quantity=detail.get("charged_quantity"),
    )


def _usage_of(query: QueryAfford) -> Command:
    if query.tokens is not None:
        return DeductUsage(reference_id=_QUESTION, user_id=query.user_id, tokens=query.tokens)
    if query.meter is None or query.quantity is None:
        raise AssertionError("a query without tokens has a meter and a quantity")
    return RecordUsage(
        reference_id=_QUESTION, user_id=query.user_id, meter=query.meter, quantity=query.quantity
    )
