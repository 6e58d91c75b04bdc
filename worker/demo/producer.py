"""Producer of a demo, a process of its own: publishes the messages on standard input, confirmed.

A line is a phase: ``{"replyTo": "…", "messages": [{"messageId", "correlationId", "routingKey", "body"}, …]}``
with the bodies in base64. It ends with its input. It knows no commands: its messages may be malformed.
"""

import base64
import json
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from worker.bootstrap import Application
from worker.broker import Outgoing, Publishes
from worker.cli.application import reply_sender_of
from worker.demo.scenario import DemoMessage
from worker.errors import BillingError
from worker.messages.outgoing import OutgoingCommand
from worker.runtime.logging import configure_logging
from worker.settings import load_settings

_CHUNK = 100


def line_for(messages: Sequence[tuple[str, DemoMessage]], reply_to: str) -> bytes:
    """Return the line that asks a producer to send ``messages``, each with its correlation id."""
    fields = [
        {
            "messageId": message.message_id,
            "correlationId": correlation_id,
            "routingKey": message.routing_key,
            "body": base64.b64encode(message.body).decode(),
        }
        for correlation_id, message in messages
    ]
    return json.dumps({"replyTo": reply_to, "messages": fields}).encode() + b"\n"


def main() -> int:
    """Publish until the input ends; 1 if a message reached no queue."""
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    try:
        application = Application(settings, name="billing-worker demo producer")
        user = reply_sender_of(application)
        link = application.link()
        try:
            unroutable = sum(_publish(link, json.loads(line), user) for line in sys.stdin.buffer)
        finally:
            link.close()
    except BillingError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if unroutable:
        sys.stderr.write(f"error: {unroutable} messages reached no queue\n")
    return 1 if unroutable else 0


def _publish(link: Publishes, phase: dict[str, Any], user: str) -> int:
    messages = (_outgoing(fields, phase["replyTo"], user) for fields in phase["messages"])
    unroutable = 0
    for chunk in _chunks(messages):
        result = link.publish(chunk)
        result.raise_if_refused()
        unroutable += len(result.returned)
    return unroutable


def _chunks(messages: Iterable[Outgoing]) -> Iterable[list[Outgoing]]:
    left = iter(messages)
    while chunk := list(islice(left, _CHUNK)):
        yield chunk


def _outgoing(fields: dict[str, str], reply_to: str, user: str) -> OutgoingCommand:
    return OutgoingCommand.of(
        fields["routingKey"],
        base64.b64decode(fields["body"]),
        message_id=fields["messageId"],
        app_id="billing-worker demo",
        sent_as=user,
        correlation_id=fields["correlationId"],
        reply_to=reply_to,
    )


if __name__ == "__main__":
    sys.exit(main())
