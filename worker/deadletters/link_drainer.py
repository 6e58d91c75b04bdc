"""Drains one link: takes dead letters from the queue that it consumes, and stores them in the table.

Messages taken are held through an outage of the database: a message given back counts as a delivery, and a
queue with a delivery limit drops it after too many.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from worker.broker import Consumes, Delivery
from worker.errors import BillingError, BrokerUnavailableError, LedgerUnavailableError, NotKeptError

log = logging.getLogger(__name__)

_BATCH = 500
_PATIENCE_S = 5.0


class LinkDrainer:
    """Drains the queue that ``link`` consumes. ``ingest`` stores deliveries, all of them or none."""

    def __init__(self, link: Consumes, ingest: Callable[[Sequence[Delivery]], None]) -> None:
        self.link = link
        self._ingest = ingest
        self._held: Sequence[Delivery] = ()

    def drain_batch(self, wait_s: float) -> int:
        """Drain a batch of what has come by now; returns how many. Waits up to ``wait_s`` for the first.

        After a LedgerUnavailableError the same batch is held: call again. Raises NotKeptError where none of
        it can be kept.
        """
        self._held = self._held or self.link.receive(_BATCH, wait_s)
        if not self._held:
            return 0
        try:
            stored = self._stored(self._held)
        except NotKeptError:
            self._held = ()  # unacknowledged as long as the link lives
            raise
        self.link.acknowledge(stored)
        self._held = ()
        return len(stored)

    def drain_all(
        self,
        *,
        expected: int = 0,
        wait_s: float = 0.2,
        on_outage: Callable[[Exception], None] | None = None,
    ) -> int:
        """Drain until no more come; returns how many. Raises NotKeptError.

        Waits ``wait_s`` for one more, and some seconds as long as fewer than ``expected`` have come. With
        ``on_outage``, which is called once, an outage of the database is waited out.
        """
        drained = 0
        while some := self._drain_through_outage(wait_s if drained >= expected else _PATIENCE_S, on_outage):
            drained += some
        return drained

    def close(self) -> None:
        """Close the link; held messages go back to the queue."""
        with suppress(BrokerUnavailableError):
            self.link.close()

    def _drain_through_outage(self, wait_s: float, on_outage: Callable[[Exception], None] | None) -> int:
        is_reported = False
        while True:
            try:
                return self.drain_batch(wait_s)
            except LedgerUnavailableError as error:
                if on_outage is None:
                    raise
                if not is_reported:
                    on_outage(error)
                is_reported = True
                self.link.keep_alive(1.0)

    def _stored(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return those that are stored now; one that can't be, for an unforeseen reason, blocks no other."""
        try:
            self._ingest(deliveries)
        except BillingError:
            raise
        except Exception as fault:
            stored = (
                [delivery for delivery in deliveries if self._is_stored(delivery)] if deliveries[1:] else []
            )
            if not stored:
                raise NotKeptError(
                    f"{len(deliveries)} dead letters can't be kept ({type(fault).__name__}): they stay in "
                    "their queue; this is a fault of this program's, or of its database"
                ) from fault
            return stored
        return list(deliveries)

    def _is_stored(self, delivery: Delivery) -> bool:
        try:
            self._ingest([delivery])
        except BillingError:
            raise
        except Exception as fault:  # noqa: BLE001 - whatever it is, it is this dead letter's alone
            # Its content is the producer's and goes into no log.
            log.error("a dead letter can't be kept (%s): it stays in its queue", type(fault).__name__)  # noqa: TRY400
            return False
        return True
