"""Stored replays: a frozen set of dead letters, with operator, reason, rate, state and lease.

Each function is a step from one stored state to the next. ``runner`` takes them one after the other, and its
process may die between any two. ``items`` has the steps of single dead letters.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any

from sqlalchemy import Connection, Engine, Row, false, func, insert, literal, select, update

from worker.deadletters.models import DeadLetterStatus, ItemState, Replay, ReplayPage, ReplayState
from worker.deadletters.replay import items
from worker.deadletters.replay.stop_on import ReplayProgress, limits_in, reached
from worker.deadletters.store import queries, tables
from worker.deadletters.store.activity_log import actor_named, reason_given
from worker.deadletters.store.encoding import clean
from worker.deadletters.store.filters import (
    PAGE_MAX,
    DeadLetterFilter,
    DeadLetterSelection,
    chunks,
    described,
    matching,
    with_whole_fingerprint,
)
from worker.deadletters.store.transaction import DeadLetterTransaction, held_dead_letters, in_transaction
from worker.errors import NotFoundError, NotPossibleError, QueryError
from worker.ledger.bulk import insert_rows
from worker.ledger.queries import snapshot
from worker.ledger.queries.snapshots import within

LEASE = timedelta(seconds=10)
NOT_STARTED = "not started yet"
_STEPS_MAX = 20
_RATE_MAX = 100_000.0
_CHUNK = 1_000
#: Keys beside the counts: failures that an operator had accepted when last resuming, those in each state, and
#: the number that had ended when the present run began.
_ACCEPTED, _ACCEPTED_IN, _ENDED_BEFORE = "accepted", "accepted:", "ended_before"
_ENDED = "ended"


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """A replay as it is asked for: ``rate`` in dead letters a second, ``steps`` the first steps' sizes.

    ``stop_on`` are the limits of ``stop_on``, as text.
    """

    reason: str
    actor: str
    rate: float | None = None
    steps: tuple[int, ...] = ()
    stop_on: tuple[str, ...] = ()


# -- asking for one ---------------------------------------------------------------------------------------


@in_transaction
def create(
    transaction: DeadLetterTransaction, dead_letters: DeadLetterSelection, request: ReplayRequest
) -> int:
    """Freeze the dead letters and store the replay; returns its number. Nothing is sent yet.

    Of a filter those that are parked now, the oldest first. Raises NotFoundError where there are none, or one
    of the numbers is none; QueryError for a rate or steps that make no sense.
    """
    actor, reason = actor_named(request.actor), reason_given(request.reason)
    _check_pace(request)
    limits = [str(limit) for limit in limits_in(request.stop_on)]
    values = {
        "at": transaction.now,
        "actor": actor,
        "reason": reason,
        "source": described(dead_letters),
        "rate": request.rate,
        "steps": list(request.steps),
        "state": ReplayState.PAUSED.value,
        "state_reason": NOT_STARTED,
        "total": 0,
        "counts": {},
        "stop_on": limits or None,
        "ran_ms": 0,
    }
    inserted = insert(tables.replays).values(values).returning(tables.replays.c.replay_id)
    replay_id: int = transaction.connection.execute(inserted).scalar_one()
    total = _freeze(transaction.connection, replay_id, dead_letters)
    _set(transaction, replay_id, total=total, counts={ItemState.WAITING.value: total})
    detail = {"rate": request.rate, "steps": values["steps"], "letters": total, "source": values["source"]}
    detail |= {"stop_on": limits} if limits else {}
    transaction.record(actor, "replay", f"replay {replay_id}", reason, detail)
    return replay_id


def _check_pace(request: ReplayRequest) -> None:
    if request.rate is not None and not 0 < request.rate <= _RATE_MAX:
        raise QueryError(f"a rate is more than 0 and at most {_RATE_MAX:.0f} dead letters a second")
    if len(request.steps) > _STEPS_MAX or any(step < 1 for step in request.steps):
        raise QueryError(f"steps are up to {_STEPS_MAX} numbers of dead letters from 1, such as 1,5,25")


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
        raise NotFoundError(
            f"no parked dead letter matches ({described(dead_letters)}): there is nothing to replay"
        )
    return total


def _freeze_numbers(connection: Connection, replay_id: int, numbers: Sequence[int]) -> int:
    for start, chunk in enumerate(chunks(numbers, _CHUNK)):
        held = held_dead_letters(connection, chunk)
        rows = []
        for place, number in enumerate(chunk, start * _CHUNK + 1):
            if number not in held:
                raise queries.not_found(number)
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


# -- reading ----------------------------------------------------------------------------------------------


def get(engine: Engine, replay_id: int) -> Replay:
    """Return one replay. Raises NotFoundError."""
    with snapshot(engine) as connection:
        return read(connection, replay_id)


def read(connection: Connection, replay_id: int) -> Replay:
    """Return one replay as this transaction sees it. Raises NotFoundError."""
    return _view(_row(connection, replay_id))


def page(engine: Engine, limit: int, before: int | None) -> ReplayPage:
    """Return replays, newest first."""
    within("limit", limit, 1, PAGE_MAX)
    statement = select(tables.replays).order_by(tables.replays.c.replay_id.desc()).limit(limit + 1)
    if before is not None:
        statement = statement.where(tables.replays.c.replay_id < before)
    with snapshot(engine) as connection:
        found = [_view(row) for row in connection.execute(statement)]
    return ReplayPage(tuple(found[:limit]), found[limit - 1].number if len(found) > limit else None)


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


def limit_reached(connection: Connection, replay_id: int) -> str | None:
    """Return why a limit stops the replay; None where it goes on, or has no limit."""
    row = _row(connection, replay_id)
    if not row.stop_on:
        return None
    replay = _view(row)
    known = {name: int(row.counts.get(_ACCEPTED_IN + name, 0)) for name in (_ENDED, *replay.counts)}
    ended = replay.total - replay.open
    progress = ReplayProgress(
        counts={state: count - known[state] for state, count in replay.counts.items()},
        ended=ended - known[_ENDED],
        is_at_end_of_step=ended in bounds(replay.total, replay.steps),
    )
    return reached(limits_in(replay.stop_on), progress)


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
        stop_on=tuple(row.stop_on or ()),
        running_since=row.running_since,
        ran_ms=row.ran_ms,
        ended_before=int(row.counts.get(_ENDED_BEFORE, 0)),
    )


# -- states -----------------------------------------------------------------------------------------------


def _set(transaction: DeadLetterTransaction, replay_id: int, **values: Any) -> None:
    transaction.connection.execute(
        update(tables.replays).where(tables.replays.c.replay_id == replay_id).values(**values)
    )


@in_transaction
def lease(transaction: DeadLetterTransaction, replay_id: int, name: str, actor: str) -> datetime | None:
    """Take the lease and let the replay run: None, or until when another runner has it.

    Raises NotFoundError; NotPossibleError where it has ended.
    """
    row, now = _row(transaction.connection, replay_id), transaction.now
    if row.state in (ReplayState.FINISHED, ReplayState.CANCELLED):
        raise NotPossibleError(f"replay {replay_id} is {row.state}: there is nothing to go on with")
    before = _view(row)
    if before.has_runner(now) and before.leased_by != name:
        return before.leased_until
    ended = before.total - before.open
    counts = {**row.counts, _ENDED_BEFORE: ended}
    if before.state is ReplayState.STOPPED:  # accepted: only later failures stop it again
        counts[_ACCEPTED] = before.failed
        counts |= {_ACCEPTED_IN + name: count for name, count in {**before.counts, _ENDED: ended}.items()}
    _set(
        transaction,
        replay_id,
        state=ReplayState.RUNNING.value,
        state_reason=None,
        leased_by=name,
        leased_until=now + LEASE,
        counts=counts,
        running_since=now,
        ran_ms=_ran_ms(before, now),
    )
    action = "replay.start" if row.state_reason == NOT_STARTED else "replay.resume"
    transaction.record(actor, action, f"replay {replay_id}")
    return None


def _ran_ms(replay: Replay, now: datetime) -> int | None:
    """Return how long a replay ran in all, in milliseconds; None where unknown."""
    elapsed = replay.elapsed(now)
    return None if elapsed is None else elapsed // timedelta(milliseconds=1)


@in_transaction
def renew(transaction: DeadLetterTransaction, replay_id: int, name: str) -> bool:
    """Keep the lease; False where another runner has it by now, or the replay is to run no more."""
    replay = tables.replays.c
    mine = (replay.replay_id == replay_id, replay.leased_by == name, replay.state == ReplayState.RUNNING)
    renewed = update(tables.replays).where(*mine).values(leased_until=transaction.now + LEASE)
    return transaction.connection.execute(renewed).rowcount == 1


@in_transaction
def end_run(
    transaction: DeadLetterTransaction, replay_id: int, name: str, state: ReplayState, reason: str | None
) -> None:
    """End the run of ``name`` in ``state``; nothing happens where another runner has the lease by now."""
    row = _row(transaction.connection, replay_id)
    if row.state == ReplayState.RUNNING and row.leased_by == name:
        _release(transaction, row, state, reason)
        transaction.record(row.actor, f"replay.{state.value}", f"replay {replay_id}", reason)


@in_transaction
def pause(transaction: DeadLetterTransaction, replay_id: int, actor: str, reason: str | None) -> None:
    """Pause it, whichever process runs it. Raises NotFoundError; NotPossibleError where it does not run."""
    row = _row(transaction.connection, replay_id)
    if row.state != ReplayState.RUNNING:
        raise NotPossibleError(f"replay {replay_id} is {row.state}: only a running one can be paused")
    _release(transaction, row, ReplayState.PAUSED, reason or f"paused by {actor_named(actor)}")
    transaction.record(actor, "replay.pause", f"replay {replay_id}", reason)


@in_transaction
def cancel(transaction: DeadLetterTransaction, replay_id: int, actor: str, reason: str | None) -> None:
    """Cancel it: unsent items stay parked, or are parked again; sent ones end by themselves.

    Raises NotFoundError; NotPossibleError where it has ended.
    """
    row = _row(transaction.connection, replay_id)
    if row.state in (ReplayState.FINISHED, ReplayState.CANCELLED):
        raise NotPossibleError(f"replay {replay_id} is {row.state} already")
    counts = Counter(row.counts)
    skipped = items.skip_waiting(transaction, replay_id)
    counts[ItemState.WAITING.value] -= skipped
    counts[ItemState.SKIPPED.value] += skipped
    _set(transaction, replay_id, counts=dict(counts))
    items.return_claimed(transaction, replay_id)
    _release(transaction, row, ReplayState.CANCELLED, reason or f"cancelled by {actor_named(actor)}")
    transaction.record(actor, "replay.cancel", f"replay {replay_id}", reason)


def _release(
    transaction: DeadLetterTransaction, row: Row[Any], state: ReplayState, reason: str | None
) -> None:
    """Set the state in which nobody runs the replay."""
    _set(
        transaction,
        row.replay_id,
        state=state.value,
        state_reason=clean(reason),
        leased_by=None,
        leased_until=None,
        running_since=None,
        ran_ms=_ran_ms(_view(row), transaction.now),
    )
