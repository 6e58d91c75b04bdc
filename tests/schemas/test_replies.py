"""The reply as it stands on the wire."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from schemas import SCHEMA_VERSION, Code, Reply, Status

FULL = Reply(
    status=Status.REJECTED,
    code=Code.INSUFFICIENT_BALANCE,
    message="Insufficient token balance. Required: 1.5K, Available: 300",
    type="usage.deduct",
    reference_id="r-1",
    user_id="u-1",
    attempt=2,
    transaction_id="17",
    unit="tokens",
    balance_before=300,
    balance_after=300,
    required=1_500,
    available=300,
    shortfall=1_200,
    recorded_at=datetime(2026, 11, 22, 10, 15, tzinfo=UTC),
)


def test_a_reply_is_camel_case_and_leaves_out_what_does_not_apply() -> None:
    assert json.loads(FULL.to_json()) == {
        "schemaVersion": SCHEMA_VERSION,
        "status": "rejected",
        "code": "insufficient_balance",
        "message": "Insufficient token balance. Required: 1.5K, Available: 300",
        "type": "usage.deduct",
        "referenceId": "r-1",
        "userId": "u-1",
        "attempt": 2,
        "duplicate": False,
        "transactionId": "17",
        "unit": "tokens",
        "balanceBefore": 300,
        "balanceAfter": 300,
        "required": 1500,
        "available": 300,
        "shortfall": 1200,
        "recordedAt": "2026-11-22T10:15:00Z",
    }


def test_duplicate_is_said_either_way_and_zero_is_a_value() -> None:
    reply = Reply(status=Status.APPLIED, code=Code.ACCOUNT_OPENED, message="m", amount=0, balance_after=0)
    fields = json.loads(reply.to_json())
    assert (fields["duplicate"], fields["amount"], fields["balanceAfter"]) == (False, 0, 0)
    assert "balanceBefore" not in fields


def test_a_reply_that_is_read_again_is_the_same_reply() -> None:
    assert Reply.model_validate_json(FULL.to_json()) == FULL


@pytest.mark.parametrize("member", [*Status, *Code])
def test_statuses_and_codes_are_the_words_on_the_wire(member: Status | Code) -> None:
    assert str(member) == member.value == member.name.lower()
    assert json.dumps(member) == f'"{member.value}"'


def test_there_are_three_statuses() -> None:
    assert set(Status) == {"applied", "rejected", "failed"}


def test_a_reply_is_a_value() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        FULL.message = "another"  # type: ignore[misc]


@pytest.mark.parametrize("status", ["rejected", "postponed"])
@pytest.mark.parametrize("code", ["hold_closed", "moon_too_high"])
def test_reader_of_today_takes_a_code_and_a_status_of_tomorrow(status: str, code: str) -> None:
    fields = {"schemaVersion": 3, "status": status, "code": code, "message": "m", "duplicate": False}
    tomorrow = {**fields, "colour": "red", "items": [{**fields, "colour": "blue"}]}
    reply = Reply.model_validate_json(json.dumps(tomorrow))
    assert (reply.status, reply.code, reply.schema_version) == (status, code, 3)
    assert reply.items is not None
    assert (reply.items[0].status, reply.items[0].code) == (status, code)
    of_items = {name: value for name, value in fields.items() if name != "schemaVersion"}
    assert json.loads(reply.to_json()) == {**fields, "items": [of_items]}


@pytest.mark.parametrize("read", [Reply.model_validate_json, lambda body: Reply(**json.loads(body))])
def test_code_and_status_of_today_are_members_however_they_are_read(read: Callable[[bytes], Reply]) -> None:
    reply = read(b'{"status": "applied", "code": "hold_settled", "message": "m"}')
    assert reply.status is Status.APPLIED
    assert reply.code is Code.HOLD_SETTLED


def test_code_and_status_are_texts() -> None:
    for field in ("status", "code"):
        with pytest.raises(ValidationError, match=field):
            Reply.model_validate({"status": "failed", "code": "malformed", "message": "m", field: 7})


def test_a_reader_of_today_understands_a_reply_of_tomorrow() -> None:
    reply = Reply.model_validate({"status": "failed", "code": "malformed", "message": "m", "colour": "red"})
    assert reply.message == "m"


def test_the_reply_to_a_batch_has_the_replies_to_its_items_and_counts_them() -> None:
    applied = Reply(
        status=Status.APPLIED, code=Code.USAGE_RECORDED, message="m", reference_id="b/1", amount=0
    )
    batch = Reply(
        status=Status.APPLIED,
        code=Code.BATCH_PROCESSED,
        message="m",
        reference_id="b",
        applied=1,
        rejected=1,
        items=(applied, FULL),
    )
    fields = json.loads(batch.to_json())
    assert (fields["applied"], fields["rejected"]) == (1, 1)
    of_items = [json.loads(item.to_json()) for item in (applied, FULL)]
    assert [{**item, "schemaVersion": SCHEMA_VERSION} for item in fields["items"]] == of_items
    assert fields["schemaVersion"] == SCHEMA_VERSION
    assert "schemaVersion" not in fields["items"][0], "a batch says it once"
    assert "items" not in fields["items"][0]
    assert Reply.model_validate_json(batch.to_json()) == batch


def test_times_of_a_reply_are_in_utc_and_come_back_as_they_were() -> None:
    held = Reply(
        status=Status.APPLIED,
        code=Code.TOKENS_RESERVED,
        message="m",
        held=5,
        expires_at=datetime(2026, 11, 22, 10, 20, 0, 250_000, tzinfo=UTC),
    )
    assert json.loads(held.to_json())["expiresAt"] == "2026-11-22T10:20:00.250000Z"
    assert Reply.model_validate_json(held.to_json()) == held


def test_no_code_is_ever_renamed_or_taken_away() -> None:
    """Producers compare with these codes; a code that is added is added here too."""
    assert set(Code) == {
        *("account_opened", "account_settled", "account_exists", "account_not_found"),
        *("tokens_deducted", "insufficient_balance", "free_upload_counted", "free_upload_limit_exceeded"),
        *(
            "tokens_reserved",
            "hold_extended",
            "hold_settled",
            "hold_settled_late",
            "hold_released",
            "hold_not_found",
            "hold_closed",
            "hold_exceeded",
        ),
        *("usage_recorded", "unknown_meter", "batch_processed"),
        *("tokens_purchased", "unknown_package", "amount_mismatch", "currency_mismatch"),
        *("payment_refunded", "payment_disputed", "dispute_won", "dispute_lost", "payment_failed"),
        *("payment_awaited", "original_required", "original_not_found", "original_not_refundable"),
        *("tokens_refunded", "refund_exceeds_original", "bonus_granted", "bonus_scheduled"),
        *("adjustment_credited", "adjustment_debited", "credit_expired"),
        *("subscription_changed", "subscription_renewed", "renewal_scheduled", "subscription_canceled"),
        *("subscription_not_active", "period_already_granted", "period_out_of_range", "unknown_tier"),
        "too_late",
        *("account_imported", "payment_imported", "reference_taken", "allocation_outlasts_period"),
        *("purchase_flagged", "refund_failed", "refund_style_mixed", "inquiry_opened"),
        *("dispute_prevented", "dispute_withdrawn", "change_scheduled"),
        *("freeze_began", "freeze_ended", "account_frozen"),
        *("payment_named", "cancellation_late"),
        *("reference_conflict", "malformed", "unprocessable"),
    }
