"""One batch: decode, load under locks, decide, claim and write, commit, reply, acknowledge.

A crash before the commit leaves nothing. A crash after it leaves the effect and the stored outcome, and the
unacknowledged delivery brings the same reply again. So the unacknowledged delivery is the outbox.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain

from schemas import (
    Code,
    Command,
    DeadLetterReason,
    Message,
    Status,
    UsageBatch,
    commands_of,
    first_malformed,
)
from schemas.partitions import is_misrouted
from worker.broker import Consumes, Delivery, Link, Publishes
from worker.broker.partitions import partition_in, without_partition
from worker.catalog import Catalog
from worker.core import Answer, Conflict, Decided, decide
from worker.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    TransientError,
    UnansweredError,
    UnsupportedStatementError,
)
from worker.ledger.senders import UNNAMED, Sender
from worker.ledger.store import Ledger
from worker.messages.ages import occurred_at, published_at
from worker.messages.dead_letter_limit import DeadLetterLimit, FaultStep
from worker.messages.dead_letter_log import ANONYMOUS, FAULTS
from worker.messages.dead_letters import Failure
from worker.messages.held import held_copy, may_be_held_unread, publish_held
from worker.messages.known_ids import has_unruly_ids, unruly_ids, with_known
from worker.messages.message_log import MessageLog
from worker.messages.origin import origin_of
from worker.messages.outgoing import OutgoingResponse
from worker.messages.policy import Policy
from worker.messages.publishing import Publisher
from worker.messages.receiving import message_in, poison_failure
from worker.messages.rejected_payments import RejectedPayments
from worker.messages.replies import Replies, failure_of
from worker.messages.senders import sender_in
from worker.messages.tracing import trace_headers
from worker.metrics import Metrics, Since
from worker.runtime.retry import ContentionRetry

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Item:
    """One delivery on its way through the batch; it ends with answers, or with a failure.

    There is an answer to each command of its message, in their order, and none to a batch of malformed items
    alone. ``answers`` is None before the ledger is asked; ``judged`` has the answers so far by the place of
    the command, where the commands are of several transactions. ``outgoing`` has the messages that remain to
    be sent, once written. An item that is ``kept`` belongs to a lane that pauses: it stays in its queue.
    ``committed_at`` is when its outcome was committed, in seconds of the epoch.
    """

    delivery: Delivery
    message: Message | None = None
    answers: Sequence[Answer] | None = None
    judged: dict[int, Answer] = field(default_factory=dict)
    failure: Failure | None = None
    tries: int = 1
    outgoing: list[OutgoingResponse] | None = None
    kept: bool = False
    committed_at: float | None = None

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

    Items of a lane that is over its ``limit`` are kept: the caller pauses that lane. ``log_references`` logs
    a line for each message.
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
        log_references: bool = False,
    ) -> None:
        self.limit = DeadLetterLimit() if limit is None else limit
        self._ledger, self._catalog, self._policy = ledger, catalog, policy
        self._clock, self._metrics = clock, metrics
        self._contention = ContentionRetry(
            10, 0.005, "the ledger is contended", pause=pause, on_contention=metrics.contention.inc
        )
        self._replies = Replies(policy)
        self._publisher = Publisher(policy, self._replies, metrics)
        self._message_log = MessageLog(log) if log_references else None
        self._rejected_payments = RejectedPayments(metrics, log, policy.worker_users)

    def use(self, catalog: Catalog, policy: Policy) -> None:
        """Judge by another catalog, and by the policy that knows its ids; only between batches."""
        self._catalog, self._policy = catalog, policy

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
                item.failure = failure_of(item.message, fault)
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
        committed_at = self._clock().timestamp()
        for item in items:
            item.answers = tuple(map(item.judged.__getitem__, range(len(item.judged))))
            item.committed_at = committed_at

    def _transacted(self, commands: Sequence[Command], senders: Sequence[Sender]) -> Sequence[Answer]:
        now = self._clock()
        with self._ledger.begin(commands, now, auto_open=self._catalog.auto_open) as transaction:
            plan = decide(commands, transaction.known, now, self._catalog)
            plan.name_senders(transaction.sender_ids(_kept_of(senders, plan.erased)))
            plan.name_catalog(transaction.catalog_id(self._catalog))
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
            self._rejected_payments.add(item.delivery, item.answers or ())
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
        self._observe_confirm(items)

    def acknowledge(self, link: Consumes, items: Sequence[Item]) -> None:
        """Acknowledge; the last step. After a crash before it, messages come again, and so do kept ones."""
        items = [item for item in items if not item.kept]
        link.acknowledge([item.delivery for item in items])
        self._count(items)
        if self._message_log is not None:
            for item in items:
                self._log_message(self._message_log, item)

    def write_log(self, *, all_: bool = False) -> None:
        """Log the dead letters since the last line of their cause; ``all_`` before the process ends."""
        self._publisher.write_log(all_=all_)

    def hold(self, link: Publishes, deliveries: Mapping[Delivery, str]) -> Sequence[Delivery]:
        """Hold deliveries, each of a type that is paused; return those for which no queue is there.

        Raises UnansweredError, and may be called again. The caller acknowledges what is held.
        """
        copies = [held_copy(delivery, type_, self._policy) for delivery, type_ in deliveries.items()]
        return publish_held(link, list(deliveries), copies)

    def may_hold_unread(self, delivery: Delivery, type_: str) -> bool:
        """Return True where a delivery that nobody has judged may be held as one of ``type_``."""
        return may_be_held_unread(delivery, type_, self._policy)

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
        item.failure = failure_of(item.message, fault)
        self.limit.add_fault(item.queue)

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
            item.failure = failure_of(item.message, fault)
            bare = replace(item.delivery, properties={}, headers=trace_headers(item.delivery))
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
        """Count refusals by sender; under a new configuration too many of them are kept."""
        self._metrics.faults_in_a_row.set(self.limit.most_faults)
        for item in items:
            code = _refusal(item)
            if self.limit.is_watching and not self.limit.add_message(item.queue, code):
                item.kept = True
            elif code is not None:
                self._metrics.count_refusal(self._sender_of(item) or ANONYMOUS, code)

    def _sender_of(self, item: Item) -> str | None:
        return origin_of(item.delivery, self._policy.worker_users).sender

    # -- count and log ------------------------------------------------------------------------------------

    def _log_message(self, message_log: MessageLog, item: Item) -> None:
        status, code = _result(item)
        answer = item.answers[0] if item.answers and not isinstance(item.message, UsageBatch) else None
        subject = item.failure if item.message is None else item.message
        message_log.add(
            item.delivery,
            status=status,
            code=code,
            sender=self._sender_of(item),
            type_=None if subject is None else subject.type,
            reference_id=None if subject is None else subject.reference_id,
            user_id=getattr(subject, "user_id", None),
            attempt=answer.outcome.attempt if isinstance(answer, Decided) else None,
            duplicate=answer.duplicate if isinstance(answer, Decided) else None,
        )

    def _observe_confirm(self, items: Sequence[Item]) -> None:
        """Observe the time since the first commit of the batch; the broker has confirmed its replies."""
        committed = [item.committed_at for item in items if item.committed_at is not None]
        if committed:
            waited_s = self._clock().timestamp() - min(committed)
            self._metrics.confirm_seconds.observe(max(waited_s, 0.0))

    def _count(self, items: Sequence[Item]) -> None:
        """Count messages by their type, their commands by the outcome, and how old they were."""
        for type_, count in Counter(map(_type_of, items)).items():
            self._metrics.messages.labels(type_).inc(count)
        outcomes = Counter(chain.from_iterable(map(_outcomes, items)))
        self._metrics.duplicates.inc(outcomes.pop(None, 0))
        for outcome, count in outcomes.items():
            if outcome is not None:
                self._metrics.outcomes.labels(*outcome).inc(count)
        for lane, own in by_lane(items).items():
            self._metrics.lane_messages.labels(lane).inc(len(own))
            for since, ages in _ages_of(own).items():
                if ages:
                    self._metrics.message_age.observe((lane, since), ages)


def by_lane(items: Iterable[Item]) -> Mapping[str, Sequence[Item]]:
    """Return the items of each lane, in their order."""
    lanes: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        lanes[item.queue].append(item)
    return lanes


def _ages_of(items: Iterable[Item]) -> Mapping[Since, Sequence[float]]:
    """Return the ages of the items at their commit, in seconds, by what they count from.

    A clock that is behind makes no age negative.
    """
    since_published: list[float] = []
    since_occurred: list[float] = []
    for item in items:
        if item.message is None or item.committed_at is None:
            continue
        if (at := published_at(item.delivery)) is not None:
            age = item.committed_at - at
            since_published.append(age if age > 0 else 0.0)
        if (at := occurred_at(item.message)) is not None:
            age = item.committed_at - at
            since_occurred.append(age if age > 0 else 0.0)
    return {Since.PUBLISHED: since_published, Since.OCCURRED: since_occurred}


def _kept_of(senders: Sequence[Sender], erased: Collection[int]) -> Sequence[Sender]:
    """Return the senders without those of erased users' commands: an application's name may hold the id."""
    if not erased:
        return senders
    return [UNNAMED if place in erased else sender for place, sender in enumerate(senders)]


def _lanes_of(items: Iterable[Item]) -> set[str]:
    """Return the queues of the lanes that ``items`` came from."""
    return {without_partition(queue) for queue in {item.delivery.queue for item in items}}


def _refusal(item: Item) -> DeadLetterReason | None:
    """Return the reason code of a refusal, which is most often its sender's fault; None where it is none."""
    if item.failure is not None:
        return None if item.failure.code in FAULTS else item.failure.code
    if (malformed := first_malformed(item.message)) is not None:
        return malformed.reason
    if any(isinstance(answer, Conflict) for answer in item.answers or ()):
        return DeadLetterReason.REFERENCE_CONFLICT
    return None


