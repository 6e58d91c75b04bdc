"""Filters of dead letters for lists, actions and replays, as conditions of the database."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, func, or_, select, union_all
from sqlalchemy.sql import ColumnElement

from worker.deadletters.models import WAITING, DeadLetterStatus
from worker.deadletters.store import tables
from worker.deadletters.store.encoding import clean
from worker.errors import NotFoundError, QueryError
from worker.ledger.queries import View
from worker.ledger.queries.snapshots import in_utc

#: Most rows of one page of any list.
PAGE_MAX = 1_000
_PREFIX_MIN = 4
_FINGERPRINT = 32

Condition = ColumnElement[bool]


@dataclass(frozen=True)
class DeadLetterFilter(View):
    """Filter of dead letters; None in a field asks for nothing.

    Raises QueryError for text that no row holds.

    ``code`` is the reason code. ``since`` and ``until`` bound the last failure; ``until`` itself is not
    included, nor is a failure of unknown time. ``fingerprint`` may be the beginning of one. ``text`` is
    looked for in the message, the field, the identities and the note, whatever its case (of ASCII), and as it
    is in the original body. ``applied`` asks for those with the mark of ``applied``, or for those without.
    """

    status: tuple[DeadLetterStatus, ...] = WAITING
    code: str | None = None
    type: str | None = None
    user_id: str | None = None
    reference_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None
    fingerprint: str | None = None
    applied: bool | None = None

    def __post_init__(self) -> None:
        for name in ("code", "type", "user_id", "reference_id", "text", "fingerprint"):
            searchable(name, getattr(self, name))

    def __str__(self) -> str:
        """Return the filter as text for people."""
        named = {name: value for name, value in self.to_dict().items() if value is not None}
        named["status"] = ",".join(self.status)
        return ", ".join(f"{name}={value}" for name, value in named.items())


def searchable(name: str, text: str | None) -> None:
    """Raise QueryError for text that no row holds: rows spell it out."""
    if text != clean(text):
        raise QueryError(f"{name} holds NUL or half of a surrogate pair, which no stored text does")


DeadLetterSelection = Sequence[int] | DeadLetterFilter


def conditions(filter_: DeadLetterFilter) -> list[Condition]:
    """Return all conditions but the status and the text. Raises QueryError for times that are none in UTC."""
    dead_letter = tables.dead_letters.c
    named = (
        (dead_letter.reason, filter_.code),
        (dead_letter.type, filter_.type),
        (dead_letter.user_id, filter_.user_id),
        (dead_letter.reference_id, filter_.reference_id),
        (dead_letter.fingerprint, filter_.fingerprint),
    )
    where: list[Condition] = [column == value for column, value in named if value is not None]
    if filter_.applied is not None:
        mark = dead_letter.applied_at
        where.append(mark.is_not(None) if filter_.applied else mark.is_(None))
    if filter_.since is not None:
        where.append(dead_letter.last_failed_at >= in_utc("since", filter_.since))
    if filter_.until is not None:
        where.append(dead_letter.last_failed_at < in_utc("until", filter_.until))
    return where


def newest(columns: Iterable[Any], filter_: DeadLetterFilter, limit: int, before: int | None) -> Select[Any]:
    """Return the newest dead letters that match, up to ``limit``, without the condition on the text.

    One query for each status: an index holds the dead letters of one status in the order wanted.
    """
    where = conditions(filter_)
    if before is not None:
        where.append(tables.dead_letters.c.number < before)
    wanted = list(columns)
    parts = [
        select(
            select(*wanted)
            .where(tables.dead_letters.c.status == status, *where)
            .order_by(tables.dead_letters.c.number.desc())
            .limit(limit)
            .subquery()
        )
        for status in dict.fromkeys(filter_.status)
    ]
    found = union_all(*parts).subquery()
    return select(found).order_by(found.c.number.desc()).limit(limit)


def has_text(connection: Connection, text: str, columns: Any = tables.dead_letters.c) -> Condition:
    """Return the condition that the text is somewhere in the dead letter."""
    lowered = text.lower()
    fields = (
        columns.message,
        columns.field,
        columns.reference_id,
        columns.user_id,
        columns.type,
        columns.reason,
        columns.note,
    )
    if connection.dialect.name == "postgresql":
        found = [func.strpos(func.lower(column), lowered) > 0 for column in fields]
        found.append(func.pg_catalog.position(columns.body, text.encode()) > 0)
    else:
        found = [func.instr(func.lower(column), lowered) > 0 for column in fields]
        found.append(func.instr(columns.body, text.encode()) > 0)
    return or_(*found)


def matching(connection: Connection, filter_: DeadLetterFilter) -> list[Condition]:
    """Return all conditions together, for a pass through all dead letters that match."""
    where = [
        tables.dead_letters.c.status.in_([status.value for status in filter_.status]),
        *conditions(filter_),
    ]
    if filter_.text is not None:
        where.append(has_text(connection, filter_.text))
    return where


def with_whole_fingerprint(connection: Connection, filter_: DeadLetterFilter) -> DeadLetterFilter:
    """Return the same filter with all digits of its fingerprint. Raises NotFoundError, QueryError."""
    if filter_.fingerprint is None:
        return filter_
    return replace(filter_, fingerprint=whole_fingerprint(connection, filter_.fingerprint))


def whole_fingerprint(connection: Connection, prefix: str) -> str:
    """Return the fingerprint of the only group that begins so. Raises NotFoundError, QueryError."""
    beginning = prefix.strip().lower()
    if len(beginning) < _PREFIX_MIN or not set(beginning) <= set("0123456789abcdef"):
        raise QueryError(f"{prefix!r} is no group: give at least {_PREFIX_MIN} digits of its fingerprint")
    group = tables.dead_letter_groups.c
    highest = beginning + "g" if len(beginning) < _FINGERPRINT else beginning
    statement = (
        select(group.fingerprint)
        .where(group.fingerprint >= beginning, group.fingerprint <= highest)
        .order_by(group.fingerprint)
        .limit(2)
    )
    found = list(connection.execute(statement).scalars())
    if not found:
        raise NotFoundError(f"there is no group {prefix}; see `billing-worker dead-letters groups --all`")
    if len(found) > 1:
        raise QueryError(f"several groups begin with {prefix}; give more of its digits")
    return str(found[0])


def described(dead_letters: DeadLetterSelection) -> str:
    """Return the choice as text, for people and for the activity log."""
    if isinstance(dead_letters, DeadLetterFilter):
        return str(dead_letters)
    listed = ", ".join(map(str, dead_letters[:20]))
    return f"letter{'s' if len(dead_letters) != 1 else ''} {listed}" + (
        f" and {len(dead_letters) - 20} more" if len(dead_letters) > 20 else ""
    )


def chunks(numbers: Sequence[int], size: int) -> Iterable[Sequence[int]]:
    """Return ``numbers`` in pieces."""
    return (numbers[start : start + size] for start in range(0, len(numbers), size))
