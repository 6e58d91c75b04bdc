"""Frames are written as py-amqp itself writes them, and read as it reads them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from struct import pack
from types import SimpleNamespace
from typing import Any

import pytest
from amqp import spec
from amqp.basic_message import Message
from amqp.exceptions import UnexpectedFrame
from amqp.method_framing import frame_writer
from amqp.serialization import dumps
from hypothesis import given
from hypothesis import strategies as st

from worker.broker import Outgoing
from worker.broker.rabbitmq.frames import delivery_arguments
from worker.broker.rabbitmq.wire import publishing, transport_for
from worker.messages.outgoing import OutgoingDirectReply, OutgoingReply

SHORT = st.text(max_size=60)
MESSAGES = st.sampled_from([OutgoingReply, OutgoingDirectReply]).flatmap(
    lambda kind: st.builds(
        kind,
        body=st.binary(max_size=300),
        exchange=SHORT,
        routing_key=SHORT,
        properties=st.fixed_dictionaries(
            {},
            optional={
                "content_type": SHORT,
                "type": st.none() | SHORT,
                "app_id": SHORT,
                "correlation_id": st.none() | st.text(st.characters(), max_size=60),
                "message_id": SHORT,
                "reply_to": SHORT,
                "expiration": SHORT,
                "priority": st.integers(0, 9),
            },
        ),
        headers=st.dictionaries(SHORT, SHORT | st.integers(0, 2**31 - 1) | st.booleans(), max_size=3),
    )
)


def by_the_library(message: Outgoing, channel: int, frame_max: int) -> bytes:
    """Return the frames that py-amqp writes for a persistent message."""
    written: list[bytes] = []
    connection = SimpleNamespace(frame_max=frame_max, bytes_sent=0)
    transport = SimpleNamespace(write=lambda piece: written.append(bytes(piece)))
    properties = {name: value for name, value in message.properties.items() if value is not None}
    content = Message(
        message.body, application_headers=dict(message.headers) or None, delivery_mode=2, **properties
    )
    arguments = dumps("Bssbb", (0, message.exchange, message.routing_key, message.mandatory, False))
    frame_writer(connection, transport)(1, channel, spec.Basic.Publish, arguments, content)
    return b"".join(written)


@given(st.lists(MESSAGES, max_size=4), st.integers(1, 2**16 - 1), st.sampled_from([1_200, 4_096, 131_072]))
def test_messages_are_written_as_the_library_writes_them(
    messages: list[Outgoing], channel: int, frame_max: int
) -> None:
    written = b"".join(publishing(messages, channel, frame_max))
    assert written == b"".join(by_the_library(message, channel, frame_max) for message in messages)


@pytest.mark.parametrize("size", [0, 1, 4_087, 4_088, 4_089, 100_000])
def test_a_large_body_goes_in_frames_that_are_not_too_large(size: int) -> None:
    message = Outgoing(b"x" * size, "billing", "usage.deduct")
    frames = list(frames_of(b"".join(publishing([message], 7, 4_096))))
    assert all(len(payload) + 8 <= 4_096 for _, _, payload in frames)
    assert {channel for _, channel, _ in frames} == {7}
    assert b"".join(payload for kind, _, payload in frames if kind == 3) == message.body


def test_a_batch_is_a_few_writes() -> None:
    messages = [Outgoing(b"x" * 400, "", "billing.replies") for _ in range(500)]
    assert len(list(publishing(messages, 1, 131_072))) == 4


def test_too_large_property_is_an_error_before_any_write() -> None:
    pieces = publishing([Outgoing(b"", "", "q", {"correlation_id": "x" * 256})], 1, 131_072)
    with pytest.raises(ValueError, match="256"):
        next(iter(pieces))


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def frames_of(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    with reader() as (transport, other):
        other.sendall(data)
        other.shutdown(socket.SHUT_WR)
        while True:
            try:
                yield transport.read_frame()
            except OSError:
                return


@contextmanager
def reader() -> Iterator[tuple[Any, socket.socket]]:
    """A transport, and the other end of its socket."""
    ours, other = socket.socketpair()
    transport = transport_for("127.0.0.1:0", 1.0, None, 1.0, 1.0)
    transport.sock, transport.connected = ours, True
    try:
        yield transport, other
    finally:
        ours.close()
        other.close()


FRAMES = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, 8]), st.integers(0, 2**16 - 1), st.binary(max_size=50)), max_size=6
)


@given(FRAMES, st.data())
def test_frames_are_read_whole_in_whatever_pieces_they_arrive(
    frames: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    left = b"".join(frame(*one) for one in frames)
    read: list[tuple[int, int, bytes]] = []
    with reader() as (transport, other):
        transport.sock.setblocking(False)
        while left:
            size = data.draw(st.integers(1, len(left)))
            other.sendall(left[:size])
            left = left[size:]
            while True:
                try:
                    read.append(transport.read_frame())
                except BlockingIOError:
                    break
        assert transport.connected
    assert read == frames


def test_closed_connection_is_an_error() -> None:
    with reader() as (transport, other):
        other.sendall(frame(8, 0, b"")[:3])
        other.close()
        with pytest.raises(OSError, match="closed the connection"):
            transport.read_frame()
        assert not transport.connected


def test_a_time_out_leaves_the_connection_as_it_was() -> None:
    with reader() as (transport, other):
        transport.sock.settimeout(0.01)
        other.sendall(frame(8, 0, b"")[:3])
        with pytest.raises(TimeoutError):
            transport.read_frame()
        other.sendall(frame(8, 0, b"")[3:])
        assert transport.read_frame() == (8, 0, b"")


def test_malformed_frame_is_refused() -> None:
    with reader() as (transport, other):
        other.sendall(frame(1, 1, b"four")[:-1] + b"\x00")
        with pytest.raises(UnexpectedFrame):
            transport.read_frame()


NAMES = st.text(st.characters(), max_size=60)  # with halves of surrogate pairs


@given(NAMES, st.integers(0, 2**63), st.booleans(), NAMES, NAMES)
def test_the_arguments_of_a_delivery_are_read_as_they_were_written(
    consumer: str, tag: int, redelivered: bool, exchange: str, routing_key: str
) -> None:
    arguments = pack(">HH", *spec.Basic.Deliver)
    arguments += dumps("sLbss", (consumer, tag, redelivered, exchange, routing_key))
    assert delivery_arguments(arguments) == (tag, redelivered, exchange, routing_key)
