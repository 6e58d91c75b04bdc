"""The reply as it stands on the wire."""

import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from schemas import Code, Reply, Status

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
    told = json.loads(reply.to_json())
    assert (told["duplicate"], told["amount"], told["balanceAfter"]) == (False, 0, 0)
    assert "balanceBefore" not in told


def test_a_reply_that_is_read_again_is_the_same_reply() -> None:
    assert Reply.model_validate_json(FULL.to_json()) == FULL


@pytest.mark.parametrize("member", [*Status, *Code])
def test_statuses_and_codes_are_the_words_on_the_wire(member: Status | Code) -> None:
    assert str(member) == member.value == member.name.lower()
    assert json.dumps(member) == f'"{member.value}"'


def test_the_codes_of_the_contract_are_there() -> None:
    rejections = {
        "insufficient_balance",
        "account_not_found",
        "account_exists",
        "free_upload_limit_exceeded",
        "unknown_package",
        "unknown_tier",
        "amount_mismatch",
        "reference_conflict",
    }
    assert rejections <= set(Code)
    assert set(Status) == {"applied", "rejected", "failed"}


def test_a_reply_is_a_value() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        FULL.message = "another"  # type: ignore[misc]


def test_a_reader_of_today_understands_a_reply_of_tomorrow() -> None:
    reply = Reply.model_validate({"status": "failed", "code": "malformed", "message": "m", "colour": "red"})
    assert reply.message == "m"
