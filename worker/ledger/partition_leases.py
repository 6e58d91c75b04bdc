"""Leases of partitions: which worker takes which partition's queues, and until when.

Rows and nothing else: ``worker.lanes.leases`` decides. Times are the database's, never a worker's. All rows
are locked while a worker decides, so that each sees what the one before has done.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Engine, delete, select, text, update

from worker.ledger.bulk import among, insert_rows
from worker.ledger.engine import translated_errors
from worker.ledger.session_settings import as_local
from worker.ledger.tables import partition_leases, partition_workers

#: Time after which the row of a worker that is gone is deleted; until then `check` may show it.
_FORGOTTEN_AFTER = timedelta(minutes=1)
#: A worker that is paused in the middle of a decision keeps nobody else from theirs for longer.
_SETTINGS = {"idle_in_transaction_session_timeout": "3000"}


@dataclass(frozen=True, slots=True)
class Lease:
    """Partition, and the worker that takes its queues until ``expires_at``; both None: nobody does."""

    partition: int
    worker: str | None = None
    expires_at: datetime | None = None

    def is_free(self, now: datetime) -> bool:
        """Return True where nobody has it, or whoever had it did not renew it."""
        return self.worker is None or self.expires_at is None or self.expires_at <= now


@dataclass(frozen=True, slots=True)
class SharingWorker:
    """Worker that takes part until ``expires_at``, and the number of partitions that it knows."""

    name: str
    partitions: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class LeaseChange:
    """Partitions that a worker keeps, takes and should give up; ``missing`` are still to come to it."""

    keep: frozenset[int] = frozenset()
    take: frozenset[int] = frozenset()
    give_up: frozenset[int] = frozenset()
    missing: int = 0


#: Decision on the leases and the workers at a time.
Decide = Callable[[Sequence[Lease], Sequence[SharingWorker], datetime], LeaseChange]


class PartitionLeases:
    """Leases in a database. Every method raises LedgerUnavailableError, ContentionError."""

    def __init__(self, engine: Engine, *, lease_s: float) -> None:
        self._engine, self._lease = engine, timedelta(seconds=lease_s)

    def renew(
        self, worker: str, partitions: int, decide: Decide, *, left: Collection[int] = ()
    ) -> LeaseChange:
        """Renew what ``worker`` has, take what ``decide`` says, and return its decision.

        First the partitions that it has ``left`` are freed; one that is another's by now stays that. What it
        should give up stays its own until then.
        """
        with self._locked() as connection:
            leases = self._leases(connection, partitions)
            if left:
                _free(connection, worker, left)
                leases = _read(connection)
            now = _now(connection)
            workers = self._joined(connection, SharingWorker(worker, partitions, now + self._lease), now)
            change = decide(leases, workers, now)
            own = change.keep | change.take | change.give_up
            self._set(connection, own, worker, now + self._lease)
        return change

    def leave(self, worker: str) -> None:
        """Give up all, and take part no more."""
        with self._locked() as connection:
            _free(connection, worker)
            connection.execute(delete(partition_workers).where(partition_workers.c.worker == worker))

    def held(self) -> tuple[Sequence[Lease], datetime]:
        """Return the leases, and the database's time."""
        with translated_errors(), self._engine.begin() as connection:
            return _read(connection), _now(connection)

    @contextmanager
    def _locked(self) -> Iterator[Connection]:
        with translated_errors(), self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text(as_local(_SETTINGS)))
            yield connection

    def _leases(self, connection: Connection, partitions: int) -> list[Lease]:
        """Return all leases, locked; the first worker of all makes their rows."""
        found = _read(connection, lock=True)
        missing = set(range(partitions)) - {lease.partition for lease in found}
        if not missing:
            return found
        rows = [{"partition": partition} for partition in sorted(missing)]
        insert_rows(connection, partition_leases, rows, on_conflict="nothing")
        return _read(connection, lock=True)

    def _joined(self, connection: Connection, own: SharingWorker, now: datetime) -> list[SharingWorker]:
        """Record that ``own`` takes part; return all that do."""
        row = {"worker": own.name, "partitions": own.partitions, "expires_at": own.expires_at}
        insert_rows(connection, partition_workers, [row], on_conflict="update")
        columns = partition_workers.c
        connection.execute(delete(partition_workers).where(columns.expires_at < now - _FORGOTTEN_AFTER))
        statement = select(columns.worker, columns.partitions, columns.expires_at)
        return [SharingWorker(*row) for row in connection.execute(statement)]

    @staticmethod
    def _set(connection: Connection, partitions: Collection[int], worker: str, until: datetime) -> None:
        if partitions:
            chosen = among(connection, partition_leases.c.partition, sorted(partitions))
            connection.execute(update(partition_leases).where(chosen).values(worker=worker, expires_at=until))


def _read(connection: Connection, *, lock: bool = False) -> list[Lease]:
    columns = partition_leases.c
    statement = select(columns.partition, columns.worker, columns.expires_at).order_by(columns.partition)
    return [Lease(*row) for row in connection.execute(statement.with_for_update() if lock else statement)]


def _free(connection: Connection, worker: str, partitions: Collection[int] | None = None) -> None:
    """Free the leases of ``worker``: these, or all."""
    chosen = partition_leases.c.worker == worker
    if partitions is not None:
        chosen &= among(connection, partition_leases.c.partition, sorted(partitions))
    connection.execute(update(partition_leases).where(chosen).values(worker=None, expires_at=None))


def _now(connection: Connection) -> datetime:
    """Return the database's time at this moment; SQLite's is this machine's."""
    if connection.dialect.name != "postgresql":
        return datetime.now(UTC)
    now: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    return now
