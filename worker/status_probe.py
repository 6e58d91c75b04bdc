"""Reading of the status: queues from the broker, workers and pauses from the database, each by itself.

What one server doesn't answer is unknown; the other's part is shown all the same.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from threading import Lock
from typing import TypeVar

from worker.bootstrap import Application
from worker.broker import BILLING, Administers
from worker.errors import BillingError, BrokerUnavailableError, ConfigurationError, TransientError
from worker.ledger.operator_pauses import OperatorPauses
from worker.status import BrokerFacts, InstallationStatus, LedgerFacts, QueueFacts, status_of

#: Time for which the management API isn't asked again after it has not answered.
_MANAGEMENT_AGAIN = timedelta(minutes=1)
_QUEUES = (*(queue.name for queue in BILLING.work), BILLING.held.name)


class StatusProbe:
    """Reads the status again and again, over a link that it keeps. Threads wait for each other."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._lock = Lock()
        self._link: Administers | None = None
        self._before: BrokerFacts | None = None
        self._no_management_until: datetime | None = None

    def read(self) -> InstallationStatus:
        """Return the status now; rates that the broker doesn't count are those since the last call."""
        with self._lock:
            broker, ledger = self._broker(), self._ledger()
            status = status_of(broker, ledger, self._before)
            self._before = broker
            return status

    @property
    def counts_rates(self) -> bool:
        """True where the broker counts rates: one look suffices then."""
        before = self._before
        return before is not None and any(queue.arrivals is not None for queue in before.queues.values())

    def close(self) -> None:
        """Close the link, if there is one."""
        link, self._link = self._link, None
        if link is not None:
            with suppress(BillingError):
                link.close()

    def _ledger(self) -> LedgerFacts:
        application = self._application
        now = application.clock()
        try:
            application.require_readable_schema()
            return LedgerFacts(
                application.workers.all(now),
                OperatorPauses(application.engine).current(),
                application.pauses.lasting(now),
            )
        except (TransientError, ConfigurationError) as error:
            return LedgerFacts(problem=str(error))

    def _broker(self) -> BrokerFacts:
        now = self._application.clock()
        kept = self._link is not None
        try:
            try:
                return BrokerFacts(now, dict(self._queues()))
            except BrokerUnavailableError:
                self.close()
                if not kept:
                    raise
                return BrokerFacts(now, dict(self._queues()))  # an idle link may have been closed
        except (TransientError, ConfigurationError) as error:
            return BrokerFacts(now, problem=str(error))

    def _queues(self) -> Iterator[tuple[str, QueueFacts]]:
        if self._link is None:
            self._link = self._application.link()
        lanes = self._application.topology.names_by_lane
        for name in _QUEUES:
            yield name, _together([self._queue(self._link, each) for each in lanes.get(name, (name,))])

    def _queue(self, link: Administers, name: str) -> QueueFacts:
        try:
            depth = link.depth(name)
        except BrokerUnavailableError as error:
            if "NOT_FOUND" not in str(error):
                raise
            return QueueFacts(None)
        statistics = self._statistics(name)
        return QueueFacts(depth, link.consumers(name), *statistics)

    def _statistics(self, name: str) -> tuple[float | None, float | None, datetime | None]:
        """Return arrivals, departures and the oldest message by the management API, as far as it knows."""
        now = self._application.clock()
        if self._no_management_until is not None and now < self._no_management_until:
            return None, None, None
        try:
            found = self._application.management.queue_statistics(name)
        except (TransientError, ConfigurationError):
            self._no_management_until = now + _MANAGEMENT_AGAIN
            return None, None, None
        return found.arrivals, found.departures, found.oldest_at


def _together(parts: Sequence[QueueFacts]) -> QueueFacts:
    """Return the facts of a lane with its partitions; what is unknown of one queue is unknown of all.

    Its consumers are those of its own queue, which each worker takes: a partition is without one while it is
    handed over.
    """
    if len(parts) == 1:
        return parts[0]
    return QueueFacts(
        _sum([part.depth for part in parts]),
        parts[0].consumers,
        _sum([part.arrivals for part in parts]),
        _sum([part.departures for part in parts]),
        min((part.oldest_at for part in parts if part.oldest_at is not None), default=None),
        sum(part.depth or 0 for part in parts[1:] if part.consumers == 0),
    )


_Number = TypeVar("_Number", int, float)


def _sum(numbers: Sequence[_Number | None]) -> _Number | None:
    """Return the sum; None where one is unknown."""
    known = [number for number in numbers if number is not None]
    return sum(known, start=type(known[0])(0)) if known and len(known) == len(numbers) else None
