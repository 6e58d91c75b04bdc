"""Counts of outcomes, and a choice of users and replies that are worth showing."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from schemas import Code, Reply, Status
from worker.demo.scenario import DemoMessage


@dataclass(frozen=True, slots=True)
class OutcomeCount:
    """Number of messages of ``type`` with this outcome; ``again`` of them were duplicates."""

    type: str | None
    status: str
    code: str
    reason: str | None
    first: int
    again: int


def count_outcomes(replies: Iterable[Reply]) -> list[OutcomeCount]:
    """Count the outcomes of each type, most frequent first within a type."""
    counts: dict[tuple[str | None, str, str, str | None], Counter[bool]] = {}
    for reply in replies:
        reason = reply.reason if reply.status is Status.FAILED else None  # an operator's reason is no code
        key = (reply.type, str(reply.status), str(reply.code), reason)
        counts.setdefault(key, Counter())[reply.duplicate] += 1
    rows = [OutcomeCount(*key, first=count[False], again=count[True]) for key, count in counts.items()]
    return sorted(rows, key=lambda row: (row.type or "~", -row.first - row.again, row.code))


def example_user(replies: Iterable[Reply]) -> str | None:
    """Return the user with the most varied replies, among those whose account was opened here."""
    seen: dict[str, set[_Kind]] = {}
    opened: set[str] = set()
    for reply in replies:
        if reply.user_id is not None:
            seen.setdefault(reply.user_id, set()).add(_kind(reply))
            if reply.code is Code.ACCOUNT_OPENED:
                opened.add(reply.user_id)
    return max(opened, key=lambda user: (_variety(seen[user]), user), default=None)


def example_users(replies: Sequence[Reply]) -> list[str]:
    """Return the example user, one in debt, one with open holds, and one with another tier."""
    latest = {reply.user_id: reply for reply in replies if reply.user_id is not None}
    changed = (reply.user_id for reply in replies if reply.code is Code.SUBSCRIPTION_CHANGED)
    found = (
        example_user(replies),
        next((user for user, reply in latest.items() if reply.debt), None),
        next((user for user, reply in latest.items() if reply.held), None),
        next(changed, None),
    )
    return list(dict.fromkeys(user for user in found if user is not None))


def distinct_replies(
    replies: Sequence[tuple[DemoMessage, Reply]], most: int
) -> list[tuple[DemoMessage, Reply]]:
    """Return the first reply of each kind, in order, up to ``most``."""
    distinct: dict[_Kind, tuple[DemoMessage, Reply]] = {}
    for message, reply in replies:
        distinct.setdefault(_kind(reply), (message, reply))
    return list(distinct.values())[:most]


_Kind = tuple[str, bool, bool]


def _kind(reply: Reply) -> _Kind:
    """Return the code of a reply, and whether it is a duplicate or about a later attempt."""
    return str(reply.code), reply.duplicate, (reply.attempt or 1) > 1


def _variety(kinds: set[_Kind]) -> tuple[bool, bool, int]:
    """Return a sort key: a later attempt first, then an insufficient balance, then the number of kinds."""
    later_attempt = any(later for _, _, later in kinds)
    insufficient = any(code is Code.INSUFFICIENT_BALANCE for code, _, _ in kinds)
    return later_attempt, insufficient, len(kinds)
