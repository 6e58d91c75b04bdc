"""Activity log of operators: each action with its actor, its reason and its subject.

The table is ``audit_log``. An entry is written in the transaction of its action.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from worker.deadletters.models import ActivityEntry, ActivityPage
from worker.deadletters.store.encoding import clean
from worker.deadletters.store.filters import PAGE_MAX, searchable
from worker.deadletters.store.tables import audit_log
from worker.errors import NotFoundError, NotPossibleError
from worker.ledger.queries.snapshots import within
from worker.runtime.identity import Operator

_ACTOR_MAX = 200
_TEXT_MAX = 4_000
#: Most characters of a subject: it is in an index, which takes no more than some thousand bytes.
_SUBJECT_MAX = 500


def actor_named(actor: str) -> Operator:
    """Return the actor by the stored name. Raises NotPossibleError where it is empty or too long."""
    name = str(clean(actor)).strip()
    if not name or len(name) > _ACTOR_MAX:
        raise NotPossibleError(f"say who you are, in 1 to {_ACTOR_MAX} characters")
    return (actor if isinstance(actor, Operator) else Operator()).named(name)


def reason_given(reason: str | None) -> str:
    """Return the reason. Raises NotPossibleError where it is empty or too long."""
    given = str(clean(reason or "")).strip()
    if not given or len(given) > _TEXT_MAX:
        raise NotPossibleError(f"say why, in 1 to {_TEXT_MAX} characters: others will want to know")
    return given


def write(
    connection: Connection,
    now: datetime,
    actor: str,
    action: str,
    subject: str,
    reason: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> int:
    """Write an entry; returns its number. A subject that is too long is whole in the detail."""
    whole = clean(subject)
    if len(whole) > _SUBJECT_MAX:
        detail = {**(detail or {}), "subject": whole}
    statement = insert(audit_log).returning(audit_log.c.entry_id)
    who = actor_named(actor)
    values = {
        "at": now,
        "actor": str(who),
        "os_user": clean(who.os_user),
        "host": clean(who.host),
        "action": action,
        "subject": whole[:_SUBJECT_MAX],
        "reason": clean(reason),
        "detail": None if detail is None else dict(detail),
    }
    return int(connection.execute(statement, values).scalar_one())


def page(
    connection: Connection, limit: int, before: int | None, equal: Mapping[str, str | None]
) -> ActivityPage:
    """Return a page, newest first; ``equal`` maps columns to their values. Raises QueryError."""
    within("limit", limit, 1, PAGE_MAX)
    for column, value in equal.items():
        searchable(column, value)
    entry = audit_log.c
    where = [entry[column] == value for column, value in equal.items() if value is not None]
    if before is not None:
        where.append(entry.entry_id < before)
    statement = select(audit_log).where(*where).order_by(entry.entry_id.desc()).limit(limit + 1)
    rows = connection.execute(statement).all()
    shown = tuple(
        ActivityEntry(
            row.entry_id,
            row.at,
            row.actor,
            row.action,
            row.subject,
            row.reason,
            row.detail or {},
            row.os_user,
            row.host,
        )
        for row in rows[:limit]
    )
    return ActivityPage(shown, shown[-1].number if len(rows) > limit else None)


def discarded_by(connection: Connection, entry: int) -> list[int]:
    """Return the dead letters that an entry discarded. Raises NotFoundError."""
    found = select(audit_log.c.detail).where(audit_log.c.entry_id == entry, audit_log.c.action == "discard")
    detail = connection.execute(found).scalar_one_or_none()
    if detail is None:
        raise NotFoundError(f"entry {entry} of the log is no discard of dead letters")
    return [int(number) for number in detail["letters"]]
