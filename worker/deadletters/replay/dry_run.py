"""Dry run: dead letters judged by the worker's own ``decide`` on today's ledger.

Each chunk of dead letters is judged in a transaction of its own that is rolled back: like a worker's batch it
locks its accounts for some milliseconds, and leaves nothing. Dead letters of one chunk see each other, as
they would in a batch (of one slot, where a transaction is of one); across chunks each sees the ledger as it
is. A dead letter on which the worker would fail, as it may have done before, is one forecast and holds up no
other.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice

from sqlalchemy import Connection, Engine, select

from schemas import (
    Code,
    Command,
    FreeUpload,
    Message,
    UsageBatch,
    commands_of,
    first_malformed,
    slot_of,
    type_of,
)
from worker.catalog import Catalog
from worker.core import Answer, Conflict, Outcome, decide
from worker.core.needs import needs_of
from worker.core.replies import conflict_text, message_for
from worker.deadletters.body_check import Receive
from worker.deadletters.fingerprints import field_path
from worker.deadletters.models import DeadLetterForecast, DryRun, Forecast, StoredDeadLetter
from worker.deadletters.replay.ledger_check import (
    by_key,
    judged_anywhere,
    leads_to_workers,
    past_deadline_in,
)
from worker.deadletters.replay.message import as_delivered
from worker.deadletters.store import queries, tables
from worker.deadletters.store.filters import DeadLetterFilter, DeadLetterSelection, chunks
from worker.errors import BillingError
from worker.ledger.engine import translated_errors
from worker.ledger.loading import load
from worker.ledger.queries import snapshot
from worker.ledger.slots import is_slot_by_slot, parts_of
from worker.messages.dead_letters import Failure
from worker.runtime.retry import ContentionRetry
from worker.runtime.stop import StopRequest

_CHUNK, _COMMANDS = 100, 1_000
_SHOWN = 1_000
_CONTENTION = ContentionRetry(10, 0.02, "the accounts are being changed")
_FREE_UPLOAD = type_of(FreeUpload)

#: Gives a dead letter the body that it is judged with; None leaves it out.
Changed = Callable[[StoredDeadLetter], StoredDeadLetter | None]


@dataclass(frozen=True, slots=True)
class DryRunRules:
    """Rules of a dry run: the worker's rules for deliveries, the catalog, and the sending user."""

    receive: Receive
    catalog: Catalog
    sent_as: str | None = None


def dry_run(
    engine: Engine,
    now: datetime,
    dead_letters: DeadLetterSelection,
    rules: DryRunRules,
    on_progress: Callable[[int, int | None], None] | None = None,
    stop: StopRequest | None = None,
    changed: Changed | None = None,
) -> DryRun:
    """Judge the dead letters; ``on_progress`` gets the number looked at and the total.

    Of a filter only the parked ones are judged: a replay sends those. ``changed`` gives each the body to be
    judged with, and leaves some out. Raises NotFoundError.
    """
    tally, done = _Tally(), 0
    numbers = _numbers(engine, dead_letters)
    for some in _pieces(engine, numbers):
        if stop is not None and stop.requested:
            break
        judged = some if changed is None else [one for one in map(changed, some) if one is not None]
        tally.add(_judged(engine, judged, rules, now))
        done += len(some)
        if on_progress is not None:
            on_progress(done, len(numbers))
    return tally.result()


def _numbers(engine: Engine, dead_letters: DeadLetterSelection) -> list[int]:
    """Return the numbers in the order in which a replay sends them."""
    if not isinstance(dead_letters, DeadLetterFilter):
        return list(dict.fromkeys(dead_letters))
    with snapshot(engine) as connection:
        return queries.parked_numbers(connection, dead_letters)


def _pieces(engine: Engine, numbers: Sequence[int]) -> Iterator[list[StoredDeadLetter]]:
    for chunk in chunks(numbers, _CHUNK):
        with snapshot(engine) as connection:
            rows = connection.execute(
                select(tables.dead_letters).where(tables.dead_letters.c.number.in_(chunk))
            )
            found = {row.number: StoredDeadLetter.from_row(row) for row in rows}
        for number in chunk:
            if number not in found:
                raise queries.not_found(number)
        yield [found[number] for number in chunk]


