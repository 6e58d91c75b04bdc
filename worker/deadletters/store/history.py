"""History of one dead letter: its events, and the edits of its body."""

from sqlalchemy import Connection, select

from worker.deadletters.models import Edit, Event
from worker.deadletters.store import tables

_EVENTS_MAX = 500
_EDITS_MAX = 100


def events(connection: Connection, number: int) -> tuple[Event, ...]:
    """Return the dead letter's history, oldest first; of very many events the newest."""
    event = tables.dead_letter_events.c
    statement = (
        select(tables.dead_letter_events)
        .where(event.number == number)
        .order_by(event.event_id.desc())
        .limit(_EVENTS_MAX)
    )
    rows = connection.execute(statement).all()
    return tuple(
        Event(row.at, row.kind, row.actor, row.text, row.replay_id, row.detail or {}) for row in rows[::-1]
    )


def edits(connection: Connection, number: int) -> tuple[Edit, ...]:
    """Return its edits, oldest first; of very many the newest."""
    edit = tables.dead_letter_edits.c
    statement = (
        select(tables.dead_letter_edits)
        .where(edit.number == number)
        .order_by(edit.edit_id.desc())
        .limit(_EDITS_MAX)
    )
    rows = connection.execute(statement).all()
    return tuple(
        Edit(row.edit_id, row.at, row.actor, row.reason, row.before, row.after, row.set_edit_id)
        for row in rows[::-1]
    )
