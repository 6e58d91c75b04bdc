"""Dead letters that were sent by replays without a runner: paused, stopped, cancelled, or killed.

Nobody watches for their outcomes. The drainer looks for them regularly; until then they count as under way.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Row, and_, exists, or_, select

from worker.deadletters.models import ItemState, ReplayState
from worker.deadletters.replay import items
from worker.deadletters.replay import store as replays
from worker.deadletters.store import tables
from worker.deadletters.store.transaction import DeadLetterTransaction
from worker.ledger.queries import snapshot

_PAGE = 100
_WITHOUT_RUNNER = (ReplayState.PAUSED, ReplayState.STOPPED, ReplayState.CANCELLED)


def end_shown(engine: Engine, now: datetime) -> int:
    """End those whose outcome the ledger shows; returns how many."""
    return sum(
        items.end_shown(engine, now, replay_id, items.under_way(engine, now, replay_id, items.UNDER_WAY_MAX))
        for replay_id in _abandoned(engine, now)
    )


def _abandoned(engine: Engine, now: datetime) -> Iterator[int]:
    """Yield the replays without a runner that have sent items, newest first, read a page at a time."""
    replay, item = tables.replays.c, tables.replay_items.c
    is_abandoned = or_(
        replay.state.in_([state.value for state in _WITHOUT_RUNNER]),
        and_(replay.state == ReplayState.RUNNING.value, replay.leased_until <= now),
    )
    has_sent = exists().where(item.replay_id == replay.replay_id, item.state == ItemState.SENT.value)
    statement = select(replay.replay_id).where(is_abandoned, has_sent)
    statement = statement.order_by(replay.replay_id.desc()).limit(_PAGE)
    page = statement
    while True:
        with snapshot(engine) as connection:
            found = connection.execute(page).scalars().all()
        yield from found
        if len(found) < _PAGE:
            return
        page = statement.where(replay.replay_id < found[-1])


def give_up(transaction: DeadLetterTransaction, dead_letter: Row[Any], detail: str) -> bool:
    """Skip the item of a dead letter under way, where nobody runs its replay; True where that is done.

    A dead letter whose outcome the ledger shows is resolved instead.
    """
    replay = replays.read(transaction.connection, dead_letter.replay_id)
    return not replay.has_runner(transaction.now) and items.give_up(transaction, dead_letter, detail)
