"""Comparison of the journal with the ledger: references that the ledger lacks, in bounded memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from sqlalchemy import Connection

from schemas import commands_of
from worker.broker.journal import Offsets
from worker.deadletters.replay.ledger_check import Expected, shown
from worker.deadletters.store.lookup import numbers_by_reference
from worker.ledger.queries import snapshot
from worker.messages.dead_letters import Failure
from worker.recovery.judging import JudgedMessage
from worker.recovery.run import RecoveryResources, judged_messages

#: Most references that one statement looks up: a batch may bring a thousand.
_LOOKED_UP = 1_000


@dataclass(frozen=True, slots=True)
class Lacking:
    """A command of the journal without an outcome, with the number of its dead letter where it has one."""

    offset: int
    type: str
    reference_id: str
    user_id: str
    attempt: int
    sender: str | None
    dead_letter: int | None


@dataclass(slots=True)
class CheckCounts:
    """Numbers of a comparison: messages, the commands in them, and those that are none or have no right."""

    messages: int = 0
    commands: int = 0
    not_commands: int = 0


@dataclass(frozen=True, slots=True)
class _Asked:
    """A command with the message that brought it."""

    message: JudgedMessage
    expected: Expected
    whole_reference: str


def lacking_commands(
    resources: RecoveryResources, since: datetime, offsets: Offsets, counts: CheckCounts
) -> Iterator[Lacking]:
    """Yield the commands at these offsets without an outcome; count all in ``counts``.

    Each some hundred messages see a state of the ledger of their own.
    """
    for chunk in judged_messages(resources, since, offsets):
        counts.messages += len(chunk)
        asked = _asked(chunk, counts)
        while part := list(islice(asked, _LOOKED_UP)):
            counts.commands += len(part)
            with snapshot(resources.engine) as connection:
                yield from _lacking(connection, part)


def _asked(judged: Iterable[JudgedMessage], counts: CheckCounts) -> Iterator[_Asked]:
    for message in judged:
        if isinstance(message.found, Failure):
            counts.not_commands += 1
            continue
        for command in commands_of(message.found):
            yield _Asked(message, Expected.of(command), message.found.reference_id)


def _lacking(connection: Connection, asked: Sequence[_Asked]) -> list[Lacking]:
    ledger = shown(connection, (one.expected for one in asked))
    missing = [one for one in asked if ledger.of(one.expected) is None]
    references = {
        reference for one in missing for reference in (one.expected.reference_id, one.whole_reference)
    }
    numbers = numbers_by_reference(connection, references) if references else {}
    return [
        Lacking(
            offset=one.message.offset,
            type=one.expected.type,
            reference_id=one.expected.reference_id,
            user_id=one.expected.user_id,
            attempt=one.expected.attempt,
            sender=one.message.sender,
            dead_letter=numbers.get(one.expected.reference_id, numbers.get(one.whole_reference)),
        )
        for one in missing
    ]
