"""Times that a message says: when it was published, and when its work occurred."""

from datetime import UTC, datetime
from typing import Any

import pytest

from schemas import DeductUsage
from worker.broker import Delivery
from worker.messages.ages import occurred_at, published_at

AT = datetime(2026, 11, 27, 8, tzinfo=UTC)
SECONDS = int(AT.timestamp())


def stamped(properties: dict[str, Any], headers: dict[str, Any]) -> Delivery:
    return Delivery(
        b"", "billing.usage", "billing", "usage.deduct", 1, properties=properties, headers=headers
    )


@pytest.mark.parametrize(
    ("properties", "headers", "at"),
    [
        ({}, {}, None),
        ({"timestamp": SECONDS}, {}, SECONDS),
        ({"timestamp": AT.replace(tzinfo=None)}, {}, SECONDS),
        ({"timestamp": SECONDS}, {"timestamp_in_ms": SECONDS * 1000 + 250}, SECONDS + 0.25),
        ({"timestamp": "yesterday"}, {"timestamp_in_ms": "now"}, None),
        ({"timestamp": True}, {}, None),
        ({"timestamp": SECONDS * 1000}, {}, None),
        ({"timestamp": 0}, {}, None),
        ({"timestamp": SECONDS}, {"timestamp_in_ms": -(2**63)}, None),
        ({}, {"timestamp_in_ms": 2**63 - 1}, None),
        ({}, {"timestamp_in_ms": None}, None),
        ({"timestamp": SECONDS}, {"x-billing-sender": "app"}, None),
    ],
)
def test_time_of_publishing_is_the_broker_s_stamp_or_the_sender_s(
    properties: dict[str, Any], headers: dict[str, Any], at: float | None
) -> None:
    assert published_at(stamped(properties, headers)) == at


@pytest.mark.parametrize("occurred", [None, AT])
def test_time_of_the_work_is_what_the_message_says(occurred: datetime | None) -> None:
    command = DeductUsage.model_validate(
        {"reference_id": "r", "user_id": "u", "tokens": 1, "feature": "ocr", "occurred_at": occurred}
    )
    assert occurred_at(command) == (None if occurred is None else SECONDS)
