"""One batch: decode, claim and load, decide, write, commit, reply, acknowledge.

What a crash leaves behind: before the commit, nothing; after it, the effect and the stored outcome, and the
delivery that is not acknowledged brings the same reply again. So the unacknowledged delivery is the outbox.
"""

import hashlib
import logging
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase

from schemas import Code, Command, Limits, Malformed, Reply, Status, decode
from worker.broker import BILLING, Delivery, Link, Outgoing, Topology
from worker.catalog import Catalog
from worker.core import Answer, Conflict, decide, reply_for
from worker.deadletters.letters import Reason, dead_letter_for
from worker.errors import BrokerUnavailableError, ContentionError, LedgerUnavailableError, TransientError
from worker.ledger.store import Ledger
from worker.metrics import Metrics

log = logging.getLogger(__name__)

#: From so many earlier deliveries on a message is suspected of bringing workers down: it goes alone.
SUSPECT_AFTER = 3
#: From so many on it is parked, before a broker of 4.0 or later drops it (20 by default).
GIVE_UP_AFTER = 15

_CONTENTION_TRIES = 10


class UnansweredError(BrokerUnavailableError):
    """The broker has not taken the letters and replies. The deliveries are still held: answer again."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the pipeline is told and does not decide.

    ``senders`` maps a pattern of types to the broker users that may send them; a type that no pattern
    matches may come from anyone. ``reply_to_prefixes`` are the beginnings of queue names a request may
    ask its reply to be sent to.
    """

    limits: Limits = field(default_factory=Limits)
    tries: int = 3
    reply_queue: str = "billing.replies"
    reply_to_prefixes: tuple[str, ...] = ("billing.replies",)
    senders: Mapping[str, Sequence[str]] = field(default_factory=dict)
    topology: Topology = BILLING


