"""Service manager's end of the notification socket."""

import socket
from time import monotonic

from tests.support.waiting import PATIENCE_S


class NotifySocket:
    """Datagram socket at a path or, with ``@`` before it, at an abstract name."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(PATIENCE_S)

    def receive(self) -> list[str]:
        """Return the lines of the next notification."""
        return self._socket.recv(4096).decode().splitlines()

    def until(self, line: str) -> list[str]:
        """Return the lines that come until ``line`` does."""
        lines: list[str] = []
        deadline = monotonic() + PATIENCE_S
        while line not in lines:
            assert monotonic() < deadline, f"no {line} among {lines}"
            lines += self.receive()
        return lines

    def is_silent_for(self, seconds: float) -> bool:
        """Return True where nothing comes for so long."""
        self._socket.settimeout(seconds)
        try:
            self._socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(PATIENCE_S)
        return False

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
