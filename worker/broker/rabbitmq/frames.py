"""Reading frames so that a message with properties nobody can parse is still a message.

py-amqp raises from inside ``drain_events`` when a producer sent, say, a header with a time in milliseconds
or a string that is not UTF-8. The connection is then in the middle of a message and lost, the message is
delivered again, and so on for ever: one bad message would hold all others. Here such a message arrives
without properties and with the frame that could not be read; the pipeline makes a dead letter of it.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from struct import Struct, unpack_from
from typing import Any

from amqp import spec
from amqp.basic_message import Message
from amqp.exceptions import UnexpectedFrame

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
            self.properties = {UNREADABLE: bytes(buf)}
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
            message.properties = {UNREADABLE: arguments}
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


def _readable(arguments: bytes) -> bytes:
    """Return the arguments of a delivery with a routing key that is not UTF-8, spelled out in ASCII."""
    tag_end = 5 + arguments[4]
    exchange_start = tag_end + 9  # the delivery tag and the redelivered bit
    key_start = exchange_start + 1 + arguments[exchange_start]
    key = arguments[key_start + 1 : key_start + 1 + arguments[key_start]]
    spelled = key.decode("utf-8", "backslashreplace").encode("ascii", "backslashreplace")[:255]
    return arguments[:key_start] + bytes([len(spelled)]) + spelled