@dataclass(slots=True, eq=False)
class Item:
    """One delivery on its way through the batch: it ends with an answer, a refusal or a fault."""

    delivery: Delivery
    command: Command | None = None
    answer: Answer | None = None
    reason: Reason | None = None
    tries: int = 1


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
        """Claim and load, decide, write, commit."""
        commands = [item.command for item in items if item.command is not None]
        now = self._clock()
        with self._ledger.begin() as books:
            known = books.load(commands, now)
            plan = decide(commands, known, now, self._catalog)
            books.write(plan, known, now)
        for item, answer in zip(items, plan.answers, strict=True):
            item.answer = answer

    def answer(self, link: Link, items: Sequence[Item]) -> None:
        """Send the dead letters and the replies, and wait until the broker has them."""
        now = self._clock()
        letters = [letter for item in items if (letter := self._dead_letter(item, now)) is not None]
        replies = [reply for item in items if (reply := self._reply(item)) is not None]
        try:
            returned = {id(message) for message in link.publish([*letters, *replies])}
        except BrokerUnavailableError as error:
            raise UnansweredError(str(error)) from error
        if any(id(letter) in returned for letter in letters):
            # The originals stay where they are until there is a place for their letters.
            raise UnansweredError(
                f"the dead-letter queue {self._policy.topology.dead.name!r} is missing: "
                "run `billing-worker topology declare`"
            )
        for letter in letters:
            self._metrics.dead_letters.labels(str(letter.headers["x-billing-reason"])).inc()
        self._count_unroutable([reply for reply in replies if id(reply) in returned])

    def acknowledge(self, link: Link, items: Sequence[Item]) -> None:
        """The last step: what crashes before it is delivered again."""
        link.acknowledge([item.delivery for item in items])
        self._count(items)

    # -- decode -------------------------------------------------------------------------------------------

    def _decoded(self, delivery: Delivery, now: datetime) -> Item:
        item = Item(delivery)
        decoded = self._refused_delivery(delivery) or decode(
            delivery.body, now=now, limits=self._policy.limits
        )
        if not isinstance(decoded, Malformed):
            decoded = self._refused_sender(delivery, decoded) or decoded
        if isinstance(decoded, Malformed):
            item.reason = Reason(
                decoded.reason,
                decoded.message,
                decoded.field,
                type=decoded.type,
                reference_id=decoded.reference_id,
                user_id=decoded.user_id,
            )
        else:
            item.command = decoded
        return item

    def _refused_delivery(self, delivery: Delivery) -> Malformed | None:
        if delivery.unreadable is not None:
            return Malformed(
                "unreadable_properties",
                "The message's properties or headers can't be parsed; times are seconds, names are UTF-8.",
            )
        if delivery.delivery_count >= GIVE_UP_AFTER:
            return Malformed(
                "delivery_limit",
                f"Delivered {delivery.delivery_count} times before and never settled; "
                "it may bring the worker down.",
            )
        return None

    def _refused_sender(self, delivery: Delivery, command: Command) -> Malformed | None:
        identities = {
            "type": command.type,
            "reference_id": command.reference_id,
            "user_id": command.user_id,
        }
        if delivery.exchange == self._policy.topology.exchange and delivery.routing_key != command.type:
            # Who may publish what is granted by routing key: another type inside would walk past it.
            return Malformed(
                "wrong_routing_key",
                f"A {command.type} came with the routing key {delivery.routing_key!r}; they must be equal.",
                "type",
                **identities,
            )
        allowed = [
            users for pattern, users in self._policy.senders.items() if fnmatchcase(command.type, pattern)
        ]
        sender = delivery.text("user_id")
        if allowed and not any(sender in users for users in allowed):
            return Malformed(
                "wrong_sender", f"{sender or 'An anonymous user'} may not send {command.type}.", **identities
            )
        return None

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
        log.error("a message can't be processed and becomes a dead letter", exc_info=fault)
        item.reason = _unprocessable(item.command, fault)

    # -- answer -------------------------------------------------------------------------------------------

    def _dead_letter(self, item: Item, now: datetime) -> Outgoing | None:
        reason = item.reason
        if reason is None and isinstance(item.answer, Conflict) and item.command is not None:
            reply = reply_for(item.command, item.answer)
            reason = Reason(
                reply.code,
                reply.message,
                reply.field,
                type=reply.type,
                reference_id=reply.reference_id,
                user_id=reply.user_id,
            )
        if reason is None:
            return None
        return dead_letter_for(
            item.delivery, reason, queue=self._policy.topology.dead.name, tries=item.tries, now=now
        )

    def _reply(self, item: Item) -> Outgoing | None:
        if item.command is not None and item.answer is not None:
            return self._addressed(item.delivery, reply_for(item.command, item.answer))
        reason = item.reason
        if reason is None or not self._can_be_told(item.delivery, reason):
            return None
        return self._addressed(item.delivery, _failed(reason))

    def _can_be_told(self, delivery: Delivery, reason: Reason) -> bool:
        """Whether anybody could tell what a failed reply is the reply to."""
        return any((self._allowed_reply_to(delivery), _correlation(delivery), reason.reference_id))

    def _allowed_reply_to(self, delivery: Delivery) -> str | None:
        # The default exchange reaches any queue: a request may name only what configuration allows.
        reply_to = delivery.text("reply_to")
        return reply_to if reply_to and reply_to.startswith(self._policy.reply_to_prefixes) else None

    def _addressed(self, delivery: Delivery, reply: Reply) -> Outgoing:
        body = reply.to_json()
        correlation = _correlation(delivery)
        return Outgoing(
            body=body,
            exchange="",
            routing_key=self._allowed_reply_to(delivery) or self._policy.reply_queue,
            properties={
                "content_type": "application/json",
                "type": "billing.reply",
                "app_id": "billing-worker",
                "correlation_id": correlation,
                # The same for a reply that goes out again, so that its consumer can tell.
                "message_id": hashlib.blake2b(
                    f"{correlation}\0{reply.reference_id}\0{reply.attempt}".encode(), digest_size=16
                ).hexdigest(),
            },
        )

    # -- count --------------------------------------------------------------------------------------------

    def _count_unroutable(self, replies: Sequence[Outgoing]) -> None:
        if not replies:
            return
        self._metrics.unroutable_replies.inc(len(replies))
        queues = sorted({reply.routing_key for reply in replies})
        log.warning("%d replies reached no queue: %s does not exist", len(replies), ", ".join(queues))

    def _count(self, items: Iterable[Item]) -> None:
        counts: dict[tuple[str, str], int] = {}
        for item in items:
            key = _outcome_label(item)
            counts[key] = counts.get(key, 0) + 1
        for labels, count in counts.items():
            self._metrics.messages.labels(*labels).inc(count)


def _unprocessable(command: Command | None, fault: Exception) -> Reason:
    message = f"{type(fault).__name__}: {fault}"
    trace = "".join(traceback.format_exception(fault))
    if command is None:
        return Reason(Code.UNPROCESSABLE, message, traceback=trace)
    return Reason(
        Code.UNPROCESSABLE,
        message,
        traceback=trace,
        type=command.type,
        reference_id=command.reference_id,
        user_id=command.user_id,
    )


def _failed(reason: Reason) -> Reply:
    unprocessable = reason.code == Code.UNPROCESSABLE
    return Reply(
        status=Status.FAILED,
        code=Code.UNPROCESSABLE if unprocessable else Code.MALFORMED,
        # A fault of ours is no business of the caller's; operators read its text in the dead letter.
        message="The worker failed on this message; operators have it." if unprocessable else reason.message,
        type=reason.type,
        reference_id=reason.reference_id,
        user_id=reason.user_id,
        field=reason.field,
        reason=reason.code,
    )


def _correlation(delivery: Delivery) -> str | None:
    return delivery.text("correlation_id") or delivery.text("message_id")


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