def _judged(
    engine: Engine, dead_letters: Sequence[StoredDeadLetter], rules: DryRunRules, now: datetime
) -> list[DeadLetterForecast]:
    received = [(dead_letter, _received(dead_letter, rules, now)) for dead_letter in dead_letters]
    forecasts = [
        forecast
        for some in _in_batches(received)
        for forecast in _forecasts(engine, some, rules.catalog, now)
    ]
    return [
        replace(forecast, past_deadline=past_deadline_in(dead_letter, now))
        for dead_letter, forecast in zip(dead_letters, forecasts, strict=True)
    ]


_Received = Message | Failure | None
_Subject = tuple[StoredDeadLetter, _Received]


def _in_batches(received: Sequence[_Subject]) -> Iterator[list[_Subject]]:
    """Yield as many dead letters as have a thousand commands: judging a batch locks its accounts."""
    batch: list[_Subject] = []
    room = _COMMANDS
    for subject in received:
        size = len(_commands(subject[1]))
        if batch and size > room:
            yield batch
            batch, room = [], _COMMANDS
        batch.append(subject)
        room -= size
    if batch:
        yield batch


def _forecasts(
    engine: Engine, received: Sequence[_Subject], catalog: Catalog, now: datetime
) -> list[DeadLetterForecast]:
    """Return a forecast each; a fault is the forecast of the dead letter that meets it, found by halving."""
    commands = [command for _, one in received for command in _commands(one)]
    try:
        answers = iter(answers_now(engine, commands, catalog, now) if commands else ())
    except BillingError:
        raise
    except Exception as fault:  # noqa: BLE001 - the very fault, perhaps, for which it is a dead letter
        if len(received) == 1:
            return [_faulty(received[0][0], fault)]
        middle = len(received) // 2
        return [
            forecast
            for half in (received[:middle], received[middle:])
            for forecast in _forecasts(engine, half, catalog, now)
        ]
    return [
        _forecast(dead_letter, one, list(islice(answers, len(_commands(one)))))
        for dead_letter, one in received
    ]


def _received(dead_letter: StoredDeadLetter, rules: DryRunRules, now: datetime) -> _Received:
    """Return None for a message that is no command: a reply or a notice that could not be delivered."""
    if not leads_to_workers(dead_letter):
        return None
    return rules.receive(as_delivered(dead_letter, rules.sent_as), now)


def _commands(received: _Received) -> tuple[Command, ...]:
    return () if received is None or isinstance(received, Failure) else commands_of(received)


def answers_now(
    engine: Engine, commands: Sequence[Command], catalog: Catalog, now: datetime
) -> Sequence[Answer]:
    """Return the answers that ``commands`` would get in one batch; nothing stays of it."""
    return _CONTENTION.run(lambda: _decided(engine, commands, catalog, now))


def _passing_ids(count: int) -> Iterator[int]:
    """Return ids for accounts that are rolled back."""
    return iter(range(-count, 0))


def _decided(
    engine: Engine, commands: Sequence[Command], catalog: Catalog, now: datetime
) -> Sequence[Answer]:
    answers: dict[int, Answer] = {}
    with translated_errors(), engine.connect() as connection:
        by_key(connection)
        stored = _stored_anywhere(connection, commands)
        for slots in parts_of(connection):
            share = [one for one in enumerate(commands) if slot_of(one[1].user_id) in slots.each]
            if share:
                places, own = zip(*share, strict=True)
                others = {name: one for name, one in stored.items() if slot_of(one.user_id) not in slots.each}
                known = load(connection, own, now, _passing_ids, slot=slots.only, others=others)
                answers.update(zip(places, decide(own, known, now, catalog).answers, strict=True))
        connection.rollback()
    return [answers[place] for place in range(len(commands))]


def _stored_anywhere(connection: Connection, commands: Sequence[Command]) -> Mapping[str, Outcome]:
    """Return the outcomes that other slots may have; none where a transaction has all slots."""
    if not is_slot_by_slot(connection):
        return {}
    return judged_anywhere(connection, needs_of(commands).references).outcomes


