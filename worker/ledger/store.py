"""The store: one transaction loads what the ledger knows about a batch and writes what was decided.

The order keeps it free of lost updates and, where it can, of deadlocks: accounts that may be missing are
made first, then all accounts of the batch are locked, in order of their users; only then is anything else
read, so that a worker that had to wait sees what the other one wrote. The references are claimed when their
outcomes are inserted, in sorted order: the unique key decides, and the transaction that loses there
(ContentionError) begins again and finds the winner's outcome.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from random import randbytes, randrange

from sqlalchemy import Connection, Engine, text

from schemas import Command
from worker.core.known import Known
from worker.core.plan import Plan
from worker.ledger.engine import translated_errors
from worker.ledger.loading import load
from worker.ledger.writing import write

#: Probes at the same time don't wait for each other, as a rule.
_PROBES, _PROBE_BYTES = 16, 20_000
_PROBE = text(
    "INSERT INTO write_probes (id, payload) VALUES (:id, :payload)"
    " ON CONFLICT (id) DO UPDATE SET payload = excluded.payload"
)


class Ledger:
    """Ledger behind one database. Cheap to make; connects when first used."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def begin(self) -> Iterator["LedgerTransaction"]:
        """Begin one ledger transaction: it commits at the end of the block, rolls back when that raises.

        Raises ContentionError (try again), LedgerUnavailableError (wait, try again).
        """
        with translated_errors(), self._engine.begin() as connection:
            yield LedgerTransaction(connection)

    def probe(self) -> None:
        """Raise LedgerUnavailableError unless the database takes a write.

        More than a page is written: a full disk still takes what fits into pages that are there.
        """
        row = {"id": randrange(_PROBES), "payload": randbytes(_PROBE_BYTES)}  # noqa: S311 - no secret
        with translated_errors(), self._engine.begin() as connection:
            connection.execute(_PROBE, row)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


class LedgerTransaction:
    """Open database transaction over the ledger."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def load(self, commands: Sequence[Command], now: datetime) -> Known:
        """Return all that ``decide`` needs to know of ``commands``; lock their accounts until the commit."""
        return load(self._connection, commands, now)

    def write(self, plan: Plan, known: Known, now: datetime) -> None:
        """Write ``plan``, which was decided on ``known``; its outcomes have their transaction ids afterwards.

        Raises ContentionError where another worker has claimed a reference or moved an account meanwhile.
        """
        write(self._connection, plan, known, now)
