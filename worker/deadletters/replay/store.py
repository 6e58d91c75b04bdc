"""Stored replays: a frozen set of dead letters, operator, reason, rate, and the state of each item.

Each function is a step from one stored state to the next. ``runner`` takes them one after the other, and its
process may die between any two.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Row,
    and_,
    exists,
    false,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from worker.deadletters.models import (
    DeadLetterStatus,
    ItemState,
    Replay,
    ReplayItem,
    ReplayItemPage,
    ReplayPage,
    ReplayState,
    StoredDeadLetter,
)
from worker.deadletters.replay.ledger_check import Expected, expected_of, leads_to_workers, settled, shown
from worker.deadletters.store import queries as reading
from worker.deadletters.store.filters import (
    DeadLetterFilter,
    DeadLetterSelection,
    matching,
    said,
    with_whole_fingerprint,
)
from worker.deadletters.store.transaction import (
    DeadLetterTransaction,
    actor_named,
    chunks,
    held_dead_letters,
    reason_given,
    transact,
)
from worker.errors import NotFoundError, NotPossibleError, QueryError
from worker.ledger import tables
from worker.ledger.bulk import insert_rows, select_rows, update_rows
from worker.ledger.queries import snapshot
from worker.ledger.queries.snapshots import within

LEASE = timedelta(seconds=10)
NOT_STARTED = "not started yet"
_STEPS_MAX = 20
_RATE_MAX = 100_000.0
_CHUNK = 1_000
_TIDIED_REPLAYS = 20
#: Most dead letters of one replay that are sent and not ended: one look covers them all.
UNDER_WAY_MAX = 1_000
#: Key beside the counts: failures that an operator had accepted when last resuming.
_ACCEPTED = "accepted"

_ITEM = tables.replay_items.c


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """A replay as it is asked for: ``rate`` in dead letters a second, ``steps`` the first steps' sizes."""

    reason: str
    actor: str
    rate: float | None = None
    steps: tuple[int, ...] = ()


# -- asking for one ---------------------------------------------------------------------------------------


def create(engine: Engine, dead_letters: DeadLetterSelection, order: ReplayRequest, now: datetime) -> Replay:
    """Freeze the dead letters and store the replay; nothing is sent yet.

    Of a filter those that are parked now, the oldest first. Raises NotFoundError where there are none, or one
    of the numbers is none; QueryError for a rate or steps that make no sense.
    """
    actor, reason = actor_named(order.actor), reason_given(order.reason)
    if order.rate is not None and not 0 < order.rate <= _RATE_MAX:
        raise QueryError(f"a rate is more than 0 and at most {_RATE_MAX:.0f} letters a second")
    if len(order.steps) > _STEPS_MAX or any(step < 1 for step in order.steps):
        raise QueryError(f"steps are up to {_STEPS_MAX} numbers of letters from 1, such as 1,5,25")

    def work(transaction: DeadLetterTransaction) -> int:
        values = {
            "at": now,
            "actor": actor,
            "reason": reason,
            "source": said(dead_letters),
            "rate": order.rate,
            "steps": list(order.steps),
            "state": ReplayState.PAUSED.value,
            "state_reason": NOT_STARTED,
            "total": 0,
            "counts": {},
        }
        inserted = insert(tables.replays).values(values).returning(tables.replays.c.replay_id)
        replay_id: int = transaction.connection.execute(inserted).scalar_one()
        total = _freeze(transaction.connection, replay_id, dead_letters)
        _set(transaction, replay_id, total=total, counts={ItemState.WAITING.value: total})
        detail = {"rate": order.rate, "steps": list(order.steps), "letters": total}
        transaction.record(
            actor, "replay", f"replay {replay_id}", reason, {**detail, "source": said(dead_letters)}
        )
        return replay_id

    return get(engine, transact(engine, now, work))


