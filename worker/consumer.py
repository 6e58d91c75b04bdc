"""The loop: batches in, through outages of either server, until it is told to stop.

A server that goes away is nobody's fault: messages are kept, the log says so once, the loop waits with
back-off and jitter and goes on by itself.
"""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic, time
from typing import Protocol

from worker.broker import Delivery, Link
from worker.errors import BrokerUnavailableError, ConfigurationError, LedgerUnavailableError, TransientError
from worker.ledger.store import Ledger
from worker.metrics import Metrics
from worker.pipeline import SUSPECT_AFTER, Item, Pipeline, UnansweredError

log = logging.getLogger(__name__)

IDLE_S = 0.5


class Stop(Protocol):
    """Whether the loop shall end, and a wait that ends with it."""

    @property
    def requested(self) -> bool:
        """True from the moment the loop shall end."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the loop shall end."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How many messages a batch, how long to wait after a failure (seconds)."""

    batch_size: int = 500
    retry_first_s: float = 0.1
    retry_most_s: float = 10.0


class Consumer:
    """Runs the pipeline on what a broker delivers. ``connect`` opens a link or raises."""

    def __init__(
        self,
        connect: Callable[[], Link],
        ledger: Ledger,
        pipeline: Pipeline,
        *,
        pace: Pace,
        stop: Stop,
        rng: random.Random,
        metrics: Metrics,
    ) -> None:
        self._connect, self._ledger, self._pipeline = connect, ledger, pipeline
        self._pace, self._stop, self._rng, self._metrics = pace, stop, rng, metrics
        self._broker = _Outage("broker", metrics)
        self._database = _Outage("database", metrics)
        self._has_been_linked = False

    def run(self, *, drain: bool = False) -> None:
        """Consume until stopped; with ``drain``, until nothing more arrives."""
        waits = _backoff(self._pace, self._rng)
        while not self._stop.requested:
            try:
                # Nothing is taken from the broker before the ledger answers: what is taken and brought
                # back counts as a delivery, and a message is parked after too many of them.
                self._await_ledger()
                with self._linked() as link:
                    waits = _backoff(self._pace, self._rng)
                    self._consume(link, drain=drain)
                    return
            except BrokerUnavailableError as error:
                self._broker.began(error)
            except ConfigurationError as error:
                if not self._has_been_linked:
                    raise
                self._broker.began(error)  # it was right once: a broker that starts up may refuse anyone
            self._stop.wait(next(waits))

    @contextmanager
    def _linked(self) -> Iterator[Link]:
        link = self._connect()
        self._has_been_linked = True
        try:
            self._broker.ended()
            yield link
        finally:
            with suppress(BrokerUnavailableError):
                link.close()

    def _await_ledger(self) -> None:
        for wait_s in _backoff(self._pace, self._rng):
            if self._stop.requested:
                return
            try:
                self._ledger.probe()
            except LedgerUnavailableError as error:
                self._database.began(error)
                self._stop.wait(wait_s)
            else:
                self._database.ended()
                return

    def _consume(self, link: Link, *, drain: bool) -> None:
        while not self._stop.requested:
            deliveries = link.receive(self._pace.batch_size, IDLE_S)
            if deliveries:
                self._work_off(link, deliveries)
            elif drain:
                return
            else:
                link.keep_alive()

    def _work_off(self, link: Link, deliveries: Sequence[Delivery]) -> None:
        """Settle the batch; messages that may have brought a worker down go alone, the others first."""
        suspects = [d for d in deliveries if d.delivery_count >= SUSPECT_AFTER]
        if not suspects:
            self._settle(link, deliveries)
            return
        self._settle(link, [d for d in deliveries if d.delivery_count < SUSPECT_AFTER])
        for suspect in self._in_turn(suspects):
            if self._stop.requested:
                return
            self._settle(link, [suspect])

    def _in_turn(self, suspects: Sequence[Delivery]) -> Sequence[Delivery]:
        """Forwards, next time backwards: past one deadly message all others are through after two crashes.

        Where there are several, at random: whatever stood behind one of them has its chance next time.
        """
        match max(suspect.delivery_count for suspect in suspects) - SUSPECT_AFTER:
            case 0:
                return suspects
            case 1:
                return suspects[::-1]
            case _:
                return self._rng.sample(suspects, len(suspects))

    def _settle(self, link: Link, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        began = monotonic()
        items = self._pipeline.receive(deliveries)
        for wait_s in _backoff(self._pace, self._rng):
            if self._settled(link, items):
                break
            if self._stop.requested:
                return  # not acknowledged: the broker gives them to another worker
            link.keep_alive(wait_s)
        self._metrics.batch_size.observe(len(items))
        self._metrics.batch_seconds.observe(monotonic() - began)
        self._metrics.last_progress.set(time())

    def _settled(self, link: Link, items: Sequence[Item]) -> bool:
        try:
            self._pipeline.settle(link, items)
        except UnansweredError as error:
            # Held, not given back: what comes again counts as a delivery, and is parked after too many.
            self._broker.began(error)
            return False
        except BrokerUnavailableError:
            raise
        except TransientError as error:
            self._database.began(error)
            return False
        self._database.ended()
        self._broker.ended()
        return True


def _backoff(pace: Pace, rng: random.Random) -> Iterator[float]:
    """Seconds to wait: doubling, with jitter, without end."""
    wait_s = pace.retry_first_s
    while True:
        yield wait_s * rng.uniform(0.5, 1.5)
        wait_s = min(wait_s * 2, pace.retry_most_s)


class _Outage:
    """One server's absence: told once when it begins and once when it ends."""

    def __init__(self, server: str, metrics: Metrics) -> None:
        self._server, self._metrics = server, metrics
        self._since: float | None = None
        self._tries = 0

    def began(self, error: Exception) -> None:
        self._tries += 1
        if self._since is None:
            self._since = monotonic()
            self._metrics.outages.labels(self._server).inc()
            log.error("%s: keeping the messages, trying again until it is back", error)

    def ended(self) -> None:
        if self._since is not None:
            log.info(
                "the %s is back after %.1f s and %d tries",
                self._server,
                monotonic() - self._since,
                self._tries,
            )
            self._since, self._tries = None, 0
