"""The ledger's outcomes for the references of a dead letter: none yet, its own, or another operation's."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from sqlalchemy import Connection

from schemas import Command, Limits, Malformed, commands_of, decode, first_malformed
from worker.core import Outcome
from worker.core.contents import content_of, differences, first_difference
from worker.core.replies import message_for
from worker.core.superseded import Superseded, may_supersede, owner_of
from worker.deadletters.models import BodyConflict, BodyField, ItemState, LedgerLine, StoredDeadLetter
from worker.deadletters.replay.message import is_notice
from worker.ledger.loading import Judged, judged_under, superseded_by
from worker.ledger.slots import parts_of
from worker.messages.receiving import deadline_of

_CENTURIES = timedelta(days=365_000)
#: Limits that allow everything: only a worker judges amounts; here they are only read.
_ANY = Limits(
    max_quantity=2**63 - 1, occurred_at_max_age=_CENTURIES, occurred_at_max_ahead=_CENTURIES, ids=None
)


@dataclass(frozen=True, slots=True)
class Expected:
    """One command of a dead letter, with the outcome that ends it in the ledger."""

    reference_id: str
    type: str
    user_id: str
    attempt: int
    content: str

    @classmethod
    def of(cls, command: Command) -> "Expected":
        """Return the expectation of a command."""
        return cls(command.reference_id, command.type, command.user_id, command.attempt, content_of(command))


def expected_of(body: bytes, now: datetime) -> tuple[Expected, ...]:
    """Return the outcomes that end a message; none where a worker can only refuse it.

    A batch with a malformed item counts as refused: its dead letter comes back, whatever the ledger has of
    its other items.
    """
    message = decode(body, now=now, limits=_ANY)
    if isinstance(message, Malformed) or first_malformed(message) is not None:
        return ()
    return tuple(map(Expected.of, commands_of(message)))


def past_deadline_in(dead_letter: StoredDeadLetter, now: datetime) -> datetime | None:
    """Return the time until which usage of the dead letter was valid, where that has passed."""
    if not leads_to_workers(dead_letter):
        return None
    message = decode(dead_letter.current_body, now=now, limits=_ANY)
    deadline = None if isinstance(message, Malformed) else deadline_of(message)
    return deadline if deadline is not None and deadline < now else None


def leads_to_workers(dead_letter: StoredDeadLetter) -> bool:
    """Return True for a message that goes back to a queue of work. A notice ends on delivery."""
    return not is_notice(dead_letter)


@dataclass(frozen=True, slots=True)
class Shown:
    """The outcomes of some references, with those that they replaced."""

    outcomes: Mapping[str, Outcome]
    superseded: Superseded

    def of(self, expected: Expected) -> Outcome | None:
        """Return the outcome under the reference, as far as it answers this attempt; None: nothing yet."""
        stored = self.outcomes.get(expected.reference_id)
        if stored is None:
            return self.superseded.lost_by(expected)
        if owner_of(expected) != owner_of(stored):
            is_taken = may_supersede(expected.type, stored)
            return None if is_taken else self.superseded.lost_by(expected) or stored
        if expected.attempt > stored.attempt and not stored.is_applied:
            return None
        if expected.attempt < stored.attempt:
            own = self.superseded.attempt_of(expected)
            is_applied_anew = stored.is_applied and agrees(expected, stored)
            return stored if own is None or is_applied_anew else own
        return stored

    def agreeing(self, expected: Expected) -> Outcome | None:
        """Return the outcome of this very command; None without one, or for one of another operation."""
        outcome = self.of(expected)
        return outcome if outcome is not None and agrees(expected, outcome) else None


def agrees(expected: Expected, outcome: Outcome) -> bool:
    """Return True where the outcome is of the same operation."""
    return owner_of(expected) == owner_of(outcome) and first_difference(expected.content, outcome) is None


def by_key(connection: Connection) -> None:
    """Make this transaction find rows by key, whatever the planner thinks of a fresh table."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")


def shown(connection: Connection, expected: Iterable[Expected]) -> Shown:
    """Return the ledger's outcomes for these."""
    wanted = list(expected)
    by_key(connection)
    judged = judged_anywhere(connection, {one.reference_id for one in wanted})
    return Shown(judged.outcomes, superseded_by(connection, wanted, judged))


