"""Count of a demo's messages: with an answer, a dead letter, or neither; and their notices."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from schemas import Code, Notice, Reply, Status
from worker.broker import Delivery
from worker.deadletters.models import StoredDeadLetter
from worker.demo.script import DemoMessage


@dataclass(frozen=True, slots=True)
class OutcomeCount:
    """Number of messages of ``type`` with this answer; ``again`` of them were duplicates."""

    type: str | None
    status: str
    code: str
    reason: str | None
    first: int
    again: int


@dataclass(slots=True)
class Tally:
    """Messages by their correlation ids, and the replies and dead letters that belong to them."""

    sent: Mapping[str, DemoMessage]
    replies: dict[str, Reply] = field(default_factory=dict)
    dead_letters: dict[str, StoredDeadLetter] = field(default_factory=dict)
    notices: dict[str, Notice] = field(default_factory=dict)

    def take(self, deliveries: Iterable[Delivery]) -> None:
        """Note replies. The first one of a message counts: at-least-once may bring it twice."""
        for delivery in deliveries:
            correlation_id = delivery.text("correlation_id") or ""
            if correlation_id in self.sent and correlation_id not in self.replies:
                self.replies[correlation_id] = Reply.model_validate_json(delivery.body)

    def hear(self, deliveries: Iterable[Delivery]) -> None:
        """Note notices, each once: a notice may come again, with the same id."""
        for delivery in deliveries:
            notice = Notice.model_validate_json(delivery.body)
            self.notices.setdefault(notice.id, notice)

    def file(self, dead_letters: Iterable[StoredDeadLetter]) -> None:
        """Note dead letters; those of other senders are passed over."""
        for dead_letter in dead_letters:
            correlation_id = dead_letter.properties.get("properties", {}).get("correlation_id")
            if correlation_id in self.sent:
                self.dead_letters[correlation_id] = dead_letter

    def missing(self) -> list[tuple[str, DemoMessage]]:
        """Return the messages that have neither an answer nor a dead letter."""
        settled = self.replies.keys() | self.dead_letters.keys()
        return [(id_, message) for id_, message in self.sent.items() if id_ not in settled]

    def without_dead_letter(self) -> list[tuple[str, DemoMessage]]:
        """Return the messages whose answer promises a dead letter that is missing."""
        return [
            (id_, self.sent[id_])
            for id_, reply in self.replies.items()
            if id_ not in self.dead_letters
            and (reply.status is Status.FAILED or reply.code is Code.REFERENCE_CONFLICT)
        ]

    def outcomes(self) -> list[OutcomeCount]:
        """Count each type's answers, most frequent first within a type."""
        return _counted(self.replies.values())

    def item_outcomes(self) -> list[OutcomeCount]:
        """Count the answers to the items of batches."""
        return _counted(item for reply in self.replies.values() for item in reply.items or ())

    def references(self) -> set[str]:
        """Return every reference that has an answer; those of items count, those of batches name nothing."""
        answered = (item for reply in self.replies.values() for item in reply.items or (reply,))
        return {reply.reference_id for reply in answered if reply.reference_id is not None}

    def own_notices(self) -> list[Notice]:
        """Return the notices of these messages: others may play on the same servers."""
        references = self.references()
        return [notice for notice in self.notices.values() if notice.reference_id in references]

    def holds_end(self, references: Iterable[str]) -> datetime | None:
        """Return the end of the last of these holds; None where none is held."""
        named = set(references)
        ends = [
            reply.expires_at
            for reply in self.replies.values()
            if reply.reference_id in named and reply.code is Code.TOKENS_RESERVED and reply.expires_at
        ]
        return max(ends, default=None)

    def of_user(self, user_id: str) -> list[tuple[DemoMessage, Reply]]:
        """Return a user's messages with their replies, in the order of the answers."""
        return [(self.sent[id_], reply) for id_, reply in self.replies.items() if reply.user_id == user_id]

    def protagonist(self) -> str | None:
        """Return the user with the most varied answers: a rejection, a second attempt, much else."""
        seen: dict[str, set[_Kind]] = {}
        for reply in self.replies.values():
            if reply.user_id is not None:
                seen.setdefault(reply.user_id, set()).add(_kind(reply))
        opened = {reply.user_id for reply in self.replies.values() if reply.code is Code.ACCOUNT_OPENED}
        return max(seen.keys() & opened, key=lambda user: (_drama(seen[user]), user), default=None)

    def with_something_special(self) -> list[str]:
        """Return users to show: the protagonist, one in debt, one with open holds, one with another tier."""
        latest: dict[str, Reply] = {}
        changed: list[str] = []
        for reply in self.replies.values():
            if reply.user_id is not None:
                latest[reply.user_id] = reply
                changed += [reply.user_id] * (reply.code is Code.SUBSCRIPTION_CHANGED)
        found = (
            self.protagonist(),
            next((user for user, reply in latest.items() if reply.debt), None),
            next((user for user, reply in latest.items() if reply.held), None),
            next(iter(changed), None),
        )
        return list(dict.fromkeys(user for user in found if user is not None))


def _counted(replies: Iterable[Reply]) -> list[OutcomeCount]:
    counts: dict[tuple[str | None, str, str, str | None], Counter[bool]] = {}
    for reply in replies:
        reason = reply.reason if reply.status is Status.FAILED else None  # an operator's reason is no code
        key = (reply.type, reply.status.value, reply.code.value, reason)
        counts.setdefault(key, Counter())[reply.duplicate] += 1
    rows = [OutcomeCount(*key, first=count[False], again=count[True]) for key, count in counts.items()]
    return sorted(rows, key=lambda row: (row.type or "~", -row.first - row.again, row.code))


_Kind = tuple[Code, bool, bool]


def _kind(reply: Reply) -> _Kind:
    """Return a reply's code, whether it is a duplicate, and whether it answers a later attempt."""
    return reply.code, reply.duplicate, (reply.attempt or 1) > 1


def _drama(kinds: set[_Kind]) -> tuple[bool, bool, int]:
    refused = any(code is Code.INSUFFICIENT_BALANCE for code, _, _ in kinds)
    return any(second for _, _, second in kinds), refused, len(kinds)


def handful(replies: Sequence[tuple[DemoMessage, Reply]], most: int) -> list[tuple[DemoMessage, Reply]]:
    """Return the first of each different answer, in their order."""
    different: dict[_Kind, tuple[DemoMessage, Reply]] = {}
    for message, reply in replies:
        different.setdefault(_kind(reply), (message, reply))
    return list(different.values())[:most]
