"""Replies, notices and dead letters of a demo, and the messages that lack one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from schemas import Code, Notice, Reply, Status
from worker.broker import Delivery
from worker.deadletters.models import StoredDeadLetter
from worker.demo.scenario import DemoMessage


@dataclass(slots=True)
class Collector:
    """Messages by correlation id, with the replies and dead letters that belong to them."""

    sent: Mapping[str, DemoMessage]
    replies: dict[str, Reply] = field(default_factory=dict)
    dead_letters: dict[str, StoredDeadLetter] = field(default_factory=dict)
    notices: dict[str, Notice] = field(default_factory=dict)

    def add_replies(self, deliveries: Iterable[Delivery]) -> None:
        """Keep the first reply to each message: at-least-once delivery may bring it twice."""
        for delivery in deliveries:
            correlation_id = delivery.text("correlation_id") or ""
            if correlation_id in self.sent and correlation_id not in self.replies:
                self.replies[correlation_id] = Reply.model_validate_json(delivery.body)

    def add_notices(self, deliveries: Iterable[Delivery]) -> None:
        """Keep each notice once: a notice may come again, with the same id."""
        for delivery in deliveries:
            notice = Notice.model_validate_json(delivery.body)
            self.notices.setdefault(notice.id, notice)

    def add_dead_letters(self, dead_letters: Iterable[StoredDeadLetter]) -> None:
        """Keep the dead letters of the demo, and skip those of other senders."""
        for dead_letter in dead_letters:
            correlation_id = dead_letter.properties.get("properties", {}).get("correlation_id")
            if correlation_id in self.sent:
                self.dead_letters[correlation_id] = dead_letter

    def missing(self) -> list[tuple[str, DemoMessage]]:
        """Return the messages that have neither a reply nor a dead letter."""
        complete = self.replies.keys() | self.dead_letters.keys()
        return [(id_, message) for id_, message in self.sent.items() if id_ not in complete]

    def without_dead_letter(self) -> list[tuple[str, DemoMessage]]:
        """Return the messages whose reply announces a dead letter that is missing."""
        return [
            (id_, self.sent[id_])
            for id_, reply in self.replies.items()
            if id_ not in self.dead_letters
            and (reply.status is Status.FAILED or reply.code is Code.REFERENCE_CONFLICT)
        ]

    def item_replies(self) -> list[Reply]:
        """Return the replies to the items of batches."""
        return [item for reply in self.replies.values() for item in reply.items or ()]

    def references(self) -> set[str]:
        """Return the references that have a reply: those of items, not those of batches."""
        replies = (item for reply in self.replies.values() for item in reply.items or (reply,))
        return {reply.reference_id for reply in replies if reply.reference_id is not None}

    def own_notices(self) -> list[Notice]:
        """Return the notices about the messages of this demo; other demos may use the same servers."""
        references = self.references()
        return [notice for notice in self.notices.values() if notice.reference_id in references]

    def last_expiry(self, holds: Iterable[str]) -> datetime | None:
        """Return the time when the last of these holds expires; None where none is open."""
        references = set(holds)
        expiries = [
            reply.expires_at
            for reply in self.replies.values()
            if reply.reference_id in references and reply.code is Code.TOKENS_RESERVED and reply.expires_at
        ]
        return max(expiries, default=None)

    def of_user(self, user_id: str) -> list[tuple[DemoMessage, Reply]]:
        """Return the messages of a user with their replies, in the order of the replies."""
        return [(self.sent[id_], reply) for id_, reply in self.replies.items() if reply.user_id == user_id]