_Outcome = tuple[Status, Code]
_MALFORMED: _Outcome = (Status.FAILED, Code.MALFORMED)
_UNPROCESSABLE: _Outcome = (Status.FAILED, Code.UNPROCESSABLE)
_CONFLICT: _Outcome = (Status.REJECTED, Code.REFERENCE_CONFLICT)


def _result(item: Item) -> tuple[Status, str]:
    """Return the status and the code of the reply."""
    if item.failure is not None or item.answers is None:
        return Status.FAILED, Code.UNPROCESSABLE if item.failure is None else item.failure.code
    if isinstance(item.message, UsageBatch):
        return Status.APPLIED, Code.BATCH_PROCESSED
    answer = item.answers[0]
    if isinstance(answer, Conflict):
        return Status.REJECTED, Code.REFERENCE_CONFLICT
    return answer.outcome.status, answer.outcome.code


def _type_of(item: Item) -> str:
    return "unknown" if item.message is None else item.message.type


def _outcomes(item: Item) -> Sequence[_Outcome | None]:
    """Return the outcome of each command of an item; None for one that was stored before."""
    if item.message is None:
        return (_MALFORMED,)
    if item.answers is None:
        return (_UNPROCESSABLE,)
    outcomes = [_outcome(answer) for answer in item.answers]
    if type(item.message) is UsageBatch:
        outcomes += [_MALFORMED] * len(item.message.malformed)
    return outcomes


def _outcome(answer: Answer) -> _Outcome | None:
    if isinstance(answer, Conflict):
        return _CONFLICT
    return None if answer.duplicate else (answer.outcome.status, answer.outcome.code)
