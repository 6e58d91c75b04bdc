"""Stored runs: a frozen set of charges, and each of them from waiting to its result.

Each function is a step from one stored state to the next; a process may die between any two. A charge is
marked as sent before its refund is published: one that may have been sent is sent again, as the same command.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, insert, select, tuple_, update

from schemas import RefundCredit
from worker.deadletters.store import activity_log
from worker.deadletters.store.activity_log import actor_named, reason_given
from worker.errors import NotFoundError, NotPossibleError, QueryError
from worker.ledger.bulk import RowUpdate, insert_rows, write_all
from worker.ledger.engine import translated_errors
from worker.ledger.queries import snapshot
from worker.ledger.queries.charges import Charge, ChargeKey, charges_of
from worker.ledger.queries.cursors import cursor_of, place_in
from worker.ledger.queries.snapshots import within
from worker.ledger.records import by_column
from worker.ledger.tables import reverse_items, reverse_runs
from worker.reversing.models import (
    ChargeState,
    ReverseItem,
    ReverseItemPage,
    ReverseRequest,
    ReverseRun,
    ReverseRunPage,
    ReverseState,
)
from worker.reversing.refunds import described, reference_of, refund_of
from worker.reversing.survey import refunds_now

RATE_MAX = 100_000.0
PAGE_MAX = 1_000
_CHUNK = 1_000

_ITEM, _RUN = reverse_items.c, reverse_runs.c
_WAITING, _SENT = ChargeState.WAITING.value, ChargeState.SENT.value


@dataclass(frozen=True, slots=True)
class SentRefund:
    """A charge of a run whose refund was sent, or may have been."""

    key: ChargeKey
    command: RefundCredit
    refunds: int
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class ChargeEnd:
    """Result of a charge: a state with its text, and what went back."""

    state: ChargeState
    detail: str | None = None
    tokens: int = 0
    free_quantity: int = 0


@dataclass(frozen=True, slots=True)
class ClaimedCharges:
    """Charges that were claimed: refunds to send, and the number of charges of which nothing was left."""

    sent: list[SentRefund]
    given_back: int


# -- asking for one ---------------------------------------------------------------------------------------


def create(
    engine: Engine, now: datetime, charges: Sequence[ChargeKey], request: ReverseRequest
) -> ReverseRun:
    """Freeze the charges and store the run; nothing is sent yet.

    Raises NotPossibleError without a reason or an actor, and where there are no charges; QueryError for a
    rate that makes no sense.
    """
    actor, reason = actor_named(request.actor), reason_given(request.reason)
    described(reason)
    if request.rate is not None and not 0 < request.rate <= RATE_MAX:
        raise QueryError(f"a rate is more than 0 and at most {RATE_MAX:.0f} refunds a second", "rate")
    if not charges:
        raise NotPossibleError("no charge can be reversed: there is nothing to do")
    values = {
        "at": now,
        "actor": str(actor),
        "reason": reason,
        "source": request.source,
        "rate": request.rate,
        "state": ReverseState.OPEN.value,
        "total": len(charges),
    }
    with translated_errors(), engine.begin() as connection:
        number: int = connection.execute(
            insert(reverse_runs).values(values).returning(_RUN.run_id)
        ).scalar_one()
        for start in range(0, len(charges), _CHUNK):
            insert_rows(
                connection,
                reverse_items,
                [
                    {"run_id": number, **key._asdict(), "state": _WAITING}
                    for key in charges[start : start + _CHUNK]
                ],
            )
        detail = {"charges": len(charges), "source": request.source, "rate": request.rate}
        activity_log.write(connection, now, actor, "reverse", _subject(number), reason, detail)
        return _read(connection, number)


def _subject(number: int) -> str:
    return f"reverse run {number}"


# -- reading ----------------------------------------------------------------------------------------------


def get(engine: Engine, number: int) -> ReverseRun:
    """Return a run. Raises NotFoundError."""
    with snapshot(engine) as connection:
        return _read(connection, number)


def page(engine: Engine, limit: int, before: int | None) -> ReverseRunPage:
    """Return runs, newest first."""
    within("limit", limit, 1, PAGE_MAX)
    statement = select(reverse_runs).order_by(_RUN.run_id.desc()).limit(limit + 1)
    if before is not None:
        statement = statement.where(_RUN.run_id < before)
    with snapshot(engine) as connection:
        rows = connection.execute(statement).all()
        found = tuple(_run(connection, row) for row in rows[:limit])
    return ReverseRunPage(found, found[-1].number if len(rows) > limit else None)


def _read(connection: Connection, number: int) -> ReverseRun:
    row = connection.execute(select(reverse_runs).where(_RUN.run_id == number)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no reverse run {number}; see `billing-worker reverse --list`")
    return _run(connection, row)


def _run(connection: Connection, row: Row[Any]) -> ReverseRun:
    is_back = _ITEM.state.in_((ChargeState.REVERSED.value, ChargeState.REST_REVERSED.value))
    sums = (
        select(_ITEM.state, func.count(), func.sum(_ITEM.tokens).filter(is_back))
        .where(_ITEM.run_id == row.run_id)
        .group_by(_ITEM.state)
    )
    found = {state: (count, int(tokens or 0)) for state, count, tokens in connection.execute(sums)}
    return ReverseRun(
        number=row.run_id,
        at=row.at,
        actor=row.actor,
        reason=row.reason,
        source=row.source,
        rate=row.rate,
        state=ReverseState(row.state),
        state_reason=row.state_reason,
        ended_at=row.ended_at,
        total=row.total,
        counts={state.value: found[state.value][0] for state in ChargeState if state.value in found},
        tokens=sum(tokens for _, tokens in found.values()),
    )


def items(
    engine: Engine, number: int, states: Sequence[ChargeState], limit: int, cursor: str | None
) -> ReverseItemPage:
    """Return the charges of a run in ``states`` (none: in all), by their operations' ids.

    Raises NotFoundError, and QueryError for a cursor that is none.
    """
    within("limit", limit, 1, PAGE_MAX)
    place = (_ITEM.operation_id, _ITEM.slot)
    statement = select(reverse_items).where(_ITEM.run_id == number).order_by(*place).limit(limit + 1)
    if states:
        statement = statement.where(_ITEM.state.in_([state.value for state in states]))
    if cursor is not None:
        statement = statement.where(tuple_(*place) > tuple_(*place_in(cursor, number, 2)))
    with snapshot(engine) as connection:
        _read(connection, number)
        rows = connection.execute(statement).all()
        shown = rows[:limit]
        charges = charges_of(connection, [_key(row) for row in shown])
    found = tuple(_item(row, charges[_key(row)]) for row in shown)
    has_more = len(rows) > limit
    return ReverseItemPage(
        found, cursor_of(number, shown[-1].operation_id, shown[-1].slot) if has_more else None
    )


def _item(row: Row[Any], charge: Charge) -> ReverseItem:
    reference = charge.usage.reference_id
    return ReverseItem(
        reference_id=reference,
        user_id=charge.usage.user_id,
        state=ChargeState(row.state),
        detail=row.detail,
        refund=None if row.refunds is None else reference_of(reference, row.refunds),
        tokens=row.tokens,
        free_quantity=row.free_quantity,
        sent_at=row.sent_at,
        ended_at=row.ended_at,
    )


def _key(row: Row[Any]) -> ChargeKey:
    return ChargeKey(row.slot, row.operation_id)


# -- charges ----------------------------------------------------------------------------------------------


def claim(engine: Engine, now: datetime, run: ReverseRun, most: int) -> ClaimedCharges:
    """Claim the next charges: make their refunds of what is left of them now, and mark them as sent."""
    with translated_errors(), engine.begin() as connection:
        keys = _keys(connection, run.number, _WAITING, most)
        charges = charges_of(connection, keys)
        open_ = [charges[key] for key in keys if not charges[key].is_given_back]
        commands = refunds_now(connection, open_, run=run.number, reason=described(run.reason))
        sent = [
            SentRefund(charge.key, command, charge.refunds, now)
            for charge, command in zip(open_, commands, strict=True)
        ]
        _update(
            connection,
            run.number,
            _WAITING,
            {
                one.key: {
                    "state": _SENT,
                    "tokens": one.command.tokens,
                    "free_quantity": one.command.free_quantity or 0,
                    "refunds": one.refunds,
                    "attempt": one.command.attempt,
                    "sent_at": now,
                }
                for one in sent
            },
        )
        ends = {
            key: ChargeEnd(ChargeState.GIVEN_BACK_BEFORE, "nothing is left of it")
            for key in keys
            if charges[key].is_given_back
        }
        return ClaimedCharges(sent, _end(connection, now, run.number, _WAITING, ends))


def sent_refunds(engine: Engine, run: ReverseRun) -> list[SentRefund]:
    """Return the refunds that were sent, or may have been, and have no result yet."""
    statement = select(reverse_items).where(_ITEM.run_id == run.number, _ITEM.state == _SENT)
    with snapshot(engine) as connection:
        rows = connection.execute(statement.order_by(_ITEM.operation_id)).all()
        charges = charges_of(connection, [_key(row) for row in rows])
    return [
        SentRefund(_key(row), _again(row, charges[_key(row)], run), row.refunds, row.sent_at) for row in rows
    ]


def _again(row: Row[Any], charge: Charge, run: ReverseRun) -> RefundCredit:
    """Return the refund of a charge as it was sent first."""
    command = refund_of(charge, run=run.number, reason=described(run.reason), attempt=row.attempt)
    sent = {
        "reference_id": reference_of(charge.usage.reference_id, row.refunds),
        "tokens": row.tokens,
        "free_quantity": row.free_quantity or None,
    }
    return command.model_copy(update=sent)


def end(engine: Engine, now: datetime, number: int, ends: Mapping[ChargeKey, ChargeEnd]) -> None:
    """End charges that were sent and have no result yet."""
    with translated_errors(), engine.begin() as connection:
        _end(connection, now, number, _SENT, ends)


def wait_again(engine: Engine, number: int, keys: Sequence[ChargeKey]) -> None:
    """Let charges wait again whose state has changed since their refunds were sent."""
    values: dict[str, Any] = dict.fromkeys(("tokens", "free_quantity", "refunds", "attempt", "sent_at"))
    with translated_errors(), engine.begin() as connection:
        _update(connection, number, _SENT, {key: {"state": _WAITING, **values} for key in keys})


def _end(
    connection: Connection, now: datetime, number: int, state: str, ends: Mapping[ChargeKey, ChargeEnd]
) -> int:
    return _update(
        connection,
        number,
        state,
        {
            key: {
                "state": one.state.value,
                "detail": one.detail,
                "tokens": one.tokens,
                "free_quantity": one.free_quantity,
                "ended_at": now,
            }
            for key, one in ends.items()
        },
    )


def _update(
    connection: Connection, number: int, state: str, values: Mapping[ChargeKey, Mapping[str, Any]]
) -> int:
    """Change those that are still in ``state``; return how many were."""
    if not values:
        return 0
    rows = [
        {"run_id": number, **key._asdict(), "state_before": state, **each} for key, each in values.items()
    ]
    change = RowUpdate(
        reverse_items, by_column(rows), ("run_id", "operation_id"), (("state", "state_before"),)
    )
    return write_all(connection, [change])[0]


def _keys(connection: Connection, number: int, state: str, most: int) -> list[ChargeKey]:
    statement = (
        select(_ITEM.slot, _ITEM.operation_id)
        .where(_ITEM.run_id == number, _ITEM.state == state)
        .order_by(_ITEM.operation_id)
        .limit(most)
    )
    return [ChargeKey(*row) for row in connection.execute(statement)]


# -- states -----------------------------------------------------------------------------------------------


def resume(engine: Engine, now: datetime, number: int, actor: str) -> ReverseRun:
    """Record that a run goes on. Raises NotFoundError; NotPossibleError where it is finished."""
    with translated_errors(), engine.begin() as connection:
        run = _read(connection, number)
        if run.state is ReverseState.FINISHED:
            raise NotPossibleError(f"reverse run {number} is finished: there is nothing to go on with")
        activity_log.write(connection, now, actor, "reverse.resume", _subject(number))
        return run


def pause(engine: Engine, now: datetime, number: int, reason: str) -> ReverseRun:
    """Record why a run rests; it can be resumed."""
    with translated_errors(), engine.begin() as connection:
        run = _read(connection, number)
        if run.state is ReverseState.OPEN:
            _set(connection, number, state_reason=reason)
            activity_log.write(connection, now, run.actor, "reverse.pause", _subject(number), reason)
        return _read(connection, number)


def finish(engine: Engine, now: datetime, number: int) -> ReverseRun | None:
    """Finish a run; None where a charge has no result yet."""
    with translated_errors(), engine.begin() as connection:
        return _finished(connection, now, number)


def _finished(connection: Connection, now: datetime, number: int) -> ReverseRun | None:
    run = _read(connection, number)
    if run.open:
        return None
    if run.state is ReverseState.OPEN:
        _set(connection, number, state=ReverseState.FINISHED.value, state_reason=None, ended_at=now)
        detail = {**run.counts, "tokens": run.tokens}
        activity_log.write(connection, now, run.actor, "reverse.finish", _subject(number), None, detail)
    return _read(connection, number)


def cancel(engine: Engine, now: datetime, number: int, actor: str, reason: str | None) -> ReverseRun:
    """Cancel what has not been sent; refunds that were sent still get their results.

    Raises NotFoundError; NotPossibleError without a reason, and where the run is finished.
    """
    who, given = actor_named(actor), reason_given(reason)
    with translated_errors(), engine.begin() as connection:
        run = _read(connection, number)
        if run.state is ReverseState.FINISHED:
            raise NotPossibleError(f"reverse run {number} is finished already")
        is_waiting = (_ITEM.run_id == number, _ITEM.state == _WAITING)
        values = {
            "state": ChargeState.CANCELLED.value,
            "detail": "before it was sent",
            "tokens": 0,
            "free_quantity": 0,
            "ended_at": now,
        }
        cancelled = connection.execute(update(reverse_items).where(*is_waiting).values(values)).rowcount
        activity_log.write(
            connection, now, who, "reverse.cancel", _subject(number), given, {"charges": cancelled}
        )
        return _finished(connection, now, number) or _read(connection, number)


def _set(connection: Connection, number: int, **values: Any) -> None:
    connection.execute(update(reverse_runs).where(_RUN.run_id == number).values(**values))
