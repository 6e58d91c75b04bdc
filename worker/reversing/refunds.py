"""Refund of a charge: its command, and the reference that every run shares for the same state of it."""

from datetime import datetime
from hashlib import sha256
from uuid import uuid4

from pydantic import ValidationError

from schemas import RefundCredit, routing_key_of
from schemas.fields import IDENTIFIER_MAX, TEXT_MAX
from schemas.identifiers import ID_RULE
from worker.broker import BILLING, Delivery
from worker.errors import NotPossibleError
from worker.ledger.queries.charges import RUN_KEY, Charge
from worker.messages.outgoing import OutgoingCommand

APP_ID = "billing-worker reverse"


def reference_of(charge: str, refunds: int) -> str:
    """Return the reference of the refund of what ``refunds`` earlier refunds have left of a charge.

    Two runs that see the same state of a charge send the same operation, and the ledger applies it once. A
    reference that is too long, or older than the rule of new ids, goes in as its digest.
    """
    plain = f"reverse:{refunds}:{charge}"
    if len(plain) <= IDENTIFIER_MAX and ID_RULE.fault(plain) is None:
        return plain
    return f"reverse-sha256:{refunds}:{sha256(charge.encode()).hexdigest()}"


def refund_of(charge: Charge, *, run: int | None, reason: str, attempt: int = 1) -> RefundCredit:
    """Return the command that gives back what is left of a charge: tokens, and free units beside them."""
    return RefundCredit(
        reference_id=reference_of(charge.usage.reference_id, charge.refunds),
        user_id=charge.usage.user_id,
        original_reference_id=charge.usage.reference_id,
        tokens=charge.tokens_left,
        free_quantity=charge.free_left or None,
        attempt=attempt,
        description=reason,
        metadata=None if run is None else {RUN_KEY: run},
        replies="none",
    )


def described(reason: str) -> str:
    """Return a reason as the description of commands: one line. Raises NotPossibleError."""
    text = " ".join(reason.split())[:TEXT_MAX]
    try:
        RefundCredit(reference_id="reverse", user_id="anyone", tokens=0, description=text)
    except ValidationError as error:
        (first, *_) = error.errors()
        raise NotPossibleError(f"the reason can't be the description of a command: {first['msg']}") from error
    return text


def message_of(
    command: RefundCredit, sent_as: str | None, at: datetime, partitions: int = 0
) -> OutgoingCommand:
    """Return the message of a refund; ``sent_as`` is the broker user that publishes it, ``at`` is when.

    ``partitions`` is the number of those of the queues.
    """
    return OutgoingCommand.of(
        routing_key_of(command, partitions),
        command.to_json(),
        message_id=uuid4().hex,
        app_id=APP_ID,
        sent_as=sent_as,
        at=at,
    )


def as_delivered(message: OutgoingCommand) -> Delivery:
    """Return a message as a worker will get it, to be judged."""
    return Delivery(
        message.body,
        BILLING.queue_of(message.routing_key).name,
        message.exchange,
        message.routing_key,
        tag=0,
        properties=message.properties,
    )
