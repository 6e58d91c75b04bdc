"""Payments as gateways send them, for the true ledger: names, totals, failed refunds, inquiries, a hold."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from schemas import (
    CancelSubscription,
    ChangeSubscription,
    Command,
    DeductUsage,
    DisputeClosed,
    OpenAccount,
    PaymentDisputed,
    PaymentNamed,
    PaymentRefunded,
    PaymentSucceeded,
    RefundFailed,
    SettleAccount,
)
from tests.support.strategies import HOLDING_CATALOG, TAKING_CATALOG
from worker.catalog import Catalog

_DAY = timedelta(days=1)
_MONEY = {"amount_minor": 999, "currency": "EUR"}


def history_of_kim(opened: datetime) -> Sequence[tuple[timedelta, Sequence[Command], Catalog]]:
    """Return the history of one user, who pays before the account is opened; in the form of ``HISTORY``."""
    return [
        (
            42 * _DAY,
            [
                _paid("kim-pay-1", also_known_as=("kim-charge-1",)),
                _refunded("kim-re-1", "kim-charge-1", amount_minor=333, currency="EUR"),
                _refunded("kim-euro", "kim-pay-2", amount_minor=100, currency="EUR"),
                OpenAccount(reference_id="kim-open", user_id="kim", tier="free"),
                _paid("kim-pay-2", package_id="plain", amount_minor=499, currency="USD"),
            ],
            TAKING_CATALOG,
        ),
        (
            43 * _DAY,
            [
                DeductUsage(reference_id="kim-use", user_id="kim", tokens=90),
                RefundFailed(
                    reference_id="kim-re-1-failed",
                    original_reference_id="kim-pay-1",
                    refund_reference_id="kim-re-1",
                ),
                PaymentDisputed(
                    reference_id="kim-asked",
                    original_reference_id="kim-pay-1",
                    dispute_id="kim-du",
                    stage="inquiry",
                    **_MONEY,
                ),
                PaymentDisputed(
                    reference_id="kim-opened",
                    original_reference_id="kim-charge-1",
                    dispute_id="kim-du",
                    **_MONEY,
                ),
                _closed("kim-prevented", "prevented", opened + 43 * _DAY),
                _closed("kim-withdrawn", "withdrawn", opened + 42 * _DAY),
                _refunded("kim-re-2", "kim-pay-2", amount_minor=99, currency="USD"),
                _refunded(
                    "kim-total",
                    "kim-pay-2",
                    refunded_total_minor=250,
                    currency="USD",
                    occurred_at=opened + 43 * _DAY,
                ),
                _paid("kim-pay-3", amount_minor=998),
                _refunded("kim-early", "kim-charge-3", amount_minor=300, currency="EUR"),
                _paid("kim-pay-3", amount_minor=998, also_known_as=("kim-charge-3",)),
            ],
            TAKING_CATALOG,
        ),
        (44 * _DAY, [SettleAccount(reference_id="kim-looked", user_id="kim")], TAKING_CATALOG),
        (
            44 * _DAY,
            [
                _refunded("kim-late", "kim-intent-3", amount_minor=98, currency="EUR"),
                PaymentNamed(
                    reference_id="kim-named",
                    original_reference_id="kim-pay-3",
                    also_known_as=("kim-intent-3",),
                ),
                PaymentNamed(
                    reference_id="kim-named-early",
                    original_reference_id="kim-pay-9",
                    also_known_as=("kim-intent-9", "kim-charge-9"),
                ),
                ChangeSubscription(
                    reference_id="kim-stays",
                    user_id="kim",
                    tier="free",
                    occurred_at=opened + 44 * _DAY,
                ),
                CancelSubscription(
                    reference_id="kim-ended-before",
                    user_id="kim",
                    at="now",
                    occurred_at=opened + 43 * _DAY,
                ),
            ],
            TAKING_CATALOG,
        ),
        (
            45 * _DAY,
            [
                _paid("kim-pay-4"),
                PaymentDisputed(
                    reference_id="kim-kept",
                    original_reference_id="kim-pay-4",
                    dispute_id="kim-du-4",
                    **_MONEY,
                ),
                _refunded("kim-re-4", "kim-pay-4", amount_minor=100, currency="EUR"),
                _closed("kim-let-go", "won", opened + 45 * _DAY, "kim-pay-4", "kim-du-4"),
            ],
            HOLDING_CATALOG,
        ),
    ]


def _paid(reference: str, **more: Any) -> Command:
    return PaymentSucceeded(
        **{"reference_id": reference, "user_id": "kim", "package_id": "rich", **_MONEY, **more}
    )


def _refunded(reference: str, name: str, **more: Any) -> Command:
    return PaymentRefunded(reference_id=reference, original_reference_id=name, **more)


def _closed(
    reference: str, result: Any, at: datetime, name: str = "kim-pay-1", dispute: str = "kim-du"
) -> Command:
    return DisputeClosed(
        reference_id=reference,
        original_reference_id=name,
        dispute_id=dispute,
        result=result,
        occurred_at=at,
        **_MONEY,
    )
