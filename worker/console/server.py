"""Web server of the console: bound to an address, ended by a signal."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from flask import Flask
from waitress.server import create_server

from worker.console.context import ConsoleContext
from worker.console.security import REQUEST_MAX
from worker.errors import ConfigurationError
from worker.runtime.address import Address

_THREADS = 8


def serve(app: Flask, context: ConsoleContext, address: Address, on_listening: Callable[[str], None]) -> None:
    """Serve ``app`` until SIGTERM or Ctrl-C, then pause the replays that run here.

    ``on_listening`` gets the URL. Raises ConfigurationError where the address can't be bound.
    """
    try:
        bound = address.bind()
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


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