# -- forecasts --------------------------------------------------------------------------------------------


def _forecast(
    dead_letter: StoredDeadLetter, received: _Received, answers: Sequence[Answer]
) -> DeadLetterForecast:
    match received:
        case None:
            return DeadLetterForecast(
                dead_letter.number,
                "deliver",
                "delivered",
                f"goes to exchange {dead_letter.exchange} as it is",
                None,
                0,
            )
        case Failure():
            return DeadLetterForecast(
                dead_letter.number, "malformed", received.code, received.message, received.field, 0
            )
    judged = [_judgement(answer) for answer in answers]
    if isinstance(received, UsageBatch):
        judged += [("malformed", one.reason, one.message, 0) for one in received.malformed.values()]
    tokens = sum(tokens for _, _, _, tokens in judged)
    for would in ("malformed", "conflict", "apply", "reject", "duplicate"):
        some = [one for one in judged if one[0] == would]
        if some:
            _, code, text, _ = some[0]
            if len(judged) > 1:
                text = _counted([one[0] for one in judged])
            field = next((a.field for a in answers if isinstance(a, Conflict)), None)
            if (malformed := first_malformed(received)) is not None:
                field = malformed.field
            return DeadLetterForecast(dead_letter.number, would, code, text, field, tokens)
    raise AssertionError("a message without commands")


def _faulty(dead_letter: StoredDeadLetter, fault: Exception) -> DeadLetterForecast:
    first_line = str(fault).partition("\n")[0]
    text = f"a worker would fail on it: {type(fault).__name__}: {first_line}"
    return DeadLetterForecast(dead_letter.number, "fault", Code.UNPROCESSABLE.value, text, None, 0)


def _judgement(answer: Answer) -> tuple[str, str, str, int]:
    """Return a command's expected result: a word, its code, a text for people, and the tokens to move."""
    if isinstance(answer, Conflict):
        return "conflict", Code.REFERENCE_CONFLICT.value, f"its reference {conflict_text(answer)}", 0
    outcome = answer.outcome
    if answer.duplicate:
        return "duplicate", outcome.code.value, f"the ledger has it: {message_for(outcome)}", 0
    would = "apply" if outcome.is_applied else "reject"
    is_in_tokens = outcome.is_applied and outcome.type != _FREE_UPLOAD
    return would, outcome.code.value, message_for(outcome), (outcome.amount or 0) if is_in_tokens else 0


def _counted(words: Sequence[str]) -> str:
    kinds = ("apply", "reject", "duplicate", "conflict", "malformed")
    return "of its items " + ", ".join(f"{words.count(kind)} {kind}" for kind in kinds if kind in words)


_Kind = tuple[str, str, str | None]


class _Tally:
    def __init__(self) -> None:
        self.total = 0
        self._past_deadline = 0
        self._dead_letters: list[DeadLetterForecast] = []
        self._kinds: dict[_Kind, list[int]] = {}
        self._first: dict[_Kind, DeadLetterForecast] = {}

    def add(self, forecasts: Iterable[DeadLetterForecast]) -> None:
        for forecast in forecasts:
            kind = (forecast.would, forecast.code, field_path(forecast.code, forecast.field) or None)
            self._first.setdefault(kind, forecast)
            counted = self._kinds.setdefault(kind, [0, 0])
            counted[0] += 1
            counted[1] += forecast.tokens
            self.total += 1
            self._past_deadline += forecast.past_deadline is not None
            if len(self._dead_letters) < _SHOWN:
                self._dead_letters.append(forecast)

    def result(self) -> DryRun:
        commonest = sorted(self._kinds.items(), key=lambda item: -item[1][0])
        return DryRun(
            total=self.total,
            past_deadline=self._past_deadline,
            forecasts=tuple(
                Forecast(*kind, self._first[kind].text, dead_letters, tokens, self._first[kind].number)
                for kind, (dead_letters, tokens) in commonest
            ),
            dead_letters=tuple(self._dead_letters),
        )
