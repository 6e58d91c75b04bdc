"""Client for Python producers: publishes commands and batches, waits for replies, and asks queries.

The worker never imports this.

pika and not kombu: a producer installs one client, and the worker's tests speak through another one than
the worker.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import monotonic, time_ns
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import urlencode
from uuid import uuid4

import pika
from pika.exceptions import (
    AMQPError,
    ChannelClosedByBroker,
    NackError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    UnroutableError,
)
from pydantic import ValidationError

from schemas import Message, Query, QueryAnswer, Reply, UsageBatch, answer_in, routing_key_of
from schemas.batch_parts import joined, parts_of
from schemas.partitions import require_partitions
from schemas.queries import BaseQuery
from schemas.trace import TRACEPARENT, require_traceparent, trace_in
from worker.addresses import BrokerAddress, Server
from worker.broker.topology import BILLING
from worker.errors import (
    BillingError,
    BrokerUnavailableError,
    ConfigurationError,
    NoReplyError,
)
from worker.runtime.tls import tls_context

_HEARTBEAT_S: Final = 30
_TIMEOUT_S: Final = 10.0
_TIMEOUT_OF_SEVERAL_S: Final = 2.0
#: Options of pika's URLs that mean nothing to the worker.
_OPTIONS_OF_PIKA: Final = (
    "blocked_connection_timeout",
    "channel_max",
    "connection_attempts",
    "frame_max",
    "locale",
    "retry_delay",
)
_NOT_FOUND: Final = 404
#: Shortest time with one channel, where it refuses.
_RENEW_AFTER_S: Final = 0.5
#: pika waits for ever by default where the broker is in an alarm (pika#653).
_BLOCKED_S: Final = 60.0

#: How a message is served: in its turn, or last, for usage that nobody waits for.
Lane = Literal["interactive", "bulk"]


def _name(message: Message | Query) -> str:
    """Return the name of a message in an error: its reference, or a query's type."""
    return message.type if isinstance(message, BaseQuery) else repr(message.reference_id)


def _key_of(message: Message | Query, partitions: int) -> str:
    """Return the routing key; queries have no partitions."""
    return message.type if isinstance(message, BaseQuery) else routing_key_of(message, partitions)


def _again(message: Message | Query) -> str:
    if isinstance(message, BaseQuery):
        return "ask again"
    return "send the same reference again, it is applied once; or ask query.operation for its outcome"


@dataclass(frozen=True, slots=True)
class _Sending:
    """Message with the ids that it is published under, also when it is published again."""

    message: Message | Query
    correlation_id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    message_id: str = field(default_factory=lambda: uuid4().hex)


