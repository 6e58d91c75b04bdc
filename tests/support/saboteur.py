"""A worker that ends itself with SIGKILL at one arrow of the sentence, or on one message.

The pieces are the real ones, wrapped in a process of their own: production code has no hooks for tests. The
processes are forked from one that has imported everything, so that a crash costs moments.
"""

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from multiprocessing.context import ForkServerProcess
from types import TracebackType
from typing import Any, Self

import schemas
from worker import pipeline
from worker.bootstrap import Application
from worker.broker import Outgoing
from worker.broker.rabbitmq.consuming import QueueChannel
from worker.broker.rabbitmq.publishing import PublishingConnection
from worker.ledger.store import Ledger, LedgerTransaction
from worker.messages import receiving as intake
from worker.messages.publishing import Publisher
from worker.pipeline import Pipeline
from worker.processes import run_worker
from worker.runtime.stop import SignalStop
from worker.settings import Settings

Blow = Callable[[], None]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pytest", "tests.support.saboteur"])


class Saboteurs:
    """Workers that will end themselves; none outlives the block."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started: list[ForkServerProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for process in self._started:
            process.kill()
            process.join()

    def start_at(self, arrow: str, number: int, *, batch_size: int) -> ForkServerProcess:
        """A worker that dies when it comes to the arrow for the ``number``-th time, from 1."""
        settings = self._settings.model_copy(update={"batch_size": batch_size})
        return self._start(_die_at, arrow, number, settings)

    def start(self) -> ForkServerProcess:
        """A worker that doesn't end itself, to be killed from outside."""
        return self._start(_run, self._settings)

    def start_deadly(self, text: str) -> ForkServerProcess:
        """A worker that dies on every body with ``text`` in it."""
        return self._start(_die_of, text, self._settings)

    def _start(self, target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
        process = _CONTEXT.Process(target=target, args=arguments)
        process.start()
        self._started.append(process)
        return process


def _die_at(arrow: str, number: int, settings: Settings) -> None:
    ARROWS[arrow](on_pass(number))
    _run(settings)


def _die_of(text: str, settings: Settings) -> None:
    make_deadly(text)
    _run(settings)


def _run(settings: Settings) -> None:
    logging.disable()
    run_worker(Application(settings), SignalStop())


def die() -> None:
    """End this process with SIGKILL: no handler, no finally, no flush."""
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
    """Sabotages the moment when the transaction is durable and no reply is sent."""
    original = Ledger.begin

    @contextmanager
    def begin(self: Ledger) -> Iterator[LedgerTransaction]:
        with original(self) as transaction:
            yield transaction
        blow()

    Ledger.begin = begin  # type: ignore[method-assign]


def before_notices(blow: Blow) -> None:
    """Sabotages the moment when all replies are confirmed and no notice is sent."""
    original = Publisher._send_once

    @wraps(original)
    def sent(*arguments: Any, with_notices: bool) -> set[str]:
        if with_notices:
            blow()
        return original(*arguments, with_notices=with_notices)

    Publisher._send_once = sent  # type: ignore[method-assign,assignment]


def halfway_through_replies(blow: Blow) -> None:
    """Sabotages the moment when half of a batch's replies are with the broker and half are not."""
    original = PublishingConnection._send

    @wraps(original)
    def send(self: PublishingConnection, messages: Sequence[Outgoing]) -> None:
        half = len(messages) // 2
        original(self, messages[:half])
        blow()
        original(self, messages[half:])

    PublishingConnection._send = send  # type: ignore[method-assign]


#: The arrows of the sentence, in its order.
ARROWS: dict[str, Callable[[Blow], None]] = {
    "received": before(Pipeline, "receive"),
    "decoded": after(Pipeline, "receive"),
    "loaded": after(LedgerTransaction, "load"),
    "decided": after(pipeline, "decide"),
    "written": after(LedgerTransaction, "write"),
    "committed": after_commit,
    "replying": halfway_through_replies,
    "replied": before(PublishingConnection, "_wait"),
    "noticing": before_notices,
    "confirmed": before(Pipeline, "acknowledge"),
    "acknowledging": after(QueueChannel, "acknowledge"),
    "acknowledged": after(Pipeline, "acknowledge"),
}


def make_deadly(text: str) -> None:
    """Makes the process kill itself when it decodes a body with ``text`` in it."""
    original, marker = schemas.decode, text.encode()

    def decode(body: bytes, **named: Any) -> Any:
        if marker in body:
            die()
        return original(body, **named)

    setattr(intake, "decode", decode)  # noqa: B010 - it exports no such name
