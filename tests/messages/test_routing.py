"""Routing keys of messages that are published again."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas import partition_of, slot_of
from worker.broker import Outgoing
from worker.deadletters.replay.run import RunnerResources
from worker.messages.routing import routed

NOW = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)
DEDUCT = {"type": "usage.deduct", "referenceId": "d", "userId": "ann", "tokens": 1}
ANN = f"{partition_of(slot_of('ann'), 16):02d}"


def outgoing(message: dict[str, Any] | bytes, key: str, exchange: str = "billing") -> Outgoing:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return Outgoing(body, exchange, key)


@pytest.mark.parametrize(
    ("message", "key", "partitions", "new_key"),
    [
        (DEDUCT, "usage.deduct", 0, "usage.deduct"),
        (DEDUCT, "usage.deduct.63", 0, "usage.deduct"),
        (DEDUCT, "usage.deduct", 16, f"usage.deduct.{ANN}"),
        (DEDUCT, "usage.deduct.63", 16, f"usage.deduct.{ANN}"),
        (b"no JSON", "usage.deduct.63", 16, "usage.deduct"),
        (DEDUCT, "credit.bonus.63", 16, "credit.bonus"),  # a worker refuses it by this key
        (
            {"type": "payment.refunded", "referenceId": "r", "originalReferenceId": "p", "amountMinor": 1},
            "payment.refunded.63",
            16,
            "payment.refunded",
        ),
    ],
)
def test_partition_is_found_anew_and_the_type_stays(
    message: dict[str, Any] | bytes, key: str, partitions: int, new_key: str
) -> None:
    assert routed(outgoing(message, key), partitions, NOW).routing_key == new_key


def test_message_whose_key_is_right_is_the_same_message() -> None:
    message = outgoing(DEDUCT, f"usage.deduct.{ANN}")

    assert routed(message, 16, NOW) is message


@pytest.mark.parametrize(
    ("exchange", "key", "new_key"),
    [
        ("billing", "usage.deduct", f"usage.deduct.{ANN}"),
        ("billing.bulk", "usage.deduct", f"usage.deduct.{ANN}"),
        ("billing.events", "balance.low", "balance.low"),
    ],
)
def test_replay_of_a_command_has_a_partition_and_a_notice_has_none(
    exchange: str, key: str, new_key: str
) -> None:
    resources = RunnerResources.__new__(RunnerResources)
    object.__setattr__(resources, "partitions", 16)
    object.__setattr__(resources, "clock", lambda: NOW)

    assert resources.routed(outgoing(DEDUCT, key, exchange)).routing_key == new_key