class BillingClient:
    """A producer's connection to the broker; a context manager.

    ``url`` is the worker's: of one node or of several, which are tried in turn, with the options of TLS.

    Replies to ``send`` go to ``reply_queue``, which must exist and be this user's own
    (``billing.replies.<user>``, or that with a dot and more); without one, to the default response queue. For
    one thread: pika's connections can't be shared (pika#892). It has no thread of its own either: an idle
    client loses its connection, and opens another one.

    ``partitions`` is the number of those of the broker's queues, 0 for none (see ``schemas.partitions``). A
    batch of users in several of them is sent in parts; it is applied as its items are.

    Raises ConfigurationError where a person has to act, and BrokerUnavailableError where it is unknown
    whether the broker has the message.
    """

    def __init__(self, url: str, reply_queue: str | None = None, *, partitions: int = 0) -> None:
        self._partitions = require_partitions(partitions)
        self._user, self._nodes = _user_and_nodes(url)
        self._reply_queue = reply_queue
        self._connection: Any = None
        self._channel: Any = None
        self._opened_at = 0.0
        self._own_queue: str | None = None
        self._replies: dict[str, bytes | None] = {}  # those awaited, by correlation id
        self._reply_trace: str | None = None

    def __enter__(self) -> Self:
        self._connect()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._drop()

    @property
    def reply_traceparent(self) -> str | None:
        """Trace context of the latest reply or answer: its message's own; None without one."""
        return self._reply_trace

    def send(self, message: Message, *, lane: Lane = "interactive", traceparent: str | None = None) -> str:
        """Publish ``message`` with a confirm of the broker; return the correlation id.

        ``lane="bulk"`` is for usage that nobody waits for: it is served last. Raises ValueError for another
        type there, and for a ``traceparent`` (W3C) that is none. ``message.replies`` says which replies are
        wanted. Each part of a batch has a reply of its own, under the one id.
        """
        exchange = exchange_of(lane, message)
        headers = trace_headers(traceparent)
        correlation_id = uuid4().hex
        messages: list[Message] = [message]
        if isinstance(message, UsageBatch):
            messages = [part.batch for part in parts_of(message, self._partitions)]
        sendings = [_Sending(one, correlation_id, headers) for one in messages]
        self._publish(sendings, exchange, waits=False)
        return correlation_id

    def request(self, message: Message, timeout_s: float = 10.0, *, traceparent: str | None = None) -> Reply:
        """Publish ``message`` and wait for its reply, rejections included. Raises NoReplyError.

        The reply to a batch counts the applied, rejected and malformed (``failed``) items, and has
        their replies in order. Look at these: the batch itself is always ``applied``. Raises ValueError for a
        message whose ``replies`` are not all wanted: it might wait in vain.
        """
        require_reply(message)
        if isinstance(message, UsageBatch):
            parts = parts_of(message, self._partitions)
            if len(parts) > 1:
                replies = self._replies_to(message, [part.batch for part in parts], timeout_s, traceparent)
                return joined(message, list(zip(parts, map(_reply_in, replies), strict=True)))
        return _reply_in(*self._replies_to(message, [message], timeout_s, traceparent))

    def ask(self, query: Query, timeout_s: float = 5.0, *, traceparent: str | None = None) -> QueryAnswer:
        """Publish ``query`` and wait for its answer, or for the problem in its place. Raises NoReplyError.

        A query moves nothing: it may be asked again at any time.
        """
        return _answer_in(*self._replies_to(query, [query], timeout_s, traceparent))

    def _replies_to(
        self,
        whole: Message | Query,
        messages: Sequence[Message | Query],
        timeout_s: float,
        traceparent: str | None,
    ) -> list[bytes]:
        """Publish the messages that ``whole`` is sent as, and return the reply to each."""
        headers = trace_headers(traceparent)
        sendings = [_Sending(message, uuid4().hex, headers) for message in messages]
        self._replies = dict.fromkeys(sending.correlation_id for sending in sendings)
        self._reply_trace = None
        try:
            self._publish(sendings, BILLING.exchange, waits=True)
            return self._wait(whole, timeout_s)
        finally:
            self._replies = {}

    def _publish(self, sendings: Sequence[_Sending], exchange: str, *, waits: bool) -> None:
        """Publish, and repeat once with the same ids where the connection is lost, or the broker refuses.

        All of it: the queue of the replies is lost with its channel.
        """
        is_new = not self._is_alive()
        try:
            self._publish_all(sendings, exchange, waits=waits)
        except BrokerUnavailableError:
            if is_new:
                raise
            self._publish_all(sendings, exchange, waits=waits)

    def _publish_all(self, sendings: Sequence[_Sending], exchange: str, *, waits: bool) -> None:
        if not self._is_alive():
            self._connect()
        for sending in sendings:
            self._publish_once(sending, exchange, waits=waits)

    def _publish_once(self, sending: _Sending, exchange: str, *, waits: bool) -> None:
        message = sending.message
        key = _key_of(message, self._partitions)
        now_ms = time_ns() // 10**6
        properties: dict[str, Any] = {
            "content_type": "application/json",
            "delivery_mode": 1 if isinstance(message, BaseQuery) else 2,
            "correlation_id": sending.correlation_id,
            "message_id": sending.message_id,
            # The broker vouches for it, and the workers' rules about senders and reply queues go by it.
            "user_id": self._user,
            # Workers observe how old a message is when it is applied; AMQP's own stamp counts whole seconds.
            "timestamp": now_ms // 1000,
            "headers": {"timestamp_in_ms": now_ms, **sending.headers},
        }
        try:
            reply_to = self._own_reply_queue() if waits else self._reply_queue
            self._channel.basic_publish(
                exchange,
                key,
                message.to_json(),
                pika.BasicProperties(**properties, reply_to=reply_to),
                mandatory=True,
            )
        except UnroutableError as error:
            raise ConfigurationError(
                f"no queue takes {key}: run `billing-worker topology declare`"
            ) from error
        except NackError as error:
            self._renew_channel()
            raise BrokerUnavailableError(
                f"the broker refuses {_name(message)}: the queue is full or in trouble"
            ) from error
        except ChannelClosedByBroker as error:
            self._drop()
            way_out = ": run `billing-worker topology declare`" if error.reply_code == _NOT_FOUND else ""
            raise ConfigurationError(f"the broker refuses: {error.reply_text}{way_out}") from error
        except (AMQPError, OSError) as error:
            self._drop()
            raise BrokerUnavailableError(
                f"the connection was lost while publishing {_name(message)}; {_again(message)}"
            ) from error

    def _wait(self, message: Message | Query, timeout_s: float) -> list[bytes]:
        """Return the awaited replies in the order of what was sent."""
        deadline = monotonic() + timeout_s
        try:
            while None in self._replies.values() and (left := deadline - monotonic()) > 0:
                self._connection.process_data_events(left)
        except (AMQPError, OSError) as error:
            self._drop()
            raise BrokerUnavailableError(
                f"the connection was lost while waiting for the reply to {_name(message)}; {_again(message)}"
            ) from error
        replies = [reply for reply in self._replies.values() if reply is not None]
        if len(replies) < len(self._replies):
            raise NoReplyError(f"no reply to {_name(message)} within {timeout_s:g} s; {_again(message)}")
        return replies

    def _own_reply_queue(self) -> str:
        if self._own_queue is None:
            queue = f"{BILLING.replies.name}.{self._user}.{uuid4().hex}"
            self._channel.queue_declare(queue, exclusive=True, auto_delete=True)
            self._channel.basic_consume(queue, self._on_reply, auto_ack=True)
            self._own_queue = queue
        return self._own_queue

    def _on_reply(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        """Keep an awaited reply; others are late replies to earlier requests."""
        if properties.correlation_id in self._replies:
            self._replies[properties.correlation_id] = body
            trace = trace_in((properties.headers or {}).get(TRACEPARENT))
            self._reply_trace = None if trace is None else trace.traceparent

    def _is_alive(self) -> bool:
        """Read what the broker has sent; return True while the connection is open."""
        if self._connection is None:
            return False
        try:
            self._connection.process_data_events(0)
        except (AMQPError, OSError):
            self._drop()
            return False
        return bool(self._connection.is_open and self._channel.is_open)

    def _connect(self) -> None:
        self._drop()
        try:
            self._connect_to_one()
        except (ProbableAuthenticationError, ProbableAccessDeniedError) as error:
            raise ConfigurationError("the broker refuses the user, the password or the vhost") from error
        except (AMQPError, OSError) as error:
            where = ", ".join(f"{node.host}:{node.port}" for node in self._nodes)
            raise BrokerUnavailableError(f"the broker at {where} does not answer") from error

    def _connect_to_one(self) -> None:
        """Connect to the first node that answers, and begin with it from then on."""
        for node in list(self._nodes):
            try:
                self._connection = pika.BlockingConnection(node)
                self._open_channel()
            except (AMQPError, OSError):
                self._drop()
                if node is self._nodes[-1]:
                    raise
            else:
                self._nodes.remove(node)
                self._nodes.insert(0, node)
                return

    def _open_channel(self) -> None:
        self._channel, self._own_queue = self._connection.channel(), None
        self._channel.confirm_delivery()
        self._opened_at = monotonic()

    def _renew_channel(self) -> None:
        """Take another channel after a refusal, which may be because the queue's leader has died.

        See ``worker.broker.rabbitmq.publishing``. At most twice a second: a full queue refuses on every one.
        """
        if monotonic() - self._opened_at < _RENEW_AFTER_S:
            return
        try:
            self._channel.close()
            self._open_channel()
        except (AMQPError, OSError):
            self._drop()

    def _drop(self) -> None:
        connection, self._connection, self._channel, self._own_queue = self._connection, None, None, None
        if connection is not None and connection.is_open:
            with suppress(AMQPError, OSError):
                connection.close()


def exchange_of(lane: Lane, message: Message) -> str:
    """Return the exchange that leads to ``lane``. Raises ValueError where it does not take the message."""
    if lane == "interactive":
        return BILLING.exchange
    if lane != "bulk":
        raise ValueError(f"lane={lane!r}: use 'interactive' or 'bulk'")
    if not BILLING.bulk.takes(message.type):
        kinds = ", ".join(BILLING.bulk.routing_keys)
        raise ValueError(f"the bulk lane takes {kinds}, not {message.type}; leave `lane` out")
    return BILLING.bulk_exchange


def trace_headers(traceparent: str | None) -> dict[str, str]:
    """Return the headers of a message with this trace context. Raises ValueError for one that is none."""
    return {} if traceparent is None else {TRACEPARENT: require_traceparent(traceparent)}


def require_reply(message: Message) -> None:
    """Raise ValueError for a message that might get no reply, where somebody waits for it."""
    if message.replies in ("problems", "none"):
        raise ValueError(f"replies={message.replies!r}: a request waits for its reply; leave `replies` out")


def _user_and_nodes(url: str) -> tuple[str, list[Any]]:
    """Return the user of ``url``, and pika's parameters for each node that it names."""
    try:
        address = BrokerAddress.parse(url, allowed=_OPTIONS_OF_PIKA)
        return address.user, [_parameters_for(address, node) for node in address.nodes]
    except ValueError as error:
        raise ConfigurationError(
            f"the broker URL can't be read, amqp://user:password@host:5672/vhost: it {error}"
        ) from None


def _parameters_for(address: BrokerAddress, node: Server) -> Any:
    parameters = _with_own_options(address, node)
    if address.is_secure:
        parameters.ssl_options = pika.SSLOptions(tls_context(address.files), address.name_of(node))
    if address.is_external:
        parameters.credentials = pika.credentials.ExternalCredentials()
    parameters.heartbeat = address.heartbeat_s or _HEARTBEAT_S
    if parameters.blocked_connection_timeout is None:
        parameters.blocked_connection_timeout = _BLOCKED_S
    usual = _TIMEOUT_S if len(address.nodes) == 1 else _TIMEOUT_OF_SEVERAL_S
    parameters.socket_timeout = parameters.stack_timeout = address.connect_timeout_s or usual
    parameters.client_properties = {"connection_name": "billing-client"}
    return parameters


def _with_own_options(address: BrokerAddress, node: Server) -> Any:
    """Return parameters of one node, with the options that are pika's own."""
    options = f"?{urlencode(address.others)}" if address.others else ""
    plain = replace(address, options={})
    try:
        return pika.URLParameters(plain.url_of(node) + options)
    except Exception:  # noqa: BLE001 - any error text may hold the password
        raise ValueError(f"has a wrong value of {' or '.join(address.others) or 'something'}") from None


def _reply_in(body: bytes) -> Reply:
    try:
        return Reply.model_validate_json(body)
    except ValidationError as error:
        raise BillingError("the reply can't be read; is the worker of another version?") from error


def _answer_in(body: bytes) -> QueryAnswer:
    try:
        return answer_in(body)
    except ValidationError as error:
        raise BillingError("the answer can't be read; is the reader of another version?") from error
