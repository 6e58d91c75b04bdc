"""Processor time of a worker by step: it runs in this process, its public steps wrapped by a clock.

Nothing in ``worker`` knows of it. A step counts without the steps inside it, in whichever thread it runs.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from time import monotonic, thread_time
from typing import Any, NamedTuple
from unittest.mock import patch

from sqlalchemy.engine.default import DefaultDialect

import worker.ledger.store
import worker.pipeline
from tests.benchmarks.sandbox import BenchmarkError
from worker.broker.rabbitmq.link import AmqpLink
from worker.ledger.store import LedgerTransaction
from worker.messages.replies import Replies
from worker.pipeline import Pipeline

#: The wrapped functions, in the order of the sentence: the owner, the name, and the name of the step.
_STEPS: tuple[tuple[Any, str, str], ...] = (
    (AmqpLink, "receive", "receive"),
    (Pipeline, "receive", "decode"),
    (worker.ledger.store, "load", "load"),
    (worker.pipeline, "decide", "decide"),
    (LedgerTransaction, "write", "write"),
    (DefaultDialect, "do_commit", "commit"),
    (Replies, "for_answers", "write replies"),
    (AmqpLink, "publish", "publish, confirm"),
    (AmqpLink, "acknowledge", "acknowledge"),
)
STEPS = tuple(name for _, _, name in _STEPS)


class Spent(NamedTuple):
    """Seconds of processor time and of elapsed time."""

    processor: float = 0.0
    clock: float = 0.0

    def since(self, before: "Spent") -> "Spent":
        """Time that has been added to ``before``."""
        return Spent(self.processor - before.processor, self.clock - before.clock)

    def plus(self, more: "Spent") -> "Spent":
        """Both together."""
        return Spent(self.processor + more.processor, self.clock + more.clock)


class StopWatch:
    """Time spent in each step, by name."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, Spent] = defaultdict(Spent)
        self._lock = threading.Lock()
        self._thread = threading.local()

    def wrapped(self, step: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, with what it spends counted for ``step``."""

        @wraps(call)
        def clocked(*arguments: Any, **named: Any) -> Any:
            with self.clocking(step):
                return call(*arguments, **named)

        return clocked

    @contextmanager
    def clocking(self, step: str) -> Iterator[None]:
        """Count the block for ``step``, less what steps inside it take."""
        outer: Spent = getattr(self._thread, "inside", Spent())
        self._thread.inside = Spent()
        before = Spent(thread_time(), monotonic())
        try:
            yield
        finally:
            whole = Spent(thread_time(), monotonic()).since(before)
            own = whole.since(self._thread.inside)
            self._thread.inside = outer.plus(whole)
            with self._lock:
                self.spent[step] = self.spent[step].plus(own)


@contextmanager
def watched() -> Iterator[StopWatch]:
    """Measure every worker of this process during the block.

    Raises BenchmarkError where a step has gone elsewhere and this list of them must follow.
    """
    watch = StopWatch()
    with ExitStack() as stack:
        for owner, attribute, step in _STEPS:
            call = getattr(owner, attribute, None)
            if call is None:
                raise BenchmarkError(f"{owner.__name__} has no {attribute} any more: see {__name__}")
            stack.enter_context(patch.object(owner, attribute, watch.wrapped(step, call)))
        yield watch
