"""Session on one link: calls in the ledger's thread while the link is kept alive, both through outages.

What is held in an outage stays held: a message given back and delivered again counts as a delivery. Only a
stop, or an outage that is about to outlast the broker's patience, gives it back (GiveBackError).
"""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Generic, Protocol, TypeVar

from worker.errors import (
    BrokerUnavailableError,
    GiveBackError,
    SchemaChangedError,
    TransientError,
    UnansweredError,
    UnusableSchemaError,
)
from worker.runtime.backoff import Backoff, Outage
from worker.runtime.stop import Stop

T = TypeVar("T")

_KEEP_ALIVE_EVERY_S = 0.5


class KeptAlive(Protocol):
    """Connection that ends unless somebody keeps it alive."""

    def keep_alive(self, wait_s: float = 0.0) -> None:
        """Answer the server's heartbeats, for ``wait_s`` seconds. Raises BrokerUnavailableError."""
        ...


@dataclass(slots=True)
class LedgerCall(Generic[T]):
    """Call in the ledger's thread; ``under_way`` is the try that has begun."""

    work: Callable[[], T]
    under_way: Future[T] | None

    @property
    def has_ended(self) -> bool:
        """True where ``result`` waits for nothing, but in an outage."""
        return self.under_way is not None and self.under_way.done()


class Session:
    """Runs calls for one link. The ledger's ``thread`` runs one call at a time, in the order of ``begin``.

    ``backoff`` makes the waits of one outage. Held messages are given back after ``hold_most_s`` seconds, and
    at once (UnusableSchemaError) where the schema isn't for this version: ``look`` asks it when a statement
    doesn't fit.
    """

    def __init__(
        self,
        link: KeptAlive,
        thread: Executor,
        *,
        broker: Outage,
        database: Outage,
        backoff: Callable[[], Backoff],
        stop: Stop,
        hold_most_s: float,
        look: Callable[[], None] = lambda: None,
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._link, self._thread = link, thread
        self._broker, self._database, self._backoff = broker, database, backoff
        self._stop, self._hold_most_s, self._seconds = stop, hold_most_s, seconds
        self._look = look

    def begin(self, work: Callable[[], T]) -> LedgerCall[T]:
        """Begin ``work`` in the ledger's thread; it may be tried again, until ``result``."""
        return LedgerCall(work, self._thread.submit(work))

    def result(self, call: LedgerCall[T]) -> T:
        """Return the result of ``call``, of this try or of one after an outage of the database.

        Raises GiveBackError; BrokerUnavailableError where the link is lost meanwhile.
        """
        return self._through(self._database, lambda: self._awaited(call))

    def in_ledger(self, work: Callable[[], T]) -> T:
        """Return the result of ``work`` in the ledger's thread; see ``result``."""
        return self.result(self.begin(work))

    def with_broker(self, work: Callable[[], T]) -> T:
        """Return the result of ``work`` over the link, tried again while the broker takes not all.

        Raises GiveBackError; BrokerUnavailableError where the link is lost.
        """
        return self._through(self._broker, work)

    def _awaited(self, call: LedgerCall[T]) -> T:
        trying = call.under_way or self._thread.submit(call.work)
        call.under_way = None
        while True:
            with suppress(TimeoutError):
                return trying.result(_KEEP_ALIVE_EVERY_S)
            if trying.done():
                return trying.result()  # raises the time-out of the work itself, or has ended just now
            self._link.keep_alive()

    def _through(self, outage: Outage, attempt: Callable[[], T]) -> T:
        backoff, began = self._backoff(), self._seconds()
        while True:
            try:
                result = attempt()
            except UnusableSchemaError:
                raise
            except TransientError as error:
                if isinstance(error, BrokerUnavailableError) and not isinstance(error, UnansweredError):
                    raise  # the link is lost, and with it all that it held
                outage.began(error)
                if isinstance(error, SchemaChangedError):
                    self._look_at_schema()
            else:
                outage.ended()
                return result
            self._wait(backoff.next())
            if self._stop.requested:
                raise GiveBackError("a stop was requested in an outage")
            if self._seconds() - began > self._hold_most_s:
                raise GiveBackError("the outage lasts longer than messages may be held")

    def _look_at_schema(self) -> None:
        """Raise UnusableSchemaError where the schema isn't for this version; an outage hides it."""
        try:
            self._awaited(self.begin(self._look))
        except (UnusableSchemaError, BrokerUnavailableError):
            raise
        except TransientError:
            return

    def _wait(self, seconds: float) -> None:
        """Wait so long, or until the stop, and keep the link alive."""
        left = seconds
        while left > 0 and not self._stop.requested:
            self._link.keep_alive(min(left, _KEEP_ALIVE_EVERY_S))
            left -= _KEEP_ALIVE_EVERY_S
