"""The sender of a delivery, whatever its properties hold."""

from typing import Any

import pytest

from tests.support.fakes import delivery
from worker.ledger.senders import UNNAMED, Sender
from worker.messages.senders import sender_in

MARK = "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("properties", "sender"),
    [
        ({"user_id": "ocr", "app_id": "Scan-Dienst für Ämter"}, Sender("ocr", "Scan-Dienst für Ämter")),
        ({"user_id": "ocr"}, Sender("ocr", "")),
        ({"app_id": "scan"}, Sender("", "scan")),
        ({}, UNNAMED),
        ({"user_id": "", "app_id": None}, UNNAMED),
        ({"user_id": ["ocr"], "app_id": 7}, UNNAMED),
        ({"app_id": "a\0b\ud800c\u202ed\ne"}, Sender("", f"a{MARK}b{MARK}c{MARK}d{MARK}e")),
        ({"user_id": "u" * 300, "app_id": "a" * 100_000}, Sender("u" * 255, "a" * 255)),
    ],
)
def test_sender_is_read_from_the_properties(properties: dict[str, Any], sender: Sender) -> None:
    assert sender_in(delivery({"type": "usage.deduct"}, **properties)) == sender


def test_delivery_with_unreadable_properties_has_no_sender() -> None:
    assert sender_in(delivery({"type": "usage.deduct"}, unreadable=b"\0")) == UNNAMED
