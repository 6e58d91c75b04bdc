"""Items of a replay: one dead letter each, from the claim to the outcome that the ledger shows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, select, update

from worker.deadletters.models import (
    DeadLetterStatus,
    ItemState,
    RejectedTokens,
    ReplayItem,
    ReplayItemPage,
    StoredDeadLetter,
)
from worker.deadletters.replay.ledger_check import Expected, end_of, expected_of, leads_to_workers, shown
from worker.deadletters.store import tables
from worker.deadletters.store.filters import PAGE_MAX, searchable
from worker.deadletters.store.transaction import DeadLetterTransaction, in_transaction
from worker.ledger.bulk import Keys, select_rows, update_rows
from worker.ledger.queries import snapshot
from worker.ledger.queries.snapshots import within

#: Most dead letters of one replay that are sent and not ended: one look covers them all.
UNDER_WAY_MAX = 1_000

_SUMMED_MAX = 10_000

_ITEM = tables.replay_items.c
#: Columns of an item in a list, in the order of its view.
_SHOWN = (
    _ITEM.position,
    _ITEM.number,
    _ITEM.state,
    _ITEM.detail,
    _ITEM.sent_at,
    _ITEM.settled_at,
    *(tables.dead_letters.c[name] for name in ("type", "reference_id", "user_id", "tokens_at_stake")),
)


def page(
    connection: Connection, replay_id: int, states: Sequence[str], limit: int, after: int
) -> ReplayItemPage:
    """Return a replay's items in their order, behind the position ``after``."""
    within("limit", limit, 1, PAGE_MAX)
    for state in states:
        searchable("a state", state)
    statement = (
        select(*_SHOWN)
        .join(tables.dead_letters, _ITEM.number == tables.dead_letters.c.number)
        .where(_ITEM.replay_id == replay_id, _ITEM.position > after)
    )
    if states:
        statement = statement.where(_ITEM.state.in_(states))
    rows = connection.execute(statement.order_by(_ITEM.position).limit(limit + 1)).all()
    found = tuple(ReplayItem(*row) for row in rows[:limit])
    return ReplayItemPage(found, found[-1].position if len(rows) > limit else None)


def rejected_tokens(connection: Connection, replay_id: int) -> RejectedTokens:
    """Return the tokens that the rejected dead letters of a replay ask to move."""
    tokens = tables.dead_letters.c.tokens_at_stake
    some = (
        select(tokens)
        .join(tables.replay_items, _ITEM.number == tables.dead_letters.c.number)
        .where(_ITEM.replay_id == replay_id, _ITEM.state == ItemState.REJECTED.value)
        .order_by(_ITEM.position)
        .limit(_SUMMED_MAX + 1)
    )
    found = connection.execute(some).scalars().all()
    summed = found[:_SUMMED_MAX]
    return RejectedTokens(
        tokens=sum(one for one in summed if one is not None),
        unknown=sum(one is None for one in summed),
        is_least=len(found) > _SUMMED_MAX,
    )


# -- claiming and sending ---------------------------------------------------------------------------------


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


@in_transaction
def claim(transaction: DeadLetterTransaction, replay_id: int, up_to: int, most: int) -> list[Claimed]:
    """Claim the next dead letters to send, up to a position; first those that a dead runner may have sent.

    A dead letter that is not parked any more is skipped, with the reason.
    """
    connection, now = transaction.connection, transaction.now
    again = _positions(connection, replay_id, ItemState.SENDING, up_to, most)
    if again:
        return _read(connection, replay_id, again, now)
    waiting = _positions(connection, replay_id, ItemState.WAITING, up_to, most)
    mine = _claim_parked(transaction, replay_id, waiting)
    return _marked_known(connection, replay_id, mine, _read(connection, replay_id, mine, now))


def _marked_known(
    connection: Connection, replay_id: int, positions: Mapping[int, int], claimed: Sequence[Claimed]
) -> list[Claimed]:
    """Mark items whose outcomes the ledger has before they are sent: they end as duplicates."""
    ledger = shown(connection, (one for each in claimed for one in each.expected))
    marked = [
        replace(
            each,
            was_known=bool(each.expected) and all(ledger.agreeing(one) is not None for one in each.expected),
        )
        for each in claimed
    ]
    rows = [
        {"replay_id": replay_id, "position": positions[each.dead_letter.number], "was_known": True}
        for each in marked
        if each.was_known
    ]
    update_rows(connection, tables.replay_items, rows, key=("replay_id", "position"))
    return marked


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
            transaction.set_item(replay_id, number, ItemState.SKIPPED, _why_not(dead_letter))
            continue
        mine[number] = position
        transaction.change(dead_letter, status=DeadLetterStatus.REPLAYING.value, replay_id=replay_id)
        transaction.set_item(replay_id, number, ItemState.SENDING)
        transaction.add_event(number, "replayed", replay_id=replay_id)
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


def under_way(engine: Engine, now: datetime, replay_id: int, most: int) -> list[Claimed]:
    """Return the dead letters that were sent and have not ended, in their order."""
    with snapshot(engine) as connection:
        sent = _positions(connection, replay_id, ItemState.SENT, 2**62, most)
        return _read(connection, replay_id, sent, now)


