"""One batch: decode, load under locks, decide, claim and write, commit, reply, acknowledge.

A crash before the commit leaves nothing. A crash after it leaves the effect and the stored outcome, and the
unacknowledged delivery brings the same reply again. So the unacknowledged delivery is the outbox.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from schemas import Code, Command, DeadLetterReason, Message, UsageBatch, commands_of, first_malformed
from schemas.partitions import is_misrouted
from worker.broker import Consumes, Delivery, Link, Publishes
from worker.broker.partitions import partition_in, without_partition
from worker.catalog import Catalog
from worker.core import Answer, Conflict, decide
from worker.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    TransientError,
    UnansweredError,
    UnsupportedStatementError,
)
from worker.ledger.senders import Sender
from worker.ledger.store import Ledger
from worker.messages.dead_letter_limit import DeadLetterLimit, FaultStep
from worker.messages.dead_letters import Failure
from worker.messages.known_ids import has_unruly_ids, unruly_ids, with_known
from worker.messages.origin import origin_of
from worker.messages.outgoing import OutgoingResponse
from worker.messages.policy import Policy
from worker.messages.publishing import Publisher
from worker.messages.receiving import message_in, poison_failure
from worker.messages.rejected_payments import RejectedPayments
from worker.messages.replies import Replies, failure_of
from worker.messages.senders import sender_in
from worker.metrics import Metrics
from worker.runtime.limited_log import LimitedLog
from worker.runtime.retry import ContentionRetry

log = logging.getLogger(__name__)

#: Reasons that are faults of the worker's; the others are refusals.
_FAULTS = {DeadLetterReason.UNPROCESSABLE, DeadLetterReason.DELIVERY_LIMIT}
_ANONYMOUS = "anonymous"


@dataclass(slots=True, eq=False)
class Item:
    """One delivery on its way through the batch; it ends with answers, or with a failure.

    There is an answer to each command of its message, in their order, and none to a batch of malformed items
    alone. ``answers`` is None before the ledger is asked; ``judged`` has the answers so far by the place of
    the command, where the commands are of several transactions. ``outgoing`` has the messages that remain to
    be sent, once written. An item that is ``kept`` belongs to a lane that pauses: it stays in its queue.
    """

    delivery: Delivery
    message: Message | None = None
    answers: Sequence[Answer] | None = None
    judged: dict[int, Answer] = field(default_factory=dict)
    failure: Failure | None = None
    tries: int = 1
    outgoing: list[OutgoingResponse] | None = None
    kept: bool = False

    @property
    def commands(self) -> tuple[Command, ...]:
        """The commands of the delivery; none where it is refused."""
        return () if self.message is None else commands_of(self.message)

    @property
    def received(self) -> Message | Failure | None:
        """The failure that refuses it, else its message."""
        return self.message if self.failure is None else self.failure

    @property
    def queue(self) -> str:
        """The queue of the lane it came from; that of a partition counts as its lane's."""
        return without_partition(self.delivery.queue)


