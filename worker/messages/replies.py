"""Replies, notices and dead letters in response to a delivery."""

import hashlib
import traceback
from collections.abc import Iterator, Sequence
from datetime import datetime

from schemas import (
    Code,
    DeadLetterReason,
    Message,
    Notice,
    Reply,
    Status,
    UsageBatch,
    WantedReplies,
    first_malformed,
)
from schemas.dead_letter import RECOVERY_HEADER
from worker.broker import DIRECT_REPLY_TO, Delivery
from worker.core import Answer, Decided, Outcome, reply_for
from worker.core.incidents import notices_of
from worker.messages.dead_letters import Failure, dead_letter_for
from worker.messages.origin import origin_of
from worker.messages.outgoing import (
    OutgoingDeadLetter,
    OutgoingDirectReply,
    OutgoingNotice,
    OutgoingReply,
    OutgoingResponse,
)
from worker.messages.policy import SCHEDULER_APP_ID, Policy
from worker.messages.tracing import trace_headers


class Replies:
    """Writer of replies, notices and dead letters; sends nothing."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def for_answers(
        self, delivery: Delivery, message: Message, answers: Sequence[Answer], now: datetime
    ) -> list[OutgoingResponse]:
        """Return the reply to ``message``, its notices, and a dead letter where operators must see it."""
        outgoing: list[OutgoingResponse] = []
        # Nobody wants a reply to what was applied, and operators needn't see it: none is written.
        is_quiet = _wants(message.replies) != "all" and _is_applied(message, answers)
        if not is_quiet:
            reply = _reply_to(message, answers)
            if _is_reply_wanted(delivery, message.replies):
                outgoing.append(self._outgoing_reply(delivery, reply))
            if (failure := _failure_in(message, reply)) is not None:
                outgoing.append(self.dead_letter(delivery, failure, 1, now))
        for answer in answers:
            # Again with a duplicate: the delivery that comes again is the outbox of notices too.
            if isinstance(answer, Decided) and (answer.outcome.notices or not answer.outcome.is_applied):
                outgoing += self._notices(delivery, answer.outcome)
        return outgoing

    def for_failure(
        self, delivery: Delivery, failure: Failure, tries: int, now: datetime
    ) -> list[OutgoingResponse]:
        """Return the dead letter, and a failed reply where something identifies the request."""
        dead_letter = self.dead_letter(delivery, failure, tries, now)
        known = self._allowed_reply_to(delivery) or _correlation(delivery) or failure.reference_id
        if known is None or not _is_reply_wanted(delivery, failure.replies):
            return [dead_letter]
        return [dead_letter, self._outgoing_reply(delivery, _failed(failure))]

    def dead_letter(
        self, delivery: Delivery, failure: Failure, tries: int, now: datetime
    ) -> OutgoingDeadLetter:
        """Return the dead letter alone."""
        return dead_letter_for(delivery, failure, self._policy, tries=tries, now=now)

    def dead_letter_for_notice(self, refused: OutgoingNotice, now: datetime) -> OutgoingDeadLetter:
        """Return the dead letter of a notice that the broker refused; its replay is the notice again."""
        failure = Failure(
            DeadLetterReason.NOTICE_REFUSED,
            "A queue that is bound to the event exchange is full. Others may have had this notice.",
            type=refused.notice.type,
            reference_id=refused.notice.reference_id,
            user_id=refused.notice.user_id,
        )
        # The refusal names no queue.
        as_delivered = Delivery(
            body=refused.body,
            queue=refused.exchange,
            exchange=refused.exchange,
            routing_key=refused.routing_key,
            tag=0,
            properties=refused.properties,
            headers=refused.headers,
        )
        return self.dead_letter(as_delivered, failure, 1, now)

    def _notices(self, delivery: Delivery, outcome: Outcome) -> Iterator[OutgoingNotice]:
        for place, stored in enumerate(notices_of(outcome)):
            notice = Notice.model_validate(
                {
                    **stored,
                    "id": _digest(outcome.reference_id, outcome.attempt, place),
                    "user_id": outcome.user_id or None,
                    "reference_id": outcome.reference_id,
                    "recorded_at": outcome.recorded_at,
                }
            )
            yield OutgoingNotice(
                notice=notice,
                body=notice.to_json(),
                exchange=self._policy.topology.events,
                routing_key=notice.type,
                properties={
                    "content_type": "application/json",
                    "type": notice.type,
                    "app_id": "billing-worker",
                    "message_id": notice.id,
                },
                headers=trace_headers(delivery),
            )

    def _allowed_reply_to(self, delivery: Delivery) -> str | None:
        reply_to = delivery.text("reply_to")
        if reply_to is None:
            return None
        users = origin_of(delivery, self._policy.worker_users).users
        return reply_to if any(self._policy.allows_reply_to(reply_to, user) for user in users) else None

    def _outgoing_reply(self, delivery: Delivery, reply: Reply) -> OutgoingReply | OutgoingDirectReply:
        correlation = _correlation(delivery)
        address = self._allowed_reply_to(delivery) or self._policy.reply_queue
        kind = OutgoingDirectReply if address.startswith(DIRECT_REPLY_TO) else OutgoingReply
        return kind(
            body=reply.to_json(),
            exchange="",
            routing_key=address,
            properties={
                "content_type": "application/json",
                "type": "billing.reply",
                "app_id": "billing-worker",
                "correlation_id": correlation,
                # The same for a reply that goes out again, so that its consumer recognizes it.
                "message_id": _digest(correlation, reply.reference_id, reply.attempt),
            },
            headers=trace_headers(delivery),
        )


def failure_of(message: Message | None, fault: Exception) -> Failure:
    """Return the failure of a message that met a fault of the worker's, for operators."""
    trace = "".join(traceback.format_exception(fault))
    text = f"{type(fault).__name__}: {fault}"
    return Failure.of(message, DeadLetterReason.UNPROCESSABLE, text, traceback=trace)


