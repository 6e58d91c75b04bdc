"""Fewer calls a message: frames are read out of large reads, and a batch of messages is few writes.

py-amqp reads a delivery in nine system calls (three a frame) and writes every message in one of its own.
These were most of a message's cost in the client, and a part of its cost in the broker.
"""

from collections.abc import Iterable, Iterator
from errno import EAGAIN, EINTR, ENOENT
from functools import lru_cache
from struct import Struct
from typing import Any

from amqp.basic_message import Message
from amqp.exceptions import UnexpectedFrame
from amqp.serialization import dumps
from amqp.transport import SSLTransport, TCPTransport

from worker.broker.outgoing import Outgoing

_READ_BYTES = 256 * 1024
_WRITE_BYTES = 64 * 1024

_FRAME = Struct(">BHI")
_METHOD, _HEADER, _BODY, _END = 1, 2, 3, b"\xce"
_BASIC, _PUBLISH = 60, 40
_TRANSIENT, _PERSISTENT = 1, 2
#: Errors of a socket that has nothing to read at the moment (py-amqp names them so); TLS says ENOENT.
_NOT_NOW = {EAGAIN, EINTR, ENOENT}


def transport_for(
    host: str, connect_timeout: float, ssl: Any, read_timeout: float, write_timeout: float, **settings: Any
) -> Any:
    """A transport to ``host:port``, for py-amqp's arguments; with TLS where ``ssl`` holds options for it."""
    timeouts = {
        "connect_timeout": connect_timeout,
        "read_timeout": read_timeout,
        "write_timeout": write_timeout,
    }
    if ssl:
        return _TlsTransport(host, ssl=ssl, **timeouts, **settings)
    return _TcpTransport(host, **timeouts, **settings)


class _WholesaleReads:
    """Reads all that has arrived and hands it out frame by frame."""

    sock: Any
    connected: bool
    _unread: bytes = b""
    _place: int = 0

    def read_frame(self) -> tuple[int, int, bytes]:
        """Return the next frame: its type, channel and payload. A time-out loses nothing of what was read."""
        while True:
            unread, place = self._unread, self._place
            if len(unread) - place >= _FRAME.size:
                kind, channel, size = _FRAME.unpack_from(unread, place)
                begin = place + _FRAME.size
                end = begin + size
                if len(unread) > end:
                    if unread[end] != _END[0]:
                        raise UnexpectedFrame(f"a frame ends with {unread[end]:#04x} and not with 0xce")
                    self._place = end + 1
                    return kind, channel, unread[begin:end]
            self._unread, self._place = unread[place:] + self._more(), 0

    def _more(self) -> bytes:
        try:
            more: bytes = self.sock.recv(_READ_BYTES)
        except TimeoutError:
            raise
        except OSError as error:
            if error.errno not in _NOT_NOW:
                self.connected = False
            raise
        if not more:
            self.connected = False
            raise OSError("the server closed the connection")
        return more


class _TcpTransport(_WholesaleReads, TCPTransport):  # type: ignore[misc]  # amqp ships no types
    pass


class _TlsTransport(_WholesaleReads, SSLTransport):  # type: ignore[misc]
    read_timeout: float

    def _setup_transport(self) -> None:
        super()._setup_transport()
        # py-amqp leaves the one of the handshake, which is for a node that is gone: a busy one takes longer.
        self.sock.settimeout(self.read_timeout)


def publishing(messages: Iterable[Outgoing], channel: int, frame_max: int) -> Iterator[bytes]:
    """Yield the frames that publish ``messages``, persistent, in pieces that are one write each."""
    piece: list[bytes] = []
    size = 0
    for message in messages:
        frames = _frames(message, channel, frame_max)
        piece.append(frames)
        size += len(frames)
        if size >= _WRITE_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
    if piece:
        yield b"".join(piece)


def _frames(message: Outgoing, channel: int, frame_max: int) -> bytes:
    body, properties = message.body, _properties(message)
    most = frame_max - _FRAME.size - len(_END)
    parts = [
        _method_frame(message.exchange, message.routing_key, channel, mandatory=message.mandatory),
        _CONTENT.pack(_HEADER, channel, _CONTENT_BYTES + len(properties), _BASIC, 0, len(body)),
        properties,
        _END,
    ]
    for start in range(0, len(body), most):
        part = body[start : start + most]
        parts += _FRAME.pack(_BODY, channel, len(part)), part, _END
    return b"".join(parts)


@lru_cache(maxsize=256)
def _method_frame(exchange: str, routing_key: str, channel: int, *, mandatory: bool) -> bytes:
    immediate = False
    arguments: bytes = dumps("Bssbb", (0, exchange, routing_key, mandatory, immediate))
    payload = _METHOD_ID.pack(_BASIC, _PUBLISH) + arguments
    return _FRAME.pack(_METHOD, channel, len(payload)) + payload + _END


def _properties(message: Outgoing) -> bytes:
    values = {**message.properties, "delivery_mode": _PERSISTENT if message.persistent else _TRANSIENT}
    if message.headers:
        values["application_headers"] = message.headers
    flags = 0
    parts = [b""]
    for name, kind, flag in _in_order(tuple(values)):
        value = values[name]
        if value is None:
            continue
        flags |= flag
        if kind == "s" and isinstance(value, str):
            text = value.encode("utf-8", "surrogatepass")
            parts += bytes((len(text),)), text
        else:
            parts.append(dumps(kind, (value,)))
    parts[0] = _FLAGS.pack(flags)
    return b"".join(parts)


@lru_cache(maxsize=256)
def _in_order(names: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """Return these properties in the order of the wire, with their kinds and flags."""
    return [one for one in _PROPERTIES if one[0] in names]


_METHOD_ID, _FLAGS = Struct(">HH"), Struct(">H")
#: The header of a content frame: class, weight and size of the body, after the frame's own.
_CONTENT, _CONTENT_BYTES = Struct(">BHIHHQ"), 12
_PROPERTIES = tuple((name, kind, 0x8000 >> place) for place, (name, kind) in enumerate(Message.PROPERTIES))
