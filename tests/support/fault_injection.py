"""Workers that end themselves with SIGKILL at a step of the pipeline, or on one message.

The pieces are the real ones, wrapped in a process of their own: production code has no hooks for tests. The
processes are forked from one that has imported everything, so that a crash costs moments.
"""

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from multiprocessing.context import ForkServerProcess
from types import TracebackType
from typing import Any, Self

import schemas
from schemas import Command
from worker import pipeline
from worker.bootstrap import Application
from worker.broker import Outgoing
from worker.broker.rabbitmq.consuming import QueueChannel
from worker.broker.rabbitmq.publishing import PublishingConnection
from worker.ledger import store
from worker.ledger.other_slots import OtherSlots
from worker.ledger.store import Ledger, LedgerTransaction
from worker.messages import receiving as intake
from worker.messages.publishing import Publisher
from worker.pipeline import Pipeline
from worker.processes import run_worker
from worker.runtime.stop import SignalStop
from worker.settings import Settings

Crash = Callable[[], None]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pytest", "tests.support.fault_injection"])


class CrashingWorkers:
    """Workers that crash; none outlives the block."""

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

    def start_at(self, crash_point: str, number: int, *, batch_size: int) -> ForkServerProcess:
        """Start a worker that dies at a crash point, at the ``number``-th pass from 1."""
        settings = self._settings.model_copy(update={"batch_size": batch_size})
        return self._start(_die_at, crash_point, number, settings)

    def start(self) -> ForkServerProcess:
        """Start a worker that is killed from outside."""
        return self._start(_run, self._settings)

    def start_deadly(self, text: str) -> ForkServerProcess:
        """Start a worker that dies on each body with ``text``."""
        return self._start(_die_of, text, self._settings)

    def _start(self, target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
        process = _CONTEXT.Process(target=target, args=arguments)
        process.start()
        self._started.append(process)
        return process


def _die_at(crash_point: str, number: int, settings: Settings) -> None:
    (CRASH_POINTS | SLOT_CRASH_POINTS)[crash_point](on_pass(number))
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


def on_pass(number: int) -> Crash:
    """Return a crash at the ``number``-th call, from 1."""
    passes = 0

    def crash() -> None:
        nonlocal passes
        passes += 1
        if passes == number:
            die()

    return crash


def before(owner: Any, name: str) -> Callable[[Crash], None]:
    """Return an injection of a crash before ``owner.name`` runs."""

    def inject(crash: Crash) -> None:
        original = getattr(owner, name)

        @wraps(original)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            crash()
            return original(*arguments, **named)

        setattr(owner, name, wrapped)

    return inject


def after(owner: Any, name: str) -> Callable[[Crash], None]:
    """Return an injection of a crash after ``owner.name``."""

    def inject(crash: Crash) -> None:
        original = getattr(owner, name)

        @wraps(original)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            crash()
            return result

        setattr(owner, name, wrapped)

    return inject


def after_commit(crash: Crash) -> None:
    """Inject a crash after the commit and before the replies."""
    original = Ledger.begin

    @contextmanager
    def begin(
        self: Ledger, commands: Sequence[Command], now: datetime, *, auto_open: str | None = None
    ) -> Iterator[LedgerTransaction]:
        with original(self, commands, now, auto_open=auto_open) as transaction:
            yield transaction
        crash()

    Ledger.begin = begin  # type: ignore[method-assign]


def before_notices(crash: Crash) -> None:
    """Inject a crash after the confirms of all replies and before the notices."""
    original = Publisher._send_once

    @wraps(original)
    def sent(*arguments: Any, with_notices: bool) -> set[str]:
        if with_notices:
            crash()
        return original(*arguments, with_notices=with_notices)

    Publisher._send_once = sent  # type: ignore[method-assign,assignment]


def halfway_through_replies(crash: Crash) -> None:
    """Inject a crash after half of a batch's replies are sent."""
    original = PublishingConnection._send

    @wraps(original)
    def send(self: PublishingConnection, messages: Sequence[Outgoing]) -> None:
        half = len(messages) // 2
        original(self, messages[:half])
        crash()
        original(self, messages[half:])

    PublishingConnection._send = send  # type: ignore[method-assign]


#: Steps of the pipeline, in order.
CRASH_POINTS: dict[str, Callable[[Crash], None]] = {
    "received": before(Pipeline, "receive"),
    "decoded": after(Pipeline, "receive"),
    "loaded": after(store, "load"),
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


#: Steps of a batch in a distributed ledger, each passed once a slot.
SLOT_CRASH_POINTS: dict[str, Callable[[Crash], None]] = {
    "claimed": after(OtherSlots, "judged"),
    "between slots": after(Pipeline, "_transacted"),
}


def make_deadly(text: str) -> None:
    """Make the process kill itself on decoding a body with ``text``."""
    original, marker = schemas.decode, text.encode()

    def decode(body: bytes, **named: Any) -> Any:
        if marker in body:
            die()
        return original(body, **named)

    setattr(intake, "decode", decode)  # noqa: B010 - it exports no such name
