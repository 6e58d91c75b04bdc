"""Web server of the console: the shared one, with room for forms and for long selections."""

from collections.abc import Callable, Mapping

from flask import Flask

from worker.console.context import ConsoleContext
from worker.console.security import REQUEST_MAX
from worker.http.problems import Problem
from worker.http.server import ServerLimits
from worker.http.server import serve as serve_until
from worker.runtime.address import Address
from worker.runtime.stop import SignalStop

#: 5,000 entries of the activity log may be undone by a link, each of up to 19 digits.
_HEADERS_MAX = 128 * 1024
#: Heavy pages take five threads at most, sign-ins five.
_LIMITS = ServerLimits(threads=12, body_max=REQUEST_MAX, headers_max=_HEADERS_MAX)
#: Seconds in which pages are answered after a signal: replays need 15 s of its 25 to pause.
_DRAIN_S = 5.0


def serve(
    app: Flask,
    context: ConsoleContext,
    address: Address,
    stop: SignalStop,
    on_listening: Callable[[str], None],
    turned: Callable[[], None] = lambda: None,
) -> None:
    """Serve ``app`` until ``stop``, then pause the replays that run here.

    ``on_listening`` gets the URL; ``turned`` is called at least once a second. Raises ConfigurationError
    where the address can't be bound.
    """
    try:
        serve_until(
            app,
            address,
            stop,
            context.application.metrics,
            limits=_LIMITS,
            on_listening=on_listening,
            refusal=_as_text,
            drain_s=_DRAIN_S,
            turned=turned,
        )
    finally:
        context.replays.stop()
        context.reverse_runs.stop()
        context.close()


def _as_text(problem: Problem) -> tuple[Mapping[str, str], bytes]:
    """Return headers and body of a refusal, for people."""
    headers = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}
    text = f"{problem.status.value} {problem.status.phrase}: {problem.detail}\n"
    return headers | {"X-Content-Type-Options": "nosniff"}, text.encode()
