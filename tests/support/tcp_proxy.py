"""TCP proxy in front of a server, which breaks connections as a network does.

It also counts the deliveries that pass, by what the broker counted of each: the same for every consumer,
whatever client it uses.
"""

import re
import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from time import sleep
from types import TracebackType
from typing import Self

from tests.support.private_server import free_port

_CHUNK = 65_536
_HOST = "127.0.0.1"
#: The header as a field of an AMQP table: length, name, type (64 bits), value.
_DELIVERY_COUNT = re.compile(rb"\x10x-delivery-count[lL](.{8})", re.DOTALL)
_DELIVERY_COUNT_BYTES = 1 + 16 + 1 + 8

#: The method that hands a message to a consumer: class 60, method 60.
_DELIVER = b"\x00\x3c\x00\x3c"


class Proxy:
    """Proxy from the loopback ``port`` to ``target``, another loopback port, until ``close``.

    ``target`` may be changed: for the connections to come.
    """

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.target = target
        self._delay_s = 0.0
        self._hangs = False
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._counts: Counter[int] = Counter()
        self._deliveries = 0
        self._listener = socket.create_server((_HOST, self.port))
        threading.Thread(target=self._accept, name=f"proxy {self.port}", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def delivery_counts(self) -> Counter[int]:
        """Delivery counts that the broker sent, with their frequencies; it sends no 0."""
        with self._lock:
            return Counter(self._counts)

    @property
    def deliveries(self) -> int:
        """Approximate number of messages delivered to consumers so far."""
        with self._lock:
            return self._deliveries

    @property
    def connections(self) -> int:
        """Number of connections that are open on at least one side."""
        with self._lock:
            return len(self._pairs)

    def cut(self) -> None:
        """End every connection in order, on both sides."""
        for pair in self._all():
            pair.end()

    def reset(self) -> None:
        """Reset every connection, on both sides."""
        for pair in self._all():
            pair.reset()

    def hang(self) -> None:
        """Drop all data and all ends of connections from now on, also of new connections."""
        self._hangs = True
        for pair in self._all():
            pair.hangs = True

    def delay(self, seconds: float) -> None:
        """Delay each piece of data."""
        self._delay_s = seconds

    def flow(self) -> None:
        """Pass new connections again, without delay; a connection that hung stays so."""
        self._hangs, self._delay_s = False, 0.0

    def close(self) -> None:
        """Stop listening and end every connection."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _all(self) -> list["_Pair"]:
        with self._lock:
            return list(self._pairs)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((_HOST, self.target))
            except OSError:
                _reset(client)
                continue
            pair = _Pair(client, server, hangs=self._hangs)
            with self._lock:
                self._pairs.add(pair)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(pair, source, sink), daemon=True).start()

    def _pump(self, pair: "_Pair", source: socket.socket, sink: socket.socket) -> None:
        tail = b""
        with suppress(OSError):
            while piece := source.recv(_CHUNK):
                if pair.hangs:
                    continue
                if source is pair.server:
                    tail = self._count(tail + piece)
                if self._delay_s:
                    sleep(self._delay_s)
                sink.sendall(piece)
        if pair.hangs:
            return  # the other side learns nothing of it: the connection is half-open
        pair.end()
        with self._lock:
            self._pairs.discard(pair)

    def _count(self, text: bytes) -> bytes:
        """Count the headers in ``text``; return its end, where another may have begun."""
        end = 0
        with self._lock:
            self._deliveries += text.count(_DELIVER)
        for found in _DELIVERY_COUNT.finditer(text):
            end = found.end()
            (count,) = struct.unpack(">q", found.group(1))
            with self._lock:
                self._counts[count] += 1
        return text[max(end, len(text) - _DELIVERY_COUNT_BYTES + 1) :]


class _Pair:
    """Pair of sockets of one connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket, *, hangs: bool) -> None:
        self.client, self.server, self.hangs = client, server, hangs

    def end(self) -> None:
        for side in (self.client, self.server):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()

    def reset(self) -> None:
        for side in (self.client, self.server):
            _reset(side)


def _reset(side: socket.socket) -> None:
    # A close that lingers for no time sends RST; the shutdown wakes the thread that reads.
    with suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        side.shutdown(socket.SHUT_RD)
    side.close()
