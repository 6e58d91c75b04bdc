"""A worker that ends itself with SIGKILL at one arrow of the sentence, or on one message.

    python -m tests.support.saboteur --at ARROW --pass N    dies the N-th time it comes by
    python -m tests.support.saboteur --deadly TEXT          dies on every body that holds the text

The pieces are the real ones, wrapped in this process only: production code has no hooks for tests. With
``--deadly`` another worker is forked whenever one died, at once and without end, until SIGTERM.
"""

import argparse
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from worker import pipeline
from worker.bootstrap import Application, SignalStop, configure_logging
from worker.broker import amqp
from worker.ledger.store import Books, Ledger
from worker.pipeline import Pipeline
from worker.settings import load_settings
from worker.supervisor import follow_parent

Blow = Callable[[], None]


def die() -> None:
    """No handler, no finally, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def on_pass(number: int) -> Blow:
    """Dies when it is called for the ``number``-th time, from 1."""
    passes = 0

    def blow() -> None:
        nonlocal passes
        passes += 1
        if passes == number:
            die()

    return blow


def before(owner: Any, name: str) -> Callable[[Blow], None]:
    """Sabotages ``owner.name`` just before it runs."""

    def sabotage(blow: Blow) -> None:
        original = getattr(owner, name)

        @wraps(original)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            blow()
            return original(*arguments, **named)

        setattr(owner, name, wrapped)

    return sabotage


def after(owner: Any, name: str) -> Callable[[Blow], None]:
    """Sabotages ``owner.name`` just after it returned."""

    def sabotage(blow: Blow) -> None:
        original = getattr(owner, name)

        @wraps(original)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            blow()
            return result

        setattr(owner, name, wrapped)

    return sabotage


def after_commit(blow: Blow) -> None:
    """Sabotages the moment when the transaction is durable and nobody has been told."""
    original = Ledger.begin

    @contextmanager
    def begin(ledger: Ledger) -> Iterator[Books]:
        with original(ledger) as books:
            yield books
        blow()

    Ledger.begin = begin  # type: ignore[method-assign]


#: The arrows of the sentence, in its order.
ARROWS: dict[str, Callable[[Blow], None]] = {
    "received": before(Pipeline, "receive"),
    "decoded": after(Pipeline, "receive"),
    "loaded": after(Books, "load"),
    "decided": after(pipeline, "decide"),
    "written": after(Books, "write"),
    "committed": after_commit,
    "replying": after(amqp._Outbox, "_send"),
    "replied": before(amqp._Outbox, "_wait"),
    "confirmed": before(Pipeline, "acknowledge"),
    "acknowledging": after(amqp._Lane, "acknowledge"),
    "acknowledged": after(Pipeline, "acknowledge"),
}


def make_deadly(text: str) -> None:
    """Whoever decodes a body with ``text`` in it is killed."""
    original, marker = pipeline.decode, text.encode()

    def decode(body: bytes, **named: Any) -> Any:
        if marker in body:
            die()
        return original(body, **named)

    pipeline.decode = decode  # type: ignore[attr-defined]


def run() -> None:
    """The worker, as ``billing-worker run`` runs it."""
    settings = load_settings()
    configure_logging(settings)
    stop = SignalStop()
    stop.install()
    Application(settings).run_worker(stop)


def run_again_and_again() -> None:
    """A worker, and another one whenever it was killed, until one ends in peace."""
    parent = os.getpid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        child = os.fork()
        if child == 0:
            follow_parent(parent)
            run()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return


def main() -> None:
    """Sabotage what the command line says, then run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--at", choices=ARROWS)
    parser.add_argument("--pass", dest="number", type=int, default=1)
    parser.add_argument("--deadly")
    options = parser.parse_args()
    if options.deadly:
        make_deadly(options.deadly)
        run_again_and_again()
    else:
        ARROWS[options.at](on_pass(options.number))
        run()


if __name__ == "__main__":
    main()
