"""Connections to RabbitMQ: opening, heartbeats, closing, and the client's errors translated."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, TypeVar

import kombu
from amqp import spec
from amqp.exceptions import AccessRefused, AMQPError, NotAllowed, NotFound, PreconditionFailed
from kombu.transport import pyamqp

from worker.broker.rabbitmq.frames import tolerant_frame_handler
from worker.broker.rabbitmq.wire import transport_for
from worker.errors import BrokerUnavailableError, ConfigurationError

HEARTBEAT_S = 15
_CLOSE_TIMEOUT_S = 3.0

P = TypeVar("P")

_SOCKET = {
    # kombu's default of 1 s drops the connection on one second of loss (py-amqp#186).
    getattr(socket, name): value
    for name, value in {
        "TCP_USER_TIMEOUT": 15_000,
        "TCP_KEEPIDLE": 30,
        "TCP_KEEPINTVL": 5,
        "TCP_KEEPCNT": 3,
    }.items()
    if hasattr(socket, name)  # not every system has them all
}


def opened(url: str, name: str, build: Callable[[Any], P]) -> P:
    """Return the result of ``build`` on a new connection, which is closed where it fails."""
    connection = _connect(url, name)
    try:
        return build(connection)
    except BaseException:
        close_connection(connection)
        raise


def _connect(url: str, name: str) -> Any:
    try:
        connection = _configured(url, name)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(f"the broker URL can't be used: {error}") from None
    connection.transport.Connection = WorkerConnection
    return connection.transport.establish_connection()


def _configured(url: str, name: str) -> Any:
    return kombu.Connection(
        url,
        # py-amqp compares the certificate with the host's name only where one is given; None is filled in.
        ssl={"server_hostname": None, "cert_reqs": ssl.CERT_REQUIRED} if url.startswith("amqps:") else False,
        heartbeat=HEARTBEAT_S,
        connect_timeout=5,
        transport_options={
            "socket_settings": _SOCKET,
            "read_timeout": 15,  # of calls that wait for an answer; deliveries have a time-out of their own
            "write_timeout": 10,
            "client_properties": {"connection_name": name},
            "frame_handler": tolerant_frame_handler,
        },
    )


def close_connection(connection: Any) -> None:
    """Close in an orderly way if the broker answers within moments, and in any case."""
    if connection.connected:
        with suppress(AMQPError, OSError):
            connection.transport.sock.settimeout(_CLOSE_TIMEOUT_S)
            connection.close()
    # The socket of a connection that the broker has ended is still open on our side.
    with suppress(AMQPError, OSError):
        connection.collect()


@contextmanager
def channel_of(connection: Any) -> Iterator[Any]:
    """Open a channel for the block."""
    channel = connection.channel()
    try:
        yield channel
    finally:
        with suppress(AMQPError, OSError):
            channel.close()


@contextmanager
def broker_errors(*, passing: bool = False) -> Iterator[None]:
    """Translate the client's errors; with ``passing`` those that answer a declaration go through."""
    try:
        yield
    except (NotFound, PreconditionFailed, AccessRefused) as error:
        if passing:
            raise
        if "timed out" in str(error.reply_text):  # what was held too long: the channel is gone
            raise BrokerUnavailableError(f"the broker took its messages back: {error.reply_text}") from error
        if isinstance(error, AccessRefused | PreconditionFailed):
            raise ConfigurationError(f"the broker refuses: {error.reply_text}") from error
        raise BrokerUnavailableError(f"{error.reply_text}: run `billing-worker topology declare`") from error
    except NotAllowed as error:
        raise ConfigurationError(f"the broker refuses: {error.reply_text}") from error
    except (TimeoutError, AMQPError, OSError) as error:
        text = str(error) or type(error).__name__
        raise BrokerUnavailableError(f"the broker is not available: {text}") from error


class Heartbeat:
    """Heartbeats of a connection, at most one a second: py-amqp sends them only when asked (kombu#806)."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._last = monotonic()

    def beat(self) -> None:
        """Send a heartbeat where one is due. Raises BrokerUnavailableError where the connection is lost."""
        # py-amqp would open another one behind our back (kombu#220).
        if not self._connection.connected:
            raise BrokerUnavailableError("the connection to the broker is lost")
        now = monotonic()
        if now - self._last >= 1.0:
            self._last = now
            self._connection.heartbeat_tick()


class WorkerChannel(pyamqp.Channel):  # type: ignore[misc]  # kombu ships no types
    """Hands deliveries to ``on_delivery``, where set, as they come and with their body as it was sent."""

    on_delivery: Callable[[bytes, Any], None] | None = None

    def dispatch_method(  # word: a method of the library
        self, signature: tuple[int, int], arguments: bytes, content: Any
    ) -> None:
        """Take a method frame, with the message that belongs to it."""
        if signature != spec.Basic.Deliver or self.on_delivery is None:
            super().dispatch_method(signature, arguments, content)
        elif not self.is_closing:  # what comes then goes back
            self.on_delivery(arguments, content)


class WorkerConnection(pyamqp.Connection):  # type: ignore[misc]  # kombu ships no types
    """Reads wholesale, with channels that hand deliveries over.

    Closes its socket when the broker refuses it; py-amqp does so only where the network does.
    """

    Channel = WorkerChannel

    def connect(self, callback: Callable[[], None] | None = None) -> Any:
        """Connect, or leave nothing behind."""
        try:
            return super().connect(callback)
        except BaseException:
            self.collect()
            raise

    def Transport(self, *address: Any, **settings: Any) -> Any:  # noqa: N802 - py-amqp calls it
        """Return the transport that the frames go through."""
        return transport_for(*address, **settings)
