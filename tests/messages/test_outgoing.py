"""The kinds of outgoing messages."""

from worker.broker import BILLING
from worker.messages.outgoing import OutgoingCommand, OutgoingDirectReply, OutgoingReply


def test_command_names_its_type_and_its_publisher() -> None:
    command = OutgoingCommand.of("usage.deduct", b"{}", message_id="m", app_id="app", sent_as="producer")
    assert (command.exchange, command.routing_key, command.body) == (BILLING.exchange, "usage.deduct", b"{}")
    assert command.properties == {
        "content_type": "application/json",
        "message_id": "m",
        "app_id": "app",
        "user_id": "producer",
    }


def test_direct_reply_alone_may_be_lost() -> None:
    assert OutgoingReply(b"", "", "q").mandatory
    assert not OutgoingDirectReply(b"", "", "q").mandatory
