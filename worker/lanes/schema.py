"""Pause of all lanes of a worker, because the schema isn't for its version.

What the worker held goes back to the broker, for the version beside it; it takes nothing more and looks again
at growing intervals. It goes on by itself where the schema is for it again.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from time import monotonic

from worker.errors import LimitExceededError, TransientError, UnusableSchemaError
from worker.lanes.pausing import PauseRecord
from worker.ledger.pauses import Pause
from worker.messages.dead_letter_limit import PauseCode
from worker.metrics import Metrics
from worker.runtime import log_fields
from worker.runtime.backoff import Backoff
from worker.runtime.log_fields import LogEvent
from worker.runtime.stop import Stop

log = logging.getLogger(__name__)

#: Time after which a running worker looks again whether the schema is for it, in seconds.
LOOK_EVERY_S = 5.0


class SchemaPause:
    """Pause of the lanes ``queues``, recorded for operators.

    ``require`` raises UnusableSchemaError where the schema isn't for this version.
    """

    def __init__(
        self,
        require: Callable[[], None],
        queues: Sequence[str],
        record: PauseRecord,
        *,
        worker: str,
        config: str,
        clock: Callable[[], datetime],
        metrics: Metrics,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._require, self._queues, self._record = require, queues, record
        self._worker, self._config = worker, config
        self._clock, self._metrics, self._seconds = clock, metrics, seconds
        self._looked_at = seconds()
        self.text: str | None = None  #: why the lanes are paused; None while they are not
        self._ids: list[int] = []
        self._set_metric(0)

    def use_config(self, config: str) -> None:
        """Run with another configuration from now on."""
        self._config = config

    @property
    def is_due(self) -> bool:
        """True where a running worker must look at the schema again."""
        return self._seconds() - self._looked_at >= LOOK_EVERY_S

    def look(self) -> None:
        """Raise UnusableSchemaError where the schema isn't for this version, TransientError in an outage."""
        self._looked_at = self._seconds()
        self._require()

    def await_usable(self, backoff: Backoff, stop: Stop, *, exits: bool = False) -> None:
        """Pause until the schema is for this version, or until ``stop``.

        Raises LimitExceededError instead of a pause with ``exits``, TransientError in an outage.
        """
        while not stop.requested:
            try:
                self.look()
            except UnusableSchemaError as error:
                if exits:
                    raise LimitExceededError(f"stopped: {error}") from error
                self._hold(str(error))
                stop.wait(backoff.next())
            else:
                self.end()
                return

    def end(self) -> None:
        """End the pause, if there is one: the lanes go on, or the worker ends."""
        if self.text is None:
            return
        log.warning("the pause for the schema has ended", extra=log_fields.fields(LogEvent.LANE_RESUMED))
        self.text = None
        self._set_metric(0)
        ids, self._ids = self._ids, []
        if ids:
            self._unless_away(lambda: self._record.end(ids, self._clock()))

    def _hold(self, text: str) -> None:
        """Begin the pause, or show that it lasts; one that an operator ended begins again."""
        if text != self.text:
            extra = log_fields.fields(LogEvent.LANE_PAUSED, code=PauseCode.SCHEMA_UNUSABLE)
            log.critical("paused %s: %s", ", ".join(self._queues), text, extra=extra)
            self.text = text
            self._set_metric(1)
        self._unless_away(lambda: self._show(text))

    def _show(self, text: str) -> None:
        now = self._clock()
        if self._ids and not self._record.see(self._ids, now):
            return
        if self._ids:
            self._record.end(self._ids, now)
        pauses = [Pause(queue, self._worker, PauseCode.SCHEMA_UNUSABLE, text, now) for queue in self._queues]
        self._ids = [self._record.begin(pause, self._config) for pause in pauses]

    def _set_metric(self, value: int) -> None:
        for queue in self._queues:
            self._metrics.paused.labels(queue, PauseCode.SCHEMA_UNUSABLE).set(value)

    @staticmethod
    def _unless_away(work: Callable[[], None]) -> None:
        """Do ``work``; leave it out in an outage, or where the schema has no place for it."""
        try:
            work()
        except TransientError as error:
            log.debug("the record of pauses can't be kept: %s", error)
