"""Web server of the console: bound to an address, ended by a signal."""

import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from flask import Flask
from waitress.server import create_server

from worker.console.context import ConsoleContext
from worker.console.guard import Address
from worker.console.security import REQUEST_MAX
from worker.errors import ConfigurationError

_THREADS = 8


def serve(app: Flask, context: ConsoleContext, address: Address, on_listening: Callable[[str], None]) -> None:
    """Serve ``app`` until SIGTERM or Ctrl-C, then pause the replays that run here.

    ``on_listening`` gets the URL. Raises ConfigurationError where the address can't be bound.
    """
    try:
        bound = _bound(address)
        server = create_server(
            app,
            sockets=[bound],
            threads=_THREADS,
            ident=None,
            max_request_body_size=REQUEST_MAX,
            clear_untrusted_proxy_headers=False,  # the guard refuses by them
        )
    except OSError as error:
        raise ConfigurationError(
            f"the console can't listen on {address.host}:{address.port}: {error.strerror or error}; "
            "choose another with --listen"
        ) from error
    signal.signal(signal.SIGTERM, _end)
    on_listening(Address(address.host, bound.getsockname()[1]).url)
    try:
        server.run()  # ends with SystemExit or KeyboardInterrupt, both taken there
    finally:
        server.close()
        context.replays.stop()
        context.probe.close()


def _bound(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
