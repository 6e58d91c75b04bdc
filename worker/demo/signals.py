"""End of a demo by Ctrl-C or SIGTERM, so that no process and no file is left behind."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sigterm_like_ctrl_c() -> Iterator[None]:
    """Make SIGTERM unwind like Ctrl-C."""

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    with _handled(end, signal.SIGTERM):
        yield


class DeferredEnd:
    """End requested by a signal; a second signal ends the process at once."""

    def __init__(self) -> None:
        self._number: int | None = None

    def request(self, number: int, _frame: FrameType | None) -> None:
        """Keep the signal, or end the process on the second one."""
        if self._number is not None:
            os._exit(128 + number)
        self._number = number

    def exit_if_requested(self) -> None:
        """Exit where a signal has come."""
        if self._number is not None:
            sys.exit(128 + self._number)


@contextmanager
def deferred_end() -> Iterator[DeferredEnd]:
    """Defer Ctrl-C and SIGTERM to the next ``exit_if_requested``, and to the end of the block.

    An exception raised amid a broker call could be lost in a finalizer, or leave a lock behind.
    """
    end = DeferredEnd()
    with _handled(end.request, signal.SIGINT, signal.SIGTERM):
        yield end
        end.exit_if_requested()


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