def _reply_to(message: Message, answers: Sequence[Answer]) -> Reply:
    if type(message) is UsageBatch:
        return _reply_to_batch(message, answers)
    return reply_for(message, answers[0])


def _reply_to_batch(batch: UsageBatch, answers: Sequence[Answer]) -> Reply:
    answered = map(reply_for, batch.items, answers)
    by_place = dict(zip(batch.places, answered, strict=True))
    by_place |= {place: _failed(Failure.of_malformed(item)) for place, item in batch.malformed.items()}
    items = tuple(by_place[place] for place in range(len(by_place)))
    failed = len(batch.malformed)
    applied = sum(item.status is Status.APPLIED for item in items)
    rejected = len(items) - applied - failed
    counted = f"{len(items)} item{'s' if len(items) > 1 else ''}"
    malformed = f", {failed} malformed" if failed else ""
    return Reply(
        status=Status.APPLIED,
        code=Code.BATCH_PROCESSED,
        message=f"Processed {counted}: {applied} applied, {rejected} rejected{malformed}",
        type=batch.type,
        reference_id=batch.reference_id,
        user_id=batch.user_id,
        # Malformed items have no stored outcome: they don't count here.
        duplicate=bool(answers) and all(items[place].duplicate for place in batch.places),
        applied=applied,
        rejected=rejected,
        failed=failed,
        items=items,
    )


def _failure_in(message: Message, reply: Reply) -> Failure | None:
    """Return the reason why operators must see an answered message; one for all items of a batch.

    Its reference, or an item's, names another operation; or an item is malformed, which goes first.
    """
    if reply.items is None:
        if reply.code is not Code.REFERENCE_CONFLICT:
            return None
        return Failure.of(message, DeadLetterReason.REFERENCE_CONFLICT, reply.message, reply.field)
    conflicts = [n for n, item in enumerate(reply.items) if item.code is Code.REFERENCE_CONFLICT]
    if (malformed := first_malformed(message)) is not None:
        text = malformed.message + _one_of(reply.failed or 0)
        if conflicts:
            text += f" {len(conflicts)} more are in conflict with their references."
        return Failure.of(message, malformed.reason, text, malformed.field)
    if conflicts:
        first = reply.items[conflicts[0]]
        text = first.message + _one_of(len(conflicts))
        field = f"items.{conflicts[0]}.{first.field}"
        return Failure.of(message, DeadLetterReason.REFERENCE_CONFLICT, text, field)
    return None


def _one_of(count: int) -> str:
    return f" It is one of {count} such items." if count > 1 else ""


def _failed(failure: Failure) -> Reply:
    match failure.code:
        case DeadLetterReason.UNPROCESSABLE:
            # A fault of ours is no business of the caller's; operators read its text in the dead letter.
            code, message = Code.UNPROCESSABLE, "The worker failed on this message; operators have it."
        case DeadLetterReason.DELIVERY_LIMIT:
            code = Code.UNPROCESSABLE
            message = "The worker gave this message up; operators have it. It may have been applied."
        case _:
            code, message = Code.MALFORMED, failure.message
    return Reply(
        status=Status.FAILED,
        code=code,
        message=message,
        type=failure.type,
        reference_id=failure.reference_id,
        user_id=failure.user_id,
        field=failure.field,
        reason=failure.code,
    )


def _is_reply_wanted(delivery: Delivery, replies: WantedReplies | None) -> bool:
    """Return True where the sender wants a reply that tells of a problem, or all replies.

    Nobody waits for a reply to what a recovery sends; who forges that gives up its own replies.
    """
    if RECOVERY_HEADER in delivery.headers:
        return False
    is_awaited = delivery.text("app_id") != SCHEDULER_APP_ID or delivery.text("reply_to") is not None
    return is_awaited and _wants(replies) != "none"


def _wants(replies: WantedReplies | None) -> WantedReplies:
    return replies or "all"


def _is_applied(message: Message, answers: Sequence[Answer]) -> bool:
    """Return True where each command of the message is applied, now or before, and none is malformed."""
    is_applied = all(isinstance(one, Decided) and one.outcome.is_applied for one in answers)
    return is_applied and first_malformed(message) is None


def _digest(*identity: object) -> str:
    """Return a digest of names, which may hold halves of surrogate pairs when they came over the wire."""
    text = "\0".join(map(str, identity)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _correlation(delivery: Delivery) -> str | None:
    return delivery.text("correlation_id") or delivery.text("message_id")
