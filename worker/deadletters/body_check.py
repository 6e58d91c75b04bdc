"""Check that a worker of today would accept the body of a dead letter."""

from collections.abc import Callable
from datetime import datetime

from schemas import Message, first_malformed
from worker.broker import Delivery
from worker.deadletters.models import StoredDeadLetter
from worker.deadletters.replay.ledger_check import leads_to_workers
from worker.deadletters.replay.message import as_delivered
from worker.errors import RefusedBodyError
from worker.messages.dead_letters import Failure

#: The worker's own judgement of a delivery: its message, or why it is refused.
Receive = Callable[[Delivery, datetime], Message | Failure]


def problem_with(
    dead_letter: StoredDeadLetter, body: bytes, receive: Receive | None, now: datetime, sent_as: str | None
) -> RefusedBodyError | None:
    """Return the error with which a worker would refuse this body; None where it would accept it.

    A dead letter that is no command (a reply, a notice) is not judged.
    """
    if receive is None or not leads_to_workers(dead_letter):
        return None
    received = receive(as_delivered(dead_letter, sent_as, body), now)
    if isinstance(received, Failure):
        return RefusedBodyError(received.code, received.field, received.message)
    item = first_malformed(received)
    return None if item is None else RefusedBodyError(item.reason, item.field, item.message)