def _freeze(connection: Connection, replay_id: int, dead_letters: DeadLetterSelection) -> int:
    """Store the dead letters' numbers; returns how many. Raises NotFoundError where there are none."""
    if isinstance(dead_letters, DeadLetterFilter):
        parked = replace(with_whole_fingerprint(connection, dead_letters), status=(DeadLetterStatus.PARKED,))
        position = func.row_number().over(order_by=tables.dead_letters.c.number)
        chosen = select(
            literal(replay_id),
            position,
            tables.dead_letters.c.number,
            literal(ItemState.WAITING.value),
            false(),
        ).where(*matching(connection, parked))
        names = ["replay_id", "position", "number", "state", "was_known"]
        total = connection.execute(insert(tables.replay_items).from_select(names, chosen)).rowcount
    else:
        total = _freeze_numbers(connection, replay_id, list(dict.fromkeys(dead_letters)))
    if not total:
        raise NotFoundError(f"no parked letter matches ({said(dead_letters)}): there is nothing to replay")
    return total


def _freeze_numbers(connection: Connection, replay_id: int, numbers: Sequence[int]) -> int:
    for start, chunk in enumerate(chunks(numbers, _CHUNK)):
        held = held_dead_letters(connection, chunk)
        rows = []
        for place, number in enumerate(chunk, start * _CHUNK + 1):
            if number not in held:
                raise reading.not_found(number)
            rows.append(
                {
                    "replay_id": replay_id,
                    "position": place,
                    "number": number,
                    "state": ItemState.WAITING.value,
                    "was_known": False,
                }
            )
        insert_rows(connection, tables.replay_items, rows)
    return len(numbers)


# -- looking ----------------------------------------------------------------------------------------------


def get(engine: Engine, replay_id: int) -> Replay:
    """Return one replay. Raises NotFoundError."""
    with snapshot(engine) as connection:
        return _view(_row(connection, replay_id))


def page(engine: Engine, limit: int, before: int | None) -> ReplayPage:
    """Return replays, newest first."""
    within("limit", limit, 1, reading.PAGE_MAX)
    statement = select(tables.replays).order_by(tables.replays.c.replay_id.desc()).limit(limit + 1)
    if before is not None:
        statement = statement.where(tables.replays.c.replay_id < before)
    with snapshot(engine) as connection:
        found = [_view(row) for row in connection.execute(statement)]
    return ReplayPage(tuple(found[:limit]), found[limit - 1].number if len(found) > limit else None)


def items(engine: Engine, replay_id: int, states: Sequence[str], limit: int, after: int) -> ReplayItemPage:
    """Return a replay's items in their order, behind the position ``after``. Raises NotFoundError."""
    within("limit", limit, 1, reading.PAGE_MAX)
    statement = select(tables.replay_items).where(_ITEM.replay_id == replay_id, _ITEM.position > after)
    if states:
        statement = statement.where(_ITEM.state.in_(states))
    with snapshot(engine) as connection:
        _row(connection, replay_id)
        rows = connection.execute(statement.order_by(_ITEM.position).limit(limit + 1)).all()
    found = tuple(
        ReplayItem(row.position, row.number, row.state, row.detail, row.sent_at, row.settled_at)
        for row in rows[:limit]
    )
    return ReplayItemPage(found, found[-1].position if len(rows) > limit else None)


def bounds(total: int, steps: Iterable[int]) -> list[int]:
    """Return the position of the last item of each step; the last step is the rest."""
    return [*(bound for bound in accumulate(steps) if bound < total), total]


def step_of(ends: Sequence[int], has_ended: int, *, goes_on: bool) -> int:
    """Return the step, from 1, after so many ended items: the next one if it ``goes_on``, else the last."""
    done = sum(end <= has_ended if goes_on else end < has_ended for end in ends)
    return min(done + 1, len(ends))


def accepted(connection: Connection, replay_id: int) -> int:
    """Return the number of failures that an operator has accepted by resuming."""
    return int(_row(connection, replay_id).counts.get(_ACCEPTED, 0))