@in_transaction
def mark_sent(
    transaction: DeadLetterTransaction,
    replay_id: int,
    sent: Sequence[Claimed],
    returned: Mapping[int, str],
) -> None:
    """Mark ``sent`` items as sent; those ``returned``, by number with the reason, reached no queue.

    A dead letter that has come back or ended meanwhile stays as it is.
    """
    numbers = [*(each.dead_letter.number for each in sent), *returned]
    mine = _mine(transaction, replay_id, numbers)
    for each in sent:
        if (dead_letter := mine.get(each.dead_letter.number)) is None:
            continue
        if each.ends_when_sent:
            _resolve(transaction, dead_letter, ItemState.DELIVERED, "delivered: the broker has it")
        else:
            transaction.set_item(replay_id, dead_letter.number, ItemState.SENT)
    for number, why in returned.items():
        if number in mine:
            _park_again(transaction, mine[number], ItemState.UNROUTABLE, why, why)


def _park_again(
    transaction: DeadLetterTransaction, dead_letter: Row[Any], state: ItemState, detail: str, text: str
) -> None:
    """Park a dead letter that its replay could not send, or will not."""
    number, replay_id = dead_letter.number, dead_letter.replay_id
    transaction.set_item(replay_id, number, state, detail)
    transaction.change(dead_letter, status=DeadLetterStatus.PARKED.value, replay_id=None)
    transaction.add_event(number, "returned", text=text, replay_id=replay_id)


# -- cancelling -------------------------------------------------------------------------------------------


def skip_waiting(transaction: DeadLetterTransaction, replay_id: int) -> int:
    """Skip all waiting items in one statement (there may be a million); returns how many."""
    waiting = (_ITEM.replay_id == replay_id, _ITEM.state == ItemState.WAITING)
    values = {
        "state": ItemState.SKIPPED.value,
        "detail": "cancelled before it was sent",
        "settled_at": transaction.now,
    }
    skipped = update(tables.replay_items).where(*waiting).values(values)
    return transaction.connection.execute(skipped).rowcount


def return_claimed(transaction: DeadLetterTransaction, replay_id: int) -> None:
    """Park the dead letters again that a runner had claimed and has not marked as sent."""
    claimed = select(_ITEM.number).where(_ITEM.replay_id == replay_id, _ITEM.state == ItemState.SENDING)
    numbers = transaction.connection.execute(claimed).scalars().all()
    detail = "cancelled; it may have been sent all the same"
    mine = _mine(transaction, replay_id, numbers)
    for number in numbers:
        if number in mine:
            _park_again(transaction, mine[number], ItemState.SKIPPED, detail, "the replay was cancelled")
        else:
            transaction.set_item(replay_id, number, ItemState.SKIPPED, detail)


# -- outcomes ---------------------------------------------------------------------------------------------


def end_shown(engine: Engine, now: datetime, replay_id: int, sent: Sequence[Claimed]) -> int:
    """End the sent dead letters whose outcome the ledger shows; returns how many."""
    with snapshot(engine) as connection:
        ended = _ends(connection, sent)
    return _end(engine, now, replay_id, ended) if ended else 0


_End = tuple[ItemState, str]


def _ends(connection: Connection, sent: Sequence[Claimed]) -> dict[int, _End]:
    """Return the ends that the ledger shows, by the number of the dead letter."""
    ledger = shown(connection, (one for each in sent for one in each.expected))
    return {
        each.dead_letter.number: end
        for each in sent
        if (end := end_of(each.expected, ledger, was_known=each.was_known)) is not None
    }


@in_transaction
def _end(transaction: DeadLetterTransaction, replay_id: int, ended: Mapping[int, _End]) -> int:
    mine = _mine(transaction, replay_id, ended)
    for number, dead_letter in mine.items():
        _resolve(transaction, dead_letter, *ended[number])
    return len(mine)


def give_up(transaction: DeadLetterTransaction, dead_letter: Row[Any], detail: str) -> bool:
    """Skip the item of a dead letter under way, so that it can be parked again.

    Where the ledger shows its outcome, the dead letter is resolved instead; returns False then.
    """
    replay_id, number, connection = dead_letter.replay_id, dead_letter.number, transaction.connection
    position = select(_ITEM.position).where(_ITEM.replay_id == replay_id, _ITEM.number == number)
    positions = {number: connection.execute(position).scalar_one()}
    ends = _ends(connection, _read(connection, replay_id, positions, transaction.now))
    if number in ends:
        _resolve(transaction, dead_letter, *ends[number])
        return False
    transaction.set_item(replay_id, number, ItemState.SKIPPED, detail)
    return True


def _mine(transaction: DeadLetterTransaction, replay_id: int, numbers: Iterable[int]) -> dict[int, Row[Any]]:
    """Return those that are still under way in this replay."""
    dead_letters = transaction.dead_letters(numbers)
    return {
        number: dead_letter
        for number, dead_letter in dead_letters.items()
        if dead_letter.status == DeadLetterStatus.REPLAYING and dead_letter.replay_id == replay_id
    }


def _resolve(transaction: DeadLetterTransaction, dead_letter: Row[Any], state: ItemState, text: str) -> None:
    number, replay_id = dead_letter.number, dead_letter.replay_id
    transaction.change(dead_letter, status=DeadLetterStatus.RESOLVED.value)
    transaction.set_item(replay_id, number, state, text)
    transaction.add_event(number, "resolved", text=text, replay_id=replay_id, outcome=state.value)


def still_under_way(engine: Engine, replay_id: int, numbers: Sequence[int]) -> set[int]:
    """Return those that were sent and have neither come back nor ended."""
    with snapshot(engine) as connection:
        columns, keys = ("number", "status", "replay_id"), Keys(sorted(numbers))
        rows = select_rows(connection, tables.dead_letters, columns, "number", keys)
    return {
        row.number for row in rows if row.status == DeadLetterStatus.REPLAYING and row.replay_id == replay_id
    }