def judged_anywhere(connection: Connection, references: Collection[str]) -> Judged:
    """Return the outcomes under these references, whoever's they are."""
    whole = Judged({}, [])
    for slots in parts_of(connection):
        part = judged_under(connection, references, slots.only)
        whole.outcomes.update(part.outcomes)
        whole.taken.extend(part.taken)
    return whole


def end_of(expected: Sequence[Expected], ledger: Shown, *, was_known: bool) -> tuple[ItemState, str] | None:
    """Return the end of a sent dead letter, with a text; None while the ledger shows none.

    Where the ledger had it before it was sent, it is a duplicate. A conflict is no end: it comes back.
    """
    found = [ledger.agreeing(one) for one in expected]
    outcomes = [outcome for outcome in found if outcome is not None]
    if not outcomes or len(outcomes) < len(found):
        return None
    text = _summary(outcomes)
    if was_known:
        return ItemState.DUPLICATE, f"{text}, as the ledger had it before"
    is_applied = any(outcome.is_applied for outcome in outcomes)
    return (ItemState.APPLIED if is_applied else ItemState.REJECTED), text


def _summary(outcomes: Sequence[Outcome]) -> str:
    if len(outcomes) == 1:
        return f"{outcomes[0].status.value}: {outcomes[0].code.value}"
    applied = sum(outcome.is_applied for outcome in outcomes)
    return f"{applied} applied, {len(outcomes) - applied} rejected"


def ledger_lines(
    connection: Connection, dead_letter: StoredDeadLetter, now: datetime, most: int
) -> tuple[LedgerLine, ...]:
    """Return the ledger's rows under the first references of the dead letter, whatever they are."""
    message = decode(dead_letter.current_body, now=now, limits=_ANY)
    commands = () if isinstance(message, Malformed) else commands_of(message)[:most]
    expected = [Expected.of(command) for command in commands]
    ledger = shown(connection, expected)
    lines = [_line(one, ledger) for one in expected]
    known = {line.reference_id for line in lines}
    if dead_letter.reference_id is not None and dead_letter.reference_id not in known:
        judged = judged_anywhere(connection, [dead_letter.reference_id])
        alone = judged.outcomes.get(dead_letter.reference_id)
        if alone is not None or not lines:
            lines.append(
                LedgerLine(dead_letter.reference_id) if alone is None else _outcome_line(alone, None)
            )
    return tuple(lines)


def conflicts_in(
    connection: Connection, dead_letter: StoredDeadLetter, now: datetime, most: int
) -> tuple[BodyConflict, ...]:
    """Return the first commands of the dead letter whose references have outcomes of other operations."""
    if not leads_to_workers(dead_letter):
        return ()
    message = decode(dead_letter.current_body, now=now, limits=_ANY)
    commands = () if isinstance(message, Malformed) else commands_of(message)
    expected = [Expected.of(command) for command in commands]
    ledger = shown(connection, expected)
    asked = ((one, ledger.of(one)) for one in expected)
    found = (_conflict(one, outcome) for one, outcome in asked if outcome and not agrees(one, outcome))
    return tuple(islice(found, most))


def _conflict(expected: Expected, stored: Outcome) -> BodyConflict:
    had = {"type": stored.type, "userId": stored.user_id, **json.loads(stored.content)}
    has = {"type": expected.type, "userId": expected.user_id, **json.loads(expected.content)}
    differing = {name for name, _, _ in differences(expected.content, stored)}
    differing |= {name for name in ("type", "userId") if had[name] != has[name]}
    names = [*had, *(name for name in has if name not in had)]
    return BodyConflict(
        expected.reference_id,
        stored.recorded_at,
        tuple(BodyField(name, had.get(name), has.get(name), name in differing) for name in names),
    )


def _line(expected: Expected, ledger: Shown) -> LedgerLine:
    outcome = ledger.outcomes.get(expected.reference_id)
    if outcome is None:
        return LedgerLine(expected.reference_id)
    answering = ledger.of(expected) or outcome
    return _outcome_line(answering, is_same=agrees(expected, answering))


def _outcome_line(outcome: Outcome, is_same: bool | None) -> LedgerLine:  # noqa: FBT001 - a value, not a mode
    return LedgerLine(
        reference_id=outcome.reference_id,
        type=outcome.type,
        user_id=outcome.user_id,
        status=outcome.status.value,
        code=outcome.code.value,
        message=message_for(outcome),
        amount=outcome.amount,
        attempt=outcome.attempt,
        recorded_at=outcome.recorded_at,
        agrees=is_same,
    )
