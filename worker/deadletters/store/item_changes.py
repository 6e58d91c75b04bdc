"""Changes of replay items in one transaction, with the counts of their replays."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, select, update

from worker.deadletters.models import OPEN_STATES, ItemState
from worker.deadletters.store import tables
from worker.deadletters.store.encoding import clean
from worker.ledger.bulk import among, update_rows

_OPEN = frozenset(state.value for state in OPEN_STATES)
_Change = tuple[ItemState, str | None]


class ItemChanges:
    """Collects new states of items, and writes each item once. An item that has ended stays as it is."""

    def __init__(self) -> None:
        self._changes: dict[int, dict[int, _Change]] = defaultdict(dict)

    def set(self, replay_id: int, number: int, state: ItemState, detail: str | None) -> None:
        """Set the state of the dead letter's item in a replay."""
        self._changes[replay_id][number] = (state, clean(detail))

    def flush(self, connection: Connection, now: datetime) -> None:
        """Write the states, and count them anew."""
        for replay_id in sorted(self._changes):
            _write(connection, replay_id, self._changes[replay_id], now)


def _write(connection: Connection, replay_id: int, changes: Mapping[int, _Change], now: datetime) -> None:
    item = tables.replay_items.c
    statement = select(item.position, item.number, item.state, item.sent_at).where(
        item.replay_id == replay_id, among(connection, item.number, sorted(changes))
    )
    rows, shifts = [], Counter[str]()
    for row in connection.execute(statement):
        state, detail = changes[row.number]
        if row.state == state or row.state not in _OPEN:
            continue
        shifts[row.state] -= 1
        shifts[state.value] += 1
        rows.append(
            {
                "replay_id": replay_id,
                "position": row.position,
                "state": state.value,
                "detail": detail,
                "sent_at": now if state is ItemState.SENT else row.sent_at,
                "settled_at": None if state in _OPEN else now,
            }
        )
    update_rows(connection, tables.replay_items, rows, key=("replay_id", "position"))
    if shifts:
        _shift(connection, replay_id, shifts)


def _shift(connection: Connection, replay_id: int, shifts: Mapping[str, int]) -> None:
    where = tables.replays.c.replay_id == replay_id
    counts = dict(connection.execute(select(tables.replays.c.counts).where(where)).scalar_one())
    for state, by in shifts.items():
        counts[state] = counts.get(state, 0) + by
    connection.execute(update(tables.replays).where(where).values(counts=counts))
