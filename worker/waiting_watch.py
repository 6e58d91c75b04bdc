"""Watch over events that wait for their payment: gauges once a minute, and a line for each overdue one."""

import logging
from collections.abc import Callable
from datetime import datetime
from math import nan

from sqlalchemy import Engine

from worker.errors import TransientError
from worker.ledger.queries import snapshot
from worker.ledger.queries.incidents import OverdueEvent, overdue_before, overdue_events, waiting_counts
from worker.metrics import Metrics
from worker.runtime import log_fields
from worker.runtime.log_fields import LogEvent
from worker.runtime.stop import Stop

log = logging.getLogger(__name__)

#: Time between two looks, and the most lines of one.
LOOK_EVERY_S, LINES_MAX = 60.0, 100


class WaitingWatch:
    """Looks at what waits for its payment longer than ``waiting_days``.

    Each overdue event is told once in the life of the process; of very many some in each look.
    """

    def __init__(
        self, engine: Engine, waiting_days: int, metrics: Metrics, clock: Callable[[], datetime]
    ) -> None:
        self._engine, self._waiting_days = engine, waiting_days
        self._metrics, self._clock = metrics, clock
        self._logged: OverdueEvent | None = None

    def use(self, waiting_days: int) -> None:
        """Look for what waits longer than so many days from now on."""
        self._waiting_days = waiting_days

    def run(self, stop: Stop) -> None:
        """Look until ``stop``; an outage hides what waits and ends nothing."""
        while not stop.requested:
            self.look()
            stop.wait(LOOK_EVERY_S)

    def look(self) -> None:
        """Read what waits once."""
        before = overdue_before(self._clock(), self._waiting_days)
        try:
            with snapshot(self._engine) as connection:
                found = waiting_counts(connection, before)
                overdue = overdue_events(connection, before, LINES_MAX, after=self._logged)
        except TransientError as error:
            log.debug("what waits for payments can't be read: %s", error)
            self._set(nan, nan)
            return
        self._set(found.waiting, found.overdue + found.stuck)
        for event in overdue:
            self._logged = event
            log.warning(
                "the event %r waits for the payment %r since %s, longer than %d days: "
                "see `billing-worker payments`",
                event.reference_id,
                event.name,
                f"{event.recorded_at:%Y-%m-%d %H:%M}Z",
                self._waiting_days,
                extra=log_fields.fields(LogEvent.PAYMENT_OVERDUE, reference_id=event.reference_id),
            )

    def _set(self, waiting: float, overdue: float) -> None:
        self._metrics.payments_waiting.set(waiting)
        self._metrics.payments_overdue.set(overdue)