def _row(connection: Connection, replay_id: int) -> Row[Any]:
    row = connection.execute(
        select(tables.replays).where(tables.replays.c.replay_id == replay_id)
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no replay {replay_id}; see `billing-worker dead-letters replay list`")
    return row


def _view(row: Row[Any]) -> Replay:
    counts = {state.value: int(row.counts.get(state.value, 0)) for state in ItemState}
    ends = bounds(row.total, row.steps)
    has_ended = row.total - sum(counts[state] for state in ("waiting", "sending", "sent"))
    return Replay(
        number=row.replay_id,
        at=row.at,
        actor=row.actor,
        reason=row.reason,
        source=row.source,
        rate=row.rate,
        steps=tuple(row.steps),
        state=ReplayState(row.state),
        state_reason=row.state_reason,
        leased_by=row.leased_by,
        leased_until=row.leased_until,
        step=step_of(ends, has_ended, goes_on=row.state in (ReplayState.RUNNING, ReplayState.PAUSED)),
        steps_in_all=len(ends),
        total=row.total,
        counts=counts,
    )


# -- states -----------------------------------------------------------------------------------------------


def _set(transaction: DeadLetterTransaction, replay_id: int, **values: Any) -> None:
    transaction.connection.execute(
        update(tables.replays).where(tables.replays.c.replay_id == replay_id).values(**values)
    )


def lease(engine: Engine, replay_id: int, name: str, actor: str, now: datetime) -> datetime | None:
    """Take the lease and let the replay run: None, or until when another runner has it.

    Raises NotFoundError; NotPossibleError where it has ended.
    """

    def work(transaction: DeadLetterTransaction) -> datetime | None:
        row = _row(transaction.connection, replay_id)
        if row.state in (ReplayState.FINISHED, ReplayState.CANCELLED):
            raise NotPossibleError(f"replay {replay_id} is {row.state}: there is nothing to go on with")
        is_led = row.leased_until is not None and row.leased_until > now and row.leased_by != name
        if row.state == ReplayState.RUNNING and is_led:
            until: datetime = row.leased_until
            return until
        counts = dict(row.counts)
        if row.state == ReplayState.STOPPED:
            counts[_ACCEPTED] = _view(row).failed  # accepted: only later failures stop it again
        _set(
            transaction,
            replay_id,
            state=ReplayState.RUNNING.value,
            state_reason=None,
            leased_by=name,
            leased_until=now + LEASE,
            counts=counts,
        )
        action = "replay.start" if row.state_reason == NOT_STARTED else "replay.resume"
        transaction.record(actor, action, f"replay {replay_id}")
        return None

    return transact(engine, now, work)


def renew(engine: Engine, replay_id: int, name: str, now: datetime) -> bool:
    """Keep the lease; False where another runner has it by now, or the replay is to run no more."""

    def work(transaction: DeadLetterTransaction) -> bool:
        replay = tables.replays.c
        mine = (replay.replay_id == replay_id, replay.leased_by == name, replay.state == ReplayState.RUNNING)
        renewed = update(tables.replays).where(*mine).values(leased_until=now + LEASE)
        return transaction.connection.execute(renewed).rowcount == 1

    return transact(engine, now, work)


def end_run(
    engine: Engine, replay_id: int, name: str, state: ReplayState, reason: str | None, now: datetime
) -> Replay:
    """End the run of ``name`` in ``state``; nothing happens where another runner has the lease by now."""

    def work(transaction: DeadLetterTransaction) -> None:
        row = _row(transaction.connection, replay_id)
        if row.state == ReplayState.RUNNING and row.leased_by == name:
            _lay_down(transaction, row, state, reason)
            transaction.record(row.actor, f"replay.{state.value}", f"replay {replay_id}", reason)

    transact(engine, now, work)
    return get(engine, replay_id)


def pause(engine: Engine, replay_id: int, actor: str, reason: str | None, now: datetime) -> Replay:
    """Pause it, whichever process runs it. Raises NotFoundError; NotPossibleError where it does not run."""

    def work(transaction: DeadLetterTransaction) -> None:
        row = _row(transaction.connection, replay_id)
        if row.state != ReplayState.RUNNING:
            raise NotPossibleError(f"replay {replay_id} is {row.state}: only a running one can be paused")
        _lay_down(transaction, row, ReplayState.PAUSED, reason or f"paused by {actor_named(actor)}")
        transaction.record(actor, "replay.pause", f"replay {replay_id}", reason)

    transact(engine, now, work)
    return get(engine, replay_id)


def cancel(engine: Engine, replay_id: int, actor: str, reason: str | None, now: datetime) -> Replay:
    """Cancel it: unsent items stay parked, or are parked again; sent ones end by themselves.

    Raises NotFoundError; NotPossibleError where it has ended.
    """

    def work(transaction: DeadLetterTransaction) -> None:
        row = _row(transaction.connection, replay_id)
        if row.state in (ReplayState.FINISHED, ReplayState.CANCELLED):
            raise NotPossibleError(f"replay {replay_id} is {row.state} already")
        _skip_waiting(transaction, row)
        _give_back_claimed(transaction, replay_id)
        _lay_down(transaction, row, ReplayState.CANCELLED, reason or f"cancelled by {actor_named(actor)}")
        transaction.record(actor, "replay.cancel", f"replay {replay_id}", reason)

    transact(engine, now, work)
    return get(engine, replay_id)


def _lay_down(
    transaction: DeadLetterTransaction, row: Row[Any], state: ReplayState, reason: str | None
) -> None:
    _set(
        transaction, row.replay_id, state=state.value, state_reason=reason, leased_by=None, leased_until=None
    )


def _skip_waiting(transaction: DeadLetterTransaction, row: Row[Any]) -> None:
    """Skip all waiting items in one statement: there may be a million."""
    waiting = (_ITEM.replay_id == row.replay_id, _ITEM.state == ItemState.WAITING)
    values = {
        "state": ItemState.SKIPPED.value,
        "detail": "cancelled before it was sent",
        "settled_at": transaction.now,
    }
    skipped = transaction.connection.execute(
        update(tables.replay_items).where(*waiting).values(values)
    ).rowcount
    counts = dict(row.counts)
    counts[ItemState.WAITING] = counts.get(ItemState.WAITING, 0) - skipped
    counts[ItemState.SKIPPED] = counts.get(ItemState.SKIPPED, 0) + skipped
    _set(transaction, row.replay_id, counts=counts)


def _give_back_claimed(transaction: DeadLetterTransaction, replay_id: int) -> None:
    claimed = select(_ITEM.number).where(_ITEM.replay_id == replay_id, _ITEM.state == ItemState.SENDING)
    dead_letters = transaction.dead_letters(transaction.connection.execute(claimed).scalars())
    for dead_letter in dead_letters.values():
        transaction.item(
            replay_id, dead_letter.number, ItemState.SKIPPED, "cancelled; it may have been sent all the same"
        )
        if dead_letter.status == DeadLetterStatus.REPLAYING and dead_letter.replay_id == replay_id:
            transaction.change(dead_letter, status=DeadLetterStatus.PARKED.value, replay_id=None)
            transaction.tell(
                dead_letter.number, "returned", text="the replay was cancelled", replay_id=replay_id
            )


# -- items ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claimed:
    """A dead letter to send, with the outcomes that will end it."""

    dead_letter: StoredDeadLetter
    expected: tuple[Expected, ...]
    was_known: bool

    @property
    def ends_when_sent(self) -> bool:
        """True for a message that is no command: it ends on delivery."""
        return not leads_to_workers(self.dead_letter)


def claim(engine: Engine, replay_id: int, up_to: int, most: int, now: datetime) -> list[Claimed]:
    """Claim the next dead letters to send, up to a position; first those that a dead runner may have sent.

    A dead letter that is not parked any more is skipped, with the reason.
    """

    def work(transaction: DeadLetterTransaction) -> list[Claimed]:
        again = _positions(transaction.connection, replay_id, ItemState.SENDING, up_to, most)
        if again:
            return _read(transaction.connection, replay_id, again, now)
        waiting = _positions(transaction.connection, replay_id, ItemState.WAITING, up_to, most)
        mine = _claim_parked(transaction, replay_id, waiting)
        claimed = _read(transaction.connection, replay_id, mine, now)
        ledger = shown(transaction.connection, (one for each in claimed for one in each.expected))
        known = [
            each
            for each in claimed
            if each.expected and all(ledger.agreeing(one) is not None for one in each.expected)
        ]
        _note_known(transaction.connection, replay_id, mine, known)
        numbers = {each.dead_letter.number for each in known}
        return [
            Claimed(each.dead_letter, each.expected, each.dead_letter.number in numbers) for each in claimed
        ]

    return transact(engine, now, work)


def _positions(
    connection: Connection, replay_id: int, state: ItemState, up_to: int, most: int
) -> dict[int, int]:
    """Return the next items in a state: numbers of dead letters with their positions, in order."""
    statement = (
        select(_ITEM.number, _ITEM.position)
        .where(_ITEM.replay_id == replay_id, _ITEM.state == state.value, _ITEM.position <= up_to)
        .order_by(_ITEM.position)
        .limit(most)
    )
    return {row.number: row.position for row in connection.execute(statement)}


def _claim_parked(
    transaction: DeadLetterTransaction, replay_id: int, waiting: Mapping[int, int]
) -> dict[int, int]:
    dead_letters = transaction.dead_letters(waiting)
    mine: dict[int, int] = {}
    for number, position in waiting.items():
        dead_letter = dead_letters[number]
        if dead_letter.status != DeadLetterStatus.PARKED:
            transaction.item(replay_id, number, ItemState.SKIPPED, _why_not(dead_letter))
            continue
        mine[number] = position
        transaction.change(dead_letter, status=DeadLetterStatus.REPLAYING.value, replay_id=replay_id)
        transaction.item(replay_id, number, ItemState.SENDING)
        transaction.tell(number, "replayed", replay_id=replay_id)
    return mine


def _why_not(dead_letter: Row[Any]) -> str:
    if dead_letter.status == DeadLetterStatus.REPLAYING:
        return f"is under way in replay {dead_letter.replay_id}"
    return f"is {dead_letter.status}" + (
        f": {dead_letter.note}" if dead_letter.status == DeadLetterStatus.DISCARDED else ""
    )


def _read(
    connection: Connection, replay_id: int, positions: Mapping[int, int], now: datetime
) -> list[Claimed]:
    """Return the dead letters of a replay whole, in the order of their positions."""
    if not positions:
        return []
    statement = (
        select(tables.dead_letters, _ITEM.was_known)
        .join(tables.replay_items, _ITEM.number == tables.dead_letters.c.number)
        .where(_ITEM.replay_id == replay_id, _ITEM.position.in_(list(positions.values())))
        .order_by(_ITEM.position)
    )
    claimed = []
    for row in connection.execute(statement):
        dead_letter = StoredDeadLetter.from_row(row)
        claimed.append(Claimed(dead_letter, expected_of(dead_letter.current_body, now), bool(row.was_known)))
    return claimed


def _note_known(
    connection: Connection, replay_id: int, positions: Mapping[int, int], known: Sequence[Claimed]
) -> None:
    """Mark items whose outcomes the ledger had before they were sent again: they end as duplicates."""
    rows = [
        {"replay_id": replay_id, "position": positions[each.dead_letter.number], "was_known": True}
        for each in known
    ]
    update_rows(connection, tables.replay_items, rows, key=("replay_id", "position"))


def under_way(engine: Engine, replay_id: int, most: int, now: datetime) -> list[Claimed]:
    """Return the dead letters that were sent and have not ended, in their order."""
    with snapshot(engine) as connection:
        sent = _positions(connection, replay_id, ItemState.SENT, 2**62, most)
        return _read(connection, replay_id, sent, now)


def note_sent(
    engine: Engine, replay_id: int, sent: Sequence[Claimed], returned: Mapping[int, str], now: datetime
) -> None:
    """Mark ``sent`` items as sent; those ``returned``, by number with the reason, reached no queue.

    A dead letter that has come back or ended meanwhile stays as it is.
    """

    def work(transaction: DeadLetterTransaction) -> None:
        numbers = [*(each.dead_letter.number for each in sent), *returned]
        mine = _mine(transaction, replay_id, numbers)
        for each in sent:
            number = each.dead_letter.number
            if number not in mine:
                continue
            if each.ends_when_sent:
                _end(
                    transaction, replay_id, mine[number], ItemState.DELIVERED, "delivered: the broker has it"
                )
            else:
                transaction.item(replay_id, number, ItemState.SENT)
        for number, why in returned.items():
            if number in mine:
                transaction.item(replay_id, number, ItemState.UNROUTABLE, why)
                transaction.change(mine[number], status=DeadLetterStatus.PARKED.value, replay_id=None)
                transaction.tell(number, "returned", text=why, replay_id=replay_id)

    transact(engine, now, work)


def settle(engine: Engine, replay_id: int, under_way: Sequence[Claimed], now: datetime) -> int:
    """End the dead letters whose outcome the ledger shows; returns how many."""
    with snapshot(engine) as connection:
        ledger = shown(connection, (one for each in under_way for one in each.expected))
    ended = {
        each.dead_letter.number: end
        for each in under_way
        if (end := settled(each.expected, ledger, was_known=each.was_known)) is not None
    }
    if not ended:
        return 0

    def work(transaction: DeadLetterTransaction) -> int:
        mine = _mine(transaction, replay_id, list(ended))
        for number, dead_letter in mine.items():
            _end(transaction, replay_id, dead_letter, *ended[number])
        return len(mine)

    return transact(engine, now, work)


def _mine(transaction: DeadLetterTransaction, replay_id: int, numbers: Iterable[int]) -> dict[int, Row[Any]]:
    """Return those that are still under way in this replay."""
    dead_letters = transaction.dead_letters(numbers)
    return {
        number: dead_letter
        for number, dead_letter in dead_letters.items()
        if dead_letter.status == DeadLetterStatus.REPLAYING and dead_letter.replay_id == replay_id
    }


def _end(
    transaction: DeadLetterTransaction, replay_id: int, dead_letter: Row[Any], state: ItemState, text: str
) -> None:
    transaction.change(dead_letter, status=DeadLetterStatus.RESOLVED.value)
    transaction.item(replay_id, dead_letter.number, state, text)
    transaction.tell(dead_letter.number, "resolved", text=text, replay_id=replay_id, outcome=state.value)


def still_under_way(engine: Engine, replay_id: int, numbers: Sequence[int]) -> set[int]:
    """Return those that were sent and have neither come back nor ended."""
    with snapshot(engine) as connection:
        rows = select_rows(
            connection, tables.dead_letters, ("number", "status", "replay_id"), "number", sorted(numbers)
        )
    return {
        row.number for row in rows if row.status == DeadLetterStatus.REPLAYING and row.replay_id == replay_id
    }


def tidy(engine: Engine, now: datetime) -> int:
    """End sent dead letters of replays without a runner, as far as the ledger shows their outcome.

    A replay whose lease is over has no runner either: its runner was killed.
    """
    left = (ReplayState.PAUSED, ReplayState.STOPPED, ReplayState.CANCELLED)
    replay = tables.replays.c
    is_left = or_(
        replay.state.in_([state.value for state in left]),
        and_(replay.state == ReplayState.RUNNING.value, replay.leased_until <= now),
    )
    has_sent = exists().where(_ITEM.replay_id == replay.replay_id, _ITEM.state == ItemState.SENT.value)
    statement = (
        select(replay.replay_id)
        .where(is_left, has_sent)
        .order_by(replay.replay_id.desc())
        .limit(_TIDIED_REPLAYS)
    )
    with snapshot(engine) as connection:
        found = connection.execute(statement).scalars().all()
    return sum(
        settle(engine, replay_id, under_way(engine, replay_id, UNDER_WAY_MAX, now), now)
        for replay_id in found
    )
