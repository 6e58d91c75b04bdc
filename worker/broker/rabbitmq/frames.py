"""Reading frames so that a message with properties nobody can parse is still a message.

py-amqp raises from inside ``drain_events`` when a producer sent, say, a header with a time in milliseconds
or a string that is not UTF-8. The connection is then in the middle of a message and lost, the message is
delivered again, and so on for ever: one bad message would hold all others. Here such a message arrives
without properties and with the frame that could not be read; the pipeline makes a dead letter of it. Of its
headers it has the broker's own offset in a stream, without which nobody knows where the stream ends.
"""

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from struct import Struct, unpack_from
from typing import Any

from amqp import spec
from amqp.basic_message import Message
from amqp.exceptions import UnexpectedFrame

from worker.broker.journal import OFFSET_HEADER

UNREADABLE = "unreadable"

_CONTENT_METHODS = frozenset([spec.Basic.Return, spec.Basic.Deliver, spec.Basic.GetOk])
_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8


class TolerantMessage(Message):  # type: ignore[misc]  # amqp ships no types
    """A message whose properties may turn out unreadable."""

    def inbound_header(self, buf: Any, offset: int = 0) -> int:
        """Parse the header frame; keeps it under ``UNREADABLE`` where it can't be parsed."""
        try:
            return int(super().inbound_header(buf, offset))
        except Exception:  # noqa: BLE001 - whatever the parser stumbles over, the message must arrive
            frame = bytes(buf)
            self.properties = {UNREADABLE: frame}
            with suppress(IndexError, KeyError):  # no frame of RabbitMQ's
                self.properties |= _offset_alone(_offset_in(frame))
            self.ready = not self.body_size
            return len(buf)


def tolerant_frame_handler(
    _connection: Any, callback: Callable[[int, tuple[int, int], Any, Any], None]
) -> Callable[[tuple[int, int, Any]], bool]:
    """py-amqp's frame handler, for its ``frame_handler`` argument, with tolerant messages."""
    expected: dict[int, int] = defaultdict(lambda: _METHOD)
    partial: dict[int, TolerantMessage] = {}

    def on_frame(frame: tuple[int, int, Any]) -> bool:
        """Take one frame; True when it completed a method."""
        kind, channel, buf = frame
        _connection.bytes_recv += 1
        if kind == _HEARTBEAT:
            return False
        if kind != expected[channel]:
            raise UnexpectedFrame(f"Received frame {kind} while expecting type: {expected[channel]}")
        if kind == _METHOD:
            signature = unpack_from(">HH", buf, 0)
            if signature in _CONTENT_METHODS:
                partial[channel] = TolerantMessage(frame_method=signature, frame_args=buf)
                expected[channel] = _HEADER
                return False
            callback(channel, signature, buf, None)
            return True
        message = partial[channel]
        if kind == _HEADER:
            message.inbound_header(buf)
        else:
            message.inbound_body(buf)
        if not message.ready:
            expected[channel] = _BODY
            return False
        expected[channel] = _METHOD
        del partial[channel]
        try:
            callback(channel, message.frame_method, message.frame_args, message)
        except UnicodeDecodeError:
            arguments = bytes(message.frame_args)
            headers: Any = message.properties.get("application_headers", {})
            message.properties = {UNREADABLE: arguments, **_offset_alone(headers.get(OFFSET_HEADER))}
            callback(channel, message.frame_method, _readable(arguments), message)
        return True

    return on_frame


def delivery_arguments(arguments: bytes) -> tuple[int, bool, str, str]:
    """Return a delivery's tag, whether it came before, its exchange and routing key, from its arguments.

    Raises UnicodeDecodeError where a name is not UTF-8.
    """
    place = 5 + arguments[4]  # behind the method and the consumer's tag
    tag, redelivered = _TAG.unpack_from(arguments, place)
    return tag, bool(redelivered), *_route(arguments[place + _TAG.size :])


@lru_cache(maxsize=256)
def _route(names: bytes) -> tuple[str, str]:
    """Return the exchange and the routing key; cached, as few are in use."""
    exchange_end = 1 + names[0]
    return _text(names[1:exchange_end]), _text(names[exchange_end + 1 :])


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")  # as py-amqp reads all other names


_TAG = Struct(">QB")


def _offset_alone(offset: Any) -> dict[str, Any]:
    """Return the properties that have the offset in a stream and nothing else."""
    return {"application_headers": {OFFSET_HEADER: offset}} if isinstance(offset, int) else {}


def _offset_in(frame: bytes) -> int | None:
    """Return the offset in a stream that a header frame names; None where it has none.

    The table is walked entry by entry: the bytes of the entry may stand in any value as well.
    """
    flags = int.from_bytes(frame[_FLAGS : _FLAGS + 2])
    place = _FLAGS + 2
    for flag in (_CONTENT_TYPE, _CONTENT_ENCODING):
        place += 1 + frame[place] if flags & flag else 0
    if not flags & _HEADERS:
        return None
    end = place + 4 + int.from_bytes(frame[place : place + 4])
    place += 4
    while place < end:
        value = place + 1 + frame[place]
        name, kind = frame[place + 1 : value], frame[value : value + 1]
        place = value + 1 + _size_of(kind, frame, value + 1)
        if name == OFFSET_HEADER.encode() and kind == b"l":
            return int.from_bytes(frame[value + 1 : place])
    return None


def _size_of(kind: bytes, frame: bytes, place: int) -> int:
    """Return the size of a table's value. Raises KeyError for a kind that RabbitMQ doesn't write."""
    return 4 + int.from_bytes(frame[place : place + 4]) if kind in _OF_ANY_SIZE else _SIZES[kind]


#: Place of the properties' flags in a header frame, and the flags before and of the headers.
_FLAGS, _CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS = 12, 0x8000, 0x4000, 0x2000
#: Kinds of values in a table: https://www.rabbitmq.com/amqp-0-9-1-errata#section_3
_OF_ANY_SIZE = (b"S", b"x", b"A", b"F")
_SIZES = {b"V": 0, **dict.fromkeys((b"t", b"b", b"B"), 1), **dict.fromkeys((b"s", b"u"), 2), b"D": 5} | {
    **dict.fromkeys((b"I", b"i", b"f"), 4),
    **dict.fromkeys((b"l", b"L", b"T", b"d"), 8),
}


def _readable(arguments: bytes) -> bytes:
    """Return the arguments of a delivery with a routing key that is not UTF-8, spelled out in ASCII."""
    tag_end = 5 + arguments[4]
    exchange_start = tag_end + 9  # the delivery tag and the redelivered bit
    key_start = exchange_start + 1 + arguments[exchange_start]
    key = arguments[key_start + 1 : key_start + 1 + arguments[key_start]]
    spelled = key.decode("utf-8", "backslashreplace").encode("ascii", "backslashreplace")[:255]
    return arguments[:key_start] + bytes([len(spelled)]) + spelled
