"""One batch: decode, load under locks, decide, claim and write, commit, reply, acknowledge.

What a crash leaves behind: before the commit, nothing; after it, the effect and the stored outcome, and the
delivery that is not acknowledged brings the same reply again. So the unacknowledged delivery is the outbox.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from schemas import Command
from worker.broker import Delivery, Link, Outgoing, RefusedError
from worker.catalog import Catalog
from worker.core import Answer, Conflict, decide
from worker.correspondence import Correspondence, fault_of
from worker.deadletters.letters import Reason
from worker.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    ContentionError,
    LedgerUnavailableError,
    TransientError,
)
from worker.intake import taken_in
from worker.ledger.store import Ledger
from worker.metrics import Metrics
from worker.policy import Policy

log = logging.getLogger(__name__)

_CONTENTION_TRIES = 10


class UnansweredError(BrokerUnavailableError):
    """The broker has not taken the letters and replies. The deliveries are still held: answer again."""


@dataclass(slots=True, eq=False)
class Item:
    """One delivery on its way through the batch: it ends with an answer or a reason why there is none.

    ``outgoing`` is what remains to be sent about it, once that is written.
    """

    delivery: Delivery
    command: Command | None = None
    answer: Answer | None = None
    reason: Reason | None = None
    tries: int = 1
    outgoing: list[Outgoing] | None = None


class Pipeline:
    """Settles batches of deliveries against one ledger. ``pause`` waits so many seconds."""

    def __init__(
        self,
        ledger: Ledger,
        catalog: Catalog,
        policy: Policy,
        *,
        clock: Callable[[], datetime],
        pause: Callable[[float], None],
        metrics: Metrics,
    ) -> None:
        self._ledger, self._catalog, self._policy = ledger, catalog, policy
        self._clock, self._pause, self._metrics = clock, pause, metrics
        self._correspondence = Correspondence(policy)

    def receive(self, deliveries: Sequence[Delivery]) -> list[Item]:
        """Decode each delivery by itself; what is no command is refused here and disturbs no neighbour."""
        now = self._clock()
        return [self._decoded(delivery, now) for delivery in deliveries]

    def settle(self, link: Link, items: Sequence[Item]) -> None:
        """Apply, reply, acknowledge. After a TransientError it may be called again with the same items."""
        self.apply([item for item in items if item.answer is None and item.reason is None])
        self.answer(link, items)
        self.acknowledge(link, items)

    def apply(self, items: Sequence[Item]) -> None:
        """Each item gets its answer, in one transaction; a fault that no outcome names is isolated."""
        if not items:
            return
        try:
            self._transact_despite_contention(items)
        except TransientError:
            raise
        except Exception as fault:  # noqa: BLE001 - whatever it is, it is one message's until proven otherwise
            self._isolate(items, fault)

    def transact(self, items: Sequence[Item]) -> None:
        """Load under locks, decide, claim and write, commit."""
        commands = [item.command for item in items if item.command is not None]
        now = self._clock()
        with self._ledger.begin() as books:
            known = books.load(commands, now)
            plan = decide(commands, known, now, self._catalog)
            books.write(plan, known, now)
        for item, answer in zip(items, plan.answers, strict=True):
            item.answer = answer

    def answer(self, link: Link, items: Sequence[Item]) -> None:
        """Send the replies and the dead letters, and wait until the broker has them.

        Raises UnansweredError; what the broker has taken by then is not sent again.
        """
        now = self._clock()
        for item in items:
            if item.outgoing is None:
                item.outgoing = self._written(item, now)
        if self._held(link, items) and (held := self._held(link, items)):
            raise UnansweredError(
                f"the broker takes no messages for {', '.join(sorted(held))}; if a queue is missing, "
                "run `billing-worker topology declare`"
            )

    def acknowledge(self, link: Link, items: Sequence[Item]) -> None:
        """The last step: what crashes before it is delivered again."""
        link.acknowledge([item.delivery for item in items])
        self._count(items)

    # -- decode -------------------------------------------------------------------------------------------

    def _decoded(self, delivery: Delivery, now: datetime) -> Item:
        taken = taken_in(delivery, self._policy, now)
        if isinstance(taken, Reason):
            return Item(delivery, reason=taken)
        return Item(delivery, command=taken)

    # -- apply --------------------------------------------------------------------------------------------

    def _transact_despite_contention(self, items: Sequence[Item]) -> None:
        for attempt in range(1, _CONTENTION_TRIES + 1):
            try:
                self.transact(items)
            except ContentionError as error:
                if attempt == _CONTENTION_TRIES:
                    raise LedgerUnavailableError(f"the ledger is contended: {error}") from error
                self._metrics.contention.inc()
                self._pause(0.005 * attempt)
            else:
                return

    def _isolate(self, items: Sequence[Item], fault: Exception) -> None:
        """Halve until the fault stands alone, each half in a transaction of its own, in order."""
        if len(items) > 1:
            self._metrics.bisections.inc()
            middle = len(items) // 2
            self.apply(items[:middle])
            self.apply(items[middle:])
            return
        item = items[0]
        if item.tries < self._policy.tries:
            item.tries += 1
            self.apply(items)
            return
        item.reason = self._faulty(item, fault)

    def _faulty(self, item: Item, fault: Exception) -> Reason:
        # The text and the traceback may hold what the producer sent; they go into the letter, not the log.
        log.error("a message met a fault (%s) and becomes a dead letter", type(fault).__name__)
        return fault_of(item.command, fault)

    # -- answer -------------------------------------------------------------------------------------------

    def _written(self, item: Item, now: datetime) -> list[Outgoing]:
        """What to send about ``item``; a fault in writing it is this item's alone."""
        try:
            return self._correspond(item, now)
        except Exception as fault:  # noqa: BLE001 - one strange property must not hold the batch
            item.reason = self._faulty(item, fault)
            bare = replace(item.delivery, properties={}, headers={})
            return [self._correspondence.dead_letter(bare, item.reason, item.tries, now)]

    def _correspond(self, item: Item, now: datetime) -> list[Outgoing]:
        if item.command is not None and item.answer is not None:
            return self._correspondence.about_answer(item.delivery, item.command, item.answer, now)
        if item.reason is None:
            raise AssertionError("an item without answer and reason")
        return self._correspondence.about_refusal(item.delivery, item.reason, item.tries, now)

    def _held(self, link: Link, items: Sequence[Item]) -> set[str]:
        """Send what remains; the names of the queues for which something remains still."""
        pending = [message for item in items for message in item.outgoing or ()]
        returned: Sequence[Outgoing]
        refused: Sequence[Outgoing]
        try:
            returned, refused = link.publish(pending) if pending else (), ()
        except RefusedError as error:
            returned, refused = error.returned, error.refused
        except (BrokerUnavailableError, ConfigurationError) as error:
            raise UnansweredError(str(error)) from error
        remaining = self._remaining(pending, {id(m) for m in returned}, {id(m) for m in refused})
        for item in items:
            item.outgoing = [remaining[id(m)] for m in item.outgoing or () if id(m) in remaining]
        return {message.routing_key for message in remaining.values()}

    def _remaining(
        self, pending: Sequence[Outgoing], returned: set[int], refused: set[int]
    ) -> dict[int, Outgoing]:
        """By the message it was: what must be sent again.

        A dead letter always, until there is a place for it. A reply that no queue takes is counted and let
        go; one that a full queue refuses goes to the default queue, which is worth waiting for.
        """
        remaining: dict[int, Outgoing] = {}
        unroutable: list[Outgoing] = []
        for message in pending:
            is_letter = message.routing_key == self._policy.topology.dead.name
            if id(message) in refused:
                to = message.routing_key if is_letter else self._policy.reply_queue
                remaining[id(message)] = replace(message, routing_key=to)
            elif id(message) not in returned:
                self._count_letter(message, is_letter=is_letter)
            elif is_letter:
                remaining[id(message)] = message
            else:
                unroutable.append(message)
        self._count_unroutable(unroutable)
        return remaining

    # -- count --------------------------------------------------------------------------------------------

    def _count_letter(self, message: Outgoing, *, is_letter: bool) -> None:
        if is_letter:
            self._metrics.dead_letters.labels(str(message.headers["x-billing-reason"])).inc()

    def _count_unroutable(self, replies: Sequence[Outgoing]) -> None:
        if not replies:
            return
        self._metrics.unroutable_replies.inc(len(replies))
        queues = sorted({repr(reply.routing_key) for reply in replies})
        log.warning("%d replies reached no queue: %s does not exist", len(replies), ", ".join(queues))

    def _count(self, items: Iterable[Item]) -> None:
        counts: dict[tuple[str, str], int] = {}
        for item in items:
            key = _outcome_label(item)
            counts[key] = counts.get(key, 0) + 1
        for labels, count in counts.items():
            self._metrics.messages.labels(*labels).inc(count)


def _outcome_label(item: Item) -> tuple[str, str]:
    if item.command is None:
        return "unknown", "malformed"
    match item.answer:
        case None:
            return item.command.type, "unprocessable"
        case Conflict():
            return item.command.type, "reference_conflict"
        case answer:
            return item.command.type, "duplicate" if answer.duplicate else answer.outcome.code
