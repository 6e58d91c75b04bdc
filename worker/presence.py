"""Presence of one process: its row among the workers, and the operators' pauses that it reads.

A thread of its own does both, over its own connection to the database: no batch waits for it, and what it
can't do in an outage it leaves out. Operators see then that the process hasn't been seen since.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from time import monotonic

from worker.errors import TransientError
from worker.lanes.operator_pauses import PauseWatch
from worker.lanes.returning import HeldReturner
from worker.ledger.workers import KnownWorker, Workers
from worker.runtime.stop import Stop

log = logging.getLogger(__name__)

#: Time between two looks at the pauses, and between two writes of the row, in seconds.
_LOOK_EVERY_S, _WRITE_EVERY_S = 1.0, 5.0
#: Time after a change of the pauses in which the row is written at each look: others wait for its word.
_HURRY_S = 10.0
#: Number of writes after which old rows are removed.
_TIDY_EVERY = 720


class Presence:
    """Keeps the row that ``describe`` returns. With ``watch`` it reads the pauses, with ``returner`` it also
    returns held messages.
    """

    def __init__(
        self,
        describe: Callable[[], KnownWorker],
        workers: Workers,
        *,
        clock: Callable[[], datetime],
        watch: PauseWatch | None = None,
        returner: HeldReturner | None = None,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._describe, self._workers, self._clock = describe, workers, clock
        self._watch, self._returner, self._seconds = watch, returner, seconds
        self._write_at = seconds()
        self._writes = self._changes = 0
        self._hurry_until = 0.0
        self._failed: str | None = None

    def run(self, stop: Stop) -> None:
        """Keep the row until ``stop``; it says then that the process stops."""
        while not stop.requested:
            self.turn()
            stop.wait(_LOOK_EVERY_S)
        self._unless_failing(self._write)

    def turn(self) -> None:
        """Look at the pauses, write the row where its time has come, return what is held; never raises."""
        if self._watch is not None:
            self._unless_failing(self._watch.look)
            if self._watch.changes != self._changes:
                self._changes = self._watch.changes
                self._hurry_until = self._seconds() + _HURRY_S
        if self._seconds() >= self._write_at or self._seconds() < self._hurry_until:
            self._write_at = self._seconds() + _WRITE_EVERY_S
            self._unless_failing(self._write)
        if self._returner is not None:
            self._unless_failing(self._returner.turn)

    def end(self) -> None:
        """Say that the process has ended by itself; never raises."""
        self._unless_failing(lambda: self._workers.end(self._describe().name, self._clock()))

    def _write(self) -> None:
        if self._writes % _TIDY_EVERY == 0:
            self._workers.remove_old(self._clock())
        self._writes += 1
        self._workers.write(self._describe())

    def _unless_failing(self, work: Callable[[], None]) -> None:
        """Do ``work``; leave it out where it fails, and log another failure than the last one."""
        try:
            work()
        except TransientError as error:
            log.debug("the row of this process can't be kept: %s", error)
        except Exception as error:  # noqa: BLE001 - what is shown to operators must not end what they watch
            if str(error) != self._failed:
                self._failed = str(error)
                log.warning("operators don't see this process: %s", error)
        else:
            self._failed = None
