"""The sender of a delivery, whatever its properties hold."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.fakes import delivery
from tests.support.own_user import OWN_USER, OWN_USERS
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
    assert sender_in(delivery({"type": "usage.deduct"}, **properties), OWN_USERS) == sender


@pytest.mark.parametrize(
    ("publisher", "header", "sender"),
    [
        (OWN_USER, "ocr", Sender("ocr", "scan")),
        (OWN_USER, "", Sender("", "scan")),
        (OWN_USER, None, Sender(OWN_USER, "scan")),
        ("app", "ocr", Sender("app", "scan")),
        (None, "ocr", Sender("", "scan")),
    ],
)
def test_first_sender_is_believed_where_a_worker_user_names_it(
    publisher: str | None, header: str | None, sender: Sender
) -> None:
    came = delivery({"type": "usage.deduct"}, user_id=publisher, app_id="scan")
    came = replace(came, headers={} if header is None else {"x-billing-sender": header})
    assert sender_in(came, OWN_USERS) == sender


def test_delivery_with_unreadable_properties_has_no_sender() -> None:
    assert sender_in(delivery({"type": "usage.deduct"}, unreadable=b"\0"), OWN_USERS) == UNNAMED
