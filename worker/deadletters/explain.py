"""Everything about one reference: the ledger's explanation, with the dead letters that name it."""

from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import Connection, Engine, select

from worker.catalog import Catalog
from worker.deadletters.store.filters import searchable
from worker.deadletters.store.tables import dead_letters
from worker.errors import NotFoundError
from worker.ledger.queries import Explanation, View, snapshot
from worker.ledger.queries import explain as ledger

#: A producer that sends everything under one reference may have made very many dead letters.
DEAD_LETTERS_MAX = 1_000


@dataclass(frozen=True)
class DeadLetterMention(View):
    """A dead letter with this reference; ``last_failed_at`` is None where it is unknown."""

    number: int
    status: str
    reason: str
    message: str
    attempts: int
    last_failed_at: datetime | None


@dataclass(frozen=True)
class ReferenceExplanation(Explanation):
    """Explanation of a reference with its dead letters, oldest first; of very many the newest 1,000.

    ``dead_letters`` are those that have been drained from their queue.
    """

    dead_letters: tuple[DeadLetterMention, ...]


def explain(engine: Engine, reference_id: str, now: datetime, catalog: Catalog) -> ReferenceExplanation:
    """Return all that is known of ``reference_id``; lots and holds are those at ``now`` (any zone).

    Raises NotFoundError where nothing is known, QueryError, and LedgerUnavailableError.
    """
    searchable("a reference", reference_id)
    with snapshot(engine) as connection:
        mentions = _mentions(connection, reference_id)
        try:
            known = ledger.explain(connection, reference_id, now, catalog)
        except NotFoundError:
            if not mentions:
                raise
            known = ledger.unknown(reference_id)
    return ReferenceExplanation(
        **{field.name: getattr(known, field.name) for field in fields(known)}, dead_letters=mentions
    )


def _mentions(connection: Connection, reference_id: str) -> tuple[DeadLetterMention, ...]:
    columns = (dead_letters.c[field.name] for field in fields(DeadLetterMention))
    newest = select(*columns).where(dead_letters.c.reference_id == reference_id)
    newest = newest.order_by(dead_letters.c.number.desc()).limit(DEAD_LETTERS_MAX)
    return tuple(DeadLetterMention(*row) for row in connection.execute(newest).all()[::-1])
