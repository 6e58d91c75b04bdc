"""The loop: batches in, through outages of either server, until it is told to stop.

A server that goes away is nobody's fault: messages are kept, the log says so once, the loop waits with
back-off and jitter and goes on by itself. A flood of dead letters is most likely ours: then the loop ends.
"""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from time import monotonic, time
from typing import Protocol

from worker.broker import Delivery, Link
from worker.errors import BrokerUnavailableError, ConfigurationError, LedgerUnavailableError, TransientError
from worker.flood import FloodError
from worker.ledger.store import Ledger
from worker.metrics import Metrics
from worker.pipeline import Item, Pipeline, UnansweredError
from worker.policy import SUSPECT_AFTER

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
    """How many messages a batch, how many held a queue, how long to wait after a failure (seconds)."""

    batch_size: int = 500
    prefetch: int = 1500
    retry_first_s: float = 0.1
    retry_most_s: float = 10.0


class Consumer:
    """Runs the pipeline on what a broker delivers.

    ``connect`` opens a link that holds so many messages a queue.

    A worker begins with care, one message a queue: should one that brings workers down stand in front, then
    nothing else counts another delivery when it does so again. It goes on with full hands as soon as what
    comes is above suspicion, and back to care when something under suspicion comes.

    It stays with care as well while all that comes meets a fault: a worker that is started again into the
    flood that stopped the one before gives back one message a queue, and the others count no delivery.
    """

    def __init__(
        self,
        connect: Callable[[int], Link],
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
        self._careful = True
        self._suspected: dict[str, float] = {}
        self._waits = self._backoff()

    def run(self, *, drain: bool = False) -> None:
        """Consume until stopped; with ``drain``, until nothing more arrives.

        Raises FloodError where too many messages would become dead letters. Those stay in their queue, with
        all that was held and not settled. To give it back counts a delivery of each (RabbitMQ 4.3 has a nack
        that doesn't); to hold it until somebody comes would count one as well, after the broker's time-out
        for consumers.
        """
        done = False
        while not (done or self._is_over):
            try:
                # Nothing is taken from the broker before the ledger answers: what is taken and brought
                # back counts as a delivery, and a message is parked after too many of them.
                self._await_ledger()
                done = self._consume_with_care() if self._careful else self._consume(drain=drain)
            except BrokerUnavailableError as error:
                self._relink_later(error)
            except ConfigurationError as error:
                if not self._has_been_linked:
                    raise
                self._relink_later(error)  # it was right once: a broker that starts up may refuse anyone
        if self._pipeline.flood.verdict is not None:
            raise FloodError(f"stopped at {self._pipeline.flood.verdict}")

    @property
    def _is_over(self) -> bool:
        return self._stop.requested or self._pipeline.flood.verdict is not None

    def _relink_later(self, error: Exception) -> None:
        self._careful = True
        self._broker.began(error)
        self._stop.wait(next(self._waits))

    @contextmanager
    def _linked(self, prefetch: int) -> Iterator[Link]:
        link = self._connect(prefetch)
        self._has_been_linked = True
        try:
            yield link
        finally:
            with suppress(BrokerUnavailableError):
                link.close()

    def _await_ledger(self) -> None:
        for wait_s in self._backoff():
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

    def _consume_with_care(self) -> bool:
        """Each suspect alone, until no queue is under suspicion and not all that comes is faulty; never done.

        What was given back stands in front of its queue: behind a suspect there may be others, and full hands
        would take them all and give them back, which counts another delivery of each.
        """
        with self._linked(1) as link:
            while not self._is_over:
                deliveries = link.receive(self._pace.batch_size, IDLE_S)
                self._well()
                if any(map(_is_suspect, deliveries)):
                    for delivery in deliveries:
                        self._settle(link, [delivery])
                else:
                    self._settle(link, deliveries)
                self._suspect(deliveries)
                if not (self._suspected or (deliveries and self._pipeline.flood.in_a_row)):
                    self._careful = False
                    return False
        return False

    def _consume(self, *, drain: bool) -> bool:
        """Batches, until a suspect or a flood comes; done when nothing comes any more and ``drain`` says so.

        While the ledger has one batch, the broker is told about the one before it and the next one is read
        and decoded: each waits for its own server, and neither server for the other.
        """
        with self._linked(self._pace.prefetch) as link, ThreadPoolExecutor(1, "ledger") as ledger:
            settling, suspects = self._received([]), list[Delivery]()
            while not (suspects or self._is_over):
                idle = not settling.items
                deliveries = link.receive(self._pace.batch_size, IDLE_S if idle else 0)
                self._well()
                suspects = [delivery for delivery in deliveries if _is_suspect(delivery)]
                batch = self._received([delivery for delivery in deliveries if not _is_suspect(delivery)])
                if not self._settled(link, settling):
                    return False
                if self._stop.requested:
                    break
                settled, settling = settling, batch
                batch.settling = ledger.submit(self._pipeline.apply, batch.items)
                if not self._told(link, settled):
                    return False
                if drain and idle and not deliveries:
                    return True
                link.keep_alive()
            if self._settled(link, settling):
                self._told(link, settling)
            if suspects:
                self._suspect(suspects)  # from now on: the batch beside them may have taken its time
                self._careful = True
        return False

    def _suspect(self, deliveries: Sequence[Delivery]) -> None:
        """Note which queues are under suspicion: a suspect came, and since then nothing else, nor silence."""
        now = monotonic()
        for delivery in deliveries:
            if _is_suspect(delivery):
                self._suspected[delivery.queue] = now
            else:
                self._suspected.pop(delivery.queue, None)
        self._suspected = {queue: at for queue, at in self._suspected.items() if now - at < IDLE_S}

    def _well(self) -> None:
        self._broker.ended()
        self._waits = self._backoff()

    def _received(self, deliveries: Sequence[Delivery]) -> "_Batch":
        return _Batch(began=monotonic(), items=self._pipeline.receive(deliveries))

    def _settle(self, link: Link, deliveries: Sequence[Delivery]) -> None:
        """Settle the batch and tell the broker; a stop in an outage gives it back."""
        batch = self._received(deliveries)
        if self._settled(link, batch):
            self._told(link, batch)

    def _settled(self, link: Link, batch: "_Batch") -> bool:
        """Whether the ledger has the batch, now or after an outage; False where a stop comes first."""
        tries = repeat(partial(self._pipeline.apply, batch.items))
        if batch.settling is None:
            return self._done(link, tries, self._database)
        while not wait([batch.settling], timeout=IDLE_S).done:
            link.keep_alive()
        return self._done(link, chain((batch.settling.result,), tries), self._database)

    def _told(self, link: Link, batch: "_Batch") -> bool:
        """Whether the broker has all that was to be said about the batch.

        Until then it is held, not given back: what comes again counts as a delivery, and is parked after too
        many.
        """
        if not batch.items:
            return True
        if not self._done(link, repeat(partial(self._pipeline.tell, link, batch.items)), self._broker):
            return False
        self._metrics.batch_size.observe(len(batch.items))
        self._metrics.batch_seconds.observe(monotonic() - batch.began)
        self._metrics.last_progress.set(time())
        return True

    def _done(self, link: Link, tries: Iterator[Callable[[], None]], outage: "_Outage") -> bool:
        """Try until it is done, through an outage; False where a stop comes first."""
        for attempt, wait_s in zip(tries, self._backoff(), strict=False):
            try:
                attempt()
            except BrokerUnavailableError as error:
                if not isinstance(error, UnansweredError):
                    raise
                outage.began(error)
            except TransientError as error:
                outage.began(error)
            else:
                outage.ended()
                return True
            self._wait(link, wait_s)
            if self._stop.requested:
                return False  # not acknowledged: another worker gets them
        raise AssertionError("tries end")

    def _wait(self, link: Link, seconds: float) -> None:
        """Wait so long, or until the stop, and keep the link alive."""
        left = seconds
        while left > 0 and not self._stop.requested:
            link.keep_alive(min(left, IDLE_S))
            left -= IDLE_S

    def _backoff(self) -> Iterator[float]:
        """Seconds to wait: doubling, with jitter, without end."""
        wait_s = self._pace.retry_first_s
        while True:
            yield wait_s * self._rng.uniform(0.5, 1.5)
            wait_s = min(wait_s * 2, self._pace.retry_most_s)


def _is_suspect(delivery: Delivery) -> bool:
    return delivery.delivery_count >= SUSPECT_AFTER


@dataclass(slots=True)
class _Batch:
    """Items that go through together, when they came, and the thread's work on them where it has them."""

    began: float
    items: Sequence[Item]
    settling: "Future[None] | None" = None


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
