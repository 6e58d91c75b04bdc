"""Catalogs that commands were judged with, under a small key; each is kept whole, once.

Rows are only added. What is known of them is kept with the connection that read it: a connection to another
server knows nothing yet.
"""

import logging
from datetime import datetime
from secrets import randbelow

from sqlalchemy import Connection, func, select

from worker.catalog import Catalog
from worker.errors import ContentionError
from worker.ledger.bulk import insert_rows
from worker.ledger.tables import catalogs as table

log = logging.getLogger(__name__)

#: Catalogs that are kept: far more than anybody has, and far fewer than there are keys.
CATALOGS_MAX = 5_000
_KEYS = 2**15

_Known = dict[str, int | None]


def catalog_id(connection: Connection, catalog: Catalog, now: datetime) -> int | None:
    """Return the key of ``catalog``; None for one that would be more than ``CATALOGS_MAX``.

    A new one is added in this transaction. Raises ContentionError.
    """
    known: _Known = connection.info.setdefault("catalogs", {})
    if catalog.digest in known:
        return known[catalog.digest]
    stored = _stored(connection, catalog.digest)
    if stored is not None:
        known[catalog.digest] = stored
        return stored
    if connection.execute(select(func.count()).select_from(table)).scalar_one() >= CATALOGS_MAX:
        log.warning(
            "%d catalogs are kept: commands don't say any more which they were judged with", CATALOGS_MAX
        )
        known[catalog.digest] = None
        return None
    # A rollback takes back what is added here: the next transaction reads it, if it is there.
    return _added(connection, catalog, now)


def _stored(connection: Connection, digest: str) -> int | None:
    statement = select(table.c.catalog_id).where(table.c.digest == digest)
    found: int | None = connection.execute(statement).scalar_one_or_none()
    return found


def _added(connection: Connection, catalog: Catalog, now: datetime) -> int:
    """Add a catalog, which another worker may add at the same time, and return its key.

    A key is drawn: workers that add others don't meet, and a key that a failover lost is not given again.
    """
    row = {
        "catalog_id": 1 + randbelow(_KEYS - 1),
        "digest": catalog.digest,
        "content": catalog.content,
        "first_seen_at": now,
    }
    insert_rows(connection, table, [row], on_conflict="nothing")
    stored = _stored(connection, catalog.digest)
    if stored is None:
        raise ContentionError("the key that was drawn for a catalog is taken")
    return stored
