"""Mixed messages whose outcomes don't depend on their order, and the expected state after their replies.

No user's tokens run dry, no hold has two ends and nothing is sent twice on purpose, so any number of workers
may take the messages in any batches, and again after a crash: codes, balances and notices are those of the
one-by-one model. What others need (the payment of a refund, a hold to settle) is in the ledger before the
first message.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, islice
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import pika
from pika.exceptions import AMQPError
from sqlalchemy import Engine, select

from schemas import (
    Command,
    DeductUsage,
    Limits,
    Malformed,
    OpenAccount,
    PaymentSucceeded,
    ReserveUsage,
    UsageBatch,
    commands_of,
    decode,
)
from schemas.usage import HOLD_MAX_SECONDS
from tests.support.model import Model
from tests.support.waiting import PATIENCE_S, eventually
from tests.support.witness import Witness, user_of
from worker.broker import BILLING
from worker.catalog import load_catalog
from worker.core import decide
from worker.ledger.audit import audit
from worker.ledger.store import Ledger
from worker.ledger.tables import accounts
from worker.settings import Settings

Message = dict[str, Any]

USERS = tuple(f"user-{number}" for number in range(24))
#: Users for tens of thousands of messages, see ``Truth``.
MANY_USERS = tuple(f"user-{number}" for number in range(1_200))
_MUCH = 10**12

#: Pause between two messages of a producer: some hundred a second leave the machine to the servers.
PACE_S = 0.004

#: The prefixes whose first messages find holds that they can end; how often, of each kind.
_PREFIXES = ("m", "n")
_ROUNDS = 20


def mixed(*, prefix: str = "m", users: Sequence[str] = USERS) -> Iterator[Message]:
    """Yield messages of many types without end; some are rejected, none is malformed.

    The number of ``users`` must not divide by that of the kinds: everybody has some of everything.
    """
    soon = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    for number in count():
        reference_id, user_id = f"{prefix}-{number}", users[number % len(users)]
        message = {"referenceId": reference_id, "userId": user_id, **_KINDS[number % len(_KINDS)]}
        if "originalReferenceId" in message:
            names = {"user": user_id, "reference": reference_id}
            message["originalReferenceId"] = message["originalReferenceId"].format_map(names)
        match message:
            case {"type": "usage.batch", "items": items}:
                message["items"] = [
                    {"referenceId": f"{reference_id}/{place}", **item} for place, item in enumerate(items)
                ]
            case {"type": "account.open"}:
                message["userId"] = f"{prefix}-new-{number}"
            case {"type": "credit.bonus", "expiresAt": _}:
                message["expiresAt"] = soon
        yield message


_KINDS: tuple[Message, ...] = (
    {"type": "usage.deduct", "tokens": 7, "feature": "chat"},
    {"type": "credit.bonus", "tokens": 4, "expiresAt": "soon"},  # brings a notice
    {"type": "payment.succeeded", "packageId": "standard", "amountMinor": 1_999, "currency": "USD"},
    {
        "type": "usage.batch",
        "items": [
            {"type": "usage.deduct", "tokens": 2, "feature": "search"},
            {"type": "usage.record", "meter": "ocr", "quantity": 1},
            {"type": "usage.deduct", "tokens": _MUCH},
            {"type": "usage.free_upload", "bytes": 4_096},
        ],
    },
    {"type": "usage.settle", "originalReferenceId": "hold-{reference}", "tokens": 3, "feature": "chat"},
    {"type": "usage.free_upload", "bytes": 1_048_576},
    {"type": "usage.deduct", "tokens": _MUCH},
    {"type": "credit.bonus", "tokens": 5},
    {"type": "usage.record", "meter": "ocr", "quantity": 2},
    {"type": "payment.succeeded", "packageId": "no-such", "amountMinor": 1_999, "currency": "USD"},
    {"type": "usage.release", "originalReferenceId": "hold-{reference}"},
    {"type": "credit.refund", "tokens": 3, "originalReferenceId": "used-{user}"},
    {"type": "credit.refund", "tokens": 3},
    {"type": "usage.deduct", "tokens": 1, "userId": "nobody"},
    {
        "type": "payment.refunded",
        "originalReferenceId": "paid-{user}",
        "amountMinor": 1,
        "currency": "USD",
    },
    {"type": "usage.reserve", "tokens": 2, "ttlSeconds": HOLD_MAX_SECONDS},
    {"type": "account.open", "tier": "basic"},
    {"type": "usage.record", "meter": "upload", "quantity": 1_048_576},
    {"type": "payment.failed", "originalReferenceId": "never-{user}"},
    {"type": "credit.adjust", "tokens": 2, "reason": "a slip", "actor": "ann"},
    {"type": "usage.deduct", "tokens": 11},
    {"type": "account.settle"},
    {"type": "subscription.change", "tier": "pro"},
)


def _before(users: Sequence[str]) -> Iterator[Command]:
    """Yield the commands that precede the first message."""
    for user in users:
        yield OpenAccount(reference_id=f"open-{user}", user_id=user, tier="pro")
        yield DeductUsage(reference_id=f"used-{user}", user_id=user, tokens=100_000)
        yield PaymentSucceeded(
            reference_id=f"paid-{user}", user_id=user, package_id="max", amount_minor=29_999, currency="USD"
        )
    for prefix in _PREFIXES:
        for message in islice(mixed(prefix=prefix, users=users), _ROUNDS * len(_KINDS)):
            if message["type"] in ("usage.settle", "usage.release"):
                yield ReserveUsage(
                    reference_id=message["originalReferenceId"],
                    user_id=message["userId"],
                    tokens=5,
                    ttl_seconds=HOLD_MAX_SECONDS,
                )


def open_accounts(engine: Engine, users: Sequence[str] = USERS) -> list[Message]:
    """Open accounts directly in the ledger; return the equivalent messages."""
    commands = list(_before(users))
    now = datetime.now(UTC)
    with Ledger(engine).begin() as transaction:
        known = transaction.load(commands, now)
        transaction.write(decide(commands, known, now, load_catalog()), known, now)
    return [json.loads(command.to_json()) for command in commands]


class Truth:
    """Check of all sent messages against the model, the audit and the replies.

    The model's time grows with the square of the messages a user sends: long runs need many ``users``.
    """

    def __init__(self, engine: Engine, users: Sequence[str] = USERS) -> None:
        self._engine = engine
        self._now = datetime.now(UTC)
        self._model = Model(load_catalog())
        self._codes: dict[str, str] = {}
        self.correlations: dict[str, str] = {}
        for message in open_accounts(engine, users):
            self._foresee(message)

    def sent(self, correlation_id: str, message: Message) -> None:
        """Record a sent message; it may be sent more than once, and its replies carry ``correlation_id``."""
        self.correlations[correlation_id] = message["referenceId"]
        self._foresee(message)

    def holds(self, replies: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Fail the test unless ledger and replies are right and all replies to a message are equal."""
        for correlation_id in self.correlations.keys() & replies.keys():
            reference_id = self.correlations[correlation_id]
            for reply in replies[correlation_id]:
                assert reply.get("referenceId") == reference_id, reply
                assert reply["code"] == self._codes[reference_id]
                for item in reply.get("items", ()):
                    assert item["code"] == self._codes[item["referenceId"]]
                assert content_of(reply) == content_of(replies[correlation_id][0])
        self.ledger_holds()

    def ledger_holds(self) -> None:
        """Fail the test unless the balances equal the model's and the audit is clean."""
        assert balances(self._engine) == self._model.balances()
        assert audit(self._engine).findings == ()

    @property
    def balances(self) -> dict[str, int]:
        """Balance of each user in the model."""
        return self._model.balances()

    @property
    def codes_in_ledger(self) -> set[str]:
        """References with a row of their own: of a command batch, those of its items."""
        return {reference for reference, code in self._codes.items() if code != "batch_processed"}

    def code_of(self, reference_id: str) -> str:
        """The code of its reply."""
        return self._codes[reference_id]

    @property
    def noticed(self) -> set[tuple[str, str]]:
        """Reference and type of each notice that must come at least once."""
        return {(notice["referenceId"], notice["type"]) for notice in self._model.notices}

    def _foresee(self, message: Message) -> None:
        if message["referenceId"] in self._codes:
            return
        decoded = decode(json.dumps(message).encode(), now=self._now, limits=Limits())
        assert not isinstance(decoded, Malformed), decoded
        for command in commands_of(decoded):
            self._codes[command.reference_id] = self._model.apply(command, self._now)["code"]
        if isinstance(decoded, UsageBatch):
            self._codes[decoded.reference_id] = "batch_processed"


