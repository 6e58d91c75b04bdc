"""Short constructors of commands, by default for the user ``u`` with the reference ``r``.

What they name is ``hold``, a hold, or ``p``, a payment; the packages are those of the small catalogs.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from schemas import (
    AdjustCredit,
    BonusCredit,
    CancelSubscription,
    ChangeSubscription,
    DeductUsage,
    DisputeClosed,
    ExtendUsage,
    FreeUpload,
    FreezeAccount,
    ImportAccount,
    OpenAccount,
    PaymentDisputed,
    PaymentFailed,
    PaymentNamed,
    PaymentRefunded,
    PaymentSucceeded,
    RecordUsage,
    RefundCredit,
    RefundFailed,
    ReleaseUsage,
    RenewSubscription,
    ReserveUsage,
    SettleAccount,
    SettleUsage,
    UnfreezeAccount,
)


def opening(reference_id: str = "o", user_id: str = "u", tier: str = "free", **more: Any) -> OpenAccount:
    return OpenAccount(reference_id=reference_id, user_id=user_id, tier=tier, **more)


def importing(user_id: str = "u", **fields: Any) -> ImportAccount:
    """Return an import as it comes over the wire: fields by their names there, also those of its parts."""
    least = {
        "tier": "pro",
        "anchor": "2026-11-03T00:00:00Z",
        "openedAt": "2024-01-05T08:00:00Z",
        "asOf": "2026-11-22T10:00:00Z",
    }
    named = {"referenceId": f"import-{user_id}", "userId": user_id}
    return ImportAccount.model_validate({**named, **least, **fields})


def deduct(tokens: int, reference_id: str = "r", user_id: str = "u", **more: Any) -> DeductUsage:
    return DeductUsage(reference_id=reference_id, user_id=user_id, tokens=tokens, **more)


def upload(size: int, reference_id: str = "r", user_id: str = "u", **more: Any) -> FreeUpload:
    return FreeUpload(reference_id=reference_id, user_id=user_id, bytes=size, **more)


def reserve(tokens: int, reference_id: str = "r", ttl_seconds: int = 86_400, **more: Any) -> ReserveUsage:
    return ReserveUsage(
        **{"reference_id": reference_id, "user_id": "u", "tokens": tokens, "ttl_seconds": ttl_seconds, **more}
    )


def settle(tokens: int, hold: str = "hold", **more: Any) -> SettleUsage:
    return SettleUsage(
        **{"reference_id": "r", "user_id": "u", "original_reference_id": hold, "tokens": tokens, **more}
    )


def extend(ttl_seconds: int = 86_400, hold: str = "hold", **more: Any) -> ExtendUsage:
    return ExtendUsage(
        **{
            "reference_id": "x",
            "user_id": "u",
            "original_reference_id": hold,
            "ttl_seconds": ttl_seconds,
            **more,
        }
    )


def release(hold: str = "hold", **more: Any) -> ReleaseUsage:
    return ReleaseUsage(**{"reference_id": "r", "user_id": "u", "original_reference_id": hold, **more})


def record(meter: str, quantity: int, **more: Any) -> RecordUsage:
    return RecordUsage(**{"reference_id": "r", "user_id": "u", "meter": meter, "quantity": quantity, **more})


def payment(amount_minor: int = 999, currency: str = "EUR", **more: Any) -> PaymentSucceeded:
    named = more if "package_index" in more else {"package_id": "rich", **more}
    return PaymentSucceeded(
        **{"reference_id": "r", "user_id": "u", "amount_minor": amount_minor, "currency": currency, **named}
    )


def went_back(amount_minor: int = 999, currency: str = "EUR", **more: Any) -> PaymentRefunded:
    return PaymentRefunded(**_event(amount_minor, currency, more))


def went_back_in_all(total_minor: int = 999, currency: str = "EUR", **more: Any) -> PaymentRefunded:
    total = {"refunded_total_minor": total_minor, "amount_minor": None}
    return PaymentRefunded(**{**_event(0, currency, more), **total})


def refund_failed(refund: str, **more: Any) -> RefundFailed:
    return RefundFailed(
        **{
            "reference_id": "r",
            "user_id": "u",
            "original_reference_id": "p",
            "refund_reference_id": refund,
            **more,
        }
    )


def named(*names: str, **more: Any) -> PaymentNamed:
    return PaymentNamed(
        **{"reference_id": "r", "original_reference_id": "p", "also_known_as": names or ("p2",), **more}
    )


def disputed(amount_minor: int = 999, currency: str = "EUR", **more: Any) -> PaymentDisputed:
    return PaymentDisputed(**_event(amount_minor, currency, {"dispute_id": "x", **more}))


def closed(result: str, amount_minor: int = 999, currency: str = "EUR", **more: Any) -> DisputeClosed:
    return DisputeClosed(**_event(amount_minor, currency, {"dispute_id": "x", "result": result, **more}))


def failed(**more: Any) -> PaymentFailed:
    return PaymentFailed(**{"reference_id": "r", "user_id": "u", "original_reference_id": "p", **more})


def _event(amount_minor: int, currency: str, more: Mapping[str, Any]) -> dict[str, Any]:
    money = {"amount_minor": amount_minor, "currency": currency}
    return {"reference_id": "r", "user_id": "u", "original_reference_id": "p", **money, **more}


def refund(tokens: int, original: str | None = None, **more: Any) -> RefundCredit:
    named = {"reference_id": "r", "user_id": "u", "original_reference_id": original}
    return RefundCredit(**{**named, "tokens": tokens, **more})


def bonus(tokens: int, reference_id: str = "r", user_id: str = "u", **more: Any) -> BonusCredit:
    return BonusCredit(reference_id=reference_id, user_id=user_id, tokens=tokens, **more)


def adjust(tokens: int, **more: Any) -> AdjustCredit:
    said = {"reason": "a slip", "actor": "ann"}
    return AdjustCredit(**{"reference_id": "r", "user_id": "u", "tokens": tokens, **said, **more})


def change(tier: str, **more: Any) -> ChangeSubscription:
    return ChangeSubscription(**{"reference_id": "r", "user_id": "u", "tier": tier, **more})


def renew(period_start: datetime | None = None, **more: Any) -> RenewSubscription:
    return RenewSubscription(**{"reference_id": "r", "user_id": "u", "period_start": period_start, **more})


def cancel(at: str = "period_end", **more: Any) -> CancelSubscription:
    return CancelSubscription(**{"reference_id": "r", "user_id": "u", "at": at, **more})


def settling(**more: Any) -> SettleAccount:
    return SettleAccount(**{"reference_id": "r", "user_id": "u", **more})


def freezing(reference_id: str = "z", **more: Any) -> FreezeAccount:
    named = more if "payment_reference_id" in more else {"user_id": "u", **more}
    return FreezeAccount(**{"reference_id": reference_id, "reason": "fraud warning", **named})


def unfreezing(reference_id: str = "y", **more: Any) -> UnfreezeAccount:
    named = more if "payment_reference_id" in more else {"user_id": "u", **more}
    return UnfreezeAccount(**{"reference_id": reference_id, "reason": "cleared", **named})
