"""Messages that are published again, with their first sender."""

import pytest

from tests.support.fakes import delivery
from tests.support.own_user import OWN_USER, OWN_USERS
from worker.broker import Outgoing
from worker.messages.origin import origin_of, republished
from worker.messages.outgoing import OutgoingCommand


@pytest.mark.parametrize("sender", ["app", OWN_USER, None])
def test_first_sender_survives_any_number_of_copies(sender: str | None) -> None:
    message = OutgoingCommand(b"{}", "billing", "usage.deduct", {"user_id": sender}, {"trace": "t"})
    for _ in range(3):
        message = republished(message, sender=sender, sent_as=OWN_USER)
        assert isinstance(message, OutgoingCommand)
        assert message.properties == {"user_id": OWN_USER}
        assert message.headers["trace"] == "t"
        came = delivery({}, user_id=OWN_USER)
        object.__setattr__(came, "headers", message.headers)
        origin = origin_of(came, OWN_USERS)
        assert (origin.sender, origin.publisher, origin.is_republished) == (sender, OWN_USER, True)
        sender = origin.sender


def test_broker_without_users_gets_no_user() -> None:
    message = republished(Outgoing(b"", "", ""), sender=None, sent_as=None)
    assert (message.properties, message.headers) == ({}, {"x-billing-sender": ""})


@pytest.mark.parametrize(
    ("reply_to", "sender", "is_kept"),
    [
        ("billing.replies.operator", "mallory", False),
        ("billing.replies.operator.console", None, False),
        ("answers.operator.x", "mallory", False),
        ("billing.replies.operator.console", "operator", True),
        ("billing.replies.mallory.x", "mallory", True),
        ("billing.replies.operator2", "mallory", True),
        ("billing.replies", None, True),
    ],
)
def test_copy_names_no_queue_of_its_publisher_for_somebody_else(
    reply_to: str, sender: str | None, *, is_kept: bool
) -> None:
    message = Outgoing(b"", "billing", "usage.deduct", {"reply_to": reply_to})
    copied = republished(message, sender=sender, sent_as=OWN_USER)
    assert copied.properties.get("reply_to") == (reply_to if is_kept else None)