class Pipeline:
    """Puts batches of deliveries through one ledger. ``pause`` waits so many seconds.

    Items of a lane that is over its ``limit`` are kept: the caller pauses that lane.
    """

    def __init__(
        self,
        ledger: Ledger,
        catalog: Catalog,
        policy: Policy,
        *,
        clock: Callable[[], datetime],
        pause: Callable[[float], None],
        metrics: Metrics,
        limit: DeadLetterLimit | None = None,
    ) -> None:
        self.limit = DeadLetterLimit() if limit is None else limit
        self._ledger, self._catalog, self._policy = ledger, catalog, policy
        self._clock, self._metrics = clock, metrics
        self._contention = ContentionRetry(
            10, 0.005, "the ledger is contended", pause=pause, on_contention=metrics.contention.inc
        )
        self._replies = Replies(policy)
        self._publisher = Publisher(policy, self._replies, metrics)
        self._fault_log = LimitedLog(log, logging.ERROR, every_s=10.0)
        self._refusal_log = LimitedLog(log, logging.WARNING)
        self._rejected_payments = RejectedPayments(metrics, log)

    def receive(self, deliveries: Sequence[Delivery]) -> list[Item]:
        """Decode each delivery by itself; one without a command is refused and disturbs no neighbour."""
        now = self._clock()
        return [self._decoded(delivery, now, self._policy) for delivery in deliveries]

    def give_up(self, delivery: Delivery, crashes: int, *, decoded: bool) -> Item:
        """Return the item of a poison message; ``decoded`` reads it for its identities."""
        failure = poison_failure(delivery, self._policy, self._clock(), crashes, decoded=decoded)
        return Item(delivery, failure=failure)

    def apply(self, items: Sequence[Item]) -> None:
        """Give each item its answers, in one transaction; a fault that no outcome names is isolated.

        Items that have answers, or a failure, stay as they are: after a TransientError it may be
        called again with the same items.
        """
        self._admit_known_ids(items)
        self._apply([item for item in items if item.answers is None and item.failure is None])

    def try_alone(self, item: Item) -> bool:
        """Apply the message of a paused lane by itself and write its reply; False where it meets a fault.

        After the usual number of tries it gets a failure. Its lane's count is reset where it passes.
        """
        item.kept = False
        self._admit_known_ids([item])
        if item.failure is not None:
            return True
        try:
            if item.answers is None:
                self._transact_despite_contention([item])
            item.outgoing = self._responses_to(item, self._clock())
        except (TransientError, UnsupportedStatementError):
            raise
        except Exception as fault:  # noqa: BLE001 - whatever it is, the lane has to wait
            if item.tries < self._policy.tries:
                item.tries += 1
            else:
                self._ledger.require_usable()
                item.failure = self._failure_of(item, fault)
            return False
        self.limit.reset_all(item.queue)
        return True

    def transact(self, items: Sequence[Item]) -> None:
        """Load under locks, decide, write, commit: all items together, or slot by slot."""
        asked = [
            (item, place, command)
            for item in items
            for place, command in enumerate(item.commands)
            if place not in item.judged
        ]
        senders = [sender_in(item.delivery, self._policy.worker_users) for item, _, _ in asked]
        for share in self._ledger.shares([command for _, _, command in asked]):
            own = [command for _, command in share]
            answers = self._transacted(own, [senders[number] for number, _ in share])
            for (number, _), answer in zip(share, answers, strict=True):
                item, place, _ = asked[number]
                item.judged[place] = answer
        for item in items:
            item.answers = tuple(map(item.judged.__getitem__, range(len(item.judged))))

    def _transacted(self, commands: Sequence[Command], senders: Sequence[Sender]) -> Sequence[Answer]:
        now = self._clock()
        with self._ledger.begin(commands, now, auto_open=self._catalog.auto_open) as transaction:
            plan = decide(commands, transaction.known, now, self._catalog)
            plan.name_senders(transaction.sender_ids(senders))
            transaction.write(plan)
        return plan.answers

    def reply_and_acknowledge(self, link: Link, items: Sequence[Item]) -> None:
        """Reply and acknowledge. After an UnansweredError it may be called again with the same items."""
        self.reply(link, items)
        self.acknowledge(link, items)

    def reply(self, link: Publishes, items: Sequence[Item]) -> None:
        """Send the replies, the dead letters and the notices, and wait until the broker has them.

        Raises UnansweredError; what the broker has taken by then is not sent again.
        """
        now = self._clock()
        fresh = [item for item in items if item.outgoing is None and not item.kept]
        for item in fresh:
            self._write_responses(item, now)
        self._count_refusals(fresh)
        for item in fresh:
            self._rejected_payments.add(item.answers or ())
        try:
            outgoing = [item.outgoing for item in items if item.outgoing and not item.kept]
            left = self._publisher.send(link, outgoing, now)
        except (BrokerUnavailableError, ConfigurationError) as error:
            raise UnansweredError(str(error)) from error
        if left:
            raise UnansweredError(
                f"the broker takes no messages for {', '.join(sorted(left))}; if a queue is missing, "
                "run `billing-worker topology declare`"
            )

    def acknowledge(self, link: Consumes, items: Sequence[Item]) -> None:
        """Acknowledge; the last step. After a crash before it, messages come again, and so do kept ones."""
        items = [item for item in items if not item.kept]
        link.acknowledge([item.delivery for item in items])
        self._count(items)

    # -- decode -------------------------------------------------------------------------------------------

    def _decoded(self, delivery: Delivery, now: datetime, policy: Policy) -> Item:
        message = message_in(delivery, policy, now)
        if isinstance(message, Failure):
            return Item(delivery, failure=message)
        if (partition := partition_in(delivery.queue)) is not None and is_misrouted(
            message, partition, policy.topology.partitions
        ):
            self._metrics.misrouted.inc()
        return Item(delivery, message)

    def _admit_known_ids(self, items: Sequence[Item]) -> None:
        """Receive anew what is refused for its ids, where the ledger has them: they are older than the rule.

        Raises LedgerUnavailableError.
        """
        refused = [item for item in items if item.answers is None and has_unruly_ids(item.received)]
        if not refused:
            return
        now = self._clock()
        limits = self._policy.limits
        known = self._ledger.known_ids(unruly_ids((item.delivery.body for item in refused), now, limits))
        if not known:
            return
        policy = replace(self._policy, limits=with_known(limits, known))
        for item in refused:
            fresh = self._decoded(item.delivery, now, policy)
            item.message, item.failure = fresh.message, fresh.failure

    # -- apply --------------------------------------------------------------------------------------------

    def _transact_despite_contention(self, items: Sequence[Item]) -> None:
        self._contention.run(lambda: self.transact(items))

    def _apply(self, items: Sequence[Item]) -> None:
        items = self._without_kept(items)
        if not items:
            return
        try:
            self._transact_despite_contention(items)
        except (TransientError, UnsupportedStatementError):
            raise
        except Exception as fault:  # noqa: BLE001 - whatever it is, it is one message's until proven otherwise
            self._isolate(items, fault)
        else:
            for queue in _lanes_of(items):
                self.limit.reset(queue)

    def _without_kept(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items of lanes that go on; the others are kept, untried."""
        over = {queue for queue in _lanes_of(items) if self.limit.is_over(queue)}
        if not over:
            return items
        for item in items:
            item.kept = item.queue in over
        return [item for item in items if not item.kept]

    def _isolate(self, items: Sequence[Item], fault: Exception) -> None:
        """Halve until the fault stands alone, each half in a transaction of its own, in order."""
        if len(items) > 1:
            self._metrics.bisections.inc()
            middle = len(items) // 2
            self._apply(items[:middle])
            self._apply(items[middle:])
            return
        item = items[0]
        if item.tries < self._policy.tries:
            item.tries += 1
            self._apply(items)
            return
        # No message is to blame where the schema isn't for this version: it raises UnusableSchemaError.
        self._ledger.require_usable()
        item.failure = self._failure_of(item, fault)
        self.limit.add_fault(item.queue)

    def _failure_of(self, item: Item, fault: Exception) -> Failure:
        # The text and the traceback may hold the producer's data; they go into the dead letter, not the log.
        name = type(fault).__name__
        self._fault_log.add(name, f"a message met a fault ({name}) and becomes a dead letter")
        return failure_of(item.message, fault)

    # -- reply --------------------------------------------------------------------------------------------

    def _write_responses(self, item: Item, now: datetime) -> None:
        """Write the messages to send in response to ``item``; a fault there is this item's alone.

        An item over its lane's limit is kept: it is applied, and gets its reply when it comes again.
        """
        if item.failure is None and self.limit.is_over(item.queue, FaultStep.REPLY):
            item.kept = True
            return
        try:
            item.outgoing = self._responses_to(item, now)
        except Exception as fault:  # noqa: BLE001 - one strange property must not hold the batch
            item.failure = self._failure_of(item, fault)
            bare = replace(item.delivery, properties={}, headers={})
            item.outgoing = [self._replies.dead_letter(bare, item.failure, item.tries, now)]
            self.limit.add_fault(item.queue, FaultStep.REPLY)
        else:
            if item.failure is None:
                self.limit.reset(item.queue, FaultStep.REPLY)

    def _responses_to(self, item: Item, now: datetime) -> list[OutgoingResponse]:
        if item.message is not None and item.answers is not None:
            return self._replies.for_answers(item.delivery, item.message, item.answers, now)
        if item.failure is None:
            raise AssertionError("an item without answers and failure")
        return self._replies.for_failure(item.delivery, item.failure, item.tries, now)

    # -- refusals -----------------------------------------------------------------------------------------

    def _count_refusals(self, items: Sequence[Item]) -> None:
        """Count and log refusals by sender; under a new configuration too many of them are kept."""
        self._metrics.faults_in_a_row.set(self.limit.most_faults)
        for item in items:
            code = _refusal(item)
            if self.limit.is_watching and not self.limit.add_message(item.queue, code):
                item.kept = True
            elif code is not None:
                sender = origin_of(item.delivery, self._policy.worker_users).sender or _ANONYMOUS
                self._metrics.count_refusal(sender, code)
                self._refusal_log.add(
                    sender,
                    f"refused a message of {sender!r} ({code}): see `billing-worker dead-letters groups`",
                )

    # -- count --------------------------------------------------------------------------------------------

    def _count(self, items: Iterable[Item]) -> None:
        """Count messages by their outcome, and the commands of batches by theirs."""
        messages: Counter[tuple[str, str]] = Counter()
        batched: Counter[tuple[str, str]] = Counter()
        for item in items:
            messages[_labels(item)] += 1
            if isinstance(item.message, UsageBatch):
                batched.update(map(_answer_labels, item.message.items, item.answers or ()))
                batched.update(_MALFORMED for _ in item.message.malformed)
        for counts, metric in ((messages, self._metrics.messages), (batched, self._metrics.batch_items)):
            for labels, count in counts.items():
                metric.labels(*labels).inc(count)


def _lanes_of(items: Iterable[Item]) -> set[str]:
    """Return the queues of the lanes that ``items`` came from."""
    return {without_partition(queue) for queue in {item.delivery.queue for item in items}}


def _refusal(item: Item) -> DeadLetterReason | None:
    """Return the reason code of a refusal, which is most often its sender's fault; None where it is none."""
    if item.failure is not None:
        return None if item.failure.code in _FAULTS else item.failure.code
    if (malformed := first_malformed(item.message)) is not None:
        return malformed.reason
    if any(isinstance(answer, Conflict) for answer in item.answers or ()):
        return DeadLetterReason.REFERENCE_CONFLICT
    return None


_MALFORMED = ("unknown", "malformed")


def _labels(item: Item) -> tuple[str, str]:
    if item.message is None:
        return _MALFORMED
    if item.answers is None:
        return item.message.type, Code.UNPROCESSABLE
    if isinstance(item.message, UsageBatch):
        return item.message.type, Code.BATCH_PROCESSED
    return _answer_labels(item.message, item.answers[0])


def _answer_labels(command: Command, answer: Answer) -> tuple[str, str]:
    if isinstance(answer, Conflict):
        return command.type, Code.REFERENCE_CONFLICT
    return command.type, "duplicate" if answer.duplicate else answer.outcome.code
