"""The dead letter's headers: all of it can be read back."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from schemas import SCHEMA_VERSION, DeadLetter, DeadLetterReason

DEAD_LETTER = DeadLetter(
    letter_id="4f1c",
    reason="invalid_field",
    message="tokens: must be 1 or more",
    queue="billing.usage",
    exchange="billing",
    routing_key="usage.deduct",
    attempts=1,
    first_failed_at=datetime(2026, 11, 22, 10, 15, tzinfo=UTC),
    last_failed_at=datetime(2026, 11, 22, 10, 15, 0, 250_000, tzinfo=UTC),
    worker_version="0.1.0",
    schema_version=SCHEMA_VERSION,
)
FULL = DEAD_LETTER.model_copy(
    update={
        "field": "tokens",
        "traceback": 'Traceback:\n  File "x"\nValueError: ü',
        "type": "usage.deduct",
        "reference_id": "r-ü",
        "user_id": "ユーザー",
        "headers_omitted": "x-huge",
    }
)


def test_every_field_is_a_header_of_its_own() -> None:
    assert FULL.to_headers() == {
        "x-billing-letter-id": "4f1c",
        "x-billing-reason": "invalid_field",
        "x-billing-message": "tokens: must be 1 or more",
        "x-billing-field": "tokens",
        "x-billing-traceback": 'Traceback:\n  File "x"\nValueError: ü',
        "x-billing-queue": "billing.usage",
        "x-billing-exchange": "billing",
        "x-billing-routing-key": "usage.deduct",
        "x-billing-attempts": 1,
        "x-billing-first-failed-at": "2026-11-22T10:15:00Z",
        "x-billing-last-failed-at": "2026-11-22T10:15:00.250000Z",
        "x-billing-type": "usage.deduct",
        "x-billing-reference-id": "r-ü",
        "x-billing-user-id": "ユーザー",
        "x-billing-worker-version": "0.1.0",
        "x-billing-schema-version": SCHEMA_VERSION,
        "x-billing-headers-omitted": "x-huge",
    }


@pytest.mark.parametrize("dead_letter", [DEAD_LETTER, FULL], ids=["what must be", "all there is"])
def test_a_dead_letter_read_back_from_its_headers_is_the_same_dead_letter(dead_letter: DeadLetter) -> None:
    assert DeadLetter.from_headers(dead_letter.to_headers()) == dead_letter


def test_absent_field_has_no_header() -> None:
    assert set(FULL.to_headers()) - set(DEAD_LETTER.to_headers()) == {
        "x-billing-field",
        "x-billing-traceback",
        "x-billing-type",
        "x-billing-reference-id",
        "x-billing-user-id",
        "x-billing-headers-omitted",
    }


def test_headers_of_others_and_of_later_versions_are_no_hindrance() -> None:
    headers = DEAD_LETTER.to_headers() | {
        "x-death": [{"count": 3}],
        "reason": "other",
        "x-billing-mood": "sad",
    }
    assert DeadLetter.from_headers(headers) == DEAD_LETTER


def test_a_message_without_the_headers_is_no_dead_letter() -> None:
    with pytest.raises(ValidationError):
        DeadLetter.from_headers({"x-death": []})


@pytest.mark.parametrize("missing", sorted(DEAD_LETTER.to_headers()))
def test_a_dead_letter_without_one_of_its_headers_is_no_dead_letter(missing: str) -> None:
    headers = DEAD_LETTER.to_headers()
    del headers[missing]
    with pytest.raises(ValidationError, match=missing.removeprefix("x-billing-").replace("-", "_")):
        DeadLetter.from_headers(headers)


def test_the_time_between_the_failures_survives_to_the_microsecond() -> None:
    dead_letter = DeadLetter.from_headers(DEAD_LETTER.to_headers())
    assert dead_letter.last_failed_at - dead_letter.first_failed_at == timedelta(microseconds=250_000)


def test_reason_code_is_plain_text_on_the_wire() -> None:
    headers = DEAD_LETTER.model_copy(update={"reason": DeadLetterReason.NOT_JSON}).to_headers()
    assert headers["x-billing-reason"] == "not_json"
    assert type(headers["x-billing-reason"]) is str


def test_reason_code_of_another_version_is_read() -> None:
    headers = DEAD_LETTER.to_headers() | {"x-billing-reason": "of_tomorrow"}
    assert DeadLetter.from_headers(headers).reason == "of_tomorrow"


def test_reason_codes_keep_their_names() -> None:
    assert set(DeadLetterReason) == {
        *("body_too_large", "byte_order_mark", "not_utf8", "not_json", "too_deep", "duplicate_field"),
        *("not_an_object", "missing_field", "unknown_field", "unknown_type", "invalid_field", "invalid_id"),
        *("wrong_sender", "wrong_routing_key", "wrong_exchange", "wrong_lane"),
        *("unreadable_properties", "reference_conflict"),
        *("unprocessable", "delivery_limit", "notice_refused", "rejected", "expired", "maxlen", "unknown"),
    }
