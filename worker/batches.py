"""Batches over one link: one *in flight* in the ledger's thread, while the *previous* one is replied to.

The next one is read and decoded meanwhile: each step waits for its own server, and neither server waits for
the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from worker.broker import Delivery, Link
from worker.metrics import Metrics
from worker.pipeline import Item, Pipeline
from worker.runtime.session import LedgerCall, Session


@dataclass(slots=True)
class Batch:
    """Items that go through together, since when, and the call that applies them (None: applied)."""

    items: Sequence[Item] = ()
    began: float = field(default_factory=monotonic)
    applying: LedgerCall[None] | None = None

    @property
    def is_lone(self) -> bool:
        """True for a batch of one message: nobody else has come for a while."""
        return len(self.items) == 1


class Batches:
    """Runs batches through the pipeline: applied in the ledger's thread, replied to over the link.

    ``on_done`` is called with the items of each batch that is acknowledged.
    """

    def __init__(
        self,
        link: Link,
        session: Session,
        pipeline: Pipeline,
        metrics: Metrics,
        *,
        on_done: Callable[[Sequence[Item]], None] = lambda _: None,
    ) -> None:
        self._on_done = on_done
        self.link, self.session, self.pipeline = link, session, pipeline
        self._metrics = metrics
        self._in_flight = Batch()

    # -- one after the other, overlapping -----------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """True while no batch is in flight."""
        return not self._in_flight.items

    def decode(self, deliveries: Sequence[Delivery]) -> Batch:
        """Return the batch of ``deliveries``, which has not begun."""
        return Batch(self.pipeline.receive(deliveries)) if deliveries else Batch()

    def await_in_flight(self) -> None:
        """Wait until the ledger has the batch in flight, now or after an outage."""
        self._await_applied(self._in_flight)

    def start(self, batch: Batch) -> None:
        """Begin to apply ``batch``, and reply to the previous one meanwhile; that one is applied by now."""
        self._begin(batch)
        previous, self._in_flight = self._in_flight, batch
        self._finish(previous)

    def finish(self) -> None:
        """Apply the batch in flight and reply to it; none is in flight then."""
        self.await_in_flight()
        self._finish(self._in_flight)
        self._in_flight = Batch()

    def _begin(self, batch: Batch) -> None:
        if batch.items:
            batch.applying = self.session.begin(lambda: self.pipeline.apply(batch.items))

    def _await_applied(self, batch: Batch) -> None:
        if batch.applying is not None:
            self.session.result(batch.applying)
            batch.applying = None

    def _finish(self, batch: Batch) -> None:
        """Send the batch's replies, dead letters and notices, and acknowledge it."""
        if batch.items:
            self.session.with_broker(lambda: self.pipeline.reply_and_acknowledge(self.link, batch.items))
            self._count(batch)

    # -- one by itself ------------------------------------------------------------------------------------

    def apply(self, batch: Batch) -> None:
        """Apply ``batch`` and return when the ledger has it; nothing else is in flight."""
        self._begin(batch)
        self._await_applied(batch)

    def reply(self, batch: Batch) -> None:
        """Send the batch's replies, dead letters and notices."""
        self.session.with_broker(lambda: self.pipeline.reply(self.link, batch.items))

    def acknowledge(self, batch: Batch) -> None:
        """Acknowledge the batch, whose replies are sent."""
        self.pipeline.acknowledge(self.link, batch.items)
        self._count(batch)

    def _count(self, batch: Batch) -> None:
        self._metrics.batch_size.observe(len(batch.items))
        self._metrics.batch_seconds.observe(monotonic() - batch.began)
        self._metrics.last_progress.set_to_current_time()
        self._on_done(batch.items)