def publish_some(
    witness: Witness, truth: Truth, count: int, *, prefix: str = "m", **properties: Any
) -> list[str]:
    """Publish some mixed messages; return their correlation ids."""
    sent = []
    for message in islice(mixed(prefix=prefix), count):
        sent.append(witness.publish(message, **properties))
        truth.sent(sent[-1], message)
    return sent


def content_of(reply: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a reply that each copy has."""
    content = {name: value for name, value in reply.items() if name != "duplicate"}
    if "items" in content:
        content["items"] = [content_of(item) for item in content["items"]]
    return content


def balances(engine: Engine) -> dict[str, int]:
    """Return the stored balance of each user."""
    with engine.connect() as connection:
        rows = connection.execute(select(accounts.c.user_id, accounts.c.balance))
        return {row.user_id: row.balance for row in rows}


class BackgroundProducer:
    """Producer in a thread, with confirms; it publishes again where a confirm is missing.

    A message may reach the broker twice; one that is in ``published`` has reached it. The correlation id
    is the reference, the reply goes to ``reply_to``.
    """

    def __init__(self, url: str, messages: Iterable[Message], *, reply_to: str) -> None:
        self._url, self._messages, self._reply_to = url, messages, reply_to
        self._enough = Event()
        self._thread = Thread(target=self._run, name="producer")
        self.published: list[Message] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        channel: Any = None
        for message in self._messages:
            deadline = monotonic() + PATIENCE_S
            while not self._enough.is_set():
                try:
                    if channel is None:
                        channel = self._channel()
                    self._publish(channel, message)
                except (AMQPError, OSError):
                    assert monotonic() < deadline, "the producer finds no broker"
                    channel = None
                    self._enough.wait(0.1)
                else:
                    self.published.append(message)
                    self._enough.wait(PACE_S)
                    break
            if self._enough.is_set():
                break
        if channel is not None:
            channel.connection.close()

    def _channel(self) -> Any:
        parameters = pika.URLParameters(self._url)
        parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = 5
        channel = pika.BlockingConnection(parameters).channel()
        channel.confirm_delivery()
        return channel

    def _publish(self, channel: Any, message: Message) -> None:
        properties = pika.BasicProperties(
            correlation_id=message["referenceId"],
            reply_to=self._reply_to,
            delivery_mode=2,
            user_id=user_of(self._url),
        )
        channel.basic_publish(
            "billing", message["type"], json.dumps(message).encode(), properties, mandatory=True
        )


def every_reply(witness: Witness, expected: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Return all replies by correlation id, once each of ``expected`` has one."""
    replies = witness.replies(expected)
    for properties, body in witness.take(witness.reply_queue, witness.depth(witness.reply_queue)):
        replies.setdefault(properties.correlation_id, []).append(json.loads(body))
    return replies


class NoticeListener:
    """Reader of notices, on the connection of the witness."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._queue = str(witness.channel.queue_declare("", exclusive=True).method.queue)
        witness.channel.queue_bind(self._queue, BILLING.events, "#")
        self._notices: list[Message] = []

    def received(self) -> set[tuple[str, str]]:
        """Return reference and type of each received notice; copies of one are equal."""
        waiting = self._witness.take(self._queue, self._witness.depth(self._queue))
        self._notices += [json.loads(body) for _, body in waiting]
        bodies: dict[str, Message] = {}
        for notice in self._notices:
            assert bodies.setdefault(notice["id"], notice) == notice
        assert len({(notice["referenceId"], notice["type"]) for notice in bodies.values()}) == len(bodies)
        return {(notice["referenceId"], notice["type"]) for notice in bodies.values()}

    def expect(self, noticed: set[tuple[str, str]]) -> None:
        """Wait for all notices of ``noticed``; fail the test if others come."""
        eventually(lambda: self.received() >= noticed, what="every notice")
        assert self.received() == noticed


def nothing_is_left(witness: Witness) -> None:
    """Fail the test unless the work queues are empty; no worker may hold a message."""
    for queue in BILLING.work:
        eventually(partial(_is_empty, witness, queue.name), what=f"{queue.name} is empty")


def _is_empty(witness: Witness, queue: str) -> bool:
    return witness.depth(queue) == 0


def past(seconds: float) -> Callable[[], bool]:
    """Return a condition that is true after some seconds, such as the length of an outage."""
    end = monotonic() + seconds
    return lambda: monotonic() >= end


def vhost_of(settings: Settings) -> str:
    """Return the virtual host of the settings."""
    return unquote(urlsplit(settings.broker_url.get_secret_value()).path.removeprefix("/"))
