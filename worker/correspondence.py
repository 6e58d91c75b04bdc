"""What is sent about a delivery: its reply, and its dead letter where there is one."""

import hashlib
import traceback
from datetime import datetime

from schemas import Code, Command, Reply, Status
from worker.broker import Delivery, Outgoing
from worker.core import Answer, Conflict, reply_for
from worker.deadletters.letters import Reason, dead_letter_for
from worker.intake import DELIVERY_LIMIT
from worker.policy import Policy


class Correspondence:
    """Writes letters and replies; sends nothing."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def about_answer(
        self, delivery: Delivery, command: Command, answer: Answer, now: datetime
    ) -> list[Outgoing]:
        """The reply to ``command``; for a conflict, which operators must see, a dead letter as well."""
        reply = reply_for(command, answer)
        outgoing = [self._addressed(delivery, reply)]
        if isinstance(answer, Conflict):
            reason = Reason.about(command, reply.code, reply.message, reply.field)
            outgoing.append(self.dead_letter(delivery, reason, 1, now))
        return outgoing

    def about_refusal(self, delivery: Delivery, reason: Reason, tries: int, now: datetime) -> list[Outgoing]:
        """The dead letter, and a failed reply where anybody could tell what it is the reply to."""
        letter = self.dead_letter(delivery, reason, tries, now)
        if not any((self._allowed_reply_to(delivery), _correlation(delivery), reason.reference_id)):
            return [letter]
        return [letter, self._addressed(delivery, _failed(reason))]

    def dead_letter(self, delivery: Delivery, reason: Reason, tries: int, now: datetime) -> Outgoing:
        """The letter alone."""
        return dead_letter_for(delivery, reason, queue=self._policy.topology.dead.name, tries=tries, now=now)

    def _allowed_reply_to(self, delivery: Delivery) -> str | None:
        # The default exchange reaches any queue: a request may name only what configuration allows.
        reply_to = delivery.text("reply_to")
        return reply_to if reply_to and reply_to.startswith(self._policy.reply_to_prefixes) else None

    def _addressed(self, delivery: Delivery, reply: Reply) -> Outgoing:
        correlation = _correlation(delivery)
        # The same for a reply that goes out again, so that its consumer can tell. Names that came over
        # the wire may hold halves of surrogate pairs.
        identity = f"{correlation}\0{reply.reference_id}\0{reply.attempt}".encode("utf-8", "surrogatepass")
        return Outgoing(
            body=reply.to_json(),
            exchange="",
            routing_key=self._allowed_reply_to(delivery) or self._policy.reply_queue,
            properties={
                "content_type": "application/json",
                "type": "billing.reply",
                "app_id": "billing-worker",
                "correlation_id": correlation,
                "message_id": hashlib.blake2b(identity, digest_size=16).hexdigest(),
            },
        )


def fault_of(command: Command | None, fault: Exception) -> Reason:
    """Why a message that met a fault of the worker's is a dead letter, for operators."""
    trace = "".join(traceback.format_exception(fault))
    return Reason.about(command, Code.UNPROCESSABLE, f"{type(fault).__name__}: {fault}", traceback=trace)


def _failed(reason: Reason) -> Reply:
    match reason.code:
        case Code.UNPROCESSABLE:
            # A fault of ours is no business of the caller's; operators read its text in the dead letter.
            code, message = Code.UNPROCESSABLE, "The worker failed on this message; operators have it."
        case str() if reason.code == DELIVERY_LIMIT:
            code = Code.UNPROCESSABLE
            message = "The worker gave this message up; operators have it. It may have been applied."
        case _:
            code, message = Code.MALFORMED, reason.message
    return Reply(
        status=Status.FAILED,
        code=code,
        message=message,
        type=reason.type,
        reference_id=reason.reference_id,
        user_id=reason.user_id,
        field=reason.field,
        reason=reason.code,
    )


def _correlation(delivery: Delivery) -> str | None:
    return delivery.text("correlation_id") or delivery.text("message_id")
