"""Connections to RabbitMQ: opening, heartbeats, closing, and the client's errors translated."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, TypeVar

import kombu
from amqp import spec
from amqp.exceptions import (
    AccessRefused,
    AMQPError,
    ChannelError,
    NotAllowed,
    NotFound,
    PreconditionFailed,
)
from kombu.transport import pyamqp

from worker.addresses import BrokerAddress, Server
from worker.broker.rabbitmq.frames import tolerant_frame_handler
from worker.broker.rabbitmq.nodes import nodes_of
from worker.broker.rabbitmq.wire import transport_for
from worker.errors import BillingError, BrokerUnavailableError, ConfigurationError
from worker.runtime.tls import tls_context

HEARTBEAT_S = 15
_CONNECT_TIMEOUT_S = 5.0
#: The same where another node can be tried: an answer is due within seconds of a node's end.
_CONNECT_TIMEOUT_OF_SEVERAL_S = 2.0
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
    """Return the result of ``build`` on a connection to the first node that is well.

    The connection is closed where that fails. Raises BillingError where no node takes one; what a node says
    about a channel passes as it is: the others would say the same.
    """
    nodes = nodes_of(url)
    failures: list[tuple[Server, BillingError]] = []
    for node in nodes.in_turn():
        try:
            part = _built(nodes.address, node, name, build)
        except BillingError as error:
            nodes.leave(node)
            failures.append((node, error))
        else:
            nodes.keep(node)
            return part
    raise _failure_of_all(failures)


def _built(address: BrokerAddress, node: Server, name: str, build: Callable[[Any], P]) -> P:
    with broker_errors():
        connection = _connect(address, node, name)
    try:
        return build(connection)
    except BaseException as error:
        close_connection(connection)
        if isinstance(error, ChannelError):
            raise
        with broker_errors():
            raise


def _failure_of_all(failures: list[tuple[Server, BillingError]]) -> BillingError:
    if len(failures) == 1:
        return failures[0][1]
    text = "; ".join(f"{node}: {str(error).removeprefix(_NOT_AVAILABLE)}" for node, error in failures)
    if all(isinstance(error, ConfigurationError) for _, error in failures):
        return ConfigurationError(text)
    return BrokerUnavailableError(f"{_NOT_AVAILABLE}{text}")


def _connect(address: BrokerAddress, node: Server, name: str) -> Any:
    connection = _configured(address, node, name)
    connection.transport.Connection = WorkerConnection
    return connection.transport.establish_connection()


def _configured(address: BrokerAddress, node: Server, name: str) -> Any:
    usual = _CONNECT_TIMEOUT_S if len(address.nodes) == 1 else _CONNECT_TIMEOUT_OF_SEVERAL_S
    return kombu.Connection(
        node.host,
        userid=address.user,
        password=address.password,
        virtual_host=address.vhost,
        port=node.port,
        transport="pyamqp",
        login_method="EXTERNAL" if address.is_external else "PLAIN",
        ssl=_tls_options(address, node) if address.is_secure else False,
        heartbeat=address.heartbeat_s or HEARTBEAT_S,
        connect_timeout=address.connect_timeout_s or usual,
        transport_options={
            "socket_settings": _SOCKET,
            "read_timeout": 15,  # of calls that wait for an answer; deliveries have a time-out of their own
            "write_timeout": 10,
            "client_properties": {"connection_name": name},
            "frame_handler": tolerant_frame_handler,
        },
    )


def _tls_options(address: BrokerAddress, node: Server) -> dict[str, Any]:
    files = address.files
    tls_context(files)  # a file that can't be used is no outage
    given = {"ca_certs": files.ca, "certfile": files.certificate, "keyfile": files.key}
    return {
        # py-amqp compares the certificate with the host's name only where one is given. kombu would give
        # 127.0.0.1 for localhost, which is in nobody's certificate.
        "server_hostname": address.name_of(node),
        "cert_reqs": ssl.CERT_REQUIRED,
        **{name: path for name, path in given.items() if path is not None},
    }


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


def is_on_a_lost_node(error: NotFound) -> bool:
    """Return True for a queue without replicas whose node is away: to declare it fails as well."""
    return "down or inaccessible" in str(error.reply_text)


def way_out_of(error: NotFound) -> str:
    """Return what brings back a queue or an exchange that the broker doesn't find."""
    if is_on_a_lost_node(error):
        return "start that node of the broker"
    return "run `billing-worker topology declare`"


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
        raise BrokerUnavailableError(f"{error.reply_text}: {way_out_of(error)}") from error
    except NotAllowed as error:
        raise ConfigurationError(f"the broker refuses: {error.reply_text}") from error
    except ssl.SSLCertVerificationError as error:
        raise BrokerUnavailableError(f"{_NOT_AVAILABLE}{error.verify_message}: {_WAY_TO_TRUST}") from error
    except (TimeoutError, AMQPError, OSError) as error:
        text = str(error) or type(error).__name__
        raise BrokerUnavailableError(f"{_NOT_AVAILABLE}{text}") from error


_NOT_AVAILABLE = "the broker is not available: "
_WAY_TO_TRUST = "name its CA with cacertfile, and the server as its certificate does"


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
