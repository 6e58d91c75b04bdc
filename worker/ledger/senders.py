"""Senders of commands: the broker's user and the application of a message, under a small key.

Rows are only added. What is known of them is kept with the connection that read it: a connection to another
server knows nothing yet.
"""

import logging
from collections import Counter
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from secrets import randbelow
from typing import NamedTuple

from sqlalchemy import Connection, select

from worker.errors import ContentionError
from worker.ledger.bulk import among, insert_rows
from worker.ledger.tables import senders as table

log = logging.getLogger(__name__)

#: Applications that are kept of each broker user: a producer may put any text there.
APPLICATIONS_MAX = 1_000
_KEYS = 2**31


class Sender(NamedTuple):
    """Sender of a message; empty text stands for a property that the message doesn't have."""

    broker_user: str
    application: str

    @property
    def alone(self) -> "Sender":
        """The broker user without the application."""
        return Sender(self.broker_user, "")


#: Sender of a message without ``user_id`` and ``app_id``.
UNNAMED = Sender("", "")


@dataclass(slots=True)
class _Known:
    """Keys of senders that are committed, and the users of whom no more applications are kept."""

    ids: dict[Sender, int | None] = field(default_factory=lambda: {UNNAMED: None})
    full: set[str] = field(default_factory=set)


def sender_ids(connection: Connection, senders: Sequence[Sender], now: datetime) -> list[int | None]:
    """Return the key of each sender, and None for ``UNNAMED``.

    New senders are added in this transaction, which may call it once. One whose user has ``APPLICATIONS_MAX``
    applications counts as the user without application. Raises ContentionError.
    """
    known: _Known = connection.info.setdefault("senders", _Known())
    ids = known.ids
    unknown = {each for each in senders if each not in ids and each.broker_user not in known.full}
    if unknown:
        _read(connection, known, unknown)
        # A rollback takes back what is added here: the next transaction reads it, if it is there.
        ids = ids | _added(connection, _missing(known, unknown), now)
    return [ids[each] if each in ids else ids[each.alone] for each in senders]


def _read(connection: Connection, known: _Known, unknown: Set[Sender]) -> None:
    """Read the senders of the users of ``unknown``; log the users that have too many applications."""
    known.ids |= _stored(connection, unknown)
    for user, count in _applications_kept(known, unknown).items():
        if count >= APPLICATIONS_MAX and Sender(user, "") in known.ids and user not in known.full:
            known.full.add(user)
            name = repr(user) if user else "anonymous users"
            log.warning("%s sent as %d applications: no others are kept with commands", name, count)


def _missing(known: _Known, unknown: Set[Sender]) -> list[Sender]:
    """Return the senders to add, in their order."""
    missing = set()
    kept = _applications_kept(known, unknown)
    for each in sorted(unknown - known.ids.keys()):
        if each.application and kept[each.broker_user] >= APPLICATIONS_MAX:
            missing.add(each.alone)
        else:
            kept[each.broker_user] += bool(each.application)
            missing.add(each)
    return sorted(missing - known.ids.keys())


def _applications_kept(known: _Known, unknown: Set[Sender]) -> Counter[str]:
    """Return the number of applications that are stored of each user of ``unknown``."""
    users = {each.broker_user for each in unknown}
    return Counter(each.broker_user for each in known.ids if each.application and each.broker_user in users)


def _stored(connection: Connection, senders: Collection[Sender]) -> dict[Sender, int | None]:
    """Return the keys of all senders that are stored of the users of ``senders``."""
    users = sorted({each.broker_user for each in senders})
    columns = (table.c[name] for name in (*Sender._fields, "sender_id"))
    statement = select(*columns).where(among(connection, table.c.broker_user, users))
    return {Sender(user, application): key for user, application, key in connection.execute(statement)}


def _added(connection: Connection, missing: Sequence[Sender], now: datetime) -> dict[Sender, int | None]:
    """Add senders, which another worker may add at the same time, and return their keys.

    A key is drawn: workers that add others don't meet, and a key that a failover lost is not given again.
    """
    if not missing:
        return {}
    rows = [
        {"sender_id": 1 + randbelow(_KEYS - 1), **each._asdict(), "first_seen_at": now} for each in missing
    ]
    insert_rows(connection, table, rows, on_conflict="nothing")
    stored = _stored(connection, missing)
    if not stored.keys() >= set(missing):
        raise ContentionError("the key that was drawn for a sender is taken")
    return stored
