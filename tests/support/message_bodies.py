"""Message bodies for tests of decoding, and the command or the error that they decode to."""

import json
from typing import Any

from pydantic import TypeAdapter

from schemas import Limits, Malformed, Message, decode
from schemas.fields import Identifier
from tests.support.strategies import LIMITS, NOW

#: Value that removes a field from ``body``.
GONE = object()

REASONS = {
    "body_too_large",
    "byte_order_mark",
    "not_utf8",
    "not_json",
    "too_deep",
    "duplicate_field",
    "not_an_object",
    "missing_field",
    "unknown_field",
    "unknown_type",
    "invalid_field",
    "invalid_id",
}

Fields = dict[str, Any]

_WHO: Fields = {"referenceId": "r-1", "userId": "u-1"}
_ABOUT: Fields = {"originalReferenceId": "o-1"}
_MONEY: Fields = {"amountMinor": 499, "currency": "USD"}
_LEAST: dict[str, Fields] = {
    "account.open": {"tier": "free"},
    "account.settle": {},
    "account.freeze": {"reason": "fraud warning"},
    "account.unfreeze": {"reason": "checked by ann"},
    "account.import": {
        "tier": "free",
        "anchor": "2026-11-03T00:00:00Z",
        "openedAt": "2024-01-05T08:00:00Z",
        "asOf": "2026-11-22T10:00:00Z",
    },
    "usage.deduct": {"tokens": 5},
    "usage.free_upload": {"bytes": 5},
    "usage.reserve": {"tokens": 5, "ttlSeconds": 60},
    "usage.settle": {"tokens": 5, **_ABOUT},
    "usage.extend": {"ttlSeconds": 60, **_ABOUT},
    "usage.release": _ABOUT,
    "usage.record": {"meter": "ocr", "quantity": 5},
    "usage.batch": {"items": [{"type": "usage.deduct", "referenceId": "i-0", "tokens": 5}]},
    "payment.succeeded": {"packageIndex": 0, **_MONEY},
    "payment.refunded": {**_ABOUT, **_MONEY},
    "payment.refund_failed": {"refundReferenceId": "re-1", **_ABOUT},
    "payment.named": {"alsoKnownAs": ["pi-1"], **_ABOUT},
    "payment.disputed": {"disputeId": "d-1", **_ABOUT, **_MONEY},
    "payment.dispute_closed": {"disputeId": "d-1", "result": "lost", **_ABOUT, **_MONEY},
    "payment.failed": _ABOUT,
    "credit.refund": {"tokens": 5},
    "credit.bonus": {"tokens": 5},
    "credit.adjust": {"tokens": -5, "reason": "counted twice", "actor": "ann"},
    "subscription.change": {"tier": "pro"},
    "subscription.renew": {},
    "subscription.cancel": {},
}

#: The fields that a message of each type must have, and no more.
MINIMAL = {type_: {"type": type_, **_WHO, **fields} for type_, fields in _LEAST.items()}


def body(base: str | Fields, /, **changes: Any) -> bytes:
    """Return the minimal message of a type, or other fields, with changes; ``GONE`` removes a field."""
    fields = MINIMAL[base] if isinstance(base, str) else base
    kept = {name: value for name, value in {**fields, **changes}.items() if value is not GONE}
    return json.dumps(kept).encode()


def outcome_of(message: bytes, limits: Limits = LIMITS) -> Message | Malformed:
    """Return the result of decoding ``message`` at ``NOW``."""
    return decode(message, now=NOW, limits=limits)


def taken(message: bytes, limits: Limits = LIMITS) -> Any:
    """Return the content of ``message``, which must not be malformed."""
    outcome = outcome_of(message, limits)
    assert not isinstance(outcome, Malformed), outcome
    return outcome


def refusal_of(message: bytes, limits: Limits = LIMITS) -> Malformed:
    """Return the error of ``message``, which must be fit for logs and headers."""
    refused = outcome_of(message, limits)
    assert isinstance(refused, Malformed), f"taken: {refused}"
    assert_fit_for_logs_and_headers(refused)
    return refused


def assert_refused(message: bytes, reason: str, field: str | None, words: str) -> None:
    """Fail the test unless ``message`` is refused for ``reason``, with its field and advice."""
    refused = refusal_of(message)
    assert (refused.reason, refused.field) == (reason, field)
    assert words in refused.message


def assert_fit_for_logs_and_headers(refused: Malformed) -> None:
    """Fail the test if any text could break a log or a header."""
    assert refused.reason in REASONS
    for text in (refused.message, refused.field or "no field"):
        assert text.isascii()
        assert text.isprintable()
    assert 0 < len(refused.message) < 2_000
    for identity in (refused.type, refused.reference_id, refused.user_id):
        if identity is not None:
            TypeAdapter(Identifier).validate_python(identity)
