"""Processes of ours that run, a row each, as they last described themselves.

The rows are for operators. No message waits for them, and a process that can't write its own goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine, Row, delete, insert, select, update

from worker.ledger.engine import translated_errors
from worker.ledger.tables import workers

#: A process that hasn't written for so long has ended without a word, or can't reach the database.
SILENT_AFTER = timedelta(seconds=30)
#: Time for which the row of an ended, or silent, process is kept.
KEPT_FOR = timedelta(days=1)


class WorkerKind(StrEnum):
    """Kind of a process."""

    WORKER = "worker"
    READER = "reader"
    SCHEDULER = "scheduler"
    BRIDGE = "bridge"
    SERVE = "serve"
    CONSOLE = "console"


class WorkerState(StrEnum):
    """State of a process. ``PAUSED`` and ``QUIESCED``: it takes no messages of any lane."""

    STARTING = "starting"
    RUNNING = "running"
    CONSUMING = "consuming"
    PAUSED = "paused"
    QUIESCED = "quiesced"
    WAITING = "waiting for server"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class LaneProgress:
    """Progress of one process in a lane.

    ``per_second`` is the rate at which it acknowledged messages lately, unknown at the start. ``sent_at`` is
    when the newest message that it has acknowledged was sent, where the message says so. ``paused`` says
    why it takes none.
    """

    acknowledged: int = 0
    per_second: float | None = None
    sent_at: datetime | None = None
    paused: str | None = None

    @classmethod
    def parse(cls, stored: Mapping[str, Any]) -> "LaneProgress":
        """Return the progress that is stored; fields of other versions are left out."""
        sent_at = stored.get("sent_at")
        return cls(
            int(stored.get("acknowledged", 0)),
            stored.get("per_second"),
            None if sent_at is None else datetime.fromisoformat(sent_at),
            stored.get("paused"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the progress as it is stored."""
        return {
            "acknowledged": self.acknowledged,
            "per_second": self.per_second,
            "sent_at": None if self.sent_at is None else self.sent_at.isoformat(),
            "paused": self.paused,
        }


@dataclass(frozen=True, slots=True)
class KnownWorker:
    """Description of a process. ``name`` is unique to it; ``settings`` are those that differ from defaults.

    ``lanes`` has the lanes that it serves. ``why`` says more of ``state``. ``pauses_seen_at`` is when it last
    read the pauses of operators, ``supervisor`` its parent's process id where it has one.
    """

    name: str
    kind: WorkerKind
    host: str
    pid: int
    version: str
    settings_hash: str
    started_at: datetime
    seen_at: datetime
    state: WorkerState = WorkerState.STARTING
    why: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    catalog_hash: str | None = None
    lanes: Mapping[str, LaneProgress] = field(default_factory=dict)
    last_batch_at: datetime | None = None
    last_batch_size: int | None = None
    supervisor: int | None = None
    pauses_seen_at: datetime | None = None
    ended_at: datetime | None = None

    def is_alive(self, now: datetime) -> bool:
        """Return True for a process that has written lately and has not said that it ended."""
        return self.ended_at is None and now - self.seen_at < SILENT_AFTER

    def is_silent(self, now: datetime) -> bool:
        """Return True for a process that neither writes any more nor has said that it ended."""
        return self.ended_at is None and not self.is_alive(now)

    def consumes(self, queue: str) -> bool:
        """Return True where it takes messages of the lane, as it last said."""
        lane = self.lanes.get(queue)
        return lane is not None and lane.paused is None and self.state is WorkerState.CONSUMING


def seen_by_all(found: Sequence[KnownWorker], now: datetime) -> datetime | None:
    """Return when the last living worker has read the pauses; None where one has not, or none lives."""
    living = [one.pauses_seen_at for one in found if one.kind is WorkerKind.WORKER and one.is_alive(now)]
    known = [at for at in living if at is not None]
    return min(known) if known and len(known) == len(living) else None


class Workers:
    """The rows in the ledger's database. Every method raises LedgerUnavailableError."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def write(self, worker: KnownWorker) -> None:
        """Write the row of a process: one statement, and another one the first time."""
        values = _values(worker)
        with translated_errors(), self._engine.begin() as connection:
            own = workers.c.worker == worker.name
            if not connection.execute(update(workers).where(own).values(values)).rowcount:
                connection.execute(insert(workers).values(worker=worker.name, **values))

    def end(self, name: str, now: datetime) -> None:
        """Record that a process has ended by itself."""
        with translated_errors(), self._engine.begin() as connection:
            connection.execute(update(workers).where(workers.c.worker == name).values(ended_at=now))

    def all(self, now: datetime) -> Sequence[KnownWorker]:
        """Return the processes that run, or fell silent less than ``KEPT_FOR`` ago; the oldest first."""
        chosen = workers.c.ended_at.is_(None) & (workers.c.seen_at > now - KEPT_FOR)
        statement = select(workers).where(chosen).order_by(workers.c.started_at, workers.c.worker)
        with translated_errors(), self._engine.connect() as connection:
            reading = connection.execution_options(read_only=True)
            return [_worker(row) for row in reading.execute(statement)]

    def remove_old(self, now: datetime) -> None:
        """Delete the rows of processes that ended, or fell silent, long ago."""
        with translated_errors(), self._engine.begin() as connection:
            connection.execute(delete(workers).where(workers.c.seen_at < now - KEPT_FOR))


def _values(worker: KnownWorker) -> dict[str, Any]:
    return {
        "kind": worker.kind,
        "host": worker.host,
        "pid": worker.pid,
        "supervisor": worker.supervisor,
        "version": worker.version,
        "settings_hash": worker.settings_hash,
        "changed_settings": dict(worker.settings),
        "catalog_hash": worker.catalog_hash,
        "state": worker.state,
        "why": worker.why,
        "lanes": {queue: lane.to_dict() for queue, lane in worker.lanes.items()},
        "last_batch_at": worker.last_batch_at,
        "last_batch_size": worker.last_batch_size,
        "pauses_seen_at": worker.pauses_seen_at,
        "started_at": worker.started_at,
        "seen_at": worker.seen_at,
    }


def _worker(row: Row[Any]) -> KnownWorker:
    return KnownWorker(
        name=row.worker,
        kind=WorkerKind(row.kind),
        host=row.host,
        pid=row.pid,
        version=row.version,
        settings_hash=row.settings_hash,
        started_at=row.started_at,
        seen_at=row.seen_at,
        state=WorkerState(row.state),
        why=row.why,
        settings=row.changed_settings,
        catalog_hash=row.catalog_hash,
        lanes={queue: LaneProgress.parse(stored) for queue, stored in row.lanes.items()},
        last_batch_at=row.last_batch_at,
        last_batch_size=row.last_batch_size,
        supervisor=row.supervisor,
        pauses_seen_at=row.pauses_seen_at,
        ended_at=row.ended_at,
    )
