"""Lanes that workers have paused, and configurations that have proved right."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql import ColumnElement

from worker import __version__
from worker.ledger.bulk import among
from worker.ledger.engine import translated_errors
from worker.ledger.tables import accepted_configs, lane_pauses
from worker.ledger.workers import SILENT_AFTER

_SUSPICION = "config_suspect"


@dataclass(frozen=True, slots=True)
class Pause:
    """Paused lane of a worker: since when, and why (``code``, and ``text`` for operators).

    ``version`` is the worker's; it is unknown of a worker before 0.4.0.
    """

    queue: str
    worker: str
    code: str
    text: str
    began_at: datetime
    version: str | None = __version__


class Pauses:
    """Pauses in the ledger's database. Every method raises LedgerUnavailableError."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, pause: Pause, config: str) -> int:
        """Record a pause under ``config``; return its id."""
        row = {
            "queue": pause.queue,
            "worker": pause.worker,
            "config": config,
            "code": pause.code,
            "text": pause.text,
            "began_at": pause.began_at,
            "version": pause.version,
            "seen_at": pause.began_at,
        }
        with translated_errors(), self._engine.begin() as connection:
            statement = insert(lane_pauses).values(row).returning(lane_pauses.c.pause_id)
            return int(connection.execute(statement).scalar_one())

    def see(self, ids: Collection[int], now: datetime) -> set[int]:
        """Record that these pauses still last; return those that an operator has ended."""
        with translated_errors(), self._engine.begin() as connection:
            chosen = among(connection, lane_pauses.c.pause_id, sorted(ids))
            connection.execute(
                update(lane_pauses).where(chosen, lane_pauses.c.ended_at.is_(None)).values(seen_at=now)
            )
            ended = select(lane_pauses.c.pause_id).where(chosen, lane_pauses.c.ended_at.is_not(None))
            return set(connection.execute(ended).scalars())

    def end(self, ids: Collection[int], now: datetime) -> None:
        """End pauses: their lanes go on, or their worker stops."""
        with translated_errors(), self._engine.begin() as connection:
            chosen = among(connection, lane_pauses.c.pause_id, sorted(ids))
            connection.execute(
                update(lane_pauses).where(chosen, lane_pauses.c.ended_at.is_(None)).values(ended_at=now)
            )

    def resume(self, queue: str | None, actor: str, now: datetime) -> list[Pause]:
        """End the pauses of ``queue``, or all, for an operator, and accept what they suspected.

        Returns those that were ended; the workers learn of it within moments.
        """
        chosen = _lasting(now) if queue is None else _lasting(now) & (lane_pauses.c.queue == queue)
        with translated_errors(), self._engine.begin() as connection:
            rows = connection.execute(select(lane_pauses).where(chosen)).all()
            configs = {row.config for row in rows if row.code == _SUSPICION}
            # Workers that have ended left the same suspicion behind, and the next worker would take it over.
            same = among(connection, lane_pauses.c.config, sorted(configs)) & (
                lane_pauses.c.code == _SUSPICION
            )
            ending = lane_pauses.c.ended_at.is_(None) & (chosen | same)
            connection.execute(update(lane_pauses).where(ending).values(ended_at=now, resumed_by=actor))
        for config in configs:
            self.accept(config, actor, now)
        return [Pause(row.queue, row.worker, row.code, row.text, row.began_at, row.version) for row in rows]

    def lasting(self, now: datetime) -> Sequence[Pause]:
        """Return the pauses that last; a worker that has ended silently has none."""
        columns = (lane_pauses.c[name] for name in ("queue", "worker", "code", "text", "began_at", "version"))
        statement = select(*columns).where(_lasting(now)).order_by(lane_pauses.c.pause_id)
        with translated_errors(), self._engine.begin() as connection:
            return [Pause(*row) for row in connection.execute(statement)]

    def suspected(self, config: str) -> dict[str, str]:
        """Return the queues that a worker with ``config`` has paused under suspicion, with its text."""
        statement = select(lane_pauses.c.queue, lane_pauses.c.text).where(
            lane_pauses.c.ended_at.is_(None),
            lane_pauses.c.code == _SUSPICION,
            lane_pauses.c.config == config,
        )
        with translated_errors(), self._engine.begin() as connection:
            return {row.queue: row.text for row in connection.execute(statement)}

    # -- configurations -----------------------------------------------------------------------------------

    def is_new(self, config: str) -> bool:
        """Return True for a configuration that no worker ran with, where others ran."""
        with translated_errors(), self._engine.begin() as connection:
            accepted = set(connection.execute(select(accepted_configs.c.config)).scalars())
        return bool(accepted) and config not in accepted

    def accept(self, config: str, by: str, now: datetime) -> None:
        """Record that ``config`` is right."""
        row = {"config": config, "accepted_at": now, "accepted_by": by}
        with (
            suppress(IntegrityError),  # it is known already
            translated_errors(),
            self._engine.begin() as connection,
        ):
            connection.execute(insert(accepted_configs).values(row))


def _lasting(now: datetime) -> ColumnElement[bool]:
    return lane_pauses.c.ended_at.is_(None) & (lane_pauses.c.seen_at > now - SILENT_AFTER)
